package node_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

const watchManifest = "name: watch\nexports: [\"look?main\", \"look?nap\"]\n"

const watchCode = `import { sleep } from "catena";
export function main(_: unknown, ctx: any) { return { figures: ctx.cluster, keys: Object.keys(ctx) } }
export async function nap(_: unknown, ctx: any) { await sleep(60000, { signal: ctx.signal }) }
`

const watchTasks = `name: watch/look
chain: [{call: "watch:look?main"}]
---
name: watch/nap
chain: [{call: "watch:look?nap"}]
---
name: watch/wait
chain: [{wait: {event: paid}}]
---
name: watch/nowhere
tags: [gpu]
chain: [[nop]]
---
name: watch/often
schedule: [{every: 1s}]
chain: [[nop]]
`

// watched is a dev with something of everything that is measured.
func watched(t *testing.T, cfg configs.Config) *dev {
	t.Helper()
	d := startDev(t, cfg, t.TempDir())
	s, err := store.Open(t.Context(), store.Config{URL: cfg.Postgres.URL, MaxConns: 2})
	require.NoError(t, err)
	defer s.Close()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "catena.yaml"), []byte(watchManifest), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "look.ts"), []byte(watchCode), 0o600))
	content, err := pkgstore.ReadDir(dir, pkgstore.Limits{})
	require.NoError(t, err)
	_, err = pkgstore.New(s.Pool(), pkgstore.Config{}).Push(t.Context(), content, "", "test")
	require.NoError(t, err)
	source := "---\nsource: watch/items\nhttp: {url: \"" + items(t) + "\"}\nevery: 200ms\ntask: watch/look\n"
	_, err = d.ApplyTasks(t.Context(), client.ApplyRequest{Files: []client.File{{Name: "watch.yaml", Content: watchTasks + source}}})
	require.NoError(t, err)
	return d
}

// items is an endpoint that always has the same item, and takes its outcome.
func items(t *testing.T) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ Action string }
		_ = json.NewDecoder(r.Body).Decode(&asked)
		w.Header().Set("Content-Type", "application/json")
		if asked.Action == "iterate" {
			fmt.Fprint(w, `{"items": [{"key": "1"}]}`)
			return
		}
		fmt.Fprint(w, `{}`)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func scrape(t require.TestingT, url string) (text string) {
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, "%s", body)
	return string(body)
}

func families(t require.TestingT, text string) map[string]*dto.MetricFamily {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	found, err := parser.TextToMetricFamilies(strings.NewReader(text))
	require.NoError(t, err)
	return found
}

// value sums the counter or gauge of a name over the metrics with the given labels.
func value(f *dto.MetricFamily, labels ...string) (sum float64) {
	for _, m := range f.GetMetric() {
		var has []string
		for _, l := range m.GetLabel() {
			has = append(has, l.GetName()+"="+l.GetValue())
		}
		if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(has, l) }) {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// TestMetrics compares what a cluster at work tells with docs/metrics.md, which
// CATENA_UPDATE_GOLDEN=1 writes again.
func TestMetrics(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Worker.DrainTimeout = task.Duration(time.Second)
	d := watched(t, cfg)
	defer http.DefaultClient.CloseIdleConnections()
	figures := lookAtCluster(t, d)
	require.Equal(t, 1, figures.Workers)
	require.Equal(t, 32, figures.Slots)
	require.Equal(t, 1, figures.Master.Workers)
	require.NotEmpty(t, figures.Leader)
	require.Equal(t, figures.Leader, figures.Master.Name)
	require.True(t, figures.Master.Leads)
	require.Positive(t, figures.Memory)
	require.Positive(t, figures.Master.Memory)
	require.Positive(t, figures.Master.CPUs)
	require.WithinDuration(t, time.Now(), figures.At, 10*time.Second)

	naps, err := d.StartRun(t.Context(), "watch/nap", client.RunRequest{})
	require.NoError(t, err)
	for _, name := range []string{"watch/nap", "watch/wait", "watch/nowhere"} {
		_, err := d.StartRun(t.Context(), name, client.RunRequest{})
		require.NoError(t, err)
	}
	_, err = d.CancelRun(t.Context(), naps.ID, "")
	require.NoError(t, err)
	scrape(t, d.HTTP+"/status")
	var text string
	var found map[string]*dto.MetricFamily
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		text = scrape(c, d.Admin+"/metrics")
		found = families(c, text)
		require.Positive(c, value(found["catena_runs_ended_total"], "queue=default", "state=succeeded"))
		require.Positive(c, value(found["catena_http_requests_total"], "code=2xx"))
		require.Positive(c, value(found["catena_schedule_lateness_seconds"]))
		require.Positive(c, value(found["catena_source_polls_total"]))
		require.Positive(c, value(found["catena_source_records_total"]))
		require.Positive(c, value(found["catena_script_calls_total"], "outcome=success"))
		require.InDelta(c, 1, value(found["catena_waits"], "kind=event"), 0)
		require.InDelta(c, 1, value(found["catena_runs_unserved"]), 0)
		require.Positive(c, value(found["catena_lane_waited_seconds"]))
		require.Positive(c, value(found["catena_parcels"], "state=claimed"))
		require.Positive(c, value(found["catena_cancellations_total"], "stage=requested"))
	}, 30*time.Second, 200*time.Millisecond)
	require.InDelta(t, 1, value(found["catena_leader"]), 0)
	require.InDelta(t, 1, value(found["catena_workers"], "state=active"), 0)
	require.InDelta(t, 32, value(found["catena_slots"]), 0)
	require.Positive(t, value(found["catena_worker_resident_memory_bytes"], "slot=0"))
	require.Positive(t, value(found["catena_postgres_connections"], "process=worker"))
	require.InDelta(t, 2, value(found["catena_redis_up"]), 0, "the master's and the worker's")

	problems, err := promlint.New(strings.NewReader(text)).Lint()
	require.NoError(t, err)
	for _, p := range problems {
		require.False(t, strings.HasPrefix(p.Metric, telemetry.Prefix), "%s: %s", p.Metric, p.Text)
	}
	series := 0
	for _, f := range found {
		series += len(f.GetMetric())
	}
	require.Less(t, series, 1000, "of a small cluster")
	compareWithDocs(t, found)
}

// lookAtCluster asks package code for ctx.cluster until the master has told of a worker.
func lookAtCluster(t *testing.T, d *dev) (figures task.ClusterFigures) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		started, err := d.StartRun(t.Context(), "watch/look", client.RunRequest{})
		require.NoError(c, err)
		run, err := d.WaitRun(t.Context(), started.ID)
		require.NoError(c, err)
		require.Equal(c, task.StateSucceeded, run.State)
		var seen struct {
			Figures *task.ClusterFigures
			Keys    []string
		}
		require.NoError(c, json.Unmarshal(run.Outcome.Data, &seen))
		require.NotContains(c, seen.Keys, "cluster")
		require.NotNil(c, seen.Figures)
		require.Equal(c, 1, seen.Figures.Workers)
		figures = *seen.Figures
	}, 30*time.Second, 100*time.Millisecond)
	return figures
}

const metricsPage = "../docs/metrics.md"

const metricsHead = `# Metrics

<!-- Generated from a cluster at work. To renew it: CATENA_UPDATE_GOLDEN=1 go test ./node -run TestMetrics -->

What ` + "`/metrics`" + ` of a master tells, beside the ` + "`go_`" + ` and ` + "`process_`" + ` metrics of the master's own process. [monitoring.md](monitoring.md) says how to
read them, and which of them a worker that runs alone tells.

| metric | type | labels | meaning |
|---|---|---|---|
`

func compareWithDocs(t *testing.T, found map[string]*dto.MetricFamily) {
	t.Helper()
	var rows []string
	for name, f := range found {
		if !strings.HasPrefix(name, telemetry.Prefix) {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp()))
	}
	slices.Sort(rows)
	page := metricsHead + strings.Join(rows, "")
	if os.Getenv("CATENA_UPDATE_GOLDEN") != "" {
		require.NoError(t, os.WriteFile(metricsPage, []byte(page), 0o600))
	}
	text, err := os.ReadFile(metricsPage)
	require.NoError(t, err)
	require.Equal(t, string(text), page, "run CATENA_UPDATE_GOLDEN=1 go test ./node -run TestMetrics")
}
