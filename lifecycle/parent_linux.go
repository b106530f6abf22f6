package lifecycle

import (
	"os/exec"
	"syscall"
)

// startWithParent starts cmd so that the kernel sends it sig when the calling
// thread ends; the caller keeps that thread for as long as the child lives.
func startWithParent(cmd *exec.Cmd, sig syscall.Signal) (release func(), err error) {
	processAttributes(cmd).Pdeathsig = sig
	return func() {}, cmd.Start()
}
