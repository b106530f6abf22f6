package script

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// Engine runs functions of package code. It is safe for concurrent use.
type Engine struct {
	config   Config
	log      logrus.FieldLogger
	programs *cache
	watch    *watchdog
	client   *http.Transport
	counts   *counts
}

// New returns an Engine. log gets the faults of the engine itself and the log
// lines of calls that have no log of their own; it may not be nil.
func New(config Config, log logrus.FieldLogger) *Engine {
	config = config.Normalize()
	return &Engine{
		config:   config,
		log:      log,
		programs: newCache(config.CacheSize),
		watch:    newWatchdog(config.HeapLimit, log),
		client:   newTransport(config.HTTPProxy),
		counts:   newCounts(),
	}
}

// Close ends idle connections and the watchdog. Calls under way go on.
func (e *Engine) Close() {
	e.client.CloseIdleConnections()
	e.watch.close()
}

// Overdue returns the calls that are still executing the given time after
// their limit, because a native operation does not look at the interrupt. Only
// the end of the process stops those.
func (e *Engine) Overdue(grace time.Duration) []Overdue { return e.watch.overdue(grace) }

// Overdue is a call that ignores its limit.
type Overdue struct {
	Ref   task.PackageRef
	RunID string
	By    time.Duration // how long ago it was told to stop
}

// Call says which function to run and with what.
type Call struct {
	Version  *pkgstore.Version
	Module   string          // path without extension, as in Version.Modules
	Function string          // "": main
	Input    json.RawMessage // empty: {}
	Context  CallContext
	Log      func(level, message string)                                      // the run's log; nil: the engine's
	Resolve  func(ctx context.Context, pkg string) (*pkgstore.Version, error) // other packages, as the run sees them
	External bool                                                             // the caller is not of this package: only exports may be called
	// Stop asks the code to end by itself: when it ends ctx.signal is aborted, with
	// its cause as the reason. The code goes on until ctx ends. nil: never.
	Stop context.Context
	// Listens is called, once, when the code looks at ctx.signal; may be nil.
	Listens func()
	// Admit blocks until the code may call out, or returns why it may not any more;
	// asked before every request. nil: always.
	Admit func(ctx context.Context) error
	// WouldDo takes note of what a readonly call would have done.
	WouldDo func(kind, what string)
}

// CallContext is what the code learns of the run it works for.
type CallContext struct {
	RunID    string
	Task     string
	Attempt  int
	Step     string
	Cluster  func() json.RawMessage // what the master knows of the cluster; nil, or of nil: nothing
	Readonly bool                   // what the host API would do outside is recorded instead of done
}

func (c *Call) ref() task.PackageRef {
	return task.PackageRef{Package: c.Version.Name, Module: c.Module, Function: c.Function}
}

// Call runs a function and returns its outcome. It blocks until the function's
// promise is settled, a limit is passed or ctx ends, and never retries.
func (e *Engine) Call(ctx context.Context, c Call) (outcome task.Outcome) {
	if c.Version == nil {
		return failure(task.CodeInternal, "no package version was given to call "+c.Module)
	}
	if c.Function == "" {
		c.Function = "main"
	}
	defer func() {
		if fault := recover(); fault != nil {
			outcome = e.crashed(c.ref(), fault)
		}
	}()
	program, refused := e.program(&c)
	if refused != nil {
		return *refused
	}
	inv := newInvocation(ctx, e, &c, program)
	defer inv.close()
	outcome = inv.run()
	e.counts.observe(inv.started, &outcome, inv.stop.Load())
	return outcome
}

// program checks that the function may be called and compiles its module.
func (e *Engine) program(c *Call) (*program, *task.Outcome) {
	refuse := func(o task.Outcome) (*program, *task.Outcome) { return nil, &o }
	if c.External && (c.Version.Manifest == nil || !c.Version.Manifest.Exported(c.Module, c.Function)) {
		return refuse(notExported(c))
	}
	module, ok := c.Version.Modules[c.Module]
	if !ok {
		return refuse(failure(task.CodeNotFound, "package "+c.Version.Name+" has no module "+quote(c.Module)+"; it has "+moduleNames(c.Version)))
	}
	key := cacheKey{c.Version.Name, c.Version.Digest, c.Module}
	compiled, hit, err := e.programs.get(key, module.Code, module.SourceMap)
	e.counts.looked(hit)
	if err != nil {
		return refuse(failure(task.CodeInvalid, "module "+c.Version.Name+":"+c.Module+" does not compile: "+err.Error()))
	}
	return compiled, nil
}

func notExported(c *Call) task.Outcome {
	reason := "package " + c.Version.Name + " does not export " + c.Module + "?" + c.Function + "; add it to exports in catena.yaml"
	if m := c.Version.Manifest; m != nil && len(m.Exports) > 0 {
		reason += " (it exports " + strings.Join(m.Exports, ", ") + ")"
	}
	return failure(task.CodeForbidden, reason)
}

func moduleNames(v *pkgstore.Version) string {
	names := make([]string, 0, len(v.Modules))
	for name := range v.Modules {
		names = append(names, name)
	}
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// crashed turns a fault of the engine into an outcome, so that one call cannot
// take its worker along.
func (e *Engine) crashed(ref task.PackageRef, fault any) task.Outcome {
	e.log.WithField("call", ref.String()).WithField("stack", string(debug.Stack())).
		Errorf("the script engine failed: %v", fault)
	return failure(task.CodeInternal, "the script engine failed while it ran "+ref.String()+": "+faultText(fault))
}

func faultText(fault any) string { return clean(shorten(fmt.Sprint(fault), 500)) }

func jsonString(text string) json.RawMessage { return json.RawMessage(quote(clean(text))) }
