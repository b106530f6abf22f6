package api_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/api"
	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// TestApplyNamesEveryProblem of all files, each with its place.
func TestApplyNamesEveryProblem(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, err := f.ApplyTasks(t.Context(), client.ApplyRequest{Files: []client.File{
		{Name: "a.yaml", Content: "name: a\nchain: [{call: 1}]\n---\nname: b\npriority: high\nchain: [nop]\n"},
		{Name: "b.yaml", Content: "name: c\nchian: [nop]\n"},
	}})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	for _, want := range []string{"a.yaml:2:16: ", "a.yaml:5:11: priority: a text does not fit priority", `b.yaml:2:1: unknown field "chian" of a task; did you mean chain?`} {
		require.ErrorContains(t, err, want)
	}
	_, err = f.ApplyTasks(t.Context(), client.ApplyRequest{Files: []client.File{{Name: "m.yaml", Content: strings.Repeat("name: x\nchain: 1\n---\n", 30)}}})
	require.ErrorContains(t, err, "more problems")
}

// TestTheDataOfAnEventFitTheStepThatTakesIt up to the last byte.
func TestTheDataOfAnEventFitTheStepThatTakesIt(t *testing.T) {
	t.Parallel()
	const outcome = 1 << 20
	f := start(t)
	text := func(n int) json.RawMessage { return json.RawMessage(`"` + strings.Repeat("x", n-2) + `"`) }
	_, err := f.SendEvent(t.Context(), client.EventRequest{Name: "e", Data: text(int(api.MaxEvent(outcome)) + 1)})
	require.Equal(t, task.CodeTooLarge, task.CodeOf(err))
	_, err = f.SendEvent(t.Context(), client.EventRequest{Name: "e", Data: text(int(api.MaxEvent(outcome)))})
	require.NoError(t, err)
	for _, limit := range []int64{1 << 10, 4 << 10, 1 << 20} {
		require.Less(t, api.MaxEvent(limit), limit)
		require.Positive(t, api.MaxEvent(limit))
	}
}

func TestABulkCommandKnowsItsTask(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("billing/close")
	for _, dry := range []bool{true, false} {
		_, err := f.CancelRuns(t.Context(), client.BulkCancel{BulkFilter: client.BulkFilter{Task: "billing/clsoe", DryRun: dry}})
		require.ErrorContains(t, err, "did you mean billing/close?")
		_, err = f.RetryRuns(t.Context(), client.BulkRetry{BulkFilter: client.BulkFilter{Task: "billing/clsoe", DryRun: dry}})
		require.ErrorContains(t, err, "did you mean billing/close?")
	}
	_, err := f.CancelRuns(t.Context(), client.BulkCancel{BulkFilter: client.BulkFilter{Task: "billing/close"}})
	require.NoError(t, err, "it has no runs")
}

func TestTokensAreKnownByTheirNames(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	ci := client.TokenRequest{Name: "ci", Role: string(auth.Viewer)}
	_, err := f.CreateToken(ctx, ci)
	require.NoError(t, err)
	_, err = f.CreateToken(ctx, ci)
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	require.ErrorContains(t, err, `there is a valid token with the name "ci"`)
	require.NoError(t, f.RevokeToken(ctx, "ci"))
	require.Equal(t, task.CodeNotFound, task.CodeOf(f.RevokeToken(ctx, "ci")))
	_, err = f.CreateToken(ctx, ci)
	require.NoError(t, err, "the name is free again")
}

// TestTheTreeShowsWhatIsDifferent among many children that are alike.
func TestTheTreeShowsWhatIsDifferent(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("parent", "child", "other")
	ctx := t.Context()
	accepted, _, err := f.store.InsertRuns(ctx, []store.NewRun{{Task: "parent"}})
	require.NoError(t, err)
	parent := accepted[0].ID
	runs := make([]store.NewRun, 60)
	for i := range runs {
		runs[i] = store.NewRun{Task: "child", Parent: &store.Parent{Run: parent, Path: "0"}}
	}
	runs[57].Task, runs[57].Parent.Path = "other", "1"
	children, _, err := f.store.InsertRuns(ctx, runs)
	require.NoError(t, err)
	_, err = f.store.Pool().Exec(ctx, `UPDATE runs SET state = 'succeeded', finished_at = $2 WHERE parent = $1`, parent, time.Now())
	require.NoError(t, err)
	for i, state := range map[int]string{58: "cancelled", 59: "failed"} {
		_, err = f.store.Pool().Exec(ctx, `UPDATE runs SET state = $2 WHERE id = $1`, children[i].ID, state)
		require.NoError(t, err)
	}
	tree, err := f.RunTree(ctx, parent)
	require.NoError(t, err)
	require.Len(t, tree.Children, 20)
	require.Equal(t, task.StateFailed, tree.Children[0].State)
	require.ElementsMatch(t, []string{children[57].ID.String(), children[58].ID.String()}, []string{tree.Children[1].ID.String(), tree.Children[2].ID.String()})
}
