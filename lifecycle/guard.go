package lifecycle

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// processAttributes returns cmd's process attributes, making them when needed.
func processAttributes(cmd *exec.Cmd) *syscall.SysProcAttr {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	return cmd.SysProcAttr
}

// StartGuarded starts cmd and a small shell that reads from a pipe of this
// process: the pipe's end means that this process is gone, and the shell then
// sends sig to the server.
func StartGuarded(cmd *exec.Cmd, sig syscall.Signal) (release func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	guard := exec.Command("/bin/sh", "-c", `read -r _ || kill -"$1" "$2"`, "guard",
		strconv.Itoa(int(sig)), strconv.Itoa(cmd.Process.Pid))
	guard.Stdin = r
	processAttributes(guard).Setpgid = true // a Ctrl-C must not take the guard away
	if err := guard.Start(); err != nil {
		w.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	return func() {
		_, _ = w.WriteString("\n") // a line, not the end: the server has ended by itself
		w.Close()
		_ = guard.Wait()
	}, nil
}
