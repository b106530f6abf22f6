//go:build !linux

package lifecycle

import "syscall"

// LimitSelf has the kernel bound this process: here it only writes no core dump.
func LimitSelf(uint64) error {
	return named("RLIMIT_CORE", syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}))
}
