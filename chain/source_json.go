package chain

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// readJSON reads one JSON value with positions; false when text is not JSON.
// json.Valid has checked the grammar and the depth (10,000) before.
func readJSON(text []byte) (*source, bool) {
	if !json.Valid(text) {
		return nil, false
	}
	r := jsonReader{text: text, line: 1}
	return r.value(), true
}

type jsonReader struct {
	text  []byte
	pos   int
	line  int
	start int // of the line
}

func (r *jsonReader) space() {
	for r.pos < len(r.text) {
		switch r.text[r.pos] {
		case '\n':
			r.line++
			r.start = r.pos + 1
		case ' ', '\t', '\r':
		default:
			return
		}
		r.pos++
	}
}

func (r *jsonReader) value() *source {
	r.space()
	s := &source{line: r.line, col: r.pos - r.start + 1}
	switch c := r.text[r.pos]; c {
	case '[':
		s.kind = kindList
		r.sequence(']', func() { s.items = append(s.items, r.value()) })
	case '{':
		s.kind = kindObject
		r.sequence('}', func() {
			s.keys = append(s.keys, r.value())
			r.space()
			r.pos++ // the colon
			s.items = append(s.items, r.value())
		})
	case '"':
		s.kind = kindText
		s.text, s.inset = r.str()
	default:
		r.word(s, c)
	}
	return s
}

// plain reads a value without positions.
func (r *jsonReader) plain() any {
	r.space()
	switch r.text[r.pos] {
	case '[':
		list := []any{}
		r.sequence(']', func() { list = append(list, r.plain()) })
		return list
	case '{':
		object := map[string]any{}
		r.sequence('}', func() {
			key, _ := r.str()
			r.space()
			r.pos++ // the colon
			object[key] = r.plain()
		})
		return object
	case '"':
		text, _ := r.str()
		return text
	}
	var s source
	r.word(&s, r.text[r.pos])
	return s.literal()
}

func (r *jsonReader) sequence(end byte, one func()) {
	r.pos++
	for {
		r.space()
		switch r.text[r.pos] {
		case end:
			r.pos++
			return
		case ',':
			r.pos++
		default:
			one()
		}
	}
}

func (r *jsonReader) str() (string, int) {
	from := r.pos
	for r.pos++; r.text[r.pos] != '"'; r.pos++ {
		if r.text[r.pos] == '\\' {
			r.pos++
		}
	}
	r.pos++
	raw := r.text[from:r.pos]
	if bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		return string(raw[1 : len(raw)-1]), 1
	}
	var text string
	_ = json.Unmarshal(raw, &text) // valid: json.Valid saw it
	return text, -1
}

func (r *jsonReader) word(s *source, first byte) {
	from := r.pos
	for r.pos < len(r.text) && strings.IndexByte(",]} \t\r\n", r.text[r.pos]) < 0 {
		r.pos++
	}
	s.text = string(r.text[from:r.pos])
	switch first {
	case 'n':
		s.kind, s.text = kindNull, ""
	case 't', 'f':
		s.kind = kindBool
	default:
		s.kind = kindNumber
	}
}

// jsonError tells where text stops being JSON.
func (f file) jsonError(text []byte) error {
	var value any
	err := json.Unmarshal(text, &value)
	line, col := 1, 1
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		before := text[:min(int(max(syntax.Offset-1, 0)), len(text))]
		line += bytes.Count(before, []byte("\n"))
		col = len(before) - bytes.LastIndexByte(before, '\n')
	}
	return f.at(line, col, "not readable as JSON: %v", err)
}
