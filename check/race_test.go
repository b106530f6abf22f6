//go:build race

package check_test

// many is how many schedules a month is simulated with; the race detector makes
// it many times slower.
const many = 30
