package chain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Values inside a chain are JSON's: nil, bool, int, float64, string, []any and
// map[string]any. A whole number is an int however it was written, so that a
// resumed run, which read its variables from JSON, computes as the first one
// did. What fits neither int nor float64 exactly stays json.Number and can be
// passed on, not computed with.

// maxValueBytes bounds the JSON of one evaluated value.
const maxValueBytes = 16 << 20

// maxNodes bounds the elements of a value that an expression builds.
const maxNodes = 4_000_000

func number(text string) any {
	if n, err := strconv.Atoi(text); err == nil && text != "-0" {
		return n
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || (isDigits(text) && math.Abs(f) >= 1<<53) {
		return json.Number(text)
	}
	return whole(f)
}

func isDigits(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c != '-' || i > 0) {
			return false
		}
	}
	return true
}

func whole(f float64) any {
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return int(f)
	}
	return f
}

// decode reads JSON; what is absent is nil.
func decode(raw json.RawMessage) (any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	if !json.Valid(raw) {
		return nil, fmt.Errorf("%q is not readable as JSON", shorten(string(raw), maxItemText))
	}
	r := jsonReader{text: raw}
	return r.plain(), nil
}

// literal returns the value of a source without regard to ${...} in it.
func (s *source) literal() any {
	switch s.kind {
	case kindBool:
		return s.text == "true"
	case kindNumber:
		return number(s.text)
	case kindText:
		return s.text
	case kindList:
		list := make([]any, len(s.items))
		for i, item := range s.items {
			list[i] = item.literal()
		}
		return list
	case kindObject:
		object := make(map[string]any, len(s.items))
		for i, item := range s.items {
			object[s.keys[i].text] = item.literal()
		}
		return object
	}
	return nil
}

// appendSource writes s as compact JSON and stops soon after limit bytes.
func appendSource(buf []byte, s *source, limit int) []byte {
	switch s.kind {
	case kindNull:
		return append(buf, "null"...)
	case kindText:
		return appendText(buf, s.text)
	case kindList, kindObject:
	default:
		return append(buf, s.text...)
	}
	open, end := byte('['), byte(']')
	if s.kind == kindObject {
		open, end = '{', '}'
	}
	buf = append(buf, open)
	for i, item := range s.items {
		if len(buf) > limit {
			return buf
		}
		if i > 0 {
			buf = append(buf, ',')
		}
		if s.kind == kindObject {
			buf = append(appendText(buf, s.keys[i].text), ':')
		}
		buf = appendSource(buf, item, limit)
	}
	return append(buf, end)
}

func appendText(buf []byte, text string) []byte {
	plain := true
	for i := range len(text) {
		if c := text[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf || c == 0x7f {
			plain = false
			break
		}
	}
	if plain {
		buf = append(buf, '"')
		buf = append(buf, text...)
		return append(buf, '"')
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a string always encodes
	return append(buf, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}

var errTooLarge = fmt.Errorf("the value is larger than %d MiB", maxValueBytes>>20)

// appendValue writes a JSON value, keys in order.
func appendValue(buf []byte, value any) ([]byte, error) {
	if len(buf) > maxValueBytes {
		return nil, errTooLarge
	}
	switch v := value.(type) {
	case nil:
		return append(buf, "null"...), nil
	case bool:
		return strconv.AppendBool(buf, v), nil
	case int:
		return strconv.AppendInt(buf, int64(v), 10), nil
	case float64:
		raw, err := json.Marshal(v)
		return append(buf, raw...), err
	case string:
		return appendText(buf, v), nil
	case json.Number:
		return append(buf, v...), nil
	case []any:
		return appendList(buf, v)
	case map[string]any:
		return appendObject(buf, v)
	}
	return nil, fmt.Errorf("a value of type %T cannot be written as JSON", value)
}

func appendList(buf []byte, list []any) (_ []byte, err error) {
	buf = append(buf, '[')
	for i, e := range list {
		if i > 0 {
			buf = append(buf, ',')
		}
		if buf, err = appendValue(buf, e); err != nil {
			return nil, err
		}
	}
	return append(buf, ']'), nil
}

func appendObject(buf []byte, object map[string]any) (_ []byte, err error) {
	keys := make([]string, 0, len(object))
	for k := range object {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	buf = append(buf, '{')
	for i, k := range keys {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = append(appendText(buf, k), ':')
		if buf, err = appendValue(buf, object[k]); err != nil {
			return nil, err
		}
	}
	return append(buf, '}'), nil
}

// normalize turns whatever an expression returned into a JSON value. left
// counts down the elements, so that shared parts cannot make it explode.
func normalize(value any, left *int) (any, error) {
	if *left--; *left < 0 {
		return nil, fmt.Errorf("the value has more than %d elements", maxNodes)
	}
	switch v := value.(type) {
	case nil, bool, int, string, json.Number:
		return v, nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%v is not a number that JSON knows", v)
		}
		return whole(v), nil
	case []byte:
		return string(v), nil
	case time.Time:
		return v.Format(time.RFC3339Nano), nil
	case time.Duration:
		return v.String(), nil
	case fmt.Stringer: // a time zone, a month, a weekday
		return v.String(), nil
	}
	return normalizeKind(reflect.ValueOf(value), left)
}

func normalizeKind(v reflect.Value, left *int) (_ any, err error) {
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		if v.Len() > *left {
			return nil, fmt.Errorf("the value has more than %d elements", maxNodes)
		}
		list := make([]any, v.Len())
		for i := range list {
			if list[i], err = normalize(v.Index(i).Interface(), left); err != nil {
				return nil, err
			}
		}
		return list, nil
	case reflect.Map:
		object := make(map[string]any, v.Len())
		for it := v.MapRange(); it.Next(); {
			if object[fmt.Sprint(it.Key())], err = normalize(it.Value().Interface(), left); err != nil {
				return nil, err
			}
		}
		return object, nil
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return int(v.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return number(strconv.FormatUint(v.Uint(), 10)), nil
	case reflect.Float32:
		return whole(v.Float()), nil
	}
	return nil, fmt.Errorf("the result is a %s, which is not a value", v.Kind())
}
