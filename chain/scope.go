package chain

import (
	"encoding/json"
	"maps"

	"github.com/catena-run/catena/task"
)

// scope is what the expressions of a thread see. The branches of each and
// parallel get scopes of their own, which share the parent's variables until
// they write (the parent stands still meanwhile).
type scope struct {
	env    map[string]any // what expressions are run with; made when the first one is
	base   map[string]any // the parent's env
	locals []local        // item, index, error

	vars     map[string]any
	steps    map[string]any
	ownVars  bool // else they are the parent's: copy before writing
	ownSteps bool

	outcome task.Outcome
	has     bool // outcome was ever set
	gen     int  // rises with each change of outcome
	shown   int  // gen that env shows; -1: none

	pending []named // outcomes not yet decoded into steps and vars
	changes *changes
}

type local struct {
	name  string
	value any
}

// named is an outcome under a name.
type named struct {
	Name    string       `json:"name"`
	Var     bool         `json:"var,omitempty"`
	Outcome task.Outcome `json:"outcome"`
}

// changes collects what a step or a branch of parallel changed.
type changes struct {
	vars  map[string]struct{}
	named []named
}

func newScope() *scope { return &scope{shown: -1, ownVars: true, ownSteps: true, changes: &changes{}} }

// branch returns a scope for one branch. s must have been prepared with the
// branch's uses, and must not change while branches run.
func (s *scope) branch(locals []local) *scope {
	return &scope{base: s.env, locals: locals, vars: s.vars, steps: s.steps, outcome: s.outcome, has: s.has, shown: s.shown - s.gen}
}

// environment returns the names for an expression that reads u.
func (s *scope) environment(r *run, u uses) (map[string]any, error) {
	if s.env == nil {
		s.env = make(map[string]any, len(roots)+len(s.locals)+2)
		maps.Copy(s.env, s.base)
		for _, l := range s.locals {
			s.env[l.name] = l.value
		}
		s.env["vars"], s.env["steps"] = s.vars, s.steps
	}
	if len(s.pending) > 0 && u&(useVars|useSteps) != 0 {
		s.flush()
	}
	if u&useOutcome != 0 && s.shown != s.gen {
		s.env["outcome"] = nil
		if s.has {
			s.env["outcome"] = outcomeValue(s.outcome)
		}
		s.shown = s.gen
	}
	if u&useRun != 0 {
		s.env["run"] = r.info()
	}
	if u&useParams != 0 {
		params, err := r.params()
		if err != nil {
			return nil, err
		}
		s.env["params"] = params
	}
	return s.env, nil
}

func (s *scope) setOutcome(o task.Outcome) {
	s.outcome, s.has = o, true
	s.gen++
}

func (s *scope) setVar(name string, value any) {
	if len(s.pending) > 0 {
		s.flush()
	}
	s.putVar(name, value)
	if s.changes != nil {
		if s.changes.vars == nil {
			s.changes.vars = map[string]struct{}{}
		}
		s.changes.vars[name] = struct{}{}
	}
}

func (s *scope) putVar(name string, value any) {
	if !s.ownVars || s.vars == nil {
		s.vars = clone(s.vars)
		s.ownVars = true
		if s.env != nil {
			s.env["vars"] = s.vars
		}
	}
	s.vars[name] = value
}

// setNamed records an outcome under its name; it is decoded when an expression
// asks for it.
func (s *scope) setNamed(n named) {
	s.pending = append(s.pending, n)
	if s.changes != nil {
		s.changes.named = append(s.changes.named, n)
		if n.Var {
			delete(s.changes.vars, n.Name)
		}
	}
}

func (s *scope) flush() {
	if !s.ownSteps || s.steps == nil {
		s.steps = clone(s.steps)
		s.ownSteps = true
		if s.env != nil {
			s.env["steps"] = s.steps
		}
	}
	for _, n := range s.pending {
		value := outcomeValue(n.Outcome)
		s.steps[n.Name] = value
		if n.Var {
			s.putVar(n.Name, value["data"])
		}
	}
	s.pending = s.pending[:0]
}

func clone(m map[string]any) map[string]any {
	c := make(map[string]any, len(m)+1)
	maps.Copy(c, m)
	return c
}

// merge takes over what a finished branch of parallel changed.
func (s *scope) merge(branch *scope) {
	for _, n := range branch.changes.named {
		s.setNamed(n)
	}
	if len(branch.changes.vars) > 0 && len(branch.pending) > 0 {
		branch.flush()
	}
	for name := range branch.changes.vars {
		s.setVar(name, branch.vars[name])
	}
}

// outcomeValue is what expressions see of an outcome: success, reason, data and
// its further fields. Its data was checked to be JSON when it came in.
func outcomeValue(o task.Outcome) map[string]any {
	value := make(map[string]any, len(o.Extra)+3)
	for k, raw := range o.Extra {
		value[k], _ = decode(raw)
	}
	value["success"], value["reason"] = o.Success, o.Reason
	value["data"], _ = decode(o.Data)
	return value
}

// toOutcome reads an outcome that a document or an expression gives.
func toOutcome(value any) (o task.Outcome, err error) {
	if _, object := value.(map[string]any); !object {
		return o, errOutcomeObject
	}
	raw, err := appendValue(nil, value)
	if err == nil {
		err = json.Unmarshal(raw, &o)
	}
	return o, err
}

var errOutcomeObject = task.Errorf(task.CodeInvalid, "outcome needs to be an object")
