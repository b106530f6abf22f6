package script

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dop251/goja"

	"github.com/catena-run/catena/task"
)

// signal is ctx.signal, an AbortSignal of the web. It belongs to the goroutine
// of the call. Listeners keep no call alive, as in Node.
type signal struct {
	inv       *invocation
	object    *goja.Object
	reason    goja.Value // made when first asked for
	listeners []listener
	fired     bool
}

// listener is a function of the code, or a hook of the host API.
type listener struct {
	value goja.Value
	call  goja.Callable
	hook  func()
	mark  *int8 // identity of a hook
}

// abortSignal makes the signal when the code first asks for it, and has it
// fire when the call is told to stop.
func (inv *invocation) abortSignal() *signal {
	if inv.signal != nil {
		return inv.signal
	}
	s := &signal{inv: inv, object: inv.vm.NewObject()}
	inv.signal = s
	inv.getter(s.object, "aborted", goja.FLAG_FALSE, func() goja.Value { return inv.vm.ToValue(s.aborted()) })
	inv.getter(s.object, "reason", goja.FLAG_FALSE, s.why)
	inv.set(s.object, "addEventListener", s.listen)
	inv.set(s.object, "removeEventListener", s.unlisten)
	inv.set(s.object, "throwIfAborted", s.throwIfAborted)
	inv.set(s.object, "onabort", goja.Null())
	if stop := inv.call.Stop; stop != nil {
		if inv.call.Listens != nil {
			inv.call.Listens()
		}
		unhook := context.AfterFunc(stop, func() { inv.loop.post(s.fire) })
		inv.release = append(inv.release, func() { unhook() })
	}
	return s
}

// aborted is true from the moment on at which the call was told to stop, also
// for code that never lets the event be dispatched.
func (s *signal) aborted() bool {
	stop := s.inv.call.Stop
	return stop != nil && stop.Err() != nil || s.inv.ctx.Err() != nil
}

// why is the reason: an Error named AbortError, or TimeoutError at a time limit.
func (s *signal) why() goja.Value {
	if !s.aborted() {
		return goja.Undefined()
	}
	if s.reason == nil {
		name, text := "AbortError", "cancelled"
		cause := context.Cause(s.inv.ctx)
		if stop := s.inv.call.Stop; stop != nil && stop.Err() != nil {
			cause = context.Cause(stop)
		}
		if cause != nil && !errors.Is(cause, context.Canceled) {
			text = cause.Error()
		}
		if task.CodeOf(cause) == task.CodeTimeout || errors.Is(cause, context.DeadlineExceeded) {
			name = "TimeoutError"
		}
		made := s.inv.newError(text)
		s.inv.set(made, "name", name)
		s.reason = made
	}
	return s.reason
}

func (s *signal) throwIfAborted(goja.FunctionCall) goja.Value {
	if s.aborted() {
		panic(s.why())
	}
	return goja.Undefined()
}

// listen is addEventListener(type, listener). As on the web, a function is there
// once, and one that comes too late never hears anything. Since the event comes
// once, the option once says nothing.
func (s *signal) listen(call goja.FunctionCall) goja.Value {
	function, ok := goja.AssertFunction(call.Argument(1))
	if !ok {
		panic(s.inv.vm.NewTypeError("addEventListener needs a function as its second argument"))
	}
	same := func(l listener) bool { return l.value != nil && l.value.SameAs(call.Argument(1)) }
	if textOf(call.Argument(0)) != "abort" || s.fired || slices.ContainsFunc(s.listeners, same) {
		return goja.Undefined()
	}
	s.listeners = append(s.listeners, listener{value: call.Argument(1), call: function})
	return goja.Undefined()
}

func (s *signal) unlisten(call goja.FunctionCall) goja.Value {
	if textOf(call.Argument(0)) == "abort" {
		s.listeners = slices.DeleteFunc(s.listeners, func(l listener) bool { return l.value != nil && l.value.SameAs(call.Argument(1)) })
	}
	return goja.Undefined()
}

// hook adds a listener of the host API, which runs in the loop, and returns
// what takes it away.
func (s *signal) hook(run func()) (remove func()) {
	mark := new(int8)
	s.listeners = append(s.listeners, listener{hook: run, mark: mark})
	return func() {
		s.listeners = slices.DeleteFunc(s.listeners, func(l listener) bool { return l.mark == mark })
	}
}

// fire tells everybody, once. It runs in the loop.
func (s *signal) fire() {
	if s.fired {
		return
	}
	s.fired = true
	heard := s.listeners
	s.listeners = nil
	if function, ok := goja.AssertFunction(s.object.Get("onabort")); ok {
		heard = append(heard, listener{call: function})
	}
	event := s.inv.vm.NewObject()
	s.inv.put(event, "type", "abort")
	s.inv.put(event, "target", s.object)
	for _, l := range heard {
		if s.inv.stop.Load() != nil || s.inv.uncaught != nil {
			return
		}
		if l.hook != nil {
			l.hook()
			continue
		}
		s.inv.task(l.call, event)
	}
}

// readSignal reads the signal of an option object; nil when there is none.
func (inv *invocation) readSignal(options *goja.Object) (*signal, error) {
	value := options.Get("signal")
	if value == nil || goja.IsUndefined(value) || goja.IsNull(value) {
		return nil, nil
	}
	if inv.signal == nil || value != goja.Value(inv.signal.object) {
		return nil, errors.New("the signal must be ctx.signal")
	}
	return inv.signal, nil
}

// settle settles a promise inside the machine, so that promise jobs run before
// it returns.
func (inv *invocation) settle(how func(any) error, value func() any) {
	body := inv.vm.ToValue(func(goja.FunctionCall) goja.Value {
		if err := how(value()); err != nil {
			panic(err)
		}
		return goja.Undefined()
	})
	function, _ := goja.AssertFunction(body)
	inv.task(function)
}

// sleep is sleep(ms, {signal}) of the host API: a promise that is settled after
// that time, or rejected with the signal's reason before.
func (inv *invocation) sleep(call goja.FunctionCall) goja.Value {
	promise, resolve, reject := inv.vm.NewPromise()
	refuse := func(reason any) goja.Value {
		if err := reject(reason); err != nil {
			panic(err)
		}
		return inv.vm.ToValue(promise)
	}
	var by *signal
	if options, ok := call.Argument(1).(*goja.Object); ok {
		var err error
		if by, err = inv.readSignal(options); err != nil {
			return refuse(inv.newError("sleep: " + err.Error()))
		}
	}
	if by != nil && by.aborted() {
		return refuse(by.why())
	}
	unhook := func() {}
	timer := inv.loop.after(span(call.Argument(0)), false, func() {
		unhook()
		inv.settle(resolve, func() any { return goja.Undefined() })
	})
	if by != nil {
		unhook = by.hook(func() {
			inv.loop.clear(timer)
			inv.settle(reject, func() any { return by.why() })
		})
	}
	return inv.vm.ToValue(promise)
}

// span reads milliseconds of any length; what is no number counts as none.
func span(value goja.Value) time.Duration {
	const most = float64(365 * 24 * time.Hour / time.Millisecond)
	ms := value.ToFloat()
	if !(ms > 0) {
		return 0
	}
	return time.Duration(min(ms, most) * float64(time.Millisecond))
}
