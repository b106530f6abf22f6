package telemetry_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/telemetry"
)

// part is a process with a counter, a gauge and a histogram.
type part struct {
	registry *prometheus.Registry
	runs     *prometheus.CounterVec
	open     prometheus.Gauge
	spans    prometheus.Histogram
}

func newPart() *part {
	p := &part{registry: telemetry.NewRegistry("v1"), runs: telemetry.CounterOf("catena_runs_total", "Runs.", "queue", "a"),
		open: prometheus.NewGauge(prometheus.GaugeOpts{Name: "catena_open", Help: "Open."}), spans: telemetry.Histogram("catena_spans_seconds", "Spans.", []float64{1, 2})}
	p.registry.MustRegister(p.runs, p.open, p.spans)
	return p
}

func TestAggregate(t *testing.T) {
	t.Parallel()
	sums := telemetry.NewAggregate()
	send := func(name string, p *part) {
		t.Helper()
		encoded, err := telemetry.EncodeFamilies(p.registry)
		require.NoError(t, err)
		require.NoError(t, sums.Update(name, encoded))
	}
	expect := func(a, b, open string, spans ...string) {
		t.Helper()
		want := "# HELP catena_open Open.\n# TYPE catena_open gauge\n"
		if open != "" {
			want += "catena_open " + open + "\n"
		} else {
			want = ""
		}
		want += "# HELP catena_runs_total Runs.\n# TYPE catena_runs_total counter\ncatena_runs_total{queue=\"a\"} " + a + "\n"
		if b != "" {
			want += "catena_runs_total{queue=\"b\"} " + b + "\n"
		}
		want += "# HELP catena_spans_seconds Spans.\n# TYPE catena_spans_seconds histogram\n" +
			"catena_spans_seconds_bucket{le=\"1\"} " + spans[0] + "\ncatena_spans_seconds_bucket{le=\"2\"} " + spans[1] +
			"\ncatena_spans_seconds_bucket{le=\"+Inf\"} " + spans[2] + "\ncatena_spans_seconds_sum " + spans[3] + "\ncatena_spans_seconds_count " + spans[2] + "\n"
		require.NoError(t, testutil.GatherAndCompare(sums, strings.NewReader(want)))
	}
	first, second := newPart(), newPart()
	first.runs.WithLabelValues("a").Add(2)
	first.open.Set(3)
	first.spans.Observe(0.5)
	second.runs.WithLabelValues("b").Add(5)
	second.open.Set(4)
	second.spans.Observe(1.5)
	second.spans.Observe(9)
	send("1", first)
	expect("2", "", "3", "1", "1", "1", "0.5")
	send("2", second)
	expect("2", "5", "7", "1", "2", "3", "11")
	expect("2", "5", "7", "1", "2", "3", "11")
	first.runs.WithLabelValues("a").Add(1)
	send("1", first)
	expect("3", "5", "7", "1", "2", "3", "11")
	sums.End("1")
	sums.End("1")
	expect("3", "5", "4", "1", "2", "3", "11")
	sums.End("2")
	expect("3", "5", "", "1", "2", "3", "11")
	third := newPart()
	third.runs.WithLabelValues("a").Add(1)
	send("1", third)
	expect("4", "5", "0", "1", "2", "3", "11")
	require.Error(t, sums.Update("4", []byte("nonsense")))
	expect("4", "5", "0", "1", "2", "3", "11")
}

func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	var n telemetry.Names
	for i := range 200 {
		name := strings.Repeat("x", i)
		require.Equal(t, name, n.Bound(name))
	}
	require.Equal(t, telemetry.Others, n.Bound("one more"))
	require.Equal(t, "xx", n.Bound("xx"))
}
