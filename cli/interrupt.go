package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/catena-run/catena/task"
)

// interruption is a signal that asks the program to end.
type interruption struct{ signal syscall.Signal }

func (i interruption) Error() string { return "interrupted by " + i.signal.String() }

// Is lets it count as what it is to the work that it ends: a cancellation.
func (i interruption) Is(target error) bool { return target == context.Canceled }

// code is the exit code that shells give to a program that a signal ended.
func (i interruption) code() int { return 128 + int(i.signal) }

// sameRequest is within what signals count as one request: a service manager and
// a shell, or a wrapper and the terminal, may each send one.
const sameRequest = time.Second

// heed ends ctx's work in order at the first signal, and the process at the
// second, since then somebody has waited long enough. exit does not return.
func heed(signals <-chan os.Signal, end context.CancelCauseFunc, err io.Writer, exit func(code int)) {
	end(interruptionOf(<-signals))
	first := time.Now()
	next := <-signals
	for time.Since(first) < sameRequest {
		next = <-signals
	}
	second := interruptionOf(next)
	fmt.Fprintln(err, "stopping now; what still runs is taken up again by the cluster")
	exit(second.code())
}

func interruptionOf(s os.Signal) interruption {
	if s, ok := s.(syscall.Signal); ok {
		return interruption{s}
	}
	return interruption{syscall.SIGINT}
}

// interruptedCode returns the exit code of a command that err ended because ctx
// was cancelled; false for any other end.
func interruptedCode(ctx context.Context, err error) (int, bool) {
	if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) || task.CodeOf(err) != task.CodeCancelled {
		return 0, false
	}
	cause := interruption{syscall.SIGINT}
	_ = errors.As(context.Cause(ctx), &cause)
	return cause.code(), true
}
