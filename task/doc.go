// Package task holds the words of the domain and the rules about them: tasks,
// schedules, fires, runs and their states, outcomes, workers, packages and
// coded errors. Every layer above speaks in these types, so that the same word
// means the same thing in code, SQL, API, CLI and docs.
//
// It does no input or output, knows no other package of Catena and starts no
// goroutine.
package task
