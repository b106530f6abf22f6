package api

import (
	"context"

	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/telemetry"
)

// CallerTrace is the trace that a caller's request belongs to.
type CallerTrace struct {
	TraceParent string `header:"traceparent" doc:"W3C trace context of the caller; the run goes on with its trace"`
	TraceState  string `header:"tracestate" doc:"The rest of it"`
}

// traceAccept begins the span in which runs are accepted and has them belong to its trace.
func (s *service) traceAccept(ctx context.Context, caller CallerTrace, requests []dispatch.Request) (context.Context, *telemetry.Span) {
	if s.deps.Traces == nil || len(requests) == 0 {
		return ctx, nil
	}
	name := requests[0].Task
	ctx, span := s.deps.Traces.Begin(ctx, telemetry.TraceFrom(caller.TraceParent, caller.TraceState), telemetry.SpanServer, "accept "+name)
	if span == nil {
		return ctx, nil
	}
	span.Note("catena.task", name)
	span.Count("catena.runs", int64(len(requests)))
	trace := string(telemetry.TraceIn(ctx))
	for i := range requests {
		requests[i].Trace = trace
	}
	return ctx, span
}

// endAccept ends it once the runs are durable, or refused.
func endAccept(span *telemetry.Span, accepted []dispatch.Accepted, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.Fail(err.Error())
	}
	if len(accepted) == 1 {
		span.Note("catena.run.id", accepted[0].ID.String())
	}
	duplicates := 0
	for _, a := range accepted {
		if a.Duplicate {
			duplicates++
		}
	}
	if duplicates > 0 {
		span.Count("catena.duplicates", int64(duplicates))
	}
	span.End()
}
