package worker_test

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
	"github.com/catena-run/catena/worker"
)

const tracedTasks = `
name: traced
params: {url: URL}
chain:
  - call: pkg:m
    with: {url: "${params.url}"}
    as: got
  - task: below
    wait: true
  - each: [1, 2]
    spawn: true
    do: [{set: {x: "${item}"}}]
  - call: pkg:m?fail
retry: {attempts: 2, backoff: 1ms}
---
name: below
chain: [{set: {outcome: {success: true}}}]
---
name: timed
chain: [{set: {x: 1}}]
`

// TestOneTraceFromTriggerToOutcome looks at the tree that a receiver of traces gets.
func TestOneTraceFromTriggerToOutcome(t *testing.T) {
	t.Parallel()
	c, receiver := start(t), servertest.NewReceiver(t)
	traces, err := telemetry.OpenTraces(t.Context(), telemetry.TracesConfig{Endpoint: receiver.URL, Ratio: 1, Service: "catena-worker"}, logrus.New())
	require.NoError(t, err)
	var mu sync.Mutex
	var headers []string
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		headers = append(headers, r.Header.Get("traceparent"))
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(site.Close)
	c.push(`import { http } from "catena";
export async function main(input) { await http.get(input.url + "/a?secret=1"); await http.get(input.url, {headers: {traceparent: "mine"}}); return 1 }
export function fail() { throw new Error("no luck") }`, site.URL, "m?main", "m?fail")
	c.apply(tracedTasks)
	w := c.work(func(_ *worker.Config, d *worker.Deps, _ *script.Config) { d.Traces = traces })

	ctx, accept := traces.Begin(t.Context(), "", telemetry.SpanServer, "accept traced")
	root := telemetry.TraceIn(ctx)
	got, err := c.dispatch.Submit(t.Context(), []dispatch.Request{{Task: "traced", Params: []byte(`{"url":"` + site.URL + `"}`), Trace: string(root)}, {Task: "timed"}})
	require.NoError(t, err)
	accept.End()
	run := c.until(got[0].ID, task.StateFailed)
	require.Equal(t, 2, run.Attempt)
	require.Equal(t, root.ID(), run.TraceID)
	require.Empty(t, c.until(got[1].ID, task.StateSucceeded).TraceID)
	lines, err := c.store.Logs(t.Context(), run.ID, 0, 10)
	require.NoError(t, err)
	require.NotEmpty(t, lines)
	require.Equal(t, root.ID(), lines[0].TraceID)
	w.end()
	require.NoError(t, traces.Close(t.Context()))

	all := map[string]servertest.Span{}
	for _, s := range receiver.Spans() {
		require.Equal(t, root.ID(), s.TraceID, s.Name)
		require.NotContains(t, all, s.ID, "%s: each span is sent once", s.Name)
		all[s.ID] = s
	}
	tree := map[string]int{} // who is below whom
	for _, s := range all {
		above := all[s.Parent].Name
		require.True(t, s.Parent == "" || above != "", "%s hangs in the air", s.Name)
		require.False(t, s.To.Before(s.From))
		tree[above+" > "+s.Name]++
	}
	require.Equal(t, map[string]int{
		" > accept traced":             1,
		"accept traced > run traced":   1,
		"run traced > queue":           4, // from the start, after each wait and for the second attempt
		"run traced > step 0 got":      1,
		"step 0 got > call pkg:m?main": 1,
		"call pkg:m?main > GET":        2,
		"run traced > step 1":          1,
		"step 1 > run below":           1,
		"run below > queue":            1,
		"run below > step 0":           1,
		"run traced > step 2":          1,
		"step 2 > run traced":          2,
		"run traced > step 3":          2,
		"step 3 > call pkg:m?fail":     2,
	}, withoutEntries(tree), "%v", slices.Sorted(maps.Keys(tree)))
	end := receiver.Named("run traced")
	last := end[slices.IndexFunc(end, func(s servertest.Span) bool { return s.Notes["catena.run.id"] == run.ID.String() })]
	require.True(t, last.Failed)
	require.Contains(t, last.Reason, "no luck")
	require.Equal(t, "failed", last.Notes["catena.run.state"])
	require.Equal(t, "2", last.Notes["catena.run.attempt"])
	get := receiver.Named("GET")[0]
	require.Equal(t, site.URL+"/a", get.Notes["url.full"], "no query")
	require.Equal(t, "418", get.Notes["http.response.status_code"])
	require.ElementsMatch(t, []string{"00-" + root.ID() + "-" + get.ID + "-01", "mine"}, headers)
}

// withoutEntries leaves out what is below the runs of an each, which have the
// name of their parent.
func withoutEntries(tree map[string]int) map[string]int {
	delete(tree, "run traced > step 2.do.0")
	tree["run traced > queue"] -= 2
	return tree
}
