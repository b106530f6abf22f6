package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/catena-run/catena/task"
)

const (
	maxSpawn      = 100_000  // children of one item
	maxSpawnLimit = 10_000   // of them at once
	maxSpawnBytes = 64 << 20 // of all that they are given
)

// Spawner starts the elements of an each as children of the run. It blocks
// until all of them are accepted; asked again for the same item of the same
// run, it starts those that are missing.
type Spawner interface {
	Spawn(ctx context.Context, s Spawn) error
}

// Spawn asks for the children of one item.
type Spawn struct {
	Path          string // of the item; #2 follows where it is tried for the second time
	Iteration     int
	Limit         int  // children at once; 0: any number
	InheritCancel bool // they are cancelled with the run
	Stop          bool // the others are cancelled when one fails
	Entries       []Entry
}

// Entry is the part of a document that a child runs: the items of an each, for
// one element. It carries what their expressions read.
type Entry struct {
	Path    string                     `json:"path"` // of the each
	Group   string                     `json:"group,omitempty"`
	Index   int                        `json:"index"`
	Item    json.RawMessage            `json:"item"`
	Locals  map[string]json.RawMessage `json:"locals,omitempty"` // of the each items around it
	Vars    json.RawMessage            `json:"vars,omitempty"`
	Steps   json.RawMessage            `json:"steps,omitempty"`
	Outcome *task.Outcome              `json:"outcome,omitempty"`
}

// spawn starts a child for each element and parks the run until all have ended.
func (a *eachAction) spawn(ctx context.Context, th *thread, it *item, elements []any) result {
	o := &th.run.options
	switch {
	case o.Spawner == nil || !o.Park:
		return failed(errors.New("children cannot be started here"))
	case len(elements) == 0:
		return result{outcome: task.Succeed(json.RawMessage("[]")), yields: true}
	case len(elements) > maxSpawn:
		return failed(fmt.Errorf("each has %d elements, at most %d can be spawned", len(elements), maxSpawn))
	}
	entries, err := a.entries(th, it, elements)
	if err != nil {
		return failed(err)
	}
	err = o.Spawner.Spawn(ctx, Spawn{Path: th.waitPath(it, th.try), Iteration: th.iteration, Limit: a.limit,
		InheritCancel: !a.apart, Stop: a.stop, Entries: entries})
	switch {
	case err != nil && th.ends(ctx):
		return result{err: errInterrupted}
	case err != nil:
		return failed(fmt.Errorf("the children were not started: %w", err))
	}
	return th.park(it, Parked{Kind: task.WaitChildren, Children: len(elements), Stop: a.stop})
}

// entries makes what each child is given: its element, and of the rest what
// the items read.
func (a *eachAction) entries(th *thread, it *item, elements []any) ([]Entry, error) {
	shared := Entry{Path: it.path}
	if _, err := th.scope.environment(th.run, a.body.uses); err != nil {
		return nil, err
	}
	var err error
	if a.body.uses&useVars != 0 && len(th.scope.vars) > 0 {
		if shared.Vars, err = appendValue(nil, th.scope.vars); err != nil {
			return nil, fmt.Errorf("variables: %w", err)
		}
	}
	if a.body.uses&useSteps != 0 && len(th.scope.steps) > 0 {
		if shared.Steps, err = appendValue(nil, th.scope.steps); err != nil {
			return nil, fmt.Errorf("steps: %w", err)
		}
	}
	if a.body.uses&useOutcome != 0 && th.scope.has {
		outcome := th.scope.outcome
		shared.Outcome = &outcome
	}
	size := len(shared.Vars) + len(shared.Steps)
	for _, l := range th.scope.locals {
		raw, err := appendValue(nil, l.value)
		if err != nil {
			return nil, err
		}
		if shared.Locals == nil {
			shared.Locals = map[string]json.RawMessage{}
		}
		shared.Locals[l.name] = raw
		size += len(raw)
	}
	if shared.Outcome != nil {
		size += len(shared.Outcome.Data)
	}
	entries := make([]Entry, len(elements))
	total := 0
	for i, element := range elements {
		entries[i] = shared
		entries[i].Index = i
		if entries[i].Item, err = appendValue(nil, element); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		if total += size + len(entries[i].Item); total > maxSpawnBytes {
			return nil, fmt.Errorf("the %d children would be given more than %d MiB of elements and variables", len(elements), maxSpawnBytes>>20)
		}
	}
	return entries, nil
}

// enter returns the items to run and gives the thread what an entry carries.
func (d *Document) enter(th *thread, e *Entry) (*list, error) {
	if e == nil {
		return d.items, nil
	}
	it := d.find(e.Path)
	var each *eachAction
	if it != nil {
		each, _ = it.action.(*eachAction)
	}
	if each == nil || !each.spawned {
		return nil, task.Errorf(task.CodeInternal, "item %q of this chain spawns nothing", e.Path)
	}
	s := th.scope
	element, err := decode(e.Item)
	if err != nil {
		return nil, err
	}
	for name, raw := range e.Locals {
		value, err := decode(raw)
		if err != nil {
			return nil, err
		}
		s.locals = append(s.locals, local{name, value})
	}
	s.locals = append(s.locals, local{each.item, element}, local{each.index, e.Index})
	for _, part := range []struct {
		raw  json.RawMessage
		into *map[string]any
	}{{e.Vars, &s.vars}, {e.Steps, &s.steps}} {
		value, err := decode(part.raw)
		if err != nil {
			return nil, err
		}
		*part.into, _ = value.(map[string]any)
	}
	if e.Outcome != nil {
		s.outcome, s.has = *e.Outcome, true
	}
	th.marks = []mark{{at: len(it.path), index: e.Index}}
	return each.body, nil
}

// find returns the item at a path.
func (d *Document) find(path string) *item {
	for lists := []*list{d.items}; len(lists) > 0; {
		l := lists[0]
		lists = lists[1:]
		for _, it := range l.items {
			if it.path == path {
				return it
			}
			if strings.HasPrefix(path, it.path+".") {
				lists = append(lists, it.nested...)
			}
		}
	}
	return nil
}
