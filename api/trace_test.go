package api_test

import (
	"net/http"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/api"
	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// TestARunGoesOnWithItsCallersTrace, whether it comes alone or in a batch.
func TestARunGoesOnWithItsCallersTrace(t *testing.T) {
	t.Parallel()
	const trace, path = "4bf92f3577b34da6a3ce929d0e0e4736", "/api/v1/tasks/a/runs"
	receiver := servertest.NewReceiver(t)
	traces, err := telemetry.OpenTraces(t.Context(), telemetry.TracesConfig{Endpoint: receiver.URL}, logrus.New())
	require.NoError(t, err)
	f := start(t, func(d *api.Deps, _ *api.Config) { d.Traces = traces })
	f.apply("a")
	stored := func(id any) (text *string) {
		require.NoError(t, f.store.Pool().QueryRow(t.Context(), `SELECT trace FROM runs WHERE id = $1`, id).Scan(&text))
		return text
	}
	status, text := f.ask(http.MethodPost, path, f.tokens[auth.Operator], "", "traceparent", "00-"+trace+"-00f067aa0ba902b7-01", "tracestate", "vendor=1")
	require.Equal(t, http.StatusCreated, status, text)
	require.Contains(t, text, `"trace_id":"`+trace+`"`)

	traced, err := client.New(client.Config{Server: f.server.URL, Token: f.tokens[auth.Operator], TraceParent: "00-" + trace + "-00f067aa0ba902b7-01"})
	require.NoError(t, err)
	defer traced.Close()
	batch, err := traced.StartRuns(t.Context(), "a", []client.RunRequest{{}, {Key: "k"}, {Key: "k"}})
	require.NoError(t, err)
	require.Equal(t, *stored(batch.IDs[0]), *stored(batch.IDs[1]), "one call is one span")
	_, err = traced.StartRun(t.Context(), "nobody", client.RunRequest{})
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))

	for name, headers := range map[string][]string{
		"none": {}, "unreadable": {"traceparent", "00-xyz"}, "not sampled": {"traceparent", "00-" + trace + "-00f067aa0ba902b7-00"},
	} {
		status, text := f.ask(http.MethodPost, path, f.tokens[auth.Operator], "", headers...)
		require.Equal(t, http.StatusCreated, status, "%s: %s", name, text)
		require.NotContains(t, text, "trace_id", name)
	}
	require.NoError(t, traces.Close(t.Context()))
	spans := receiver.Spans()
	require.Len(t, spans, 3)
	require.Equal(t, "vendor=1", spans[0].State)
	require.Equal(t, "3", spans[1].Notes["catena.runs"])
	require.Equal(t, "1", spans[1].Notes["catena.duplicates"])
	require.True(t, spans[2].Failed)
	for _, s := range spans {
		require.Equal(t, "00f067aa0ba902b7", s.Parent)
	}
	require.Nil(t, stored(f.runOf("a")))
}

func (f *fixture) runOf(name string) (id string) {
	f.t.Helper()
	require.NoError(f.t, f.store.Pool().QueryRow(f.t.Context(), `SELECT id::text FROM runs WHERE task = $1 ORDER BY id DESC LIMIT 1`, name).Scan(&id))
	return id
}
