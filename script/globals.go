package script

import (
	"math"
	"strings"
	"time"

	"github.com/dop251/goja"

	"github.com/catena-run/catena/task"
)

// names is a set of global names that a source mentions. Making a function for
// a fresh machine costs about a microsecond, so only those mentioned are made.
type names uint32

const (
	nameConsole names = 1 << iota
	nameSetTimeout
	nameSetInterval
	nameSetImmediate
	nameClearTimeout
	nameClearInterval
	nameClearImmediate
	nameQueueMicrotask
	nameRepeat
	namePadStart
	namePadEnd
	nameFill
	nameFrom
	nameJoin
	nameParse
	nameAll names = 1<<32 - 1
)

// spelled lists the names by their spelling. Those after queueMicrotask are
// built-ins that get a guard.
func spelled() map[string]names {
	return map[string]names{
		"console": nameConsole, "setTimeout": nameSetTimeout, "setInterval": nameSetInterval,
		"setImmediate": nameSetImmediate, "clearTimeout": nameClearTimeout, "clearInterval": nameClearInterval,
		"clearImmediate": nameClearImmediate, "queueMicrotask": nameQueueMicrotask,
		"repeat": nameRepeat, "padStart": namePadStart, "padEnd": namePadEnd,
		"fill": nameFill, "Array.from": nameFrom, "join": nameJoin, "JSON.parse": nameParse,
	}
}

// mentioned returns the names that a source can reach. A name that is not
// spelled out can only be reached through the global object or code made at
// run time, which makes everything available.
func mentioned(source string) names {
	for _, door := range []string{"globalThis", "eval", "Function"} {
		if strings.Contains(source, door) {
			return nameAll
		}
	}
	var set names
	for name, bit := range spelled() {
		if strings.Contains(source, name) {
			set |= bit
		}
	}
	return set
}

// defineGlobals adds what a module may use beside the language.
func (inv *invocation) defineGlobals() {
	uses := inv.program.uses
	for _, global := range []struct {
		bit   names
		name  string
		value any
	}{
		{nameSetTimeout, "setTimeout", inv.setTimeout},
		{nameSetInterval, "setInterval", inv.setInterval},
		{nameSetImmediate, "setImmediate", inv.setImmediate},
		{nameClearTimeout, "clearTimeout", inv.clearTimer},
		{nameClearInterval, "clearInterval", inv.clearTimer},
		{nameClearImmediate, "clearImmediate", inv.clearTimer},
		{nameQueueMicrotask, "queueMicrotask", inv.queueMicrotask},
	} {
		if uses&global.bit != 0 {
			inv.set(inv.vm.GlobalObject(), global.name, global.value)
		}
	}
	if uses&nameConsole != 0 {
		inv.set(inv.vm.GlobalObject(), "console", inv.console())
	}
	inv.guardBuiltins(uses)
}

// set defines an ordinary but not enumerable property, as built-ins are.
func (inv *invocation) set(object *goja.Object, name string, value any) {
	if err := object.DefineDataProperty(name, inv.vm.ToValue(value), goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_FALSE); err != nil {
		panic(err)
	}
}

// fix defines an enumerable property that never changes.
func (inv *invocation) fix(object *goja.Object, name string, value any) {
	if err := object.DefineDataProperty(name, inv.vm.ToValue(value), goja.FLAG_FALSE, goja.FLAG_FALSE, goja.FLAG_TRUE); err != nil {
		panic(err)
	}
}

// getter defines a property that is computed when it is read.
func (inv *invocation) getter(object *goja.Object, name string, enumerable goja.Flag, get func() goja.Value) {
	function := inv.vm.ToValue(func(goja.FunctionCall) goja.Value { return get() })
	if err := object.DefineAccessorProperty(name, function, nil, goja.FLAG_FALSE, enumerable); err != nil {
		panic(err)
	}
}

func (inv *invocation) console() *goja.Object {
	console := inv.vm.NewObject()
	for name, level := range map[string]string{
		"debug": "debug", "log": "info", "info": "info", "warn": "warn", "error": "error", "trace": "debug",
	} {
		inv.set(console, name, inv.logger(level))
	}
	return console
}

func (inv *invocation) setTimeout(call goja.FunctionCall) goja.Value {
	return inv.startTimer(call, "setTimeout", false)
}

func (inv *invocation) setInterval(call goja.FunctionCall) goja.Value {
	return inv.startTimer(call, "setInterval", true)
}

func (inv *invocation) startTimer(call goja.FunctionCall, name string, repeat bool) goja.Value {
	callback := inv.callback(call, name)
	return inv.vm.ToValue(inv.loop.after(delay(call.Argument(1)), repeat, callback(2)))
}

func (inv *invocation) setImmediate(call goja.FunctionCall) goja.Value {
	return inv.vm.ToValue(inv.loop.soon(inv.callback(call, "setImmediate")(1)))
}

func (inv *invocation) clearTimer(call goja.FunctionCall) goja.Value {
	inv.loop.clear(call.Argument(0).ToInteger())
	return goja.Undefined()
}

// callback checks the first argument and returns a maker of the task that
// calls it with the arguments from the given one on.
func (inv *invocation) callback(call goja.FunctionCall, name string) func(from int) func() {
	function, ok := goja.AssertFunction(call.Argument(0))
	if !ok {
		panic(inv.vm.NewTypeError("%s needs a function as its first argument", name))
	}
	return func(from int) func() {
		var arguments []goja.Value
		if len(call.Arguments) > from {
			arguments = append(arguments, call.Arguments[from:]...)
		}
		return func() { inv.task(function, arguments...) }
	}
}

// delay reads milliseconds the way Node does: at least one, and anything
// that is no number or too large for 32 bits counts as one.
func delay(value goja.Value) time.Duration {
	ms := value.ToFloat()
	if math.IsNaN(ms) || ms < 1 || ms > math.MaxInt32 {
		ms = 1
	}
	return time.Duration(ms * float64(time.Millisecond))
}

func (inv *invocation) queueMicrotask(call goja.FunctionCall) goja.Value {
	function, ok := goja.AssertFunction(call.Argument(0))
	if !ok {
		panic(inv.vm.NewTypeError("queueMicrotask needs a function as its first argument"))
	}
	resolved, resolve, _ := inv.vm.NewPromise()
	if err := resolve(goja.Undefined()); err != nil {
		panic(err)
	}
	promise := inv.vm.ToValue(resolved).(*goja.Object)
	then, _ := goja.AssertFunction(promise.Get("then"))
	run := inv.vm.ToValue(func(goja.FunctionCall) goja.Value {
		if _, err := function(goja.Undefined()); err != nil {
			panic(err)
		}
		return goja.Undefined()
	})
	if _, err := then(promise, run); err != nil {
		panic(err)
	}
	return goja.Undefined()
}

// require gives a module the host API; everything else was bundled into it.
func (inv *invocation) require(call goja.FunctionCall) goja.Value {
	name := call.Argument(0).String()
	if name != "catena" {
		panic(inv.newError("cannot require " + quote(name) + `: package code is bundled when it is pushed, and only "catena" is provided to it`))
	}
	if inv.catena == nil {
		inv.catena = inv.hostModule()
	}
	return inv.catena
}

// newError makes an Error whose stack is that of the running code.
func (inv *invocation) newError(message string) *goja.Object {
	object, err := inv.vm.New(inv.vm.Get("Error"), inv.vm.ToValue(message))
	if err != nil {
		return inv.vm.NewTypeError("%s", message)
	}
	return object
}

// contextObject is the second argument of a function.
func (inv *invocation) contextObject() goja.Value {
	c := &inv.call.Context
	run := inv.vm.NewObject()
	inv.fix(run, "id", c.RunID)
	inv.fix(run, "task", c.Task)
	inv.fix(run, "attempt", c.Attempt)
	object := inv.vm.NewObject()
	inv.fix(object, "run", run)
	inv.fix(object, "step", c.Step)
	inv.fix(object, "readonly", c.Readonly)
	// Likewise not among the keys: it is much, and made when it is asked for.
	inv.getter(object, "cluster", goja.FLAG_FALSE, inv.cluster)
	inv.getter(object, "cancelled", goja.FLAG_TRUE, func() goja.Value { return inv.vm.ToValue(inv.abortSignal().aborted()) })
	// Not among the keys: who prints ctx does not listen.
	inv.getter(object, "signal", goja.FLAG_FALSE, func() goja.Value { return inv.abortSignal().object })
	return object
}

// input parses the call's JSON into values of the machine. Without input the
// function gets an empty object.
func (inv *invocation) input() goja.Value {
	raw := inv.call.Input
	if len(raw) == 0 || string(raw) == "{}" {
		return inv.vm.NewObject()
	}
	return inv.parse(raw, "the input")
}

// cluster is what ctx.cluster gives: null when there is no master to tell it.
func (inv *invocation) cluster() goja.Value {
	if inv.call.Context.Cluster == nil {
		return goja.Null()
	}
	raw := inv.call.Context.Cluster()
	if len(raw) == 0 {
		return goja.Null()
	}
	return inv.parse(raw, "the cluster's figures")
}

func (inv *invocation) parse(raw []byte, what string) goja.Value {
	parse, ok := goja.AssertFunction(inv.vm.Get("JSON").(*goja.Object).Get("parse"))
	if !ok {
		panic(inv.vm.NewTypeError("JSON.parse is not a function"))
	}
	value, err := parse(goja.Undefined(), inv.vm.ToValue(string(raw)))
	if err != nil {
		panic(inv.newError(what + " is not JSON: " + err.Error()))
	}
	return value
}

// print writes one line of the run's log.
func (inv *invocation) print(level, message string) {
	message = clean(shorten(message, inv.engine.config.MaxLogLine))
	if inv.call.Log != nil {
		inv.call.Log(level, message)
		return
	}
	inv.engine.print(inv.call.ref(), level, message)
}

func (e *Engine) print(ref task.PackageRef, level, message string) {
	entry := e.log.WithField("call", ref.String())
	switch level {
	case "debug":
		entry.Debug(message)
	case "warn":
		entry.Warn(message)
	case "error":
		entry.Error(message)
	default:
		entry.Info(message)
	}
}
