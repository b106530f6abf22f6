package chain

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/catena-run/catena/task"
)

// read is a member of one of the roots that an expression reads: params.month.
type read struct {
	root, name string
	node       *ast.MemberNode // while the expression is compiled
}

// reading is a read with its place.
type reading struct {
	read
	item      *item
	line, col int
}

// mention is a function or a task that an item names.
type mention struct {
	item *item
	call task.PackageRef
	task string
}

// forget drops the reads within node: it is the left side of a ??, where an
// absent value is foreseen.
func (p *program) forget(node ast.Node) {
	finder := &memberFinder{}
	ast.Walk(&node, finder)
	p.reads = slices.DeleteFunc(p.reads, func(r read) bool { return slices.Contains(finder.found, r.node) })
}

type memberFinder struct{ found []*ast.MemberNode }

func (f *memberFinder) Visit(node *ast.Node) {
	if member, ok := (*node).(*ast.MemberNode); ok {
		f.found = append(f.found, member)
	}
}

func (p *parser) noteReads(s *source, offset int, code *program) {
	if p.doc == nil {
		return // a key of a limit
	}
	for _, r := range code.reads {
		line, col := within(s, offset)
		p.doc.reads = append(p.doc.reads, reading{read: r, item: p.current, line: line, col: col})
	}
}

// Warnings tells what the text alone shows to be a likely mistake: steps and
// variables that no item makes, params without a value of their own (params
// are those of the task), and items that are never reached.
func (d *Document) Warnings(params json.RawMessage) []task.Finding {
	made := d.made()
	declared := map[string]json.RawMessage{}
	_ = json.Unmarshal(params, &declared) // what is no object declares nothing
	var found []task.Finding
	seen := map[read]bool{}
	for _, r := range d.reads {
		r.node = nil
		message, remedy := made.missing(r.read, declared)
		if message == "" || seen[r.read] {
			continue
		}
		seen[r.read] = true
		found = append(found, d.warn(r.item, r.line, r.col, message, remedy))
	}
	return d.unreachable(d.items, found)
}

func (d *Document) warn(it *item, line, col int, message, remedy string) task.Finding {
	if it != nil {
		message = "item " + it.path + ": " + message
	}
	return task.Warn(d.file.at(line, col, "").Where, message, remedy)
}

// made are the names that a document's items make.
type made struct {
	steps, vars map[string]bool
	anyVar      bool // an expression names variables
}

func (d *Document) made() *made {
	m := &made{steps: map[string]bool{}, vars: map[string]bool{}}
	m.list(d.items)
	return m
}

func (m *made) list(l *list) {
	for _, it := range l.items {
		if it.name != "" {
			m.steps[it.name] = true
		}
		if it.asVar {
			m.vars[it.name] = true
		}
		switch a := it.action.(type) {
		case *setAction:
			for _, name := range a.names {
				m.vars[name] = true
			}
		case *newChainAction:
			m.context(a.context)
		}
		for _, nested := range it.nested {
			m.list(nested)
		}
	}
}

func (m *made) context(t *template) {
	switch {
	case t == nil:
	case t.raw != nil:
		object, _ := t.value.(map[string]any)
		for name := range object {
			m.vars[name] = true
		}
	case t.keys == nil:
		m.anyVar = true
	}
	if t != nil {
		for _, name := range t.keys {
			m.vars[name] = true
		}
	}
}

func (m *made) missing(r read, params map[string]json.RawMessage) (message, remedy string) {
	switch {
	case r.root == "steps" && !m.steps[r.name]:
		return fmt.Sprintf("${steps.%s} is read, but no item has that name", r.name), orSuggest(r.name, m.steps, "give an item name: "+r.name+" or as: "+r.name)
	case r.root == "vars" && !m.vars[r.name] && !m.anyVar:
		return fmt.Sprintf("${vars.%s} is read, but no item sets it", r.name), orSuggest(r.name, m.vars, "set it first, or write ${vars."+r.name+" ?? ...}")
	case r.root == "params" && params[r.name] == nil:
		known := map[string]bool{}
		for name := range params {
			known[name] = true
		}
		return fmt.Sprintf("${params.%s} is read, but the task's params do not have it: a run that is not given one has none", r.name),
			orSuggest(r.name, known, "add it to params, or write ${params."+r.name+" ?? ...}")
	}
	return "", ""
}

// orSuggest names the nearest known word, where there is one that is close.
func orSuggest(word string, known map[string]bool, otherwise string) string {
	return task.DidYouMean(word, slices.Sorted(maps.Keys(known)), otherwise)
}

// unreachable adds the items behind one that always leaves its list, and those
// that never run.
func (d *Document) unreachable(l *list, found []task.Finding) []task.Finding {
	leaves := -1
	for i, it := range l.items {
		if leaves >= 0 {
			message := fmt.Sprintf("is never reached: item %s always leaves this list before it", l.items[leaves].path)
			switch rest := len(l.items) - i - 1; rest {
			case 0:
			case 1:
				message += " (nor is the item behind it)"
			default:
				message += fmt.Sprintf(" (nor are the %d items behind it)", rest)
			}
			return append(found, d.warn(it, it.line, it.col, message, "remove it, or give the earlier item a condition"))
		}
		if never(it.when) {
			found = append(found, d.warn(it, it.line, it.col, "never runs: its when is false", "remove it, or correct when"))
		}
		for _, nested := range it.nested {
			found = d.unreachable(nested, found)
		}
		if it.leaves() {
			leaves = i
		}
	}
	return found
}

func never(when *template) bool {
	if when == nil {
		return false
	}
	if when.program != nil {
		return strings.TrimSpace(when.program.text) == "false"
	}
	return when.raw != nil && when.value == false
}

// leaves reports whether no item behind it can be reached.
func (it *item) leaves() bool {
	if it.when != nil || it.catch != nil {
		return false
	}
	switch a := it.action.(type) {
	case returnAction, *outcomeAction, replayAction:
		return true
	case *groupAction:
		return slices.ContainsFunc(a.lists, func(l *list) bool { return slices.ContainsFunc(l.items, (*item).leaves) })
	}
	return false
}
