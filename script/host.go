package script

import (
	"strings"
	"time"

	"github.com/dop251/goja"
)

// hostModule makes what require("catena") gives: log, http, sleep and now.
func (inv *invocation) hostModule() goja.Value {
	module := inv.vm.NewObject()
	inv.fix(module, "log", inv.logFunction())
	inv.fix(module, "http", inv.httpModule())
	inv.fix(module, "sleep", inv.sleep)
	inv.fix(module, "now", func(goja.FunctionCall) goja.Value { return inv.vm.ToValue(time.Now().UnixMilli()) })
	return inv.freeze(module)
}

// logFunction is callable itself and has a function per level.
func (inv *invocation) logFunction() *goja.Object {
	log := inv.vm.ToValue(inv.logger("info")).(*goja.Object)
	for _, level := range []string{"debug", "info", "warn", "error"} {
		inv.fix(log, level, inv.logger(level))
	}
	return inv.freeze(log)
}

// freeze keeps anybody from adding to an object.
func (inv *invocation) freeze(object *goja.Object) *goja.Object {
	freeze, ok := goja.AssertFunction(inv.vm.Get("Object").(*goja.Object).Get("freeze"))
	if !ok {
		return object
	}
	if _, err := freeze(goja.Undefined(), object); err != nil {
		panic(err)
	}
	return object
}

// logger returns a function that writes its arguments as one line of the
// run's log, with the substitutions that console.log knows.
func (inv *invocation) logger(level string) func(goja.FunctionCall) goja.Value {
	return func(call goja.FunctionCall) goja.Value {
		inv.print(level, inv.format(call.Arguments))
		return goja.Undefined()
	}
}

// format joins values with spaces after %s, %d, %i, %f, %j, %o and %O of a
// leading text have taken theirs.
func (inv *invocation) format(values []goja.Value) string {
	var line strings.Builder
	if len(values) > 1 && goja.IsString(values[0]) {
		template := values[0].String()
		values = values[1:]
		for len(values) > 0 {
			before, after, found := cutVerb(template)
			line.WriteString(before)
			if template = after; !found {
				break
			}
			line.WriteString(inv.inspect(values[0]))
			values = values[1:]
		}
		line.WriteString(template)
		if len(values) > 0 {
			line.WriteByte(' ')
		}
	}
	for i, value := range values {
		if i > 0 {
			line.WriteByte(' ')
		}
		line.WriteString(inv.inspect(value))
		if line.Len() > inv.engine.config.MaxLogLine {
			break
		}
	}
	return line.String()
}

// cutVerb splits a template around its first verb. Without one, all of it is
// before and nothing after.
func cutVerb(template string) (before, after string, found bool) {
	for i := 0; i+1 < len(template); i++ {
		if template[i] == '%' && strings.IndexByte("sdifjoO", template[i+1]) >= 0 {
			return template[:i], template[i+2:], true
		}
	}
	return template, "", false
}

// functionNames lists the functions among a module's own exports.
func functionNames(exports goja.Value) string {
	object, ok := exports.(*goja.Object)
	if !ok {
		return "no functions"
	}
	var names []string
	for _, name := range object.Keys() {
		if _, ok := goja.AssertFunction(object.Get(name)); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "no functions"
	}
	return strings.Join(names, ", ")
}
