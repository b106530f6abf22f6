package chain

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/catena-run/catena/task"
)

// stepState is what Step.Vars holds: what the step changed beyond what the
// step itself says, so that a step costs what it changes and not what all steps
// before it left behind. Applying the states of all steps in their order gives
// back the variables, steps.<name> and the outcome exactly as they were.
//
// A step without Vars set the chain's outcome to its own. Its own name (and the
// variable of the same name, if the item says as) follows from Step.Name.
type stepState struct {
	Quiet   bool            `json:"quiet,omitempty"`   // the chain's outcome is as before
	Outcome *task.Outcome   `json:"outcome,omitempty"` // the chain's outcome, where it is not the step's
	Set     json.RawMessage `json:"set,omitempty"`     // object of variables, applied after Named
	Named   []named         `json:"named,omitempty"`   // outcomes of items within the step
	Replay  bool            `json:"replay,omitempty"`  // the chain begins again after this step
	Ended   bool            `json:"ended,omitempty"`   // the chain ended with this step
}

var quietState = json.RawMessage(`{"quiet":true}`)

// step makes the record of a top-level item. An outcome or state that is too
// large turns the item's result into a failing one.
func (r *run) step(th *thread, it *item, res *result) task.Step {
	step := task.Step{Path: it.path, Name: it.name, Attempt: r.options.Run.Attempt, Outcome: r.good}
	if res.outcome.Success {
		vars, err := th.stepVars(it, res)
		if err == nil {
			err = r.checkSize(res.outcome, vars)
		}
		if err != nil {
			*res = result{outcome: th.frame(it, task.Fail(err.Error()))}
		}
		step.Vars = vars
	} else if err := r.checkSize(res.outcome, nil); err != nil {
		*res = result{outcome: th.frame(it, task.Fail(err.Error()+"; it failed: "+shorten(res.outcome.Reason, 1000)))}
	}
	if !res.outcome.Success {
		step.Vars = nil
	}
	if !res.outcome.Success || res.yields || res.flow == flowEnd || res.outcome.Extra != nil {
		outcome := res.outcome
		step.Outcome = &outcome
	}
	th.scope.changes = cleared(th.scope.changes)
	th.stepGen = th.scope.gen
	return step
}

func cleared(c *changes) *changes {
	clear(c.vars)
	c.named = c.named[:0]
	return c
}

// stepVars returns the state of a step that succeeded.
func (th *thread) stepVars(it *item, res *result) (json.RawMessage, error) {
	changes := th.scope.changes
	if len(changes.named) > 0 && it.name != "" { // its own follows from the step
		changes.named = changes.named[:len(changes.named)-1]
	}
	assign, literal := it.action.(*setAction)
	touched := th.scope.gen != th.stepGen
	switch simple := len(changes.vars) == 0 && len(changes.named) == 0 && res.flow == flowNext; {
	case simple && !touched:
		return quietState, nil
	case simple && res.yields:
		return nil, nil
	case literal && assign.frozen != nil && len(changes.vars) > 0:
		return assign.frozen, nil
	}
	state := stepState{Named: changes.named, Quiet: !touched, Replay: res.flow == flowReplay, Ended: res.flow == flowEnd}
	if touched && !res.yields {
		outcome := th.scope.outcome
		state.Outcome = &outcome
	}
	set, err := th.changedVars()
	if err != nil {
		return nil, err
	}
	if state.Quiet && len(state.Named) == 0 && !state.Replay && !state.Ended { // by far the most common
		return append(append([]byte(`{"quiet":true,"set":`), set...), '}'), nil
	}
	state.Set = set
	return json.Marshal(state)
}

// changedVars returns the variables that the step set as a JSON object, nil
// when there are none.
func (th *thread) changedVars() (json.RawMessage, error) {
	names := th.scope.changes.vars
	if len(names) == 0 {
		return nil, nil
	}
	if len(th.scope.pending) > 0 {
		th.scope.flush()
	}
	buf := []byte{'{'}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if len(buf) > 1 {
			buf = append(buf, ',')
		}
		var err error
		if buf, err = appendValue(append(appendText(buf, name), ':'), th.scope.vars[name]); err != nil {
			return nil, fmt.Errorf("variable %s: %w", name, err)
		}
	}
	return append(buf, '}'), nil
}

func (r *run) checkSize(o task.Outcome, vars json.RawMessage) error {
	size := len(o.Data) + len(o.Reason)
	for name, value := range o.Extra {
		size += len(name) + len(value)
	}
	for _, f := range o.CallStack {
		size += len(f.Module) + len(f.Item) + len(f.Index) + len(f.Source)
	}
	if limit := r.options.MaxOutcome; size > limit {
		return fmt.Errorf("the step's outcome is too large: %d bytes, at most %d are kept", size, limit)
	} else if len(vars) > limit {
		return fmt.Errorf("the variables that the step set are too large: %d bytes, at most %d are kept", len(vars), limit)
	}
	return nil
}

// restore applies committed steps and says where the run goes on.
func restore(th *thread, l *list, done []task.Step) (position, error) {
	var at position
	for i := range done {
		index, err := strconv.Atoi(done[i].Path[strings.LastIndexByte(done[i].Path, '.')+1:])
		if err != nil || index < 0 || index >= len(l.items) || l.items[index].path != done[i].Path || done[i].Outcome == nil {
			return at, task.Errorf(task.CodeInternal, "committed step %q does not belong to this chain of %d items", done[i].Path, len(l.items))
		}
		state, err := th.apply(l.items[index], &done[i])
		if err != nil {
			return at, task.Errorf(task.CodeInternal, "the state of committed step %s cannot be read: %w", done[i].Path, err)
		}
		at = position{index: index + 1, iteration: done[i].Iteration, ended: state.Ended}
		if state.Replay {
			at.index, at.iteration = 0, done[i].Iteration+1
		}
	}
	th.scope.changes = cleared(th.scope.changes)
	th.stepGen = th.scope.gen
	return at, nil
}

func (th *thread) apply(it *item, step *task.Step) (state stepState, err error) {
	if len(step.Vars) > 0 && !slices.Equal(step.Vars, json.RawMessage("null")) {
		if err := json.Unmarshal(step.Vars, &state); err != nil {
			return state, err
		}
	}
	for _, n := range state.Named {
		th.scope.setNamed(n)
	}
	set, err := decode(state.Set)
	if err != nil {
		return state, err
	}
	variables, _ := set.(map[string]any)
	for name, value := range variables {
		th.scope.setVar(name, value)
	}
	switch {
	case state.Outcome != nil:
		th.scope.setOutcome(*state.Outcome)
	case !state.Quiet:
		th.scope.setOutcome(*step.Outcome)
	}
	if it.name != "" {
		th.scope.setNamed(named{Name: it.name, Var: it.asVar && step.Outcome.Extra["skipped"] == nil, Outcome: *step.Outcome})
	}
	return state, nil
}
