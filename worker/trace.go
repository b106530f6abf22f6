package worker

import (
	"context"
	"time"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// traced returns the context of an attempt of a run that belongs to a trace, and
// records how long it has waited for this worker.
func (j *job) traced(ctx context.Context) context.Context {
	if j.session.deps.Traces == nil || j.claimed.Trace == "" {
		return ctx
	}
	c := j.claimed
	ctx, j.span = j.session.deps.Traces.Run(ctx, telemetry.Trace(c.Trace), c.ID, c.RetriedAt)
	if j.span == nil {
		return ctx
	}
	_, wait := telemetry.Child(ctx, telemetry.SpanInternal, "queue")
	since := j.claimedAt
	if c.Fence == 1 {
		since = c.CreatedAt
	}
	wait.From(since)
	wait.Note("catena.lane", j.lane)
	wait.Note("catena.worker.id", j.session.id)
	wait.Count("catena.run.attempt", int64(c.Attempt))
	wait.EndAt(j.startedAt)
	return ctx
}

// tracedEnd returns when a run of a trace has ended; zero when it goes on, or has none.
func (j *job) tracedEnd(e store.Ending) (at time.Time) {
	if j.span != nil && e.State.Terminal() {
		at = time.Now()
	}
	return at
}

// traceEnd ends the span of a run whose end is committed.
func (j *job) traceEnd(e store.Ending, at time.Time) {
	c, span := j.claimed, j.span
	span.Name("run " + c.Task)
	span.From(c.CreatedAt)
	if c.RetriedAt != nil {
		span.From(*c.RetriedAt)
	}
	span.Note("catena.run.id", c.ID.String())
	span.Note("catena.task", c.Task)
	span.Note("catena.run.state", string(e.State))
	span.Note("catena.worker.id", j.session.id)
	span.Count("catena.run.attempt", int64(c.Attempt))
	if c.Schedule != nil {
		span.Count("catena.schedule.id", *c.Schedule)
	}
	if c.DueAt != nil {
		span.Note("catena.run.due_at", c.DueAt.UTC().Format(time.RFC3339Nano))
	}
	if e.State != task.StateSucceeded {
		span.Fail(e.Reason)
	}
	span.EndAt(at)
}

// traceCall makes the span of a call of package code.
func traceCall(ctx context.Context, call chain.Invocation) (context.Context, *telemetry.Span) {
	ctx, span := telemetry.Child(ctx, telemetry.SpanInternal, "")
	if span != nil {
		span.Name("call " + call.Ref.String())
		span.Note("catena.step", call.Step)
	}
	return ctx, span
}

// endCall ends it.
func endCall(span *telemetry.Span, outcome task.Outcome) {
	if span != nil && !outcome.Success {
		span.Fail(outcome.Reason)
	}
	span.End()
}
