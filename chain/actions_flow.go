package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/catena-run/catena/task"
)

// groupAction runs lists, one after the other, in the chain it stands in.
type groupAction struct{ lists []*list }

func (a *groupAction) run(ctx context.Context, th *thread, _ *item) result {
	answer := good()
	for _, l := range a.lists {
		r := th.group(ctx, l)
		if r.err != nil || !r.outcome.Success || r.flow == flowEnd {
			return r
		}
		if r.yields {
			answer = r
		}
	}
	return answer
}

// newChainAction runs items as a chain with variables of its own. It never
// fails: the inner outcome becomes the chain's outcome.
type newChainAction struct {
	context *template
	body    *list
}

var errNothingSaid = errors.New(`WARNING, returning from a chain that did not have the "outcome" property set.`)

func (a *newChainAction) run(ctx context.Context, th *thread, _ *item) result {
	inner := &thread{run: th.run, scope: newScope(), marks: th.marks, iteration: th.iteration}
	inner.scope.changes = nil
	base, err := th.scope.environment(th.run, 0)
	if err != nil {
		return failed(err)
	}
	inner.scope.base = base
	if err := a.fill(th, inner.scope); err != nil {
		return failed(err)
	}
	r := inner.list(ctx, a.body)
	switch {
	case r.err != nil:
		return r
	case !r.outcome.Success || r.flow == flowEnd:
		th.scope.setOutcome(r.outcome)
	case inner.scope.has:
		th.scope.setOutcome(inner.scope.outcome)
	default:
		th.scope.setOutcome(task.Fail(errNothingSaid.Error()))
	}
	return good()
}

// fill sets the variables that the context names.
func (a *newChainAction) fill(th *thread, into *scope) error {
	if a.context == nil {
		return nil
	}
	value, err := a.context.eval(th)
	if err != nil {
		return fmt.Errorf("context: %w", err)
	}
	object, ok := value.(map[string]any)
	if !ok {
		return errors.New("the context of newChain must be an object")
	}
	for name, v := range object {
		if name != "outcome" {
			into.setVar(name, v)
			continue
		}
		outcome, err := toOutcome(v)
		if err != nil {
			return err
		}
		into.setOutcome(outcome)
	}
	return nil
}

// eachAction runs its items for every element of a list.
type eachAction struct {
	over  *template
	body  *list
	item  string
	index string
	limit int

	spawned bool // each element is a run of its own
	stop    bool // of the others when one fails
	apart   bool // they are not cancelled with the run
}

func (a *eachAction) run(ctx context.Context, th *thread, it *item) result {
	if a.spawned {
		if r, over := th.waited(it); over {
			return r
		}
	}
	value, err := a.over.eval(th)
	if err != nil {
		return failed(fmt.Errorf("each: %w", err))
	}
	elements, ok := value.([]any)
	if !ok {
		text, _ := textOf(value)
		return failed(fmt.Errorf("each needs a list, but got %s", shorten(text, maxItemText)))
	}
	switch {
	case a.spawned && th.run.options.Run.Readonly: // what the children would do is seen here
		th.wouldDo(it, "task", fmt.Sprintf("%d runs, one for each element", len(elements)))
	case a.spawned:
		return a.spawn(ctx, th, it, elements)
	}
	if _, err := th.scope.environment(th.run, a.body.uses); err != nil {
		return failed(err)
	}
	f := fan{parent: th, n: len(elements), limit: min(a.limit, maxLimit), prepare: func(t *thread, i int) *list {
		t.scope = th.scope.branch([]local{{a.item, elements[i]}, {a.index, i}})
		t.marks = append(slices.Clip(th.marks), mark{at: len(it.path), index: i})
		return a.body
	}}
	return f.run(ctx)
}

// parallelAction runs branches at the same time.
type parallelAction struct {
	branches []*list
	uses     uses
	limit    int
}

func (a *parallelAction) run(ctx context.Context, th *thread, _ *item) result {
	if _, err := th.scope.environment(th.run, a.uses); err != nil {
		return failed(err)
	}
	scopes := make([]*scope, len(a.branches))
	f := fan{parent: th, n: len(a.branches), limit: a.limit, prepare: func(t *thread, i int) *list {
		t.scope = th.scope.branch(nil)
		t.scope.changes = &changes{}
		scopes[i] = t.scope
		return a.branches[i]
	}}
	r := f.run(ctx)
	if r.err == nil && r.outcome.Success {
		for _, s := range scopes {
			th.scope.merge(s)
		}
	}
	return r
}

// fan runs n branches, at most limit at once. The first failure cancels the
// others and starts no further ones. Its outcome has the data of every branch,
// in their order.
type fan struct {
	parent  *thread
	n       int
	limit   int
	prepare func(t *thread, i int) *list // gives t the scope of branch i

	data []json.RawMessage
	mu   sync.Mutex
	next int
	stop bool
	at   int // branch of failure
	bad  task.Outcome
	err  error

	fault any // a panic of a branch
}

func (f *fan) run(ctx context.Context) result {
	f.data, f.at = make([]json.RawMessage, f.n), f.n
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if f.limit == 1 || f.n <= 1 {
		f.work(ctx, cancel)
	} else {
		var group sync.WaitGroup
		for range min(f.limit, f.n) {
			group.Go(func() {
				defer f.caught(cancel)
				f.work(ctx, cancel)
			})
		}
		group.Wait()
	}
	if f.fault != nil {
		panic(f.fault) // in the goroutine of the run, whose owner guards against it
	}
	switch {
	case f.at < f.n:
		return result{outcome: f.bad}
	case f.err != nil:
		return result{err: f.err}
	}
	return result{outcome: task.Succeed(joined(f.data)), yields: true}
}

// caught keeps a panic of one branch from ending the process.
func (f *fan) caught(cancel context.CancelFunc) {
	if fault := recover(); fault != nil {
		cancel()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stop, f.fault = true, fault
	}
}

// work runs branches until none is left.
func (f *fan) work(ctx context.Context, cancel context.CancelFunc) {
	t := &thread{run: f.parent.run, marks: f.parent.marks, iteration: f.parent.iteration}
	for i := f.take(ctx); i >= 0; i = f.take(ctx) {
		r := t.list(ctx, f.prepare(t, i))
		outcome := r.outcome
		if r.err == nil && outcome.Success && r.flow != flowEnd && t.scope.gen > 0 {
			outcome = t.scope.outcome
		}
		if r.err == nil && outcome.Success {
			f.data[i] = outcome.Data
			continue
		}
		f.fail(i, outcome, r.err)
		cancel()
	}
}

// take returns the next branch to run, or -1.
func (f *fan) take(ctx context.Context) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == f.n || f.stop {
		return -1
	}
	if f.parent.ends(ctx) {
		f.stop, f.err = true, errInterrupted
		return -1
	}
	f.next++
	return f.next - 1
}

func (f *fan) fail(i int, outcome task.Outcome, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop = true
	switch {
	case err != nil:
		f.err = err
	case i < f.at:
		f.at, f.bad = i, outcome
	}
}

// joined makes one list of the branches' data; no data is null.
func joined(data []json.RawMessage) json.RawMessage {
	size := 2
	for _, d := range data {
		size += max(len(d), len("null")) + 1
	}
	buf := append(make([]byte, 0, size), '[')
	for i, d := range data {
		if i > 0 {
			buf = append(buf, ',')
		}
		if d == nil {
			d = json.RawMessage("null")
		}
		buf = append(buf, d...)
	}
	return append(buf, ']')
}
