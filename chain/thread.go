package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/expr-lang/expr/vm"

	"github.com/catena-run/catena/task"
)

// flow says where a chain goes after an item.
type flow uint8

const (
	flowNext   flow = iota
	flowEnd         // the chain ends with the outcome
	flowReplay      // the innermost list begins again
)

// result is what an action answers with.
type result struct {
	outcome task.Outcome
	flow    flow
	yields  bool  // the outcome becomes the chain's outcome
	err     error // errInterrupted: the context ended or the run was stopped, there is no outcome
}

var errInterrupted = errors.New("interrupted")

func good() result { return result{outcome: task.Outcome{Success: true}} }

func failed(err error) result { return result{outcome: task.Fail(err.Error())} }

// replayPause keeps a chain that replays itself from spinning.
const replayPause = 100 * time.Millisecond

// thread executes items one after the other. Each branch of each and parallel
// is a thread of its own.
type thread struct {
	run       *run
	scope     *scope
	vm        vm.VM
	budget    budget
	iteration int
	marks     []mark // elements of the enclosing each items
	stepGen   int    // scope.gen when the step began
	try       int    // of the item's retry, where it has one
	parked    *Parked
	since     time.Time // when a wait that is over began
}

// mark puts an element's index into the paths below an each.
type mark struct {
	at    int // length of the each's path in the document
	index int
}

// list runs items in a loop, so that a chain of any length needs no stack.
func (th *thread) list(ctx context.Context, l *list) result {
	for i := 0; i < len(l.items); i++ {
		if th.ends(ctx) {
			return result{err: errInterrupted}
		}
		r := th.item(ctx, l.items[i])
		switch {
		case r.err != nil || !r.outcome.Success || r.flow == flowEnd:
			return r
		case r.flow == flowReplay:
			if err := th.sleep(ctx, replayPause); err != nil {
				return result{err: err}
			}
			i = -1
		}
	}
	return good()
}

// item runs one item with its modifiers and records its outcome.
func (th *thread) item(ctx context.Context, it *item) result {
	if it.plain {
		r := it.action.run(ctx, th, it)
		if r.err == nil && !r.outcome.Success {
			r.outcome = th.frame(it, r.outcome)
		} else if r.yields {
			th.scope.setOutcome(r.outcome)
		}
		return r
	}
	r := th.modified(ctx, it)
	if r.err != nil || !r.outcome.Success {
		return r
	}
	if r.yields {
		th.scope.setOutcome(r.outcome)
	}
	if it.name != "" {
		th.scope.setNamed(named{Name: it.name, Var: it.asVar && r.outcome.Extra["skipped"] == nil, Outcome: r.outcome})
	}
	return r
}

func (th *thread) modified(ctx context.Context, it *item) result {
	yes, err := th.when(it)
	if err == nil && !yes {
		return result{outcome: task.Outcome{Success: true, Extra: map[string]json.RawMessage{"skipped": json.RawMessage("true")}}}
	}
	var r result
	if err != nil {
		r = failed(err)
	} else {
		r = th.attempts(ctx, it)
	}
	if r.err != nil || r.outcome.Success {
		return r
	}
	r.outcome = th.frame(it, r.outcome)
	if it.catch == nil || r.flow == flowEnd {
		return r
	}
	if th.ends(ctx) {
		return result{err: errInterrupted} // not a failure to be caught
	}
	r = th.caught(ctx, it, r.outcome)
	if r.err == nil && !r.outcome.Success {
		r.outcome = th.frame(it, r.outcome)
	}
	return r
}

func (th *thread) when(it *item) (bool, error) {
	if it.when == nil {
		return true, nil
	}
	value, err := it.when.eval(th)
	if err != nil {
		return false, fmt.Errorf("when: %w", err)
	}
	yes, ok := value.(bool)
	if !ok {
		text, _ := textOf(value)
		return false, fmt.Errorf("when must be true or false, but %s is %s", it.when.program, shorten(text, maxItemText))
	}
	return yes, nil
}

// attempts runs the action until it succeeds or its attempts are used up.
func (th *thread) attempts(ctx context.Context, it *item) result {
	for attempt := 1; ; attempt++ {
		th.try = attempt
		r := th.once(ctx, it)
		if r.err != nil || r.outcome.Success || r.flow == flowEnd || attempt >= it.retry.Attempts {
			return r
		}
		if th.waitedLater(it) {
			continue // the run was parked in the next attempt already
		}
		wait := it.retry.Wait(attempt, rand.Float64())
		th.log("warn", it, fmt.Sprintf("attempt %d of %d failed, next in %v: %s", attempt, it.retry.Attempts, wait, r.outcome.Reason))
		if th.run.options.Run.Readonly {
			continue // an attempt tells more than a wait
		}
		if err := th.sleep(ctx, wait); err != nil {
			return result{err: err}
		}
	}
}

// once runs the action within the item's time limit.
func (th *thread) once(ctx context.Context, it *item) result {
	if it.timeout == 0 {
		return it.action.run(ctx, th, it)
	}
	limited, cancel := context.WithTimeout(ctx, it.timeout)
	defer cancel()
	r := it.action.run(limited, th, it)
	switch {
	case r.err == nil && r.outcome.Success, th.parked != nil:
		return r
	case th.ends(ctx):
		return result{err: errInterrupted}
	case limited.Err() != nil:
		late := task.Fail(fmt.Sprintf("timed out after %v", it.timeout))
		late.CallStack = r.outcome.CallStack
		return result{outcome: late}
	}
	return r
}

// caught runs an item's catch with error as the failing outcome.
func (th *thread) caught(ctx context.Context, it *item, outcome task.Outcome) result {
	env, err := th.scope.environment(th.run, 0)
	if err != nil {
		return failed(err)
	}
	outer, nested := env["error"]
	env["error"] = outcomeValue(outcome)
	defer func() {
		if delete(env, "error"); nested {
			env["error"] = outer
		}
	}()
	return th.group(ctx, it.catch)
}

// group runs a list in the thread's own scope. Its outcome is the chain's
// outcome if an item in it set a good one.
func (th *thread) group(ctx context.Context, l *list) result {
	before := th.scope.gen
	r := th.list(ctx, l)
	if r.err == nil && r.flow == flowNext && r.outcome.Success && th.scope.gen != before && th.scope.outcome.Success {
		r.outcome, r.yields = th.scope.outcome, true
	}
	return r
}

// frame adds an item to the call stack of its failing outcome.
func (th *thread) frame(it *item, o task.Outcome) task.Outcome {
	o.CallStack = append(slices.Clip(o.CallStack), task.Frame{Module: th.run.options.Run.Task, Item: it.text, Index: th.path(it)})
	return o
}

// path returns an item's path with the element's index of each enclosing each.
func (th *thread) path(it *item) string {
	if len(th.marks) == 0 {
		return it.path
	}
	var b strings.Builder
	done := 0
	for _, m := range th.marks {
		b.WriteString(it.path[done:m.at])
		b.WriteByte('[')
		b.WriteString(strconv.Itoa(m.index))
		b.WriteByte(']')
		done = m.at
	}
	b.WriteString(it.path[done:])
	return b.String()
}

func (th *thread) log(level string, it *item, message string) {
	if th.run.options.Log != nil {
		th.run.options.Log(level, th.path(it), message)
	}
}

// wouldWait notes a wait that a readonly run passes over.
func (th *thread) wouldWait(it *item, what string) { th.wouldDo(it, "wait", what) }

func (th *thread) wouldDo(it *item, kind, what string) {
	if note := th.run.options.WouldDo; note != nil {
		note(th.path(it), kind, what)
	}
}

// ends reports that nothing further of the run is to begin.
func (th *thread) ends(ctx context.Context) bool {
	select {
	case <-th.run.options.Stop:
		return true
	default:
		return ctx.Err() != nil
	}
}

// sleep waits, but not longer than ctx and the run.
func (th *thread) sleep(ctx context.Context, d time.Duration) error {
	if th.ends(ctx) {
		return errInterrupted
	}
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return errInterrupted
	case <-th.run.options.Stop:
		return errInterrupted
	case <-timer.C:
		return nil
	}
}
