package api_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func TestSchedulesAndBackfills(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	_, err := f.store.ApplyTasks(ctx, []task.Definition{{Name: "demo/hourly", Chain: json.RawMessage(`["nop"]`), Schedule: []task.Schedule{{Cron: "@hourly"}}}}, false)
	require.NoError(t, err)
	shown, err := f.Task(ctx, "demo/hourly")
	require.NoError(t, err)
	id := shown.Schedule[0].ID

	shown, err = f.PauseSchedule(ctx, "demo/hourly", id, "for now")
	require.NoError(t, err)
	require.True(t, shown.Schedule[0].Paused)
	require.False(t, shown.Paused)
	shown, err = f.ResumeSchedule(ctx, "demo/hourly", id)
	require.NoError(t, err)
	require.False(t, shown.Schedule[0].Paused)
	_, err = f.PauseSchedule(ctx, "demo/hourly", id+1, "")
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))

	to := time.Now().UTC().Truncate(time.Hour)
	request := client.BackfillRequest{From: to.Add(-5 * time.Hour), To: to, DryRun: true}
	dry, err := f.Backfill(ctx, "demo/hourly", request)
	require.NoError(t, err)
	require.True(t, dry.DryRun)
	require.EqualValues(t, 5, dry.Total)
	require.Equal(t, request.From, dry.First)
	require.Equal(t, to.Add(-time.Hour), dry.Last)
	request.DryRun, request.Overlap = false, task.OverlapAllowAll
	made, err := f.Backfill(ctx, "demo/hourly", request)
	require.NoError(t, err)
	require.Equal(t, "the-admin", made.CreatedBy)
	list, err := f.Backfills(ctx, "demo/hourly")
	require.NoError(t, err)
	require.Equal(t, []task.Backfill{made.Backfill}, list)
	ended, err := f.CancelBackfill(ctx, made.ID, "a mistake")
	require.NoError(t, err)
	require.Equal(t, task.BackfillCancelled, ended.State)
	require.Contains(t, ended.Reason, "a mistake")
	got, err := f.BackfillByID(ctx, made.ID)
	require.NoError(t, err)
	require.Equal(t, ended, got)

	for _, bad := range []func(r *client.BackfillRequest){
		func(r *client.BackfillRequest) { r.Overlap = "sometimes" },
		func(r *client.BackfillRequest) { r.To = to.AddDate(0, 0, 2) },
		func(r *client.BackfillRequest) { r.From = to },
	} {
		r := request
		bad(&r)
		_, err := f.Backfill(ctx, "demo/hourly", r)
		require.Equal(t, task.CodeInvalid, task.CodeOf(err), "%v", err)
	}
	_, err = f.as(auth.Viewer).Backfill(ctx, "demo/hourly", request)
	require.Equal(t, task.CodeForbidden, task.CodeOf(err))
	_, err = f.as(auth.Viewer).CancelBackfill(ctx, made.ID, "")
	require.Equal(t, task.CodeForbidden, task.CodeOf(err))
	_, err = f.as(auth.Viewer).PauseSchedule(ctx, "demo/hourly", id, "")
	require.Equal(t, task.CodeForbidden, task.CodeOf(err))
	_, err = f.as(auth.Viewer).BackfillByID(ctx, made.ID)
	require.NoError(t, err)
	_, err = f.Fires(ctx, client.FireFilter{Outcome: "lost"})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
}
