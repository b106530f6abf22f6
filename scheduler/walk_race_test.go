//go:build race

package scheduler

// longWalk is short with the race detector, which finds nothing in arithmetic but slows it tenfold.
const longWalk = 1
