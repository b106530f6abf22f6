package script

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dop251/goja"
	"github.com/dop251/goja/parser"

	"github.com/catena-run/catena/task"
)

// invocation is one call: its machine, its loop and what ends it. All fields
// but stop and busySince belong to the goroutine of the call.
type invocation struct {
	ctx     context.Context
	cancel  context.CancelFunc
	engine  *Engine
	call    *Call
	program *program
	vm      *goja.Runtime
	loop    *loop
	started time.Time
	release []func()       // undone in reverse order by close
	outside sync.WaitGroup // goroutines that work for the call

	main      *goja.Promise // what the function returned, when it is a promise
	rejected  []*goja.Promise
	uncaught  *task.Outcome // of a task of the loop or a rejected promise
	catena    goja.Value    // the host module, made when first required
	signal    *signal       // made when first asked for
	stop      atomic.Pointer[stop]
	busySince atomic.Int64 // unix nanoseconds since when the machine executes; 0: it waits
}

// stop says why a call was told to end.
type stop struct {
	code   task.Code
	reason string
	cause  error // of a cancelled context
	at     time.Time
}

func newInvocation(ctx context.Context, e *Engine, c *Call, p *program) *invocation {
	inv := &invocation{engine: e, call: c, program: p, vm: goja.New(), loop: newLoop(), started: time.Now()}
	inv.ctx, inv.cancel = context.WithCancel(ctx)
	inv.vm.SetMaxCallStackSize(e.config.StackDepth)
	// Without this, eval would open the file that a source map comment names.
	inv.vm.SetParserOptions(parser.WithDisableSourceMaps)
	inv.vm.SetPromiseRejectionTracker(inv.trackRejection)
	inv.limitTime(ctx)
	e.watch.add(inv)
	inv.release = append(inv.release, func() { e.watch.remove(inv) })
	return inv
}

// limitTime arranges for the call to be told when its time is over or its
// context ends.
func (inv *invocation) limitTime(ctx context.Context) {
	limit := inv.engine.config.Timeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	clock := time.AfterFunc(limit, func() {
		inv.halt(&stop{code: task.CodeTimeout, reason: "timed out after " + roundSpan(limit)})
	})
	unhook := context.AfterFunc(ctx, func() { inv.halt(ended(ctx, inv.started)) })
	inv.release = append(inv.release, func() { clock.Stop(); unhook() })
}

// ended says why ctx ended.
func ended(ctx context.Context, started time.Time) *stop {
	cause := context.Cause(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &stop{code: task.CodeTimeout, reason: "timed out after " + roundSpan(time.Since(started)), cause: cause}
	}
	return &stop{code: task.CodeCancelled, reason: "cancelled", cause: cause}
}

// roundSpan writes a duration with no more digits than a reader wants.
func roundSpan(d time.Duration) string {
	if d > time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// halt tells the call to end; the first reason counts. It may be called from
// any goroutine.
func (inv *invocation) halt(s *stop) {
	s.at = time.Now()
	if !inv.stop.CompareAndSwap(nil, s) {
		return
	}
	inv.vm.Interrupt(s.reason)
	inv.cancel()
	inv.loop.notify()
}

// close drops what the call left behind and waits for its goroutines.
func (inv *invocation) close() {
	for i := len(inv.release) - 1; i >= 0; i-- {
		inv.release[i]()
	}
	inv.cancel()
	inv.outside.Wait()
}

// run loads the module, calls the function and waits for its promise.
func (inv *invocation) run() task.Outcome {
	function, refused := inv.load()
	if refused != nil {
		return *refused
	}
	var arguments [2]goja.Value
	if err := inv.protect(func() {
		arguments[0] = inv.input()
		arguments[1] = inv.contextObject()
	}); err != nil {
		return inv.failed(err)
	}
	value, err := inv.enter(function, goja.Undefined(), arguments[:]...)
	if err != nil {
		return inv.failed(err)
	}
	return inv.await(value)
}

// load evaluates the module and returns the function to call.
func (inv *invocation) load() (goja.Callable, *task.Outcome) {
	wrapper, err := inv.vm.RunProgram(inv.program.code)
	if err != nil {
		return nil, new(inv.failed(err))
	}
	body, ok := goja.AssertFunction(wrapper)
	if !ok {
		return nil, new(failure(task.CodeInvalid, "module "+inv.moduleName()+" is not a module"))
	}
	if err := inv.protect(inv.defineGlobals); err != nil {
		return nil, new(inv.failed(err))
	}
	module, exports := inv.vm.NewObject(), inv.vm.NewObject()
	if err := module.Set("exports", exports); err != nil {
		return nil, new(inv.failed(err))
	}
	if _, err := inv.enter(body, goja.Undefined(), exports, inv.vm.ToValue(inv.require), module); err != nil {
		return nil, new(inv.failed(err))
	}
	var function goja.Callable
	if err := inv.protect(func() { function, ok = exported(module.Get("exports"), inv.call.Function) }); err != nil {
		return nil, new(inv.failed(err))
	}
	if !ok {
		return nil, new(inv.noFunction(module.Get("exports")))
	}
	return function, nil
}

// exported finds a function among a module's own exports, never among what it
// inherits. The main of a module may also be its default export.
func exported(exports goja.Value, name string) (goja.Callable, bool) {
	object, ok := exports.(*goja.Object)
	if !ok {
		return nil, false
	}
	if name == "main" {
		if function, ok := goja.AssertFunction(object); ok && !owns(object, name) {
			return function, true
		}
		if !owns(object, name) {
			name = "default"
		}
	}
	if !owns(object, name) {
		return nil, false
	}
	return goja.AssertFunction(object.Get(name))
}

func owns(object *goja.Object, name string) bool {
	for _, own := range object.GetOwnPropertyNames() {
		if own == name {
			return true
		}
	}
	return false
}

func (inv *invocation) noFunction(exports goja.Value) task.Outcome {
	reason := inv.moduleName() + " has no function " + quote(inv.call.Function)
	if err := inv.protect(func() { reason += "; it has " + functionNames(exports) }); err != nil {
		return inv.failed(err)
	}
	return inv.located(failure(task.CodeNotFound, reason))
}

// await waits for what the function returned and turns it into the outcome.
func (inv *invocation) await(value goja.Value) task.Outcome {
	if err := inv.protect(func() { inv.main = inv.promiseOf(value) }); err != nil {
		return inv.failed(err)
	}
	inv.reportRejection()
	settled := inv.main == nil || inv.loop.run(inv.done)
	switch {
	case inv.stop.Load() != nil:
		return inv.stopped(inv.stop.Load(), nil)
	case inv.uncaught != nil:
		return *inv.uncaught
	case !settled:
		return inv.located(task.Fail("the promise of " + inv.call.Function + " never settled: nothing is left that could settle it"))
	case inv.main == nil:
		return inv.finish(value)
	case inv.main.State() == goja.PromiseStateRejected:
		return inv.thrown(inv.main.Result(), nil)
	}
	return inv.finish(inv.main.Result())
}

// finish makes the outcome of a returned value and mentions what it leaves
// behind, since that is most often a forgotten await.
func (inv *invocation) finish(value goja.Value) (outcome task.Outcome) {
	if err := inv.protect(func() { outcome = inv.result(value) }); err != nil {
		return inv.failed(err)
	}
	if inv.stop.Load() != nil {
		return inv.stopped(inv.stop.Load(), nil)
	}
	if !inv.loop.idle() {
		inv.print("warn", inv.call.Function+" ended and left "+inv.loop.waitsFor()+" behind, now dropped; await what must be done")
	}
	return outcome
}

// promiseOf returns the promise that value is, or that a foreign thenable
// becomes, or nil.
func (inv *invocation) promiseOf(value goja.Value) *goja.Promise {
	object, ok := value.(*goja.Object)
	if !ok {
		return nil
	}
	// Only a promise may be exported: exporting other objects copies them.
	if object.ExportType() == reflect.TypeFor[*goja.Promise]() {
		promise, _ := object.Export().(*goja.Promise)
		return promise
	}
	if _, ok := goja.AssertFunction(object.Get("then")); !ok {
		return nil
	}
	promise, resolve, _ := inv.vm.NewPromise()
	inv.main = promise
	if err := resolve(object); err != nil {
		panic(err)
	}
	return promise
}

func (inv *invocation) done() bool {
	return inv.stop.Load() != nil || inv.uncaught != nil || inv.main.State() != goja.PromiseStatePending
}

// enter calls into the machine. Promise jobs that become ready run before it
// returns.
func (inv *invocation) enter(function goja.Callable, this goja.Value, arguments ...goja.Value) (goja.Value, error) {
	if s := inv.stop.Load(); s != nil {
		return nil, errors.New(s.reason)
	}
	inv.busySince.Store(time.Now().UnixNano())
	value, err := function(this, arguments...)
	inv.busySince.Store(0)
	return value, err
}

// task runs one callback of the loop. What it throws ends the call.
func (inv *invocation) task(function goja.Callable, arguments ...goja.Value) {
	if _, err := inv.enter(function, goja.Undefined(), arguments...); err != nil && inv.uncaught == nil {
		inv.uncaught = new(inv.failed(err))
	}
	inv.reportRejection()
}

// protect runs f, which touches values of the machine from outside of it, and
// returns what it throws.
func (inv *invocation) protect(f func()) (err error) {
	defer func() {
		switch fault := recover().(type) {
		case nil:
		case *goja.InterruptedError:
			err = fault
		case *goja.StackOverflowError:
			err = fault
		default:
			panic(fault)
		}
	}()
	if thrown := inv.vm.Try(f); thrown != nil {
		return thrown
	}
	return nil
}

// trackRejection keeps the promises that were rejected while nobody listened.
func (inv *invocation) trackRejection(promise *goja.Promise, operation goja.PromiseRejectionOperation) {
	if operation == goja.PromiseRejectionReject {
		inv.rejected = append(inv.rejected, promise)
		return
	}
	for i, known := range inv.rejected {
		if known == promise {
			inv.rejected = append(inv.rejected[:i], inv.rejected[i+1:]...)
			return
		}
	}
}

// reportRejection ends the call when a promise other than that of the function
// was rejected and nobody has listened by the end of the task.
func (inv *invocation) reportRejection() {
	for _, promise := range inv.rejected {
		if promise != inv.main && inv.uncaught == nil {
			outcome := inv.thrown(promise.Result(), nil)
			outcome.Reason = "unhandled rejection: " + outcome.Reason
			inv.uncaught = &outcome
		}
	}
}

// stopped is the outcome of a call that was told to end. err is what the
// machine said, when it was executing.
func (inv *invocation) stopped(s *stop, err error) task.Outcome {
	outcome := failure(s.code, s.reason)
	if s.cause != nil && !errors.Is(s.cause, context.Canceled) {
		outcome.Extra["cause"] = jsonString(s.cause.Error())
	}
	var interrupted *goja.InterruptedError
	if errors.As(err, &interrupted) {
		outcome = inv.withStack(outcome, interrupted.Stack())
	}
	if s.code == task.CodeTimeout {
		outcome.Reason += inv.whereabouts(outcome)
	}
	return inv.located(outcome)
}

// whereabouts says what a call was doing when its time was over.
func (inv *invocation) whereabouts(outcome task.Outcome) string {
	if len(outcome.CallStack) > 0 {
		return " at " + outcome.CallStack[0].Source
	}
	if !inv.loop.idle() {
		return " while it waited for " + inv.loop.waitsFor()
	}
	return ""
}

// stoppedOr is the outcome of an error that came up while another outcome was
// being made.
func (inv *invocation) stoppedOr(err error, reason string) task.Outcome {
	if s := inv.stop.Load(); s != nil {
		return inv.stopped(s, err)
	}
	return inv.located(task.Fail(fmt.Sprintf("%s: %s", reason, clean(err.Error()))))
}

func (inv *invocation) moduleName() string { return inv.call.Version.Name + ":" + inv.call.Module }
