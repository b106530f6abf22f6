package telemetry

import (
	"context"
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Trace is a place in a trace as it is stored and sent: W3C traceparent, then a
// space and tracestate where there is one. "": no trace.
type Trace string

const (
	headerParent = "traceparent"
	headerState  = "tracestate"
	maxState     = 512 // bytes of tracestate that are kept
	maxReason    = 1000
)

// TraceFrom joins the two headers of a caller.
func TraceFrom(parent, state string) Trace {
	if parent == "" {
		return ""
	}
	if state == "" || len(state) > maxState {
		return Trace(parent)
	}
	return Trace(parent + " " + state)
}

// ID returns the 32 digits that name the trace, "" for none.
func (t Trace) ID() string {
	if sc := t.parse(); sc.IsValid() {
		return sc.TraceID().String()
	}
	return ""
}

func (t Trace) parse() trace.SpanContext {
	if t == "" {
		return trace.SpanContext{}
	}
	parent, state, _ := strings.Cut(string(t), " ")
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{headerParent: parent, headerState: state})
	return trace.SpanContextFromContext(ctx)
}

func traceOf(sc trace.SpanContext) Trace {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), sc), carrier)
	return TraceFrom(carrier[headerParent], carrier[headerState])
}

// SpanKind says on which side of a call a span stands.
type SpanKind = trace.SpanKind

// The kinds of spans that are made here.
const (
	SpanInternal = trace.SpanKindInternal
	SpanServer   = trace.SpanKindServer
	SpanClient   = trace.SpanKindClient
	SpanConsumer = trace.SpanKindConsumer
)

// Span is a piece of work in a sampled trace. It is sent when it ends; one that
// does not end is not. All methods do nothing on nil, which stands for work that is
// not traced. One goroutine uses a span; its children may begin anywhere.
type Span struct {
	traces *Traces
	parent trace.SpanContext // not valid: it is the root
	own    trace.SpanContext
	kind   SpanKind
	name   string
	from   time.Time
	notes  []attribute.KeyValue
	reason string
	failed bool
}

type spanKey struct{}

func (t *Traces) span(ctx context.Context, parent, own trace.SpanContext, kind SpanKind, name string) (context.Context, *Span) {
	s := &Span{traces: t, parent: parent, own: own, kind: kind, name: name, from: time.Now()}
	return context.WithValue(ctx, spanKey{}, s), s
}

// Child makes a span below that of ctx; nil, and ctx unchanged, when ctx has none.
func Child(ctx context.Context, kind SpanKind, name string) (context.Context, *Span) {
	parent, _ := ctx.Value(spanKey{}).(*Span)
	if parent == nil {
		return ctx, nil
	}
	return parent.traces.span(ctx, parent.own, parent.own.WithSpanID(newSpanID()), kind, name)
}

// Step makes the span of a step of the run whose span ctx has. Its id follows
// from the run's and its place, so that what a worker began below it, before the run
// was parked or the worker lost, is still below it when another ends it.
func Step(ctx context.Context, attempt, iteration int, path string) (context.Context, *Span) {
	parent, _ := ctx.Value(spanKey{}).(*Span)
	if parent == nil {
		return ctx, nil
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d %d %s", parent.own.SpanID(), attempt, iteration, path)
	var id trace.SpanID
	h.Sum(id[:0])
	return parent.traces.span(ctx, parent.own, parent.own.WithSpanID(id), SpanInternal, "step "+path)
}

// TraceIn returns the place of ctx's span, for what it starts; "" when ctx has none.
func TraceIn(ctx context.Context) Trace {
	if s, _ := ctx.Value(spanKey{}).(*Span); s != nil {
		return traceOf(s.own)
	}
	return ""
}

// InjectHeader tells the receiver of a request the place of ctx's span, unless
// the header names one already.
func InjectHeader(ctx context.Context, header http.Header) {
	s, _ := ctx.Value(spanKey{}).(*Span)
	if s == nil || header.Get(headerParent) != "" {
		return
	}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), s.own), propagation.HeaderCarrier(header))
}

// Name names the span, for which it was not worth while before it was known to be traced.
func (s *Span) Name(name string) {
	if s != nil {
		s.name = name
	}
}

// From says that the work began at another time than the span was made.
func (s *Span) From(start time.Time) {
	if s != nil && !start.IsZero() {
		s.from = start
	}
}

// Note adds what is known of the work.
func (s *Span) Note(key, value string) {
	if s != nil && value != "" {
		s.notes = append(s.notes, attribute.String(key, value))
	}
}

// Count adds a number.
func (s *Span) Count(key string, value int64) {
	if s != nil {
		s.notes = append(s.notes, attribute.Int64(key, value))
	}
}

// Fail says that the work failed, and why.
func (s *Span) Fail(reason string) {
	if s == nil {
		return
	}
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "…"
	}
	s.failed, s.reason = true, reason
}

// End hands the span over to be sent.
func (s *Span) End() {
	if s != nil {
		s.EndAt(time.Now())
	}
}

// EndAt does so for work that ended at that time.
func (s *Span) EndAt(end time.Time) {
	if s == nil {
		return
	}
	if end.Before(s.from) {
		end = s.from // the clocks of two machines
	}
	ctx := context.WithValue(trace.ContextWithSpanContext(context.Background(), s.parent), spanKey{}, s)
	_, span := s.traces.tracer.Start(ctx, s.name, trace.WithTimestamp(s.from), trace.WithSpanKind(s.kind), trace.WithAttributes(s.notes...))
	if s.failed {
		span.SetStatus(codes.Error, s.reason)
	}
	span.End(trace.WithTimestamp(end))
}

// knownIDs gives a span of the SDK the ids that ours had all along.
type knownIDs struct{}

// NewIDs returns those of a root.
func (knownIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if s, _ := ctx.Value(spanKey{}).(*Span); s != nil {
		return s.own.TraceID(), s.own.SpanID()
	}
	return newTraceID(), newSpanID()
}

// NewSpanID returns that of a child.
func (knownIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if s, _ := ctx.Value(spanKey{}).(*Span); s != nil {
		return s.own.SpanID()
	}
	return newSpanID()
}

func newTraceID() (id trace.TraceID) {
	for !id.IsValid() {
		_, _ = rand.Read(id[:]) // never fails, see its documentation
	}
	return id
}

func newSpanID() (id trace.SpanID) {
	for !id.IsValid() {
		_, _ = rand.Read(id[:])
	}
	return id
}
