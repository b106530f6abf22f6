package chain

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

type objectAction func(p *parser, it *item, s, value *source) error

// objectActions returns what an item of the object form can do.
func objectActions() map[string]objectAction {
	return map[string]objectAction{
		"call": parseCall, "each": parseEach, "parallel": parseParallel, "delay": parseDelay,
		"set": parseSet, "log": parseLog, "task": parseTask, "do": parseDo, "wait": parseWait,
	}
}

// objectKeys are the further keys, each with the actions that it goes with.
var objectKeys = map[string]string{
	"with": "call task", "wait": "task", "inherit_cancel": "task each", "spawn": "each", "on_failure": "each", "do": "each", "limit": "each parallel", "item": "each", "index": "each",
	"when": "", "retry": "", "timeout": "", "catch": "", "as": "", "name": "",
}

func (p *parser) knownKeys() (keys []string) {
	for k := range p.actions {
		keys = append(keys, k)
	}
	for k := range objectKeys {
		keys = append(keys, k)
	}
	return keys
}

func (p *parser) object(it *item, s *source) error {
	if err := p.findAction(it, s); err != nil {
		return err
	}
	for i, key := range s.keys {
		with, known := objectKeys[key.text]
		if key.text == it.kind {
			continue
		}
		if !known {
			return p.fail(it, s.keys[i], "more than one action: %s and %s", it.kind, key.text).Fix("write two items")
		}
		if with != "" && !strings.Contains(" "+with+" ", " "+it.kind+" ") {
			return p.fail(it, key, "%s does not go with %s", key.text, it.kind).Fix("it goes with %s", strings.ReplaceAll(with, " ", " or "))
		}
	}
	if err := p.keep(p.modifiers(it, s)); err != nil {
		return err
	}
	return p.actions[it.kind](p, it, s, s.get(it.kind))
}

func (p *parser) findAction(it *item, s *source) error {
	for _, key := range s.keys {
		_, action := p.actions[key.text]
		_, modifier := objectKeys[key.text]
		switch {
		case !action && !modifier:
			return p.fail(it, key, "unknown action or field %q", key.text).Fix("%s", suggest(key.text, p.knownKeys()))
		case action && (it.kind == "" || it.kind == "do"):
			it.kind = key.text
		}
		if key.text == "do" && s.get("each") != nil {
			it.kind = "each"
		}
		if key.text == "wait" && s.get("task") != nil {
			it.kind = "task"
		}
	}
	if it.kind == "" {
		return p.fail(it, s, "the item has no action").Fix("give it one of call, each, parallel, delay, set, log, task, wait or do")
	}
	return nil
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (p *parser) modifiers(it *item, s *source) (err error) {
	if err := p.label(it, s); err != nil {
		return err
	}
	if when := s.get("when"); when != nil {
		if it.when, err = p.condition(it, when); err != nil {
			return err
		}
	}
	if retry := s.get("retry"); retry != nil {
		if it.retry, err = p.retry(it, retry); err != nil {
			return err
		}
	}
	if timeout := s.get("timeout"); timeout != nil {
		if it.timeout, err = p.span(it, timeout); err != nil {
			return err
		}
		if it.timeout == 0 {
			return p.fail(it, timeout, "a timeout of 0 leaves no time")
		}
	}
	if catch := s.get("catch"); catch != nil {
		return p.within([]string{"error"}, func() error {
			it.catch, err = p.sub(it, catch, "catch")
			return err
		})
	}
	return nil
}

func (p *parser) label(it *item, s *source) error {
	as, name := s.get("as"), s.get("name")
	switch {
	case as != nil && name != nil:
		return p.fail(it, name, "an item has either as or name").Fix("as gives a name, too")
	case as != nil:
		if as.kind != kindText || !identifier.MatchString(as.text) {
			return p.fail(it, as, "as needs a word of letters, digits and _")
		}
		it.name, it.asVar = as.text, true
	case name != nil:
		if name.kind != kindText || name.text == "" || len(name.text) > 200 || strings.Trim(name.text, "0123456789") == "" {
			return p.fail(it, name, "name needs a text that is not a number, at most 200 bytes")
		}
		it.name = name.text
	}
	return nil
}

var retryFields = []string{"attempts", "backoff", "factor", "max", "jitter"}

func (p *parser) retry(it *item, s *source) (r task.Retry, err error) {
	if s.kind != kindObject {
		return r, p.fail(it, s, "retry needs an object").Fix("write {attempts: 3, backoff: 2s}")
	}
	for i, key := range s.keys {
		known := false
		for _, field := range retryFields {
			known = known || field == key.text
		}
		if !known {
			return r, p.fail(it, key, "unknown field %q of retry", key.text).Fix("%s", suggest(key.text, retryFields))
		}
		if err := json.Unmarshal(appendSource(nil, &source{kind: kindObject, keys: s.keys[i : i+1], items: s.items[i : i+1]}, 1<<20), &r); err != nil {
			return r, p.fail(it, s.items[i], "retry.%s: %s", key.text, task.PlainJSON(err))
		}
	}
	probe := task.Definition{Name: "probe", Chain: json.RawMessage("[]"), Retry: r}
	if err := probe.Validate(); err != nil {
		return r, p.fail(it, s, "%v", err)
	}
	return r, nil
}

// span reads a duration: milliseconds as a number, or a text such as 2s.
func (p *parser) span(it *item, s *source) (time.Duration, error) {
	d, err := parseSpan(s.literal())
	if err != nil {
		return 0, p.fail(it, s, "%v", err)
	}
	return d, nil
}

func parseCall(p *parser, it *item, s, value *source) (err error) {
	a := &callAction{}
	if a.input, err = p.optional(s.get("with")); err != nil {
		return err
	}
	if a.target, err = p.target(it, value); err != nil {
		return err
	}
	it.action = a
	if a.target.raw == nil {
		return nil
	}
	if a.ref, err = parseInvoke(value.text); err != nil {
		return p.fail(it, value, "%v", err)
	}
	p.addCall(a.ref)
	return nil
}

// target reads the name of a function or task: a text, or ${...}.
func (p *parser) target(it *item, s *source) (*template, error) {
	if s.kind != kindText {
		return nil, p.fail(it, s, "%s needs a name, not %s", it.kind, s.kind.article())
	}
	return p.template(s)
}

func (p *parser) optional(s *source) (*template, error) {
	if s == nil {
		return nil, nil
	}
	return p.template(s)
}

func parseTask(p *parser, it *item, s, value *source) (err error) {
	a := &taskAction{}
	if a.params, err = p.optional(s.get("with")); err != nil {
		return err
	}
	if a.wait, err = p.flag(it, s.get("wait"), false); err != nil {
		return err
	}
	inherit, err := p.flag(it, s.get("inherit_cancel"), true)
	if err != nil {
		return err
	}
	a.apart = !inherit
	if a.wait && !it.top {
		return p.nested(it, s.get("wait"))
	}
	if a.name, err = p.target(it, value); err != nil {
		return err
	}
	it.action = a
	if a.name.raw == nil {
		return nil
	}
	if !task.ValidName(value.text) {
		return p.fail(it, value, "%q cannot name a task", value.text).Fix("write the name of a task, such as billing/close-month")
	}
	p.addTask(value)
	return nil
}

func parseEach(p *parser, it *item, s, value *source) (err error) {
	a := &eachAction{item: "item", index: "index", limit: 1}
	if value.kind != kindList && value.kind != kindText {
		return p.fail(it, value, "each needs a list or ${...}, not %s", value.kind.article())
	}
	if a.over, err = p.template(value); err != nil {
		return err
	}
	if a.over.raw != nil && value.kind != kindList {
		return p.fail(it, value, "each needs a list or ${...}")
	}
	do := s.get("do")
	if do == nil {
		return p.fail(it, s, "each has no do").Fix("write what to do with each element: do: [...]")
	}
	for key, into := range map[string]*string{"item": &a.item, "index": &a.index} {
		if err := p.variable(it, s.get(key), into); err != nil {
			return err
		}
	}
	if err := p.spawning(it, s, a); err != nil {
		return err
	}
	most, otherwise := maxLimit, 1
	if a.spawned {
		most, otherwise = maxSpawnLimit, 0
	}
	if a.limit, err = p.limit(it, s.get("limit"), otherwise, most); err != nil {
		return err
	}
	it.action = a
	return p.within([]string{a.item, a.index}, func() error {
		a.body, err = p.subOf(it, do, "do", a.spawned)
		return err
	})
}

func (p *parser) variable(it *item, s *source, into *string) error {
	if s == nil {
		return nil
	}
	_, root := roots[s.text]
	if s.kind != kindText || !identifier.MatchString(s.text) || root || s.text == "error" {
		return p.fail(it, s, "%q cannot name a variable here", s.text).Fix("use letters, digits and _, and none of params, vars, outcome, steps, run and error")
	}
	*into = s.text
	return nil
}

func (p *parser) limit(it *item, s *source, otherwise, most int) (int, error) {
	if s == nil {
		return otherwise, nil
	}
	n, err := strconv.Atoi(s.text)
	if s.kind != kindNumber || err != nil || n < 1 || n > most {
		return 0, p.fail(it, s, "limit must be a number from 1 to %d", most)
	}
	return n, nil
}

func parseParallel(p *parser, it *item, s, value *source) (err error) {
	a := &parallelAction{}
	if value.kind != kindList || len(value.items) == 0 {
		return p.fail(it, value, "parallel needs a list of branches").Fix("each branch is an item or a list of items")
	}
	if a.limit, err = p.limit(it, s.get("limit"), defaultLimit, maxLimit); err != nil {
		return err
	}
	for i, one := range value.items {
		branch, err := p.sub(it, one, "parallel."+strconv.Itoa(i))
		if err != nil {
			return err
		}
		a.branches = append(a.branches, branch)
		a.uses |= branch.uses
	}
	it.action = a
	return nil
}

func parseDo(p *parser, it *item, _, value *source) error {
	body, err := p.sub(it, value, "do")
	it.action = &groupAction{lists: []*list{body}}
	return err
}

func parseDelay(p *parser, it *item, _, value *source) error {
	wait, err := p.template(value)
	if err != nil {
		return err
	}
	if wait.raw != nil {
		if _, err := parseSpan(wait.value); err != nil {
			return p.fail(it, value, "%v", err)
		}
	}
	it.action = &delayAction{wait: wait}
	return nil
}

func parseSet(p *parser, it *item, _, value *source) error {
	if value.kind != kindObject || len(value.keys) == 0 {
		return p.fail(it, value, "set needs an object of variables").Fix("write set: {name: value}")
	}
	a := &setAction{}
	for i, key := range value.keys {
		if err := p.assign(it, a, key.text, value.items[i]); err != nil {
			return err
		}
	}
	it.action = a
	return a.freeze()
}

func (p *parser) assign(it *item, a *setAction, name string, value *source) error {
	t, err := p.template(value)
	if err != nil {
		return err
	}
	if _, object := t.value.(map[string]any); name == "outcome" && t.raw != nil && !object {
		return p.fail(it, value, "outcome needs to be an object")
	}
	a.names = append(a.names, name)
	a.values = append(a.values, t)
	return nil
}

func parseLog(p *parser, it *item, _, value *source) error {
	text, err := p.template(value)
	it.action = &logAction{text: text}
	return err
}
