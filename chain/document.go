// Package chain parses, explains and runs chain documents: lists of items, each
// of which is an action such as a call of package code, a delay or a loop.
//
// Two spellings, objects and the classic arrays, become one internal form: an
// item is its modifiers (when, retry, timeout, catch, as) around an action, and
// an action is anything that takes a thread of the chain and answers with a
// result. The result carries the outcome and where the chain goes next, never a
// Go panic or a callback, so an action that runs package code needs nothing but
// another implementation of that interface. Expressions are compiled once, when
// the document is parsed; a Document is immutable and may run any number of
// times at once.
//
// The outcome of a chain is that of its last item which has one of its own:
// call, task, each, parallel, a group whose items had one, and what set or
// newChain assign to it. nop, delay, log, set and skipped items leave it. A chain
// that never had one succeeds without data. Items of a group and of a catch work
// on the chain's own variables; each element of an each has its own, and a
// parallel gives back what its branches set, in their order, when all are done.
//
// A failing item is an outcome. A Go error from Run means that the chain could
// not be continued: a step could not be committed or the context ended.
//
// The package calls no code and stores nothing by itself: it reaches the world
// through Invoker, Starter and the Commit function. It starts goroutines only
// for the branches of each and parallel, and none outlives its item.
package chain

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/catena-run/catena/task"
)

// Bounds of a document.
const (
	maxItemDepth = 1000 // levels of items within items
	maxItemText  = 120  // bytes of an item in a call stack
	maxLimit     = 1000 // of each and parallel
	defaultLimit = 64   // branches of a parallel at once
)

// Document is a parsed chain.
type Document struct {
	items *list
	raw   json.RawMessage
	calls []task.PackageRef
	tasks []string

	places   []string // of the first mention of each of tasks
	file     file
	reads    []reading // of its expressions
	mentions []mention // of functions and tasks
}

// Parse reads a chain: a list of items, or one item, as YAML or JSON. An error
// names file:line:column and the item.
func Parse(name string, text []byte) (*Document, error) {
	root, err := file(name).readOne(text)
	if err != nil {
		return nil, err
	}
	return parseRoot(file(name), root)
}

func parseRoot(f file, root *source) (*Document, error) { return parseInto(f, root, nil) }

// parseInto puts the problems of single items into problems and goes on; nil:
// the first one ends it.
func parseInto(f file, root *source, problems *[]error) (*Document, error) {
	if root.kind != kindList && root.kind != kindObject {
		return nil, f.errorf(root, "a chain must be a list of items, not %s", root.kind.article()).Fix(`begin each item with "- "`)
	}
	p := parser{file: f, doc: &Document{file: f}, problems: problems, top: true, actions: objectActions(), programs: map[string]*program{}, seen: map[any]bool{}}
	items, err := p.body(root, "")
	if err != nil {
		return nil, err
	}
	p.doc.items = items
	p.doc.raw = appendSource(nil, root, int(^uint(0)>>1))
	return p.doc, nil
}

// Len returns the number of top-level items, which are the steps of a run.
func (d *Document) Len() int { return len(d.items.items) }

// Calls returns the functions that the document calls by a fixed name, each
// once, in the order of their first mention.
func (d *Document) Calls() []task.PackageRef { return append([]task.PackageRef(nil), d.calls...) }

// Tasks returns the tasks that the document starts by a fixed name, each once.
func (d *Document) Tasks() []string { return append([]string(nil), d.tasks...) }

// StartsAt returns the place (file:line:column) where the document first mentions a
// task that it starts; "" when it does not.
func (d *Document) StartsAt(task string) string {
	if i := slices.Index(d.tasks, task); i >= 0 {
		return d.places[i]
	}
	return ""
}

// MarshalJSON returns the document as compact JSON. Parsing that gives an equal
// document.
func (d *Document) MarshalJSON() ([]byte, error) { return append([]byte(nil), d.raw...), nil }

// list is a list of items that run one after the other.
type list struct {
	items []*item
	uses  uses // of all expressions in it
}

// item is an action with its modifiers.
type item struct {
	path  string // place in the document: 2.do.0
	kind  string // its action
	text  string // as the author wrote it, shortened
	line  int
	col   int
	plain bool // no modifier at all
	top   bool // it is a step of a run

	name    string // steps.<name>
	asVar   bool   // also vars.<name>
	when    *template
	retry   task.Retry
	timeout time.Duration
	catch   *list
	action  action
	nested  []*list // for Explain
}

// action is what an item does.
type action interface {
	run(ctx context.Context, th *thread, it *item) result
}
