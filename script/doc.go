// Package script runs the functions of package code: JavaScript on goja, one
// fresh virtual machine per call over a compiled program that all calls share.
//
// A call has a goroutine and an event loop of its own, so async functions,
// promises and timers work. It ends with a task.Outcome, never with a Go
// error: an exception, a broken limit or a promise that cannot settle is a
// failing outcome that names the author's file and line.
//
// Limits hold for wall time, call depth, the size of what is returned and the
// heap of the process. What they cannot hold is one native operation that
// takes everything at once, such as a regular expression that backtracks for
// ever: the machine looks at its interrupt between instructions only. The real
// boundary is the process, so workers run under a memory limit and are
// replaced; Overdue tells which calls ignore their limit.
//
// The package refuses to give code anything but values and the functions of
// the module "catena": no files, no environment, no processes, no Go objects,
// no network beyond the hosts that the package's manifest permits.
package script
