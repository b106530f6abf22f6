//go:build !linux

package lifecycle

import (
	"os/exec"
	"syscall"
)

// startWithParent starts cmd with a guard beside it, where the system has no
// parent-death signal.
func startWithParent(cmd *exec.Cmd, sig syscall.Signal) (release func(), err error) {
	return StartGuarded(cmd, sig)
}
