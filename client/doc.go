// Package client is the Go SDK of Catena: a method per call of the REST API,
// in the types of package task.
//
// Every method takes a context first and ends soon after it is done. Except
// for WaitRun, WaitRuns and FollowLogs, which block until what they wait for
// has happened, a call ends within Config.Timeout per attempt (Push and
// PackageArchive: within Config.TransferTimeout).
//
// Calls that change nothing, and calls that start runs, are tried again when
// the server cannot be reached: reads have no effect, and a start carries an
// idempotency key (the caller's, or one made at random), so that a second try
// never makes a second run. Every other call is tried once. The methods that
// block endure a server that is away for up to Config.Patience.
//
// Errors are *task.Error: those of the server keep their code, message, place
// and remedy; a server that cannot be reached is task.CodeUnavailable; a
// context that ended is task.CodeCancelled or task.CodeTimeout and wraps the
// context's cause.
//
// A Client is safe for concurrent use and starts no goroutine of its own. It
// reads no environment and no files: the address and the token are given.
package client
