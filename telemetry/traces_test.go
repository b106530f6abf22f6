package telemetry_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, servertest.LeakOptions()...) }

const caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func open(t testing.TB, c telemetry.TracesConfig) *telemetry.Traces {
	t.Helper()
	traces, err := telemetry.OpenTraces(context.Background(), c, logrus.New())
	require.NoError(t, err)
	t.Cleanup(func() { _ = traces.Close(context.Background()) })
	return traces
}

// TestATraceReachesItsReceiver looks at all that a receiver is told.
func TestATraceReachesItsReceiver(t *testing.T) {
	t.Parallel()
	receiver := servertest.NewReceiver(t)
	traces := open(t, telemetry.TracesConfig{Endpoint: receiver.URL, Service: "catena-test", Version: "v1"})
	run := uuid.Must(uuid.NewV7())

	ctx, accept := traces.Begin(t.Context(), telemetry.TraceFrom(caller, "vendor=1"), telemetry.SpanServer, "accept")
	stored := telemetry.TraceIn(ctx)
	require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", stored.ID())
	accept.Note("catena.task", "a")
	accept.Count("catena.runs", 3)
	accept.End()

	work, span := traces.Run(t.Context(), stored, run, nil)
	inner, step := telemetry.Child(work, telemetry.SpanInternal, "step")
	header := http.Header{}
	telemetry.InjectHeader(inner, header)
	step.Fail(strings.Repeat("x", 2000))
	step.End()
	_, same := traces.Run(t.Context(), stored, run, nil) // in another process
	same.Name("run a")
	same.From(time.Now().Add(-time.Hour))
	same.End()
	require.NotNil(t, span)
	require.NoError(t, traces.Close(t.Context()))

	spans := receiver.Spans()
	require.Len(t, spans, 3)
	first, second, third := spans[0], spans[1], spans[2]
	require.Equal(t, []string{"accept", "step", "run a"}, []string{first.Name, second.Name, third.Name})
	require.Equal(t, "00f067aa0ba902b7", first.Parent)
	require.Equal(t, "vendor=1", first.State)
	require.Equal(t, "catena-test", first.Service)
	require.Equal(t, map[string]string{"catena.task": "a", "catena.runs": "3"}, first.Notes)
	require.Equal(t, first.ID, third.Parent)
	require.Equal(t, third.ID, second.Parent)
	require.True(t, second.Failed)
	require.Less(t, len(second.Reason), 1100)
	require.Greater(t, third.To.Sub(third.From), 59*time.Minute)
	require.Equal(t, "00-"+second.TraceID+"-"+second.ID+"-01", header.Get("traceparent"))
	require.Equal(t, "vendor=1", header.Get("tracestate"))
}

func TestWhatIsSampled(t *testing.T) {
	t.Parallel()
	all := open(t, telemetry.TracesConfig{Endpoint: "http://127.0.0.1:1", Ratio: 1})
	none := open(t, telemetry.TracesConfig{Endpoint: "http://127.0.0.1:1"})
	half := open(t, telemetry.TracesConfig{Endpoint: "http://127.0.0.1:1", Ratio: 0.5})
	begins := func(traces *telemetry.Traces, from telemetry.Trace) bool {
		_, span := traces.Begin(t.Context(), from, telemetry.SpanServer, "x")
		return span != nil
	}
	unsampled := telemetry.Trace(strings.TrimSuffix(caller, "01") + "00")
	require.True(t, begins(all, ""))
	require.True(t, begins(all, "not a trace"), "what cannot be read is as if it were not there")
	require.False(t, begins(all, unsampled), "a caller's decision holds")
	require.False(t, begins(none, ""))
	require.True(t, begins(none, caller))
	require.False(t, begins(nil, caller))
	n := 0
	for range 2000 {
		if half.Scheduled(uuid.Must(uuid.NewV7())) != "" {
			n++
		}
	}
	require.InDelta(t, 1000, n, 250)
	require.Empty(t, (*telemetry.Traces)(nil).Scheduled(uuid.New()))

	run := uuid.Must(uuid.NewV7())
	_, root := all.Run(t.Context(), all.Scheduled(run), run, nil)
	require.NotNil(t, root)
	_, off := all.Run(t.Context(), unsampled, run, nil)
	require.Nil(t, off)
	require.Empty(t, telemetry.Trace("x").ID())
	require.EqualValues(t, caller, telemetry.TraceFrom(caller, strings.Repeat("v", 600)), "a tracestate that is too long is left out")
}

// TestAScheduledRunIsTheRootOfItsTrace and its later lives are below it.
func TestAScheduledRunIsTheRootOfItsTrace(t *testing.T) {
	t.Parallel()
	receiver := servertest.NewReceiver(t)
	traces := open(t, telemetry.TracesConfig{Endpoint: receiver.URL, Ratio: 1})
	run, again := uuid.Must(uuid.NewV7()), time.Now()
	of := traces.Scheduled(run)
	_, first := traces.Run(t.Context(), of, run, nil)
	first.End()
	_, second := traces.Run(t.Context(), of, run, &again)
	second.End()
	require.NoError(t, traces.Close(t.Context()))
	spans := receiver.Spans()
	require.Len(t, spans, 2)
	require.Empty(t, spans[0].Parent)
	require.Equal(t, spans[0].ID, spans[1].Parent)
	require.NotEqual(t, spans[0].ID, spans[1].ID)
}

// TestAReceiverThatIsAwayHoldsNobodyUp makes more spans than the queue holds.
func TestAReceiverThatIsAwayHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }))
	t.Cleanup(silent.Close)
	t.Cleanup(func() { close(stuck) })
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	traces, err := telemetry.OpenTraces(t.Context(), telemetry.TracesConfig{Endpoint: silent.URL, Ratio: 1, Queue: 64}, log)
	require.NoError(t, err)
	began := time.Now()
	const spans = 10_000
	for range spans {
		_, span := traces.Begin(t.Context(), "", telemetry.SpanServer, "x")
		span.End()
	}
	require.Less(t, time.Since(began), 5*time.Second)
	began = time.Now()
	_ = traces.Close(t.Context())
	require.Less(t, time.Since(began), 5*time.Second)
	registry := prometheus.NewRegistry()
	registry.MustRegister(traces.Metrics()...)
	families, err := registry.Gather()
	require.NoError(t, err)
	counts := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			counts[name] = m.GetCounter().GetValue()
		}
	}
	sum := 0.0
	for _, n := range counts {
		sum += n
	}
	require.Len(t, counts, 3)
	require.InDelta(t, spans, sum, 64, "every span is counted but those that were waiting at the end: %v", counts)
	require.Greater(t, counts["catena_trace_spans_dropped_total queue full"], float64(spans)/2, "%v", counts)
	require.Contains(t, out.String(), "spans were dropped")
}

func TestBadReceivers(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"collector:4318", "ftp://collector", "http://"} {
		_, err := telemetry.OpenTraces(t.Context(), telemetry.TracesConfig{Endpoint: endpoint}, logrus.New())
		require.ErrorContains(t, err, "http://host:4318", endpoint)
	}
}

// TestNothingIsMadeWhereNothingIsTraced holds what the hot path relies on.
func TestNothingIsMadeWhereNothingIsTraced(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	require.Zero(t, testing.AllocsPerRun(100, func() { untraced(ctx) }))
}

func BenchmarkUntraced(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		untraced(ctx)
	}
}

func untraced(ctx context.Context) {
	var traces *telemetry.Traces
	ctx, run := traces.Run(ctx, "", uuid.UUID{}, nil)
	ctx, step := telemetry.Child(ctx, telemetry.SpanInternal, "step")
	step.From(time.Time{})
	step.Fail("")
	step.End()
	if telemetry.TraceIn(ctx) != "" {
		panic("traced")
	}
	run.End()
}

func BenchmarkTraced(b *testing.B) {
	traces := open(b, telemetry.TracesConfig{Endpoint: "http://127.0.0.1:1", Ratio: 1})
	ctx, _ := traces.Begin(context.Background(), "", telemetry.SpanServer, "x")
	b.ReportAllocs()
	for b.Loop() {
		_, span := telemetry.Child(ctx, telemetry.SpanInternal, "step")
		span.Note("catena.step", "0")
		span.End()
	}
}
