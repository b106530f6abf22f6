package cli_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestASilentServerIsNamed(t *testing.T) {
	t.Parallel()
	silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	s := shellOn(t, map[string]http.HandlerFunc{"/": silent})
	got := s.run("task", "list", "--timeout", "50ms")
	require.Equal(t, 3, got.code)
	require.Contains(t, got.err, "error: http://127.0.0.1:")
	require.Contains(t, got.err, "the server did not answer within ")
	require.Contains(t, got.err, "wait longer with --timeout 200ms")
	require.Contains(t, s.run("task", "list", "--timeout", "0s").err, "--timeout must be above 0s")
	require.Contains(t, s.run("task", "--help").out, "how long the server may take to answer (default 30s)")
	require.NotContains(t, s.run("task", "run", "--help").out, "how long the server may take", "its own --timeout is about the run")
}
