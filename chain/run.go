package chain

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// Invoker calls a function of a package. It blocks until the function has
// ended, must return soon after ctx ends, and may be called concurrently by the
// branches of each and parallel.
type Invoker interface {
	Invoke(ctx context.Context, call Invocation) task.Outcome
}

// Invocation is one call of a function.
type Invocation struct {
	Ref   task.PackageRef
	Input json.RawMessage
	Step  string // path of the item, with the index of each enclosing each: 2[17].do.0
	Item  string // the item as its author wrote it, shortened
}

// Starter starts another task as a child of the run. It does not wait for it.
type Starter interface {
	StartTask(ctx context.Context, s Start) (uuid.UUID, error)
}

// Start asks for one child. Whenever the same item of the same attempt asks
// again, its path and iteration are the same: a repetition starts nothing new.
type Start struct {
	Task          string
	Params        json.RawMessage
	Path          string // of the item, with the index of each enclosing each
	Iteration     int
	Wait          bool // the item ends with the child
	InheritCancel bool // the child is cancelled with the run
}

// RunInfo is what ${run.*} shows: id, task, attempt, due_at and readonly.
type RunInfo struct {
	ID       uuid.UUID
	Task     string
	Attempt  int
	DueAt    *time.Time
	Readonly bool
}

// Options say what a run of a document works with.
type Options struct {
	Run    RunInfo
	Params json.RawMessage // merged; nil: {}
	// Done are the committed steps to go on after, in order. Their outcomes and
	// variables are restored; the next item is the one after the last of them.
	Done    []task.Step
	Invoker Invoker
	Starter Starter
	Spawner Spawner
	// Park says that the run may be parked: wait, and a delay longer than
	// LongDelay, then end Run with Result.Parked where they stand at the top level.
	// A parked run is run again with the outcome in Waits.
	Park  bool
	Waits map[WaitKey]Waited
	Entry *Entry                            // the part of the document to run; nil: all of it
	Log   func(level, step, message string) // may be called concurrently; nil: nothing is logged
	// Stop is closed to have the run end in order: what is being called may go on
	// until ctx ends, but no further item, attempt or catch begins. nil: never.
	Stop <-chan struct{}
	// Commit is called after each top-level item except the last one executed
	// and blocks until the step is durable. nil: no step is committed.
	Commit func(ctx context.Context, step task.Step) error
	// WouldDo takes note of waits that a readonly run passes over. It may be
	// called concurrently; nil: nobody wants to know.
	WouldDo    func(step, kind, what string)
	MaxOutcome int // bytes of one step's outcome, and of its variables; 0: 1 MiB
}

// Result is what a run of a document ends with.
type Result struct {
	Outcome task.Outcome
	Steps   []task.Step // executed now and not given to Commit
	Parked  *Parked     // what the run waits for; it has no outcome then
	// Unfinished is the span of the step that was interrupted, nil where there is
	// none. It is to be ended unless the step goes again.
	Unfinished *telemetry.Span
}

// ErrStopped is the error of a run that Options.Stop has ended.
var ErrStopped = errors.New("stopped before its next item")

// run is one execution of a document.
type run struct {
	options Options
	params  func() (any, error)   // decoded when an expression asks
	info    func() map[string]any // likewise
	good    *task.Outcome         // shared by the steps that have nothing to say
}

func newRun(o Options) *run {
	if o.MaxOutcome <= 0 {
		o.MaxOutcome = 1 << 20
	}
	if o.Run.Attempt <= 0 {
		o.Run.Attempt = 1
	}
	r := &run{options: o, good: &task.Outcome{Success: true}}
	r.params = sync.OnceValues(func() (any, error) {
		if len(o.Params) == 0 {
			return map[string]any{}, nil
		}
		value, err := decode(o.Params)
		if err != nil {
			return nil, fmt.Errorf("params: %w", err)
		}
		return value, nil
	})
	r.info = sync.OnceValue(func() map[string]any {
		info := map[string]any{
			"id": o.Run.ID.String(), "task": o.Run.Task, "attempt": o.Run.Attempt, "readonly": o.Run.Readonly, "due_at": nil,
		}
		if o.Run.DueAt != nil {
			info["due_at"] = o.Run.DueAt.UTC().Format(time.RFC3339Nano)
		}
		return info
	})
	return r
}

// Run executes the document from the item after the last of o.Done to its end.
// It blocks until then. The error is ctx's cause, ErrStopped or that of Commit; the
// steps that were executed and not committed come back even then.
func (d *Document) Run(ctx context.Context, o Options) (Result, error) {
	r := newRun(o)
	th := &thread{run: r, scope: newScope()}
	items, err := d.enter(th, o.Entry)
	if err != nil {
		return Result{}, err
	}
	at, err := restore(th, items, o.Done)
	if err != nil {
		return Result{}, err
	}
	m := trunk{items: items.items, thread: th, position: at}
	if o.Commit == nil {
		m.tail = make([]task.Step, 0, len(m.items)-at.index)
	}
	err = m.loop(ctx)
	return Result{Outcome: m.outcome, Steps: m.tail, Parked: m.parked, Unfinished: m.unfinished}, err
}

// position is where a run stands among the top-level items.
type position struct {
	index     int
	iteration int
	ended     bool
}

// trunk runs the top-level items, whose outcomes are steps.
type trunk struct {
	position
	items   []*item
	thread  *thread
	tail    []task.Step
	outcome task.Outcome
	failed  bool
	parked  *Parked

	unfinished *telemetry.Span
}

func (m *trunk) loop(ctx context.Context) error {
	items := m.items
	for started := time.Now(); m.index < len(items) && !m.ended; {
		if m.thread.ends(ctx) {
			return m.thread.whyEnded(ctx)
		}
		m.thread.iteration = m.iteration
		inside, span := telemetry.Step(ctx, m.thread.run.options.Run.Attempt, m.iteration, items[m.index].path)
		res := m.thread.item(inside, items[m.index])
		if res.err != nil {
			if errors.Is(res.err, errParked) && !m.thread.ends(ctx) {
				m.parked = m.thread.parked
				return nil // the step ends when the wait is over
			}
			m.unfinished = m.trace(span, items[m.index], task.Fail("interrupted"))
			return m.thread.whyEnded(ctx)
		}
		if !m.thread.since.IsZero() { // it has waited
			started, m.thread.since = m.thread.since, time.Time{}
			span.From(started)
		}
		finished := time.Now()
		m.trace(span, items[m.index], res.outcome).EndAt(finished)
		step := m.thread.run.step(m.thread, items[m.index], &res)
		step.Iteration, step.StartedAt, step.FinishedAt = m.iteration, started, finished
		if err := m.store(ctx, step, m.advance(res)); err != nil {
			return err
		}
		started = finished
		if m.thread.run.options.Commit != nil {
			started = time.Now()
		}
		if res.flow == flowReplay {
			if m.thread.sleep(ctx, replayPause) != nil {
				return m.thread.whyEnded(ctx)
			}
		}
	}
	if !m.failed {
		m.outcome = m.thread.chainOutcome()
	}
	return nil
}

// trace completes the span of a step, nil where there is none.
func (m *trunk) trace(span *telemetry.Span, it *item, o task.Outcome) *telemetry.Span {
	if span == nil {
		return nil
	}
	if it.name != "" {
		span.Name("step " + it.path + " " + it.name)
	}
	span.Note("catena.step", it.path)
	span.Note("catena.item", it.text)
	span.Count("catena.run.attempt", int64(m.thread.run.options.Run.Attempt))
	if m.iteration > 0 {
		span.Count("catena.iteration", int64(m.iteration))
	}
	if !o.Success {
		span.Fail(o.Reason)
	}
	return span
}

// whyEnded is the error of a run that was interrupted or stopped.
func (th *thread) whyEnded(ctx context.Context) error {
	return cmp.Or(context.Cause(ctx), ErrStopped)
}

// advance moves on and reports whether the item was the last one.
func (m *trunk) advance(res result) bool {
	switch {
	case !res.outcome.Success || res.flow == flowEnd:
		m.ended, m.failed, m.outcome = true, !res.outcome.Success, res.outcome
	case res.flow == flowReplay:
		m.index, m.iteration = 0, m.iteration+1
	default:
		m.index++
	}
	return m.ended || m.index == len(m.items)
}

func (m *trunk) store(ctx context.Context, step task.Step, last bool) error {
	commit := m.thread.run.options.Commit
	if last || commit == nil {
		m.tail = append(m.tail, step)
		return nil
	}
	err := commit(ctx, step)
	if err == nil {
		return nil
	}
	m.tail = append(m.tail, step)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// chainOutcome is what a chain that ran to its end answers.
func (th *thread) chainOutcome() task.Outcome {
	if th.scope.gen > 0 { // an entry sees an outcome that is not its own
		return th.scope.outcome
	}
	return task.Outcome{Success: true}
}
