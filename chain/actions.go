package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/catena-run/catena/task"
)

// callAction calls a function of a package.
type callAction struct {
	ref    task.PackageRef // when target is fixed
	target *template       // nil: ref
	input  *template       // nil: {}
}

var emptyObject = json.RawMessage("{}")

func (a *callAction) run(ctx context.Context, th *thread, it *item) result {
	if th.run.options.Invoker == nil {
		return failed(errors.New("package code cannot be called here"))
	}
	call := Invocation{Ref: a.ref, Input: emptyObject, Step: th.path(it), Item: it.text}
	var err error
	if a.target != nil && a.target.raw == nil {
		if call.Ref, err = a.resolve(th); err != nil {
			return failed(err)
		}
	}
	if a.input != nil {
		if call.Input, err = a.input.json(th); err != nil {
			return failed(fmt.Errorf("with: %w", err))
		}
	}
	outcome := th.run.options.Invoker.Invoke(ctx, call)
	if !outcome.Success && th.ends(ctx) {
		return result{err: errInterrupted, outcome: outcome}
	}
	if broken := invalidField(outcome); broken != "" {
		return failed(fmt.Errorf("%s returned an outcome whose %s is not JSON", call.Ref, broken))
	}
	return result{outcome: outcome, yields: true}
}

func (a *callAction) resolve(th *thread) (ref task.PackageRef, err error) {
	value, err := a.target.eval(th)
	if err != nil {
		return ref, fmt.Errorf("call: %w", err)
	}
	text, err := textOf(value)
	if err != nil {
		return ref, err
	}
	return parseInvoke(text)
}

func invalidField(o task.Outcome) string {
	if o.Data != nil && !json.Valid(o.Data) {
		return "data"
	}
	for name, value := range o.Extra {
		if !json.Valid(value) {
			return name
		}
	}
	return ""
}

// delayAction waits; without a wait it is nop.
type delayAction struct{ wait *template }

func (a *delayAction) run(ctx context.Context, th *thread, it *item) result {
	if a.wait == nil {
		return good()
	}
	if r, over := th.waited(it); over {
		r.yields = false
		return r
	}
	value, err := a.wait.eval(th)
	if err != nil {
		return failed(fmt.Errorf("delay: %w", err))
	}
	var d time.Duration
	if d, err = parseSpan(value); err != nil {
		return failed(fmt.Errorf("delay: %w", err))
	}
	if th.run.options.Run.Readonly {
		th.wouldWait(it, d.String())
		return good()
	}
	if d > LongDelay && it.top && th.run.options.Park {
		return th.park(it, Parked{Kind: task.WaitDelay, For: d})
	}
	if err := th.sleep(ctx, d); err != nil {
		return result{err: err}
	}
	return good()
}

// setAction sets variables; all values are computed before the first is set.
type setAction struct {
	names  []string
	values []*template
	frozen json.RawMessage // Step.Vars when every value is a literal
}

// freeze prepares what a step of literals records.
func (a *setAction) freeze() error {
	buf := []byte(`{"quiet":true,"set":{`)
	for i, name := range a.names {
		if a.values[i].raw == nil || name == "outcome" {
			return nil
		}
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = append(appendText(buf, name), ':')
		buf = append(buf, a.values[i].raw...)
	}
	a.frozen = append(buf, "}}"...)
	return nil
}

func (a *setAction) run(_ context.Context, th *thread, _ *item) result {
	if a.frozen != nil {
		for i, name := range a.names {
			th.scope.setVar(name, a.values[i].value)
		}
		return good()
	}
	values := make([]any, len(a.values))
	for i, t := range a.values {
		value, err := t.eval(th)
		if err != nil {
			return failed(fmt.Errorf("set %s: %w", a.names[i], err))
		}
		values[i] = value
	}
	for i, name := range a.names {
		if name != "outcome" {
			th.scope.setVar(name, values[i])
			continue
		}
		outcome, err := toOutcome(values[i])
		if err != nil {
			return failed(err)
		}
		th.scope.setOutcome(outcome)
	}
	return good()
}

// logAction writes a text, or a value as JSON, to the run's log.
type logAction struct{ text *template }

func (a *logAction) run(_ context.Context, th *thread, it *item) result {
	value, err := a.text.eval(th)
	if err != nil {
		return failed(fmt.Errorf("log: %w", err))
	}
	text, err := textOf(value)
	if err != nil {
		return failed(fmt.Errorf("log: %w", err))
	}
	th.log("info", it, text)
	return good()
}

// returnAction ends the chain with its outcome.
type returnAction struct{}

var errNoOutcome = errors.New("asked to return from a chain that does not have the outcome object defined. please use [set, outcome, ...] to fix this issue.")

func (returnAction) run(_ context.Context, th *thread, _ *item) result {
	if !th.scope.has {
		return failed(errNoOutcome)
	}
	return result{outcome: th.scope.outcome, flow: flowEnd}
}

// returnOnFailAction ends the chain if its outcome is a failing one.
type returnOnFailAction struct{}

func (returnOnFailAction) run(_ context.Context, th *thread, _ *item) result {
	if th.scope.has && !th.scope.outcome.Success {
		return result{outcome: th.scope.outcome, flow: flowEnd}
	}
	return good()
}

// outcomeAction ends the chain with the given outcome.
type outcomeAction struct{ value *template }

func (a *outcomeAction) run(_ context.Context, th *thread, _ *item) result {
	value, err := a.value.eval(th)
	if err != nil {
		return failed(fmt.Errorf("outcome: %w", err))
	}
	outcome, err := toOutcome(value)
	if err != nil {
		return failed(err)
	}
	return result{outcome: outcome, flow: flowEnd, yields: true}
}

// replayAction begins the innermost list again.
type replayAction struct{}

func (replayAction) run(context.Context, *thread, *item) result {
	r := good()
	r.flow = flowReplay
	return r
}
