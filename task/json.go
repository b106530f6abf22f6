package task

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"
	"strings"
)

// SameJSON reports whether two documents mean the same: the order of keys, blanks
// and the spelling of strings and numbers do not count. Numbers are compared to
// the last digit. What is not JSON is the same as its own text only.
func SameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, okX := decode(a)
	y, okY := decode(b)
	return okX && okY && sameValue(x, y)
}

func decode(text json.RawMessage) (value any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if d.Decode(&value) != nil {
		return nil, false
	}
	_, err := d.Token()
	return value, err == io.EOF
}

func sameValue(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for key, value := range x {
			other, there := y[key]
			if !there || !sameValue(value, other) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !sameValue(x[i], y[i]) {
				return false
			}
		}
		return true
	case json.Number:
		y, ok := b.(json.Number)
		return ok && (x == y || plainNumber(x.String()) == plainNumber(y.String()))
	}
	return a == b
}

// number is a decimal number: sign, digits without zeros at either end, exponent.
type number struct {
	negative bool
	digits   string
	exponent int
}

// plainNumber takes a JSON number apart. An exponent that no int holds stays in the digits.
func plainNumber(text string) number {
	var n number
	text, n.negative = strings.CutPrefix(text, "-")
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	if exponent != "" {
		e, err := strconv.Atoi(exponent)
		if err != nil || e > 1<<40 || e < -1<<40 {
			return number{negative: n.negative, digits: text}
		}
		n.exponent = e
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	n.exponent -= len(fraction)
	n.digits = strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(n.digits, "0")
	n.exponent += len(n.digits) - len(trimmed)
	n.digits = trimmed
	if n.digits == "" {
		return number{}
	}
	return n
}
