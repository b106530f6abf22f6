package script

import (
	"strconv"

	"github.com/dop251/goja"
)

// valueSize is what one element of an array takes, in bytes.
const valueSize = 16

// maxJSONDepth bounds how deep JSON text may nest: the parser recurses on the
// Go stack, whose end is the end of the process.
const maxJSONDepth = 10_000

// guardBuiltins wraps the built-ins that allocate as much as one number asks
// for, or recurse as deep as their input nests, inside a single instruction,
// where no interrupt reaches them. It keeps honest mistakes from ending the
// worker; against malice the process is the boundary.
func (inv *invocation) guardBuiltins(uses names) {
	if uses&(nameRepeat|namePadStart|namePadEnd) != 0 {
		text := inv.prototype("String")
		inv.guard(uses&nameRepeat, text, "repeat", func(call goja.FunctionCall) (int64, bool) {
			return product(stringLength(call.This), call.Argument(0).ToInteger())
		})
		inv.guard(uses&namePadStart, text, "padStart", paddedLength)
		inv.guard(uses&namePadEnd, text, "padEnd", paddedLength)
	}
	if uses&(nameFill|nameJoin) != 0 {
		array := inv.prototype("Array")
		inv.guard(uses&nameFill, array, "fill", func(call goja.FunctionCall) (int64, bool) {
			return product(lengthOf(call.This), valueSize)
		})
		inv.guard(uses&nameJoin, array, "join", func(call goja.FunctionCall) (int64, bool) {
			return product(lengthOf(call.This), max(stringLength(call.Argument(0)), 1))
		})
	}
	if uses&nameFrom != 0 {
		inv.guard(nameFrom, inv.vm.Get("Array").(*goja.Object), "from", func(call goja.FunctionCall) (int64, bool) {
			return product(lengthOf(call.Argument(0)), valueSize)
		})
	}
	if uses&nameParse != 0 {
		inv.guardParse()
	}
}

func (inv *invocation) prototype(class string) *goja.Object {
	return inv.vm.Get(class).(*goja.Object).Get("prototype").(*goja.Object)
}

// guard replaces a method by one that throws a RangeError when the size it is
// asked for passes the limit.
func (inv *invocation) guard(used names, owner *goja.Object, name string, size func(goja.FunctionCall) (int64, bool)) {
	if used == 0 {
		return
	}
	original, ok := goja.AssertFunction(owner.Get(name))
	if !ok {
		return
	}
	limit := inv.engine.config.MaxAlloc
	inv.set(owner, name, func(call goja.FunctionCall) goja.Value {
		if bytes, ok := size(call); !ok || bytes > limit {
			panic(inv.rangeError(name + " would take more than " + formatSize(limit) + " at once, the limit of one operation"))
		}
		return passOn(original, call)
	})
}

func passOn(original goja.Callable, call goja.FunctionCall) goja.Value {
	value, err := original(call.This, call.Arguments...)
	if err != nil {
		panic(err)
	}
	return value
}

func (inv *invocation) rangeError(message string) *goja.Object {
	object, err := inv.vm.New(inv.vm.Get("RangeError"), inv.vm.ToValue(message))
	if err != nil {
		return inv.vm.NewTypeError("%s", message)
	}
	return object
}

func (inv *invocation) guardParse() {
	owner, ok := inv.vm.Get("JSON").(*goja.Object)
	if !ok {
		return
	}
	original, ok := goja.AssertFunction(owner.Get("parse"))
	if !ok {
		return
	}
	inv.set(owner, "parse", func(call goja.FunctionCall) goja.Value {
		if text, ok := call.Argument(0).(goja.String); ok && text.Length() > maxJSONDepth && nesting(text.String()) > maxJSONDepth {
			panic(inv.rangeError("the JSON text nests deeper than " + strconv.Itoa(maxJSONDepth) + " levels"))
		}
		return passOn(original, call)
	})
}

// nesting returns how deep brackets nest outside of strings.
func nesting(text string) int {
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
			deepest = max(deepest, depth)
		case c == ']' || c == '}':
			depth--
		}
	}
	return deepest
}

func paddedLength(call goja.FunctionCall) (int64, bool) { return call.Argument(0).ToInteger(), true }

// product multiplies, and reports false when the result overflows.
func product(a, b int64) (int64, bool) {
	if a <= 0 || b <= 0 {
		return 0, true
	}
	p := a * b
	return p, p/a == b
}

func stringLength(value goja.Value) int64 {
	if text, ok := value.(goja.String); ok {
		return int64(text.Length())
	}
	return 1
}

func lengthOf(value goja.Value) int64 {
	switch v := value.(type) {
	case goja.String:
		return int64(v.Length())
	case *goja.Object:
		if length := v.Get("length"); length != nil {
			return length.ToInteger()
		}
	}
	return 0
}
