//go:build !race

package scheduler

// longWalk is how many years from 2024 on are walked minute by minute.
const longWalk = 7
