package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func TestBulkCancelAndRetry(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("one", "two")
	ctx := t.Context()
	for name, n := range map[string]int{"one": 30, "two": 1} {
		_, err := f.StartRuns(ctx, name, make([]client.RunRequest, n))
		require.NoError(t, err)
	}
	all := client.BulkFilter{Task: "one"}
	count := all
	count.DryRun = true
	counted, err := f.CancelRuns(ctx, client.BulkCancel{BulkFilter: count})
	require.NoError(t, err)
	require.Equal(t, client.BulkResult{Matched: 30}, counted)

	for _, expected := range []int{5, 300} {
		wrong := all
		wrong.Expected = &expected
		_, err = f.CancelRuns(ctx, client.BulkCancel{BulkFilter: wrong})
		require.Equal(t, task.CodeConflict, task.CodeOf(err), "%v", err)
		require.ErrorContains(t, err, "count them again")
	}
	all.Expected = &counted.Matched
	done, err := f.as(auth.Operator).CancelRuns(ctx, client.BulkCancel{BulkFilter: all, Reason: "a flood", Now: true})
	require.NoError(t, err)
	require.Equal(t, client.BulkResult{Matched: 30, Done: 30}, done)
	runs, err := f.Runs(ctx, client.RunFilter{Task: "one"})
	require.NoError(t, err)
	for _, run := range runs {
		require.Equal(t, task.StateCancelled, run.State)
		require.Equal(t, "cancelled by the-operator: a flood", run.Reason)
	}
	left, err := f.CancelRuns(ctx, client.BulkCancel{BulkFilter: client.BulkFilter{Since: "1h", DryRun: true}})
	require.NoError(t, err)
	require.Equal(t, 1, left.Matched)

	none, err := f.RetryRuns(ctx, client.BulkRetry{BulkFilter: client.BulkFilter{Task: "one"}})
	require.NoError(t, err)
	require.Zero(t, none.Matched, "what somebody cancelled is retried only when it is asked for")
	retried, err := f.RetryRuns(ctx, client.BulkRetry{BulkFilter: client.BulkFilter{Task: "one", States: []task.State{task.StateCancelled}}})
	require.NoError(t, err)
	require.Equal(t, client.BulkResult{Matched: 30, Done: 30}, retried)
	run, err := f.Run(ctx, runs[0].ID)
	require.NoError(t, err)
	require.Equal(t, "the-admin", run.RetriedBy)
	rows, details := f.audited()
	require.Contains(t, rows, "the-operator cancel-runs one")
	require.Contains(t, details, `"done":30`)
}

func TestBulkRefuses(t *testing.T) {
	t.Parallel()
	f := start(t)
	for body, where := range map[string]string{
		`{}`:                                          "",
		`{"states":["succeeded"]}`:                    "states",
		`{"states":["failed"]}`:                       "states",
		`{"states":["nonsense"]}`:                     "states",
		`{"since":"soon"}`:                            "since",
		`{"task":"one","before":17}`:                  "before",
		`{"task":"one","expected":-1}`:                "expected",
		`{"task":"one","colour":"red"}`:               "colour",
		`{"task":"` + strings.Repeat("x", 300) + `"}`: "task",
	} {
		status, e := f.refused(http.MethodPost, "/api/v1/runs/cancel", f.tokens[auth.Operator], body)
		require.Contains(t, []int{http.StatusBadRequest, http.StatusUnprocessableEntity}, status, body)
		require.Equal(t, task.CodeInvalid, e.Code)
		require.Contains(t, e.Where, where, body)
	}
	status, _ := f.refused(http.MethodPost, "/api/v1/runs/retry", f.tokens[auth.Operator], `{"states":["running"]}`)
	require.Equal(t, http.StatusBadRequest, status)
	for _, path := range []string{"/api/v1/runs/cancel", "/api/v1/runs/retry"} {
		status, e := f.refused(http.MethodPost, path, f.tokens[auth.Viewer], `{"task":"one"}`)
		require.Equal(t, http.StatusForbidden, status)
		require.Equal(t, task.CodeForbidden, e.Code)
	}
}
