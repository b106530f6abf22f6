package api_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// TestApplyWarns: what is likely a mistake is told and applied all the same.
func TestApplyWarns(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	content := "name: a\nchain:\n  - {call: \"shop:order?place\", name: order}\n  - {task: bb}\n  - {task: b}\n  - {log: \"${steps.ordr.data} ${params.x}\"}\n---\nname: b\nchain: [[nop]]\n"
	for _, dry := range []bool{true, false} {
		result, err := f.ApplyTasks(ctx, client.ApplyRequest{Files: files(content), DryRun: dry})
		require.NoError(t, err)
		require.Equal(t, client.Created, result.Results[0].Change)
		require.Empty(t, result.Results[1].Warnings)
		var messages []string
		for _, w := range result.Results[0].Warnings {
			require.Equal(t, task.SeverityWarning, w.Severity)
			require.Equal(t, "a", w.Task)
			messages = append(messages, w.Where+" "+w.Message+"; "+w.Remedy)
		}
		require.Equal(t, []string{
			"a.yaml:6:14 item 3: ${steps.ordr} is read, but no item has that name; did you mean order?",
			"a.yaml:6:33 item 3: ${params.x} is read, but the task's params do not have it: a run that is not given one has none; add it to params, or write ${params.x ?? ...}",
			"a.yaml:3:5 item 0: there is no package shop; push it: `catena pkg push DIR`",
			"a.yaml:4:5 item 1: there is no task bb; did you mean b?",
		}, messages)
	}
	_, err := f.Task(ctx, "a")
	require.NoError(t, err)
}

func TestCostsAndReadonlyRuns(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	_, err := f.ApplyTasks(ctx, client.ApplyRequest{Files: files("name: a\nchain: [[nop]]\n")})
	require.NoError(t, err)
	costs, err := f.as(auth.Viewer).Costs(ctx)
	require.NoError(t, err)
	require.Empty(t, costs)
	found, err := f.Task(ctx, "a")
	require.NoError(t, err)
	require.NoError(t, f.store.LearnCosts(ctx, map[int64]float64{found.Revision: 1500}))
	costs, err = f.Costs(ctx)
	require.NoError(t, err)
	require.Equal(t, []task.Cost{{Task: "a", Micros: 1500}}, costs)

	_, err = f.as(auth.Viewer).ReadonlyRun(ctx, "a", client.ReadonlyRequest{})
	require.Equal(t, task.CodeForbidden, task.CodeOf(err), "it executes code")
	status, text := f.ask(http.MethodPost, "/api/v1/tasks/a/runs/readonly", f.tokens[auth.Operator], "{}")
	require.Equal(t, http.StatusServiceUnavailable, status, "this API was built without them: %s", text)
}
