package cli_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestTheTraceOfTheCallerIsHandedOn(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	var header http.Header
	s := shellOn(t, map[string]http.HandlerFunc{"POST /api/v1/tasks/a/runs": func(w http.ResponseWriter, r *http.Request) {
		header = r.Header
		answer(201, task.Run{Task: "a", State: task.StateQueued, TraceID: "4bf92f3577b34da6a3ce929d0e0e4736"})(w, r)
	}})
	s.program.Environ = append(s.program.Environ, "TRACEPARENT="+parent, "TRACESTATE=vendor=1")
	got := s.run("task", "run", "a")
	require.Zero(t, got.code, got.err)
	require.Equal(t, parent, header.Get("traceparent"))
	require.Equal(t, "vendor=1", header.Get("tracestate"))
	require.Empty(t, got.err)
	s.program.Environ = append(s.program.Environ, "TRACEPARENT=two\nlines")
	got = s.run("task", "run", "a")
	require.Zero(t, got.code)
	require.Empty(t, header.Get("traceparent"))
	require.Equal(t, 1, strings.Count(got.err, "warning: TRACEPARENT \"two\\nlines\" is no W3C trace context"), got.err)
	s.program.Environ = append(s.program.Environ, "TRACEPARENT=00-0-0-01")
	require.Contains(t, s.run("task", "run", "a").err, `warning: TRACEPARENT "00-0-0-01" is no W3C trace context`)
}
