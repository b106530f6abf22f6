package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// parcelRef counts what is left of a claimed parcel; the committer owns left.
type parcelRef struct {
	id   int64
	left int
}

// job is one claimed run in this worker.
type job struct {
	session   *session
	claimed   store.Claimed
	lane      string
	parcel    *parcelRef
	claimedAt time.Time
	startedAt time.Time
	marked    bool // under session.mu
	interrupt context.CancelCauseFunc
	ended     func()
	logs      *runLog
	ctx       context.Context // of the attempt
	soft      context.Context // ends before ctx when the run is told to end
	halt      halt
	span      *telemetry.Span // of the run; nil: it is not traced
	calls     atomic.Int32    // of package code under way
	listening atomic.Int32    // those that look at ctx.signal
	revision  atomic.Pointer[prepared]
	over      atomic.Bool               // its ending was handed over, or nobody wants it
	limitAt   atomic.Pointer[time.Time] // when its time limit is over; nil: its code has not begun

	mu       sync.Mutex
	packages []usedPackage
}

type usedPackage struct{ name, digest string }

// execute runs one attempt and hands its end to the committer.
func (s *session) execute(work context.Context, j *job) {
	defer j.ended()
	ctx, cancel := context.WithCancelCause(work)
	defer cancel(nil)
	j.ctx, j.interrupt, j.startedAt = ctx, cancel, time.Now()
	j.soft, j.halt.stop = context.WithCancelCause(ctx)
	defer j.halted()
	j.logs = &runLog{job: j, left: s.cfg.LogLimit}
	if !s.enter(j) {
		s.release([]*job{j})
		return
	}
	if err := s.gate.pass(j.soft); err != nil {
		s.leave(j)
		if errors.Is(err, errDrained) || errors.Is(err, errCancelled) {
			s.release([]*job{j}) // what was cancelled does not go again
		} else {
			s.commits.abandon(j)
		}
		return
	}
	s.begun(j)
	ending := j.guarded(ctx)
	spent := time.Since(j.startedAt)
	s.finish(j, ending, spent)
	s.leave(j)
	s.measured(j.claimed.Revision, spent)
}

// enter makes the job live; false when the session drains already.
func (s *session) enter(j *job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.live[j.claimed.ID] = j
	if ask, asked := s.cancelAsked[j.claimed.ID]; asked {
		j.obey(ask)
	}
	return true
}

func (s *session) leave(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[j.claimed.ID] == j {
		delete(s.live, j.claimed.ID)
	}
}

// finish hands over the end of an attempt, once.
func (s *session) finish(j *job, ending *store.Ending, spent time.Duration) {
	if !j.over.CompareAndSwap(false, true) {
		return
	}
	if ending == nil {
		s.commits.abandon(j)
		return
	}
	s.commits.add(j, *ending)
	s.metrics.of(j.lane).observe(j.claimed.Attempt, ending, spent)
	s.deps.Observe(ending.State, spent)
}

// guarded makes a fault of ours in one run a failure of that run alone.
func (j *job) guarded(ctx context.Context) (ending *store.Ending) {
	defer func() {
		if fault := recover(); fault != nil {
			j.session.log.WithFields(logrus.Fields{"run": j.claimed.ID, "stack": string(debug.Stack())}).Errorf("a run hit a fault of the worker: %v", fault)
			ending = j.ending(task.StateFailed, chain.Result{}, fmt.Sprintf("the worker has a fault: %v; please report it", fault))
		}
	}()
	return j.attempt(ctx)
}

// attempt runs the chain and says how it ended; nil when the run is no longer ours.
func (j *job) attempt(ctx context.Context) *store.Ending {
	ctx = j.traced(ctx)
	prepared, err := j.session.revisions.get(j.soft, j.claimed.Revision)
	if err != nil {
		return j.settle(prepared, chain.Result{Outcome: task.Fail(err.Error())}, err)
	}
	j.revision.Store(prepared)
	params, err := mergeParams(prepared.Params, j.claimed.Params)
	if err != nil {
		return j.settle(prepared, chain.Result{Outcome: task.Fail(err.Error())}, nil)
	}
	at := time.Now().Add(prepared.Timeout)
	j.limitAt.Store(&at)
	limit := time.AfterFunc(prepared.Timeout, func() { j.ask(errTimedOut, false) })
	defer limit.Stop()
	options := chain.Options{
		Run:    chain.RunInfo{ID: j.claimed.ID, Task: j.claimed.Task, Attempt: j.claimed.Attempt, DueAt: j.claimed.DueAt},
		Params: params, Done: j.claimed.Done, Invoker: j, Starter: j, Spawner: j, Log: j.logs.line, MaxOutcome: j.session.cfg.MaxOutcome,
		Park: true, Waits: j.waits(), Stop: j.soft.Done(),
	}
	if options.Entry, err = j.entry(); err != nil {
		return j.settle(prepared, chain.Result{Outcome: task.Fail(err.Error())}, nil)
	}
	if prepared.Durable {
		options.Commit = j.commitStep
	}
	result, err := prepared.document.Run(ctx, options)
	if err == nil && result.Parked != nil {
		return j.parked(result)
	}
	ending := j.settle(prepared, result, err)
	if result.Unfinished != nil && ending != nil && (ending.State.Terminal() || ending.Attempt > j.claimed.Attempt) {
		result.Unfinished.End()
	}
	return ending
}

// settle turns the end of an attempt into what is to be written.
func (j *job) settle(rev *prepared, result chain.Result, err error) *store.Ending {
	cause := context.Cause(j.soft)
	if errors.Is(context.Cause(j.ctx), errRevoked) {
		cause = errRevoked // whatever it was told before
	}
	if result.Outcome.Success && err == nil {
		cause = nil // it was faster than whatever wanted to stop it
	}
	var refused refusedError
	switch {
	case errors.Is(cause, errRevoked) || errors.Is(err, errRevoked):
		return nil
	case errors.Is(cause, errDrained):
		return j.ending(task.StateQueued, result, "went back to its queue: the worker was shutting down")
	case errors.Is(cause, errCancelled):
		return j.ending(task.StateCancelled, result, "cancelled on request")
	case errors.Is(cause, errTimedOut):
		return j.failed(rev, task.StateTimedOut, result, fmt.Sprintf("timed out after %v", rev.Timeout))
	case errors.As(err, &refused):
		return j.failed(rev, task.StateFailed, result, refused.Error())
	case store.Unreachable(err):
		return j.ending(task.StateQueued, result, "went back to its queue: "+err.Error())
	case err != nil:
		return j.failed(rev, task.StateFailed, result, err.Error())
	case !result.Outcome.Success:
		return j.failed(rev, task.StateFailed, result, result.Outcome.Reason)
	}
	return j.ending(task.StateSucceeded, result, "")
}

// failed ends the run, or queues its next attempt while it has any.
func (j *job) failed(rev *prepared, state task.State, result chain.Result, reason string) *store.Ending {
	if reason == "" {
		reason = "failed without a reason"
	}
	result.Outcome.Success, result.Outcome.Reason = false, reason
	if rev == nil || j.claimed.Attempt >= rev.attempts() {
		return j.ending(state, result, reason)
	}
	next := j.claimed.Attempt + 1
	e := j.ending(task.StateQueued, result, fmt.Sprintf("attempt %d of %d: %s", j.claimed.Attempt, rev.attempts(), reason))
	e.Attempt, e.Lane = next, "" // it ended in order: it is no suspect
	e.After = rev.Retry.Wait(j.claimed.Attempt, rand.Float64())
	j.logs.line("warn", "", e.Reason)
	return e
}

func (j *job) ending(state task.State, result chain.Result, reason string) *store.Ending {
	e := j.back()
	e.State, e.Reason, e.StartedAt, e.Packages = state, reason, j.startedAt, j.usedPackages()
	if state != task.StateQueued || reason != "" {
		if !result.Outcome.Success && result.Outcome.Reason == "" {
			result.Outcome.Reason = reason
		}
		e.Outcome, _ = json.Marshal(result.Outcome)
	}
	if len(result.Steps) > 0 {
		e.Tail, _ = json.Marshal(result.Steps)
	}
	return e
}

// back is the ending of a run that has not started and goes again.
func (j *job) back() *store.Ending {
	return &store.Ending{Run: j.claimed.ID, Fence: j.claimed.Fence, State: task.StateQueued, Attempt: j.claimed.Attempt, Lane: j.lane,
		Parcel: j.parcel.id, Held: j.claimed.Held, Packed: j.claimed.Packed, Rated: j.claimed.Rated}
}

func (j *job) commitStep(ctx context.Context, step task.Step) error {
	if err := j.session.gate.pass(ctx); err != nil {
		return err
	}
	return j.session.commits.step(ctx, store.StepRow{Run: j.claimed.ID, Fence: j.claimed.Fence, Step: step})
}

// Invoke calls a function of package code in the version that the run is
// pinned to.
func (j *job) Invoke(ctx context.Context, call chain.Invocation) task.Outcome {
	s := j.session
	j.calls.Add(1) // before looking whether the run is to end: see ask
	defer j.calls.Add(-1)
	if err := s.gate.pass(j.soft); err != nil {
		return task.Fail(err.Error())
	}
	if j.soft.Err() != nil {
		return task.Fail(context.Cause(j.soft).Error())
	}
	listens := false
	defer func() {
		if listens {
			j.listening.Add(-1)
		}
	}()
	version, err := j.resolve(ctx, call.Ref.Package)
	if err != nil {
		return task.Fail(err.Error())
	}
	ctx, span := traceCall(ctx, call)
	outcome := s.deps.Scripts.Call(ctx, script.Call{
		Version: version, Module: call.Ref.Module, Function: call.Ref.Function, Input: call.Input, External: true,
		Context: script.CallContext{RunID: j.claimed.ID.String(), Task: j.claimed.Task, Attempt: j.claimed.Attempt, Step: call.Step, Cluster: s.deps.Cluster},
		Log:     func(level, message string) { j.logs.line(level, call.Step, message) },
		Stop:    j.soft, Listens: func() { listens = true; j.listening.Add(1) },
		Resolve: j.resolve, Admit: s.gate.pass,
	})
	endCall(span, outcome)
	return outcome
}

// resolve finds the pinned version of a package and notes that it was used. An
// unreachable database is no fault of the run: it waits.
func (j *job) resolve(ctx context.Context, name string) (*pkgstore.Version, error) {
	for {
		version, err := j.session.deps.Packages.Resolve(ctx, name, j.claimed.Release)
		if err == nil {
			j.use(name, version.Digest)
			return version, nil
		}
		if !store.Unreachable(err) || ctx.Err() != nil {
			return nil, err
		}
		pause(ctx, 200*time.Millisecond)
	}
}

func (j *job) use(name, digest string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, p := range j.packages {
		if p.name == name {
			return
		}
	}
	j.packages = append(j.packages, usedPackage{name, digest})
}

// usedPackages writes the packages as an object in the order of first use.
func (j *job) usedPackages() json.RawMessage {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.packages) == 0 {
		return nil
	}
	var b bytes.Buffer
	for i, p := range j.packages {
		separator := ","
		if i == 0 {
			separator = "{"
		}
		fmt.Fprintf(&b, "%s%q:%q", separator, p.name, p.digest)
	}
	b.WriteByte('}')
	return b.Bytes()
}
