package script

import (
	"fmt"
	"math/big"
	"reflect"
	"strconv"
	"unicode/utf8"

	"github.com/dop251/goja"

	"github.com/catena-run/catena/task"
)

const (
	maxDepth   = 1000    // of nested values
	maxCounted = 200_000 // values looked at after the limit, only to name the size
)

// encodeError says why a value cannot become JSON.
type encodeError struct {
	code task.Code
	text string
}

// encoder writes values of the machine as JSON, as JSON.stringify does, but
// stops at a size limit before anything big is built, and reports what JSON
// cannot hold instead of dropping it. In lenient mode, for logs, it writes
// such values as text and cuts off at the limit.
type encoder struct {
	inv     *invocation
	limit   int
	lenient bool

	out     []byte
	skipped int // bytes not written because the limit was passed
	counted int
	path    []string
	above   []*goja.Object // objects being written, to notice cycles
	failure *encodeError
}

// encode returns the JSON of what a function returned.
func (inv *invocation) encode(value goja.Value) ([]byte, *encodeError) {
	e := encoder{inv: inv, limit: inv.engine.config.MaxOutput}
	e.value(value)
	switch {
	case e.failure != nil:
		return nil, e.failure
	case e.skipped > 0:
		return nil, &encodeError{task.CodeTooLarge, e.tooLarge()}
	}
	return e.out, nil
}

func (e *encoder) tooLarge() string {
	about := "about"
	if e.counted > maxCounted {
		about = "more than"
	}
	return fmt.Sprintf("the value that %s returned is too large: %s %s of JSON, the limit is %s; return less, or write it elsewhere and return where it is",
		e.inv.call.Function, about, formatSize(int64(len(e.out)+e.skipped)), formatSize(int64(e.limit)))
}

// inspect returns a value as text for logs and reasons: a string as it is,
// an Error with its stack, anything else as JSON.
func (inv *invocation) inspect(value goja.Value) string {
	if text, ok := value.(goja.String); ok && text.Length() <= inv.engine.config.MaxLogLine {
		return text.String()
	}
	e := encoder{inv: inv, limit: inv.engine.config.MaxLogLine, lenient: true}
	e.value(value)
	if e.skipped > 0 {
		return fmt.Sprintf("%s... (%s more)", e.out, formatSize(int64(e.skipped)))
	}
	return string(e.out)
}

// full reports that there is no point in going on.
func (e *encoder) full() bool {
	if e.failure != nil || e.skipped == 0 {
		return e.failure != nil
	}
	return e.lenient || e.counted > maxCounted
}

// write appends text, or only counts it once the limit is passed.
func (e *encoder) write(text string) {
	if e.skipped > 0 || len(e.out)+len(text) > e.limit {
		e.skipped += len(text)
		return
	}
	e.out = append(e.out, text...)
}

func (e *encoder) fail(text string) {
	if e.failure != nil {
		return
	}
	where := "the returned value"
	if len(e.path) > 0 {
		where = "value"
		for _, part := range e.path {
			where += part
		}
	}
	e.failure = &encodeError{task.CodeInvalid, where + " of " + e.inv.call.Function + " " + text}
}

// odd handles a value that JSON cannot hold.
func (e *encoder) odd(shown, problem string) {
	if e.lenient {
		e.write(shown)
		return
	}
	e.fail(problem)
}

func (e *encoder) value(value goja.Value) {
	if e.skipped > 0 {
		e.counted++
	}
	switch v := value.(type) {
	case nil:
		e.write("null")
	case *goja.Object:
		e.object(v)
	case goja.String:
		e.text(v)
	default:
		e.primitive(value)
	}
}

func (e *encoder) primitive(value goja.Value) {
	switch v := value.Export().(type) {
	case nil:
		if e.lenient && goja.IsUndefined(value) {
			e.write("undefined")
			return
		}
		e.write("null")
	case bool:
		e.write(strconv.FormatBool(v))
	case int64:
		e.write(strconv.FormatInt(v, 10))
	case float64:
		if goja.IsNaN(value) || goja.IsInfinity(value) {
			e.notFinite(value)
			return
		}
		e.write(value.String())
	case *big.Int:
		e.odd(v.String()+"n", "is a BigInt, which JSON cannot hold; use Number(x) or String(x)")
	default:
		e.odd("Symbol("+value.String()+")", "is a symbol, which JSON cannot hold")
	}
}

// notFinite writes NaN and the infinities as JSON.stringify does: null.
func (e *encoder) notFinite(value goja.Value) {
	if e.lenient {
		e.write(value.String())
		return
	}
	e.write("null")
}

// text writes a string. One that cannot fit is not even converted.
func (e *encoder) text(text goja.String) {
	if n := text.Length(); e.skipped > 0 || len(e.out)+n+2 > e.limit {
		if e.lenient && e.skipped == 0 {
			e.cut(text)
			return
		}
		e.skipped += n + 2
		return
	}
	e.write(quote(text.String()))
}

// cut writes the part of a long string that fits.
func (e *encoder) cut(text goja.String) {
	room := max(e.limit-len(e.out)-2, 0)
	e.write(quote(shorten(text.Substring(0, room).String(), room)))
	e.skipped += text.Length() - room
}

func (e *encoder) object(object *goja.Object) {
	if e.full() {
		return
	}
	if len(e.above) > maxDepth {
		e.odd("...", "nests deeper than "+strconv.Itoa(maxDepth)+" levels")
		return
	}
	for _, outer := range e.above {
		if outer == object {
			e.odd("[Circular]", "contains itself, which JSON cannot hold")
			return
		}
	}
	e.above = append(e.above, object)
	e.members(object)
	e.above = e.above[:len(e.above)-1]
}

func (e *encoder) members(object *goja.Object) {
	switch object.ClassName() {
	case "Array":
		e.array(object)
		return
	case "Error":
		e.error(object)
		return
	case "String":
		e.write(quote(object.String()))
		return
	case "Number", "Boolean":
		e.write(object.String())
		return
	}
	if _, ok := goja.AssertFunction(object); ok {
		e.odd("[Function: "+textOf(object.Get("name"))+"]", "is a function, which JSON cannot hold")
		return
	}
	if e.converted(object) {
		return
	}
	e.plain(object)
}

// converted writes objects that stand for something else: those with a toJSON
// method, promises, collections and binary data.
func (e *encoder) converted(object *goja.Object) bool {
	if toJSON, ok := goja.AssertFunction(object.Get("toJSON")); ok {
		value, err := toJSON(object)
		if err != nil {
			panic(err)
		}
		e.value(value)
		return true
	}
	switch exported := object.ExportType(); {
	case exported == reflect.TypeFor[*goja.Promise]():
		e.odd("[Promise]", "is a promise, which JSON cannot hold; await it first")
		return true
	case exported == reflect.TypeFor[[][2]any]():
		e.odd("[Map]", "is a Map, which JSON cannot hold; use Object.fromEntries(x)")
		return true
	case exported == reflect.TypeFor[[]any]():
		e.odd("[Set]", "is a Set, which JSON cannot hold; use Array.from(x)")
		return true
	case exported.Kind() == reflect.Slice || exported == reflect.TypeFor[goja.ArrayBuffer]():
		e.odd("[binary data]", "is binary data, which JSON cannot hold; use Array.from(x) or encode it as text")
		return true
	}
	return false
}

func (e *encoder) array(object *goja.Object) {
	length := int(object.Get("length").ToInteger())
	if room := e.limit - len(e.out); length*2 > room && !e.lenient && e.skipped == 0 {
		// Even the shortest elements cannot fit: count, write nothing.
		e.skipped++
	}
	e.write("[")
	for i := range length {
		if e.full() {
			e.skipped += 2 * (length - i)
			break
		}
		if i > 0 {
			e.write(",")
		}
		index := strconv.Itoa(i)
		e.path = append(e.path, "["+index+"]")
		e.element(object.Get(index))
		e.path = e.path[:len(e.path)-1]
	}
	e.write("]")
}

func (e *encoder) element(value goja.Value) {
	if value != nil && goja.IsUndefined(value) {
		value = nil
	}
	e.value(value)
}

func (e *encoder) plain(object *goja.Object) {
	e.write("{")
	first := true
	for _, key := range object.Keys() {
		if e.full() {
			break
		}
		value := object.Get(key)
		if value == nil || goja.IsUndefined(value) {
			continue
		}
		if !first {
			e.write(",")
		}
		first = false
		e.write(quote(key))
		e.write(":")
		e.path = append(e.path, "."+key)
		e.value(value)
		e.path = e.path[:len(e.path)-1]
	}
	e.write("}")
}

// error writes an Error, of which JSON.stringify would leave an empty object.
func (e *encoder) error(object *goja.Object) {
	if e.lenient {
		e.write(textOf(object.Get("stack")))
		return
	}
	e.write(`{"name":` + quote(textOf(object.Get("name"))) + `,"message":` + quote(textOf(object.Get("message"))) + `}`)
}

const hexDigits = "0123456789abcdef"

// quote returns text as a JSON string. What is no UTF-8, such as half of a
// surrogate pair, becomes the replacement character.
func quote(text string) string {
	out := make([]byte, 0, len(text)+2)
	out = append(out, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			out = append(out, '\\', byte(r))
		case r == '\n':
			out = append(out, '\\', 'n')
		case r < 0x20 || r == 0x7f:
			out = append(out, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
		default:
			out = utf8.AppendRune(out, r)
		}
	}
	return string(append(out, '"'))
}

// shorten cuts text to at most limit bytes, at a whole character.
func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "... (" + formatSize(int64(len(text)-cut)) + " more)"
}

// formatSize writes bytes the way limits are written: 1 MiB, 95.4 MiB, 700 B.
func formatSize(bytes int64) string {
	value, unit := float64(bytes), "B"
	for _, next := range []string{"KiB", "MiB", "GiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, next
	}
	return strconv.FormatFloat(float64(int64(value*10+0.5))/10, 'f', -1, 64) + " " + unit
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
