package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	exprfile "github.com/expr-lang/expr/file"

	"github.com/catena-run/catena/task"
)

// template is a value of a document that may hold ${...}. Exactly one of raw,
// program, parts and elems says what it is.
type template struct {
	raw     json.RawMessage // a literal, as JSON
	value   any             // the literal
	program *program        // a text that is one ${...}: the result keeps its type
	parts   []part          // a text with ${...} in it
	keys    []string        // of an object; nil for a list
	elems   []*template
}

// part is a piece of an interpolated text.
type part struct {
	text    string
	program *program
}

func (p *parser) template(s *source) (*template, error) {
	switch {
	case s.kind == kindText && strings.Contains(s.text, "${"):
		return p.textTemplate(s)
	case (s.kind == kindList || s.kind == kindObject) && dynamic(s):
		return p.treeTemplate(s)
	}
	t := &template{value: s.literal()}
	raw, err := appendValue(nil, t.value)
	if err != nil {
		return nil, p.file.errorf(s, "%v", err)
	}
	t.raw = raw
	return t, nil
}

func dynamic(s *source) bool {
	if s.kind == kindText {
		return strings.Contains(s.text, "${")
	}
	for _, item := range s.items {
		if dynamic(item) {
			return true
		}
	}
	return false
}

func (p *parser) treeTemplate(s *source) (*template, error) {
	t := &template{elems: make([]*template, len(s.items))}
	for i, item := range s.items {
		elem, err := p.template(item)
		if err = p.keep(err); err != nil {
			return nil, err
		}
		t.elems[i] = elem
	}
	if s.kind == kindObject {
		t.keys = make([]string, len(s.keys))
		for i, key := range s.keys {
			t.keys[i] = key.text
		}
	}
	return t, nil
}

// textTemplate cuts a text at its ${...}; $${ stands for ${ itself.
func (p *parser) textTemplate(s *source) (*template, error) {
	var parts []part
	text, done := "", 0
	for at := 0; at < len(s.text); {
		open := strings.Index(s.text[at:], "${")
		if open < 0 {
			break
		}
		open += at
		if open > done && s.text[open-1] == '$' {
			text += s.text[done:open-1] + "${"
			at, done = open+2, open+2
			continue
		}
		end := closing(s.text, open+2)
		if end < 0 {
			return nil, p.errorIn(s, open, "${ is not closed").Fix("close it with }, or write $${ for the characters ${")
		}
		code, err := p.compile(s, open+2, s.text[open+2:end])
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{text: text + s.text[done:open]}, part{program: code})
		text, at, done = "", end+1, end+1
	}
	parts = append(parts, part{text: text + s.text[done:]})
	return folded(parts), nil
}

func folded(parts []part) *template {
	switch {
	case len(parts) == 1:
		return &template{value: parts[0].text, raw: appendText(nil, parts[0].text)}
	case len(parts) == 3 && parts[0].text == "" && parts[2].text == "":
		return &template{program: parts[1].program}
	}
	return &template{parts: parts}
}

// closing returns the place of the } that ends an expression, skipping nested
// braces and quoted text; -1 when there is none.
func closing(text string, from int) int {
	depth := 0
	var quote byte
	for i := from; i < len(text); i++ {
		switch c := text[i]; {
		case quote != 0:
			if c == '\\' && quote != '`' {
				i++
			} else if c == quote {
				quote = 0
			}
		case c == '"', c == '\'', c == '`':
			quote = c
		case c == '{':
			depth++
		case c == '}':
			if depth == 0 {
				return i
			}
			depth--
		}
	}
	return -1
}

// compile compiles an expression that begins at byte offset of s.text.
func (p *parser) compile(s *source, offset int, text string) (*program, error) {
	key := strings.Join(p.names, ",") + ":" + text
	code := p.programs[key]
	if code == nil {
		var err error
		if code, err = compile(text, p.names); err != nil {
			return nil, p.exprError(s, offset, text, err)
		}
		p.programs[key] = code
	}
	p.uses |= code.uses
	p.noteReads(s, offset, code)
	return code, nil
}

func (p *parser) exprError(s *source, offset int, text string, err error) error {
	message := err.Error()
	var at *exprfile.Error
	if errors.As(err, &at) {
		message = at.Message
		if runes := []rune(text); at.From >= 0 && at.From <= len(runes) {
			offset += len(string(runes[:at.From]))
		}
	}
	problem := p.errorIn(s, offset, "expression %q: %s", shorten(strings.TrimSpace(text), maxItemText), message)
	if name, unknown := strings.CutPrefix(message, "unknown name "); unknown {
		known := append([]string(nil), p.names...)
		for root := range roots {
			known = append(known, root)
		}
		return problem.Fix("%s", suggest(name, known))
	}
	return problem
}

// errorIn makes an error at a byte offset within the text of s.
func (p *parser) errorIn(s *source, offset int, format string, args ...any) *task.Error {
	line, col := within(s, offset)
	return about(p.current, p.file.at(line, col, format, args...))
}

// within returns the position of a byte offset within the text of s, as far as
// it is known.
func within(s *source, offset int) (line, col int) {
	before := s.text[:min(offset, len(s.text))]
	if s.inset < 0 || strings.Contains(before, "\n") {
		return s.line, s.col
	}
	return s.line, s.col + s.inset + len([]rune(before))
}

// condition reads when: ${...}, a bare expression or a boolean.
func (p *parser) condition(it *item, s *source) (*template, error) {
	switch {
	case s.kind == kindBool:
		return p.template(s)
	case s.kind != kindText:
		return nil, p.fail(it, s, "when needs an expression, not %s", s.kind.article())
	case !strings.Contains(s.text, "${"):
		code, err := p.compile(s, 0, s.text)
		return &template{program: code}, err
	}
	t, err := p.template(s)
	if err == nil && t.program == nil {
		return nil, p.fail(it, s, "when must be one expression").Fix("put all of it in one ${...}")
	}
	return t, err
}

// eval returns the value of t.
func (t *template) eval(th *thread) (any, error) {
	switch {
	case t.raw != nil:
		return t.value, nil
	case t.program != nil:
		return t.program.run(th)
	case t.parts != nil:
		return t.interpolate(th)
	case t.keys == nil:
		list := make([]any, len(t.elems))
		for i, e := range t.elems {
			v, err := e.eval(th)
			if err != nil {
				return nil, err
			}
			list[i] = v
		}
		return list, nil
	}
	object := make(map[string]any, len(t.elems))
	for i, e := range t.elems {
		v, err := e.eval(th)
		if err != nil {
			return nil, err
		}
		object[t.keys[i]] = v
	}
	return object, nil
}

func (t *template) interpolate(th *thread) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.text)
		if p.program == nil {
			continue
		}
		value, err := p.program.run(th)
		if err != nil {
			return "", err
		}
		text, err := textOf(value)
		if err != nil {
			return "", err
		}
		if b.Len()+len(text) > maxValueBytes {
			return "", errTooLarge
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// textOf returns a text as it is and anything else as JSON.
func textOf(value any) (string, error) {
	if text, ok := value.(string); ok {
		return text, nil
	}
	raw, err := appendValue(nil, value)
	return string(raw), err
}

// json returns the value of t as JSON.
func (t *template) json(th *thread) (json.RawMessage, error) {
	if t.raw != nil {
		return t.raw, nil
	}
	value, err := t.eval(th)
	if err != nil {
		return nil, err
	}
	return appendValue(nil, value)
}

// parseSpan reads a wait: milliseconds, or a text such as "2s".
func parseSpan(value any) (time.Duration, error) {
	var d time.Duration
	switch v := value.(type) {
	case int:
		d = time.Duration(v) * time.Millisecond
		if d/time.Millisecond != time.Duration(v) {
			return 0, fmt.Errorf("%d ms is too long", v)
		}
	case float64:
		if v > 1e12 {
			return 0, fmt.Errorf("%v ms is too long", v)
		}
		d = time.Duration(v * float64(time.Millisecond))
	case string:
		var err error
		if d, err = task.ParseDuration(v); err != nil {
			if bad := task.BadDuration(v); !strings.HasSuffix(bad.Message, "is not a duration") {
				return 0, bad
			}
			return 0, fmt.Errorf(`%q is not a duration; write milliseconds as a number, or a text such as "250ms", "30s", "10m" or "2d"`, v)
		}
	default:
		text, err := textOf(value)
		if err != nil {
			text = "the value"
		}
		return 0, fmt.Errorf(`%s is not a duration; write milliseconds as a number, or a text such as "30s"`, shorten(text, maxItemText))
	}
	if d < 0 {
		return 0, fmt.Errorf("a duration cannot be negative (%v)", d)
	}
	return d, nil
}
