package chain

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/catena-run/catena/task"
)

var waitFields = []string{"event", "approval", "key", "timeout"}

// parseWait reads wait: {event: NAME, key: EXPR, timeout: 2d} and
// wait: {approval: ROLE, timeout: 2d}.
func parseWait(p *parser, it *item, _, value *source) (err error) {
	if !it.top {
		return p.nested(it, value)
	}
	if value.kind != kindObject {
		return p.fail(it, value, "wait needs an object, not %s", value.kind.article()).
			Fix("write wait: {event: NAME, key: ..., timeout: 2d} or wait: {approval: operator, timeout: 2d}")
	}
	for _, key := range value.keys {
		if !slices.Contains(waitFields, key.text) {
			return p.fail(it, key, "unknown field %q of wait", key.text).Fix("%s", suggest(key.text, waitFields))
		}
	}
	a := &waitAction{}
	event, approval := value.get("event"), value.get("approval")
	switch {
	case event != nil && approval != nil:
		return p.fail(it, approval, "wait has both event and approval").Fix("write two items")
	case event != nil:
		err = p.waitEvent(it, a, event, value.get("key"))
	case approval != nil:
		err = p.waitApproval(it, a, approval, value.get("key"))
	default:
		return p.fail(it, value, "wait says not what for").Fix("give it an event or an approval")
	}
	if err != nil {
		return err
	}
	if timeout := value.get("timeout"); timeout != nil {
		if a.timeout, err = p.template(timeout); err != nil {
			return err
		}
		if a.timeout.raw != nil {
			d, err := p.span(it, timeout)
			if err != nil {
				return err
			}
			if d == 0 {
				return p.fail(it, timeout, "a timeout of 0 leaves no time")
			}
		}
	}
	it.action = a
	return nil
}

func (p *parser) waitEvent(it *item, a *waitAction, name, key *source) (err error) {
	a.kind = task.WaitEvent
	if name.kind != kindText || name.text == "" {
		return p.fail(it, name, "event needs a name").Fix("write the name that `catena event send NAME` is called with")
	}
	if utf8.RuneCountInString(name.text) > task.MaxEventName && !strings.Contains(name.text, "${") {
		return p.fail(it, name, "the name of the event has more than %d characters", task.MaxEventName)
	}
	if a.name, err = p.template(name); err != nil || key == nil {
		return err
	}
	if key.kind == kindNull || key.kind == kindList || key.kind == kindObject {
		return p.fail(it, key, "key needs a text, a number or ${...}, not %s", key.kind.article())
	}
	a.key, err = p.template(key)
	return err
}

func (p *parser) waitApproval(it *item, a *waitAction, role, key *source) (err error) {
	a.kind = task.WaitApproval
	if role.kind != kindText || task.RoleRank(role.text) < 2 {
		return p.fail(it, role, "%s is no role that may approve", appendSource(nil, role, maxItemText)).Fix("use one of %s", strings.Join(task.Roles[1:], ", "))
	}
	if key != nil {
		return p.fail(it, key, "key does not go with approval").Fix("it goes with event")
	}
	a.name, err = p.template(role)
	return err
}

// nested refuses a wait below the top level, where it would hold its worker.
func (p *parser) nested(it *item, s *source) error {
	return p.fail(it, s, "a run can wait only in an item of its own, not within each, parallel, do or catch").
		Fix("move it to the top level, or spawn: true on an each of the top level makes its items those of a run each")
}

func (p *parser) flag(it *item, s *source, otherwise bool) (bool, error) {
	if s == nil {
		return otherwise, nil
	}
	if s.kind != kindBool {
		return false, p.fail(it, s, "true or false is needed, not %s", appendSource(nil, s, maxItemText))
	}
	return s.text == "true", nil
}

// spawning reads the fields that make children of an each's elements.
func (p *parser) spawning(it *item, s *source, a *eachAction) (err error) {
	if a.spawned, err = p.flag(it, s.get("spawn"), false); err != nil {
		return err
	}
	inherit, err := p.flag(it, s.get("inherit_cancel"), true)
	if err != nil {
		return err
	}
	a.apart = !inherit
	failure := s.get("on_failure")
	for _, field := range []*source{s.get("inherit_cancel"), failure} {
		if field != nil && !a.spawned {
			return p.fail(it, field, "this goes only with spawn: true")
		}
	}
	if a.spawned && !it.top {
		return p.nested(it, s.get("spawn"))
	}
	if failure == nil {
		return nil
	}
	if failure.kind != kindText || failure.text != "continue" && failure.text != "stop" {
		return p.fail(it, failure, "on_failure must be continue or stop").Fix("stop cancels the other children when one fails")
	}
	a.stop = failure.text == "stop"
	return nil
}
