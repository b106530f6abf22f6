package lifecycle

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// stopGrace is how long a server may take to stop when the caller's context
// has no deadline of its own.
const stopGrace = 10 * time.Second

// Child is one running child process. The goroutine that starts it stays
// locked to its thread until the process ends, because Linux sends the
// parent-death signal when the starting thread dies, not the process.
type Child struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; read after done is closed
}

// StartChild starts cmd, which gets orphanSignal when this process dies.
func StartChild(cmd *exec.Cmd, orphanSignal syscall.Signal) (*Child, error) {
	c := &Child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go c.run(orphanSignal, started)
	if err := <-started; err != nil {
		<-c.done
		return nil, err
	}
	return c, nil
}

func (c *Child) run(orphanSignal syscall.Signal, started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	defer close(c.done)
	release, err := startWithParent(c.cmd, orphanSignal)
	started <- err
	if err != nil {
		return
	}
	c.err = c.cmd.Wait()
	release()
}

// Alive tells whether the process has not ended yet.
func (c *Child) Alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal; that the process has ended already is no error.
func (c *Child) Signal(sig os.Signal) error {
	err := c.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Stop sends the signals one after the other, each with its share of the time
// that ctx leaves, until the process has ended. The last one is SIGKILL.
func (c *Child) Stop(ctx context.Context, signals ...syscall.Signal) error {
	for _, sig := range signals {
		if !c.Alive() {
			return nil
		}
		if err := c.Signal(sig); err != nil {
			return err
		}
		if c.waitUntil(ctx) {
			return nil
		}
		// The deadline is over: the rest goes quickly.
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		ctx = short
	}
	if err := c.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-c.done
	return nil
}

func (c *Child) waitUntil(ctx context.Context) bool {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, stopGrace)
		defer cancel()
	}
	select {
	case <-c.done:
		return true
	case <-ctx.Done():
		return false
	}
}

// Done is closed when the process has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// PID returns the process id.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Err returns how the process ended, as exec.Cmd.Wait does; call it after Done.
func (c *Child) Err() error { return c.err }
