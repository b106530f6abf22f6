package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/catena-run/catena/task"
)

// LongDelay is how long a delay at the top level may hold its worker's slot;
// the run is parked for a longer one.
const LongDelay = 5 * time.Second

// WaitKey names a wait of a run.
type WaitKey struct {
	Iteration int
	Path      string
}

// Waited is a wait that is over.
type Waited struct {
	Outcome task.Outcome
	Since   time.Time // when it began
}

// Parked is what a run waits for when it holds no worker.
type Parked struct {
	Kind      task.WaitKind
	Iteration int
	Path      string
	Name      string        // of the event, or the role of an approval
	Key       string        // of the event
	For       time.Duration // 0: for ever
	Late      string        // the reason of its failing outcome when For is over; "": it succeeds then
	Child     *uuid.UUID    // the one that it waits for
	Children  int           // that were spawned
	Stop      bool          // the others are cancelled when one fails
}

// errParked travels up to the top level, which ends the run's stay.
var errParked = errors.New("parked")

// waitPath names the wait of an item: its path, with the attempt of its retry
// from the second on.
func (th *thread) waitPath(it *item, try int) string {
	if try <= 1 || it.plain {
		return it.path
	}
	return it.path + "#" + strconv.Itoa(try)
}

// waited returns the outcome of the item's wait if that is over.
func (th *thread) waited(it *item) (result, bool) {
	if !it.top || len(th.run.options.Waits) == 0 {
		return result{}, false
	}
	w, over := th.run.options.Waits[WaitKey{th.iteration, th.waitPath(it, th.try)}]
	if !over {
		return result{}, false
	}
	th.since = w.Since
	return result{outcome: w.Outcome, yields: true}, true
}

// waitedLater reports whether a later attempt of the item was parked before.
func (th *thread) waitedLater(it *item) bool {
	_, later := th.run.options.Waits[WaitKey{th.iteration, th.waitPath(it, th.try+1)}]
	return later && it.top
}

// park ends the run's stay at the item. The item's own time limit holds for
// the wait, too.
func (th *thread) park(it *item, p Parked) result {
	if th.run.options.Run.Readonly {
		return th.passOver(it, p)
	}
	p.Iteration, p.Path = th.iteration, th.waitPath(it, th.try)
	if it.timeout > 0 && (p.For == 0 || it.timeout < p.For) {
		p.For, p.Late = it.timeout, fmt.Sprintf("timed out after %v", it.timeout)
	}
	th.parked = &p
	return result{err: errParked}
}

// passOver notes what a readonly run would wait for. The outcome is a good one
// without data that says so.
func (th *thread) passOver(it *item, p Parked) result {
	what := string(p.Kind)
	if p.Name != "" {
		what += " " + p.Name
	}
	if p.Key != "" {
		what += " with key " + p.Key
	}
	if p.For > 0 {
		what += fmt.Sprintf(", at most %v", p.For)
	}
	th.wouldWait(it, what)
	return result{outcome: task.Outcome{Success: true, Extra: map[string]json.RawMessage{"would_wait": json.RawMessage("true")}}, yields: true}
}

// waitAction waits for an event or an approval.
type waitAction struct {
	kind    task.WaitKind
	name    *template
	key     *template // nil: ""
	timeout *template // nil: for ever
}

func (a *waitAction) run(_ context.Context, th *thread, it *item) result {
	if r, over := th.waited(it); over {
		return r
	}
	if !th.run.options.Park {
		return failed(errors.New("a run cannot wait here"))
	}
	p := Parked{Kind: a.kind}
	var err error
	if p.Name, err = a.text(th, string(a.kind), a.name); err != nil {
		return failed(err)
	}
	if p.Name == "" {
		return failed(errors.New("wait: the name of the event is empty"))
	}
	if a.key != nil {
		if p.Key, err = a.text(th, "key", a.key); err != nil {
			return failed(err)
		}
	}
	if a.timeout != nil {
		value, err := a.timeout.eval(th)
		if err == nil {
			p.For, err = parseSpan(value)
		}
		if err != nil {
			return failed(fmt.Errorf("wait: timeout: %w", err))
		}
		if p.For == 0 {
			return failed(errors.New("wait: a timeout of 0 leaves no time"))
		}
	}
	p.Late = late(p)
	return th.park(it, p)
}

func late(p Parked) string {
	switch {
	case p.Kind == task.WaitApproval:
		return fmt.Sprintf("timed out after %v: nobody approved it", p.For)
	case p.Key == "":
		return fmt.Sprintf("timed out after %v: no event %s was sent", p.For, p.Name)
	}
	return fmt.Sprintf("timed out after %v: no event %s with the key %q was sent", p.For, p.Name, p.Key)
}

// text evaluates the name or key of an event.
func (a *waitAction) text(th *thread, what string, t *template) (string, error) {
	value, err := t.eval(th)
	if err != nil {
		return "", fmt.Errorf("wait: %s: %w", what, err)
	}
	if value == nil {
		return "", fmt.Errorf("wait: %s is null", what)
	}
	text, err := textOf(value)
	if err != nil {
		return "", fmt.Errorf("wait: %s: %w", what, err)
	}
	if n := utf8.RuneCountInString(text); n > task.MaxEventName {
		return "", fmt.Errorf("wait: %s has %d characters, at most %d are possible", what, n, task.MaxEventName)
	}
	return text, nil
}

// taskAction starts another task, and waits for its end if asked to.
type taskAction struct {
	name   *template
	params *template
	wait   bool
	apart  bool // it is not cancelled with the run
}

func (a *taskAction) run(ctx context.Context, th *thread, it *item) result {
	if r, over := th.waited(it); over {
		return r
	}
	if th.run.options.Starter == nil || a.wait && !th.run.options.Park {
		return failed(errors.New("a task cannot be started here"))
	}
	name, params, err := a.evaluate(th)
	if err != nil {
		return failed(err)
	}
	start := Start{Task: name, Params: params, Path: th.path(it), Iteration: th.iteration, Wait: a.wait, InheritCancel: !a.apart}
	if a.wait { // the next attempt wants another child
		start.Path = th.waitPath(it, th.try)
	}
	id, err := th.run.options.Starter.StartTask(ctx, start)
	switch {
	case err != nil && th.ends(ctx):
		return result{err: errInterrupted}
	case err != nil:
		return failed(fmt.Errorf("task %s was not started: %w", name, err))
	case a.wait:
		return th.park(it, Parked{Kind: task.WaitChildren, Name: name, Child: &id, Children: 1})
	}
	return result{outcome: task.Succeed(json.RawMessage(`{"run":"` + id.String() + `"}`)), yields: true}
}

func (a *taskAction) evaluate(th *thread) (name string, params json.RawMessage, err error) {
	value, err := a.name.eval(th)
	if err != nil {
		return "", nil, fmt.Errorf("task: %w", err)
	}
	name, ok := value.(string)
	if !ok || !task.ValidName(name) {
		text, _ := textOf(value)
		return "", nil, fmt.Errorf("task: %s cannot name a task", shorten(text, maxItemText))
	}
	params = emptyObject
	if a.params != nil {
		if params, err = a.params.json(th); err != nil {
			return "", nil, fmt.Errorf("with: %w", err)
		}
	}
	return name, params, nil
}
