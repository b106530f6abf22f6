package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/task"
)

// ReadonlyRun executes one readonly run: it reads a task.ReadonlyJob from in,
// asks for packages on out, reads their versions from in, and writes the
// result to out. It opens no database and no queue, and of what the chain
// asks for outside of itself it only takes note. It blocks until the result is
// written; an error means that the other end cannot be understood.
func ReadonlyRun(ctx context.Context, in io.Reader, out io.Writer, log logrus.FieldLogger) error {
	r := &readonlyRun{answers: json.NewDecoder(in), asks: json.NewEncoder(out), versions: map[string]*pkgstore.Version{}, now: time.Now}
	if err := r.answers.Decode(&r.job); err != nil {
		return fmt.Errorf("read the job of a readonly run: %w", err)
	}
	var limits script.Config
	if err := json.Unmarshal(r.job.Script, &limits); err != nil {
		return fmt.Errorf("read the limits of a readonly run: %w", err)
	}
	r.engine = script.New(limits, log)
	defer r.engine.Close()
	result := r.run(ctx)
	r.asking.Lock()
	defer r.asking.Unlock()
	return r.asks.Encode(task.ReadonlyAsk{Result: &result})
}

// readonlyRun is chain's world in a readonly run.
type readonlyRun struct {
	job    task.ReadonlyJob
	engine *script.Engine
	now    func() time.Time

	asking   sync.Mutex // one question at a time
	answers  *json.Decoder
	asks     *json.Encoder
	versions map[string]*pkgstore.Version

	mu      sync.Mutex
	log     []task.LogLine
	logged  int64
	effects []task.Effect
}

// maxEffects bounds what is noted of a chain that loops.
const maxEffects = 10_000

func (r *readonlyRun) run(ctx context.Context) task.ReadonlyRun {
	began := r.now()
	result := task.ReadonlyRun{Task: r.job.Task, Revision: r.job.Revision, State: task.StateFailed}
	document, err := chain.Parse(r.job.Task, r.job.Chain)
	if err != nil {
		result.Outcome = task.Fail(err.Error())
		return r.finish(result, began)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(r.job.Timeout), errTimedOut)
	defer cancel()
	done, err := document.Run(ctx, chain.Options{
		Run:    chain.RunInfo{ID: uuid.Nil, Task: r.job.Task, Attempt: 1, Readonly: true},
		Params: r.job.Params, Invoker: r, Starter: r, Log: r.line, MaxOutcome: r.job.MaxOutcome,
		WouldDo: r.wouldDo, Park: true,
	})
	result.Outcome, result.Steps = done.Outcome, done.Steps
	switch {
	case ctx.Err() != nil && (err != nil || !done.Outcome.Success):
		result.State = task.StateTimedOut
		result.Outcome = task.Fail(fmt.Sprintf("timed out after %v", r.job.Timeout))
		result.Outcome.CallStack = done.Outcome.CallStack
	case err != nil:
		result.Outcome = task.Fail(err.Error())
	case done.Outcome.Success:
		result.State = task.StateSucceeded
	}
	return r.finish(result, began)
}

func (r *readonlyRun) finish(result task.ReadonlyRun, began time.Time) task.ReadonlyRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	result.Log, result.WouldDo = append([]task.LogLine{}, r.log...), append([]task.Effect{}, r.effects...)
	result.Steps = append([]task.Step{}, result.Steps...)
	result.Packages = map[string]string{}
	for name, version := range r.versions {
		result.Packages[name] = version.Digest
	}
	result.Took = task.Duration(r.now().Sub(began).Round(time.Millisecond))
	return result
}

func (r *readonlyRun) line(level, step, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(message) > maxLine {
		message = message[:maxLine] + fmt.Sprintf("… (%d bytes more)", len(message)-maxLine)
	}
	if r.logged > r.job.LogLimit {
		return
	}
	if r.logged += int64(len(message)); r.logged > r.job.LogLimit {
		level, message = "warn", fmt.Sprintf("the log has reached its limit of %d bytes; what follows is not kept", r.job.LogLimit)
	}
	r.log = append(r.log, task.LogLine{Seq: int64(len(r.log) + 1), At: r.now(), Level: level, Step: step, Message: message})
}

func (r *readonlyRun) wouldDo(step, kind, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.effects) < maxEffects {
		r.effects = append(r.effects, task.Effect{Step: step, Kind: kind, What: what})
	}
}

// Invoke implements chain.Invoker with real package code.
func (r *readonlyRun) Invoke(ctx context.Context, call chain.Invocation) task.Outcome {
	version, err := r.resolve(ctx, call.Ref.Package)
	if err != nil {
		return task.Fail(err.Error())
	}
	return r.engine.Call(ctx, script.Call{
		Version: version, Module: call.Ref.Module, Function: call.Ref.Function, Input: call.Input, External: true,
		Context: script.CallContext{RunID: uuid.Nil.String(), Task: r.job.Task, Attempt: 1, Step: call.Step, Readonly: true},
		Log:     func(level, message string) { r.line(level, call.Step, message) },
		WouldDo: func(kind, what string) { r.wouldDo(call.Step, kind, what) },
		Resolve: r.resolve,
	})
}

// StartTask implements chain.Starter: no run is started, and its id is nil.
func (r *readonlyRun) StartTask(_ context.Context, s chain.Start) (uuid.UUID, error) {
	r.wouldDo(s.Path, "task", s.Task+" "+string(s.Params))
	return uuid.Nil, nil
}

// resolve asks the other end for a package, once.
func (r *readonlyRun) resolve(_ context.Context, name string) (*pkgstore.Version, error) {
	r.asking.Lock()
	defer r.asking.Unlock()
	if known := r.versions[name]; known != nil {
		return known, nil
	}
	if err := r.asks.Encode(task.ReadonlyAsk{Package: name}); err != nil {
		return nil, err
	}
	var answer task.ReadonlyAnswer
	if err := r.answers.Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, task.Errorf(task.CodeNotFound, "%s", answer.Error)
	}
	version := &pkgstore.Version{}
	if err := json.Unmarshal(answer.Version, version); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.versions[name] = version
	return version, nil
}
