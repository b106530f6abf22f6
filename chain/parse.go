package chain

import (
	"strconv"
	"unicode/utf8"

	"github.com/catena-run/catena/task"
)

// parser turns source values into items.
type parser struct {
	file     file
	doc      *Document
	depth    int
	current  *item    // being read
	top      bool     // the list being read is that of a run
	names    []string // identifiers in scope beside the roots
	uses     uses     // of the expressions seen since the enclosing list began
	actions  map[string]objectAction
	programs map[string]*program // by names in scope and text
	seen     map[any]bool        // calls and tasks
	problems *[]error            // nil: the first problem ends the reading
}

// body reads one item or a list of items. Below the root every list is a path
// of its own: 2.do, 2.parallel.0.
func (p *parser) body(s *source, path string) (*list, error) {
	if p.depth++; p.depth > maxItemDepth {
		return nil, p.file.errorf(s, "items nest deeper than %d levels", maxItemDepth)
	}
	defer func() { p.depth-- }()
	outer := p.uses
	p.uses = 0
	l, err := p.items(single(s), path)
	if err != nil {
		return nil, err
	}
	l.uses = p.uses
	p.uses |= outer
	return l, nil
}

// single wraps one item into a list of it.
func single(s *source) *source {
	if s.kind == kindObject || (s.kind == kindList && len(s.items) > 0 && s.items[0].kind == kindText) {
		return &source{kind: kindList, items: []*source{s}, line: s.line, col: s.col}
	}
	return s
}

func (p *parser) items(s *source, path string) (*list, error) {
	if s.kind != kindList {
		return nil, p.file.errorf(s, "%sneeds a list of items, not %s", prefix(path), s.kind.article())
	}
	if len(s.items) == 0 {
		return nil, p.file.errorf(s, "%sthe list of items is empty", prefix(path)).Fix("write at least one item")
	}
	if path != "" {
		path += "."
	}
	l := &list{items: make([]*item, len(s.items))}
	for i, one := range s.items {
		it, err := p.item(one, path+strconv.Itoa(i), i)
		if err = p.keep(err); err != nil {
			return nil, err
		}
		l.items[i] = it
	}
	if p.problems != nil {
		p.checkNames(l, s)
	}
	return l, nil
}

func prefix(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}

func (p *parser) item(s *source, path string, index int) (*item, error) {
	it := &item{path: path, top: p.top, line: s.line, col: s.col, text: shorten(string(appendSource(nil, s, maxItemText)), maxItemText)}
	outer := p.current
	p.current = it
	defer func() { p.current = outer }()
	var err error
	switch s.kind {
	case kindObject:
		err = p.object(it, s)
	case kindList:
		err = p.classic(it, s)
	default:
		err = p.fail(it, s, "Set chain element[%d] to a UDT array. Currently it is '%s'", index, s.kind).
			Fix("write an object such as {call: package:module?function} or an array such as [\"nop\"]")
	}
	if err != nil {
		return nil, err
	}
	it.plain = it.name == "" && it.when == nil && it.retry.Attempts <= 1 && it.timeout == 0 && it.catch == nil
	return it, nil
}

// keep notes a problem so that reading goes on, where all of them are wanted.
func (p *parser) keep(err error) error {
	if err == nil || p.problems == nil {
		return err
	}
	*p.problems = append(*p.problems, err)
	return nil
}

// fail makes an error about an item at s.
func (p *parser) fail(it *item, s *source, format string, args ...any) *task.Error {
	return about(it, p.file.errorf(s, format, args...))
}

// about names the item of an error.
func about(it *item, err *task.Error) *task.Error {
	if it != nil {
		err.Message = "item " + it.path + " " + it.text + ": " + err.Message
	}
	return err
}

// sub reads the items below an item.
func (p *parser) sub(it *item, s *source, key string) (*list, error) {
	return p.subOf(it, s, key, false)
}

// subOf reads the items below an item; those of a spawn are steps of a run.
func (p *parser) subOf(it *item, s *source, key string, top bool) (*list, error) {
	outer := p.top
	p.top = top
	l, err := p.body(s, it.path+"."+key)
	p.top = outer
	if err == nil {
		it.nested = append(it.nested, l)
	}
	return l, err
}

// within reads items that see further identifiers.
func (p *parser) within(names []string, read func() error) error {
	outer := p.names
	p.names = append(append([]string(nil), outer...), names...)
	err := read()
	p.names = outer
	return err
}

func (p *parser) addCall(ref task.PackageRef) {
	p.doc.mentions = append(p.doc.mentions, mention{item: p.current, call: ref})
	if !p.seen[ref] {
		p.seen[ref] = true
		p.doc.calls = append(p.doc.calls, ref)
	}
}

func (p *parser) addTask(name *source) {
	p.doc.mentions = append(p.doc.mentions, mention{item: p.current, task: name.text})
	if !p.seen[name.text] {
		p.seen[name.text] = true
		p.doc.tasks = append(p.doc.tasks, name.text)
		p.doc.places = append(p.doc.places, p.file.place(name))
	}
}

// shorten cuts text to at most limit bytes, between characters.
func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	cut := limit - len("...")
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}
