//go:build race && linux

package lifecycle

// raceDetector maps several times the memory that the program does, so its
// processes get no RLIMIT_DATA.
const raceDetector = true
