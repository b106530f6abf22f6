package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Why a run is told to end. Codes tell package code which it is.
var (
	errTimedOut  = task.Errorf(task.CodeTimeout, "timed out")
	errCancelled = task.Errorf(task.CodeCancelled, "cancelled")
	errDrained   = errors.New("the worker is shutting down")
	errRevoked   = errors.New("the run was taken back from this worker")
)

// halt is the end of a run that comes before the end of its chain, in stages:
// it is asked, so that its chain stops at the next item and its code may end by
// itself; after a grace its code is interrupted; code that ignores even that is
// left to stuck.go, which has the process replaced. A cancellation and a time
// limit both go this way.
type halt struct {
	stop context.CancelCauseFunc // asks

	mu          sync.Mutex
	asked       bool
	interrupted bool
	over        bool // the attempt has ended
	grace       *time.Timer
}

// ask tells the run to end, and interrupts its code at the end of the grace.
// The first cause counts; asking again may only take the grace away. A time
// limit has passed already, so there code has a grace only if it listens.
func (j *job) ask(cause error, atOnce bool) {
	h := &j.halt
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || h.interrupted {
		return
	}
	grace := j.session.cfg.CancelGrace
	if !h.asked {
		h.asked = true
		j.logs.line("warn", "", fmt.Sprintf("told to end: %s", cause.Error()))
		h.stop(cause)
		deaf := errors.Is(cause, errTimedOut) && j.calls.Load() > 0 && j.listening.Load() == 0
		atOnce = atOnce || grace < 0 || deaf
		if !atOnce {
			h.grace = time.AfterFunc(grace, func() { j.stopCode(fmt.Sprintf("did not end by itself within %v", grace)) })
		}
	}
	if atOnce {
		j.stopCodeLocked("is given no grace")
	}
}

func (j *job) stopCode(why string) {
	j.halt.mu.Lock()
	defer j.halt.mu.Unlock()
	j.stopCodeLocked(why)
}

// stopCodeLocked is the second stage.
func (j *job) stopCodeLocked(why string) {
	h := &j.halt
	if h.over || h.interrupted {
		return
	}
	h.interrupted = true
	if j.calls.Load() > 0 { // else only the engine waits, for a step to be written
		j.session.commits.stage(store.StageRow{Run: j.claimed.ID, Fence: j.claimed.Fence, Stage: store.StageInterrupted, At: time.Now()})
		j.logs.line("warn", "", "its code "+why+": it is interrupted")
	}
	j.interrupt(context.Cause(j.soft))
}

// halted ends the stages with the attempt.
func (j *job) halted() {
	j.halt.mu.Lock()
	defer j.halt.mu.Unlock()
	j.halt.over = true
	if j.halt.grace != nil {
		j.halt.grace.Stop()
	}
}
