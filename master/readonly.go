package master

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// Bounds of readonly runs.
const (
	readonlyAtOnce = 2               // further ones wait
	readonlyGrace  = 2 * time.Second // for the result, after the run's own limit
	readonlyLook   = 50 * time.Millisecond
	readonlyOutput = 64 << 20 // bytes that such a process may answer with
)

// ReadonlyRuns executes readonly runs, each in a process of its own, under the
// limits that workers have. Such a process has no connection to anything but
// the pipes to this one.
type ReadonlyRuns struct {
	command   func() *exec.Cmd
	maxMemory uint64
	places    chan struct{}
}

// NewReadonlyRuns takes the command that starts the process, and the resident
// memory in bytes at which it is killed; 0: never.
func NewReadonlyRuns(command func() *exec.Cmd, maxMemory uint64) *ReadonlyRuns {
	return &ReadonlyRuns{command: command, maxMemory: maxMemory, places: make(chan struct{}, readonlyAtOnce)}
}

// Run executes one job; load gives the packages it calls. It blocks until the
// process has ended and kills it when ctx does.
func (r *ReadonlyRuns) Run(ctx context.Context, job task.ReadonlyJob, load func(ctx context.Context, name string) (*pkgstore.Version, error)) (*task.ReadonlyRun, error) {
	select {
	case r.places <- struct{}{}:
		defer func() { <-r.places }()
	case <-ctx.Done():
		return nil, task.Errorf(task.CodeUnavailable, "other readonly runs are under way").Fix("try again in a moment")
	}
	limit := time.Duration(job.Timeout) + readonlyGrace
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p, err := r.start()
	if err != nil {
		return nil, task.Errorf(task.CodeInternal, "cannot start the process of a readonly run: %w", err)
	}
	watched := make(chan string, 1)
	go func() { watched <- r.watch(ctx, p.child) }()
	result, err := p.converse(ctx, job, load)
	p.close()
	_ = p.child.Signal(syscall.SIGKILL) // it has nothing more to do
	<-p.child.Done()
	if why := <-watched; result == nil && why != "" {
		return nil, task.Errorf(task.CodeTooLarge, "the readonly run was stopped: %s", why)
	}
	if result == nil && ctx.Err() != nil {
		return nil, task.Errorf(task.CodeTimeout, "the readonly run did not end within %v", limit)
	}
	if result == nil {
		return nil, task.Errorf(task.CodeInternal, "the process of the readonly run died (%w): %w", p.child.Err(), err)
	}
	return result, nil
}

// readonlyProcess is the child and the ends of its pipes.
type readonlyProcess struct {
	child *lifecycle.Child
	to    *os.File
	from  *os.File
}

func (r *ReadonlyRuns) start() (*readonlyProcess, error) {
	in, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	from, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, to.Close())
	}
	defer out.Close()
	cmd := r.command()
	cmd.Stdin, cmd.Stdout = in, out
	p := &readonlyProcess{to: to, from: from}
	if p.child, err = lifecycle.StartChild(cmd, syscall.SIGKILL); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *readonlyProcess) close() {
	_ = p.to.Close()
	_ = p.from.Close()
}

// watch kills the process when ctx ends or it takes too much memory, and
// says why in the latter case. It returns when the process has ended.
func (r *ReadonlyRuns) watch(ctx context.Context, child *lifecycle.Child) (why string) {
	meter, err := healthcheck.NewMeter(ctx, fmt.Sprintf("readonly-%d", child.PID()), child.PID())
	ticker := time.NewTicker(readonlyLook)
	defer ticker.Stop()
	for {
		select {
		case <-child.Done():
			return why
		case <-ctx.Done():
			_ = child.Signal(syscall.SIGKILL)
			<-child.Done()
			return why
		case <-ticker.C:
		}
		if err != nil || r.maxMemory == 0 {
			continue
		}
		if f, err := meter.Read(ctx); err == nil && f.RSS > r.maxMemory {
			why = fmt.Sprintf("it took %d MiB of memory, the limit is %d MiB", f.RSS>>20, r.maxMemory>>20)
			_ = child.Signal(syscall.SIGKILL)
		}
	}
}

// converse gives the job, answers the questions for packages and returns the
// result. That the process is killed ends its pipes.
func (p *readonlyProcess) converse(ctx context.Context, job task.ReadonlyJob, load func(ctx context.Context, name string) (*pkgstore.Version, error)) (*task.ReadonlyRun, error) {
	to, from := json.NewEncoder(p.to), json.NewDecoder(io.LimitReader(p.from, readonlyOutput))
	if err := to.Encode(job); err != nil {
		return nil, err
	}
	for {
		var ask task.ReadonlyAsk
		if err := from.Decode(&ask); err != nil {
			return nil, err
		}
		if ask.Result != nil {
			return ask.Result, nil
		}
		var answer task.ReadonlyAnswer
		version, err := load(ctx, ask.Package)
		if err == nil {
			answer.Version, err = json.Marshal(version)
		}
		if err != nil {
			answer.Error = err.Error()
		}
		if err := to.Encode(answer); err != nil {
			return nil, err
		}
	}
}
