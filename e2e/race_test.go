//go:build race

package e2e

// withRace builds the program under test as the tests are built.
const withRace = true
