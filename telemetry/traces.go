package telemetry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// TracesConfig says which traces a process begins and where its spans go. What
// is empty is looked up in the OTEL_EXPORTER_OTLP_ variables, which also hold the
// headers.
type TracesConfig struct {
	Endpoint string  // URL of an OTLP/HTTP receiver; "": that of the environment, else http://localhost:4318
	Ratio    float64 // of the traces begun here that are sampled, 0 to 1
	Queue    int     // spans that wait to be sent; further ones are dropped; 0: 4096
	Service  string  // unless OTEL_SERVICE_NAME says otherwise
	Version  string
	Instance string // tells the processes of a service apart
	Cluster  string
}

// Traces makes spans and sends them to a receiver, in the background: neither a
// slow nor an absent receiver holds up who makes them. A nil *Traces makes none.
type Traces struct {
	ratio    uint64 // of 1<<63
	sender   *sender
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

const (
	tracesScope   = "github.com/catena-run/catena"
	tracesPath    = "/v1/traces"
	sendPatience  = 10 * time.Second // for one batch with its retries
	closePatience = 3 * time.Second  // for the last spans of a process
)

// OpenTraces starts the sender. It does not contact the receiver.
func OpenTraces(ctx context.Context, c TracesConfig, log logrus.FieldLogger) (*Traces, error) {
	var options []otlptracehttp.Option
	if c.Endpoint != "" {
		endpoint, err := tracesEndpoint(c.Endpoint)
		if err != nil {
			return nil, err
		}
		options = append(options, otlptracehttp.WithEndpointURL(endpoint))
	}
	options = append(options, otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
		Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 2 * time.Second, MaxElapsedTime: sendPatience,
	}))
	exporter, err := otlptrace.New(ctx, otlptracehttp.NewClient(options...))
	if err != nil {
		return nil, fmt.Errorf("the sender of traces cannot be set up: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(c.attributes()...), resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, fmt.Errorf("the description of this process in traces: %w", err)
	}
	t := &Traces{ratio: uint64(max(0, min(c.Ratio, 1)) * (1 << 63)), sender: newSender(exporter, c.Queue, log)}
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithIDGenerator(knownIDs{}),
		sdktrace.WithResource(about), sdktrace.WithSpanProcessor(t.sender))
	t.tracer = t.provider.Tracer(tracesScope, trace.WithInstrumentationVersion(c.Version))
	return t, nil
}

func (c TracesConfig) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("service.name", c.Service), attribute.String("service.version", c.Version),
		attribute.String("service.instance.id", c.Instance), attribute.String("catena.cluster", c.Cluster),
	}
}

// tracesEndpoint adds the path that receivers listen on to a bare address.
func tracesEndpoint(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", errors.New("the receiver of traces is not given as a URL such as http://host:4318")
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = tracesPath
	}
	return u.String(), nil
}

// Close sends what waits, for some seconds at most, and ends the sender.
func (t *Traces) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, closePatience)
	defer cancel()
	return t.provider.Shutdown(ctx)
}

// Begin makes a span that goes on with the trace of a caller, or begins one of
// its own where there is none. It is nil, and ctx unchanged, when the trace is
// not sampled.
func (t *Traces) Begin(ctx context.Context, caller Trace, kind SpanKind, name string) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	parent := caller.parse()
	switch {
	case !parent.IsValid():
		id := newTraceID()
		if !t.samples(id) {
			return ctx, nil
		}
		return t.span(ctx, trace.SpanContext{}, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: id, SpanID: newSpanID(), TraceFlags: trace.FlagsSampled}), kind, name)
	case !parent.IsSampled():
		return ctx, nil
	}
	return t.span(ctx, parent, parent.WithSpanID(newSpanID()).WithRemote(false), kind, name)
}

// samples decides as the ratio sampler of the OpenTelemetry SDKs does, so that
// processes with the same ratio decide alike.
func (t *Traces) samples(id trace.TraceID) bool {
	return binary.BigEndian.Uint64(id[8:])>>1 < t.ratio
}

// Scheduled returns the trace of a run that nobody asked for: the run's own
// span is its root. "" when it is not sampled.
func (t *Traces) Scheduled(run uuid.UUID) Trace {
	if t == nil {
		return ""
	}
	id := newTraceID()
	if !t.samples(id) {
		return ""
	}
	return traceOf(trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: runSpan(run, nil), TraceFlags: trace.FlagsSampled}))
}

// Run returns the span of a run that belongs to the trace. Its id follows from
// the run's, so that whoever holds the run makes spans below the same one, and the
// one who ends the run ends it. retried is when it was put back to work by hand
// last, since which it is another span.
func (t *Traces) Run(ctx context.Context, of Trace, run uuid.UUID, retried *time.Time) (context.Context, *Span) {
	if t == nil || of == "" {
		return ctx, nil
	}
	parent := of.parse()
	if !parent.IsValid() || !parent.IsSampled() {
		return ctx, nil
	}
	own := parent.WithSpanID(runSpan(run, retried)).WithRemote(false)
	if own.SpanID() == parent.SpanID() {
		parent = trace.SpanContext{}
	}
	return t.span(ctx, parent, own, SpanConsumer, "")
}

// runSpan is the lower half of a run's id, which is random, mixed with the time
// of its retry.
func runSpan(run uuid.UUID, retried *time.Time) (id trace.SpanID) {
	low := binary.BigEndian.Uint64(run[8:])
	if retried != nil {
		low ^= uint64(retried.UnixMicro()) * 0x9e3779b97f4a7c15 // spread over all bits
	}
	if low == 0 {
		low = 1 // no span has the id 0
	}
	binary.BigEndian.PutUint64(id[:], low)
	return id
}
