package chain

import (
	"strings"

	"github.com/catena-run/catena/task"
)

// commands are the classic commands with the number of arguments they take.
var commands = map[string]struct{ min, max int }{
	"nop": {0, 1}, "continue": {0, 1}, "delay": {0, 1}, "log": {1, 1}, "set": {2, 2}, "return": {0, 0},
	"ROF": {0, 0}, "returnOnFail": {0, 0}, "outcome": {1, 1}, "newChain": {1, 1}, "replay": {0, 0},
}

func (p *parser) classic(it *item, s *source) error {
	if len(s.items) == 0 {
		return p.fail(it, s, "chainItem cannot be an empty array. Please remove it.")
	}
	head := s.items[0]
	switch head.kind {
	case kindList:
		return p.classicGroup(it, s)
	case kindText:
	default:
		return p.fail(it, head, "chainItem[0] must be a string.")
	}
	it.kind = head.text
	args := s.items[1:]
	if arity, known := commands[head.text]; known {
		if len(args) < arity.min || len(args) > arity.max {
			return p.fail(it, s, "%s takes %s, not %d", head.text, arguments(arity.min, arity.max), len(args))
		}
		return p.command(it, s, args)
	}
	if strings.ContainsAny(head.text, ":/?") {
		return p.invoke(it, head, args)
	}
	known := make([]string, 0, len(commands))
	for name := range commands {
		known = append(known, name)
	}
	return p.fail(it, head, `Could not find a processor for: %q.`, head.text).
		Fix("%s", suggest(head.text, known))
}

func arguments(least, most int) string {
	switch {
	case most == 0:
		return "no argument"
	case least != most:
		return "at most one argument"
	case most == 1:
		return "one argument"
	}
	return "two arguments"
}

// classicGroup reads [[head], rest...]: the head runs as one item, the rest as
// a chain below it.
func (p *parser) classicGroup(it *item, s *source) error {
	it.kind = "group"
	head := &source{kind: kindList, items: s.items[:1], line: s.line, col: s.col}
	l, err := p.sub(it, head, "head")
	if err != nil {
		return err
	}
	group := &groupAction{lists: []*list{l}}
	it.action = group
	if len(s.items) == 1 {
		return nil
	}
	rest := &source{kind: kindList, items: s.items[1:], line: s.items[1].line, col: s.items[1].col}
	if rest.items[0].kind == kindText {
		return p.fail(it, rest, "Set chain element[1] to a UDT array. Currently it is 'string'")
	}
	l, err = p.sub(it, rest, "rest")
	group.lists = append(group.lists, l)
	return err
}

func (p *parser) command(it *item, s *source, args []*source) error {
	switch it.kind {
	case "nop", "continue", "delay":
		if len(args) == 0 {
			it.action = &delayAction{}
			return nil
		}
		if args[0].kind != kindNumber && !strings.Contains(args[0].text, "${") {
			return p.fail(it, args[0], "%s takes milliseconds", it.kind).Fix("write a number")
		}
		return parseDelay(p, it, s, args[0])
	case "log":
		return parseLog(p, it, s, args[0])
	case "set":
		return p.classicSet(it, args)
	case "return":
		it.action = returnAction{}
	case "ROF", "returnOnFail":
		it.action = returnOnFailAction{}
	case "replay":
		it.action = replayAction{}
	case "outcome":
		return p.classicOutcome(it, args[0])
	case "newChain":
		return p.newChain(it, args[0])
	}
	return nil
}

func (p *parser) classicSet(it *item, args []*source) error {
	if args[0].kind != kindText || args[0].text == "" {
		return p.fail(it, args[0], "set needs the name of a variable first")
	}
	a := &setAction{}
	if err := p.assign(it, a, args[0].text, args[1]); err != nil {
		return err
	}
	it.action = a
	return a.freeze()
}

func (p *parser) classicOutcome(it *item, s *source) error {
	value, err := p.template(s)
	if err != nil {
		return err
	}
	if _, object := value.value.(map[string]any); value.raw != nil && !object {
		return p.fail(it, s, "outcome needs to be an object")
	}
	it.action = &outcomeAction{value: value}
	return nil
}

var newChainFields = []string{"chainItems", "context", "chainName"}

func (p *parser) newChain(it *item, s *source) (err error) {
	if s.kind != kindObject || s.get("chainItems") == nil {
		return p.fail(it, s, "please specify the chainItems property")
	}
	for _, key := range s.keys {
		if key.text != "chainItems" && key.text != "context" && key.text != "chainName" {
			return p.fail(it, key, "unknown field %q of newChain", key.text).Fix("%s", suggest(key.text, newChainFields))
		}
	}
	a := &newChainAction{}
	context := s.get("context")
	switch {
	case context == nil, context.kind == kindNull, context.kind == kindText && context.text == "copy":
	case context.kind == kindObject && context.get("spawnChildService") != nil:
		return p.fail(it, context, "spawnChildService is not available here").Fix("give newChain an object of variables")
	default:
		if a.context, err = p.template(context); err != nil {
			return err
		}
		if a.context.raw != nil && context.kind != kindObject {
			return p.fail(it, context, `the context of newChain must be an object or "copy"`)
		}
	}
	it.action = a
	a.body, err = p.sub(it, s.get("chainItems"), "chainItems")
	return err
}

func (p *parser) invoke(it *item, head *source, args []*source) (err error) {
	it.kind = "call"
	a := &callAction{}
	if len(args) > 1 {
		return p.fail(it, args[1], "rel: specified in the invokeString, but the context is not a module. (%s)", head.text).
			Fix("only package code can hand over a module; remove the third element")
	}
	if len(args) == 1 && args[0].kind != kindNull {
		if a.input, err = p.template(args[0]); err != nil {
			return err
		}
	}
	if a.ref, err = parseInvoke(head.text); err != nil {
		return p.fail(it, head, "%v", err)
	}
	p.addCall(a.ref)
	it.action = a
	return nil
}

// parseInvoke reads package:module?function with or without //inline/, where
// package/module is the same as package:module.
func parseInvoke(text string) (task.PackageRef, error) {
	refuse := func(format string, args ...any) (task.PackageRef, error) {
		return task.PackageRef{}, task.Errorf(task.CodeInvalid, format, args...)
	}
	path, inline := strings.CutPrefix(text, "//inline/")
	switch {
	case strings.HasPrefix(text, "///"):
		return refuse("/// launch string is ambigous, did you mean //inline/?")
	case text == "//", text == "//inline":
		return refuse("need / before the invokeString i.e. ///invokeString")
	case strings.HasPrefix(text, "//service/") && !strings.Contains(text, "?"):
		return refuse("please use service?method call signature")
	case !inline && (strings.HasPrefix(text, "//") || strings.Contains(text, "://")):
		return refuse("%q goes over a transport that a task's chain does not have; use //inline/package:module?function", text)
	case path == "" || path[0] == '?':
		return refuse("%q names no module, and a task's chain is not inside one; use //inline/package:module?function", text)
	case strings.HasPrefix(path, "rel:"), path[0] == '.':
		return refuse("rel: specified in the invokeString, but the context is not a module. (%s)", text)
	case strings.Contains(path, "&"):
		return refuse("%q has options, which a call in a task's chain does not take", text)
	}
	if module, _, _ := strings.Cut(path, "?"); inline && !strings.Contains(module, ":") {
		path = strings.Replace(path, "/", ":", 1)
	}
	return task.ParsePackageRef(path)
}
