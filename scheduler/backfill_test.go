package scheduler_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func (f *fixture) backfill() {
	f.t.Helper()
	for more := true; more; {
		var err error
		more, err = f.Backfill(f.t.Context(), f.term)
		require.NoError(f.t, err)
	}
}

func (f *fixture) request(name string, hours int, overlap task.Overlap) scheduler.BackfillRequest {
	to := f.now().UTC().Truncate(time.Hour)
	return scheduler.BackfillRequest{Task: name, From: to.Add(-time.Duration(hours) * time.Hour), To: to, Overlap: overlap, By: "the test"}
}

func (f *fixture) backfilled(id int64) (runs []uuid.UUID) {
	f.t.Helper()
	rows, err := f.store.Pool().Query(f.t.Context(), `SELECT id FROM runs WHERE backfill = $1 ORDER BY id`, id)
	require.NoError(f.t, err)
	for rows.Next() {
		var run uuid.UUID
		require.NoError(f.t, rows.Scan(&run))
		runs = append(runs, run)
	}
	require.NoError(f.t, rows.Err())
	f.traced()
	return runs
}

func TestBackfill(t *testing.T) {
	t.Parallel()
	f := start(t)
	backfills := scheduler.NewBackfills(f.store)
	ctx := t.Context()
	get := func(id int64) task.Backfill {
		b, err := f.store.Backfill(ctx, id)
		require.NoError(t, err)
		return b
	}
	f.policy(task.OverlapSkip)
	dry := f.request("skip", 24, "")
	dry.DryRun = true
	b, plan, err := backfills.Create(ctx, dry)
	require.NoError(t, err)
	require.EqualValues(t, 24, plan.Total)
	require.Equal(t, dry.From, plan.First, "from is included")
	require.Equal(t, dry.To.Add(-time.Hour), plan.Last, "to is not")
	require.Zero(t, b.ID)
	require.Zero(t, f.count(`SELECT count(*) FROM backfills`))

	t.Run("side by side", func(t *testing.T) {
		b, _, err := backfills.Create(ctx, f.request("skip", 450, task.OverlapAllowAll))
		require.NoError(t, err)
		require.Equal(t, task.BackfillRunning, b.State)
		f.backfill()
		runs := f.backfilled(b.ID)
		require.Len(t, runs, 450)
		require.Equal(t, 450, f.count(`SELECT count(DISTINCT due_at) FROM runs WHERE backfill = $1 AND schedule = $2`, b.ID, b.Schedule))
		require.Equal(t, 450, f.count(`SELECT count(*) FROM ready r JOIN runs ON id = run WHERE backfill = $1 AND rank > created_at + interval '30 minutes'`, b.ID), "behind live runs")
		f.end(runs[0], task.StateSucceeded)
		f.end(runs[2], task.StateSucceeded)
		f.backfill()
		require.EqualValues(t, 1, get(b.ID).Ended, "counted in order")
		for i, run := range runs[1:] {
			f.end(run, map[bool]task.State{true: task.StateFailed, false: task.StateSucceeded}[i < 3])
		}
		f.backfill()
		done := get(b.ID)
		require.Equal(t, task.BackfillDone, done.State)
		require.EqualValues(t, 450, done.Started)
		require.EqualValues(t, 450, done.Ended)
		require.EqualValues(t, 3, done.Failed)
		require.NotNil(t, done.FinishedAt)
	})
	t.Run("one after the other", func(t *testing.T) {
		b, _, err := backfills.Create(ctx, f.request("skip", 3, ""))
		require.NoError(t, err)
		require.Equal(t, task.OverlapBufferAll, b.Overlap)
		for n := 1; n <= 3; n++ {
			f.backfill()
			f.backfill()
			runs := f.backfilled(b.ID)
			require.Len(t, runs, n)
			f.end(runs[n-1], task.StateSucceeded)
		}
		f.backfill()
		require.Equal(t, task.BackfillDone, get(b.ID).State)
		first, err := f.store.Run(ctx, f.backfilled(b.ID)[0])
		require.NoError(t, err)
		require.True(t, first.DueAt.Equal(b.From), "oldest first")
	})
	t.Run("only the first", func(t *testing.T) {
		b, _, err := backfills.Create(ctx, f.request("skip", 5, task.OverlapSkip))
		require.NoError(t, err)
		f.backfill()
		runs := f.backfilled(b.ID)
		require.Len(t, runs, 1)
		f.end(runs[0], task.StateSucceeded)
		f.backfill()
		require.EqualValues(t, 4, get(b.ID).Skipped)
		require.Equal(t, task.BackfillDone, get(b.ID).State)
	})
	t.Run("paused, cancelled, edited", func(t *testing.T) {
		b, _, err := backfills.Create(ctx, f.request("skip", 5, task.OverlapAllowAll))
		require.NoError(t, err)
		_, err = f.store.PauseTask(ctx, "skip", "")
		require.NoError(t, err)
		f.backfill()
		require.Empty(t, f.backfilled(b.ID))
		_, err = f.store.CancelBackfill(ctx, b.ID, "me")
		require.NoError(t, err)
		_, err = f.store.CancelBackfill(ctx, b.ID, "me")
		require.Equal(t, task.CodeConflict, task.CodeOf(err))
		_, err = f.store.ResumeTask(ctx, "skip")
		require.NoError(t, err)
		f.backfill()
		require.Empty(t, f.backfilled(b.ID))
		require.Equal(t, "cancelled by me", get(b.ID).Reason)

		b, _, err = backfills.Create(ctx, f.request("skip", 5, ""))
		require.NoError(t, err)
		f.backfill()
		f.exec(`UPDATE schedules SET cron = '@every 2h'`)
		f.backfill()
		require.Equal(t, task.BackfillCancelled, get(b.ID).State)
		require.Contains(t, get(b.ID).Reason, "edited")
		require.Len(t, f.backfilled(b.ID), 1)
	})
	require.Zero(t, f.count(`SELECT count(*) FROM fires`), "the ledger is the schedule's own")
	list, err := f.store.Backfills(ctx, "skip")
	require.NoError(t, err)
	require.Len(t, list, 5)
	_, err = f.store.Backfill(ctx, 999)
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
}

func TestABackfillLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	f.schedule("demo", "@every 1s", "skip")
	b, _, err := scheduler.NewBackfills(f.store).Create(t.Context(), f.request("demo", 2, task.OverlapAllowAll))
	require.NoError(t, err)
	require.EqualValues(t, 7200, b.Total)
	f.backfill()
	waiting := len(f.backfilled(b.ID))
	require.GreaterOrEqual(t, waiting, 1000)
	require.Less(t, waiting, 1400, "no more than the lane holds")
	f.exec(`DELETE FROM ready`)
	f.backfill()
	require.Greater(t, len(f.backfilled(b.ID)), waiting)
	require.Equal(t, len(f.backfilled(b.ID)), f.count(`SELECT count(DISTINCT due_at) FROM runs WHERE backfill = $1`, b.ID))
	f.exec(`UPDATE leader SET expires_at = '-infinity'`)
	_, _, err = f.store.Campaign(t.Context(), "another")
	require.NoError(t, err)
	f.exec(`DELETE FROM ready`)
	before := len(f.backfilled(b.ID))
	_, err = f.Backfill(t.Context(), f.term)
	require.True(t, store.StaleTerm(err), "%v", err)
	require.Len(t, f.backfilled(b.ID), before)
}

func TestBackfillsThatAreRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("none")
	f.policy(task.OverlapSkip)
	second := f.policy(task.OverlapAllowAll)
	two := f.schedule("allow-all", "@every 1s", "skip")
	for name, c := range map[string]struct {
		change func(r *scheduler.BackfillRequest)
		code   task.Code
		says   string
	}{
		"no such task":      {func(r *scheduler.BackfillRequest) { r.Task = "nobody" }, task.CodeNotFound, "nobody"},
		"no schedule":       {func(r *scheduler.BackfillRequest) { r.Task = "none" }, task.CodeInvalid, "has no schedule"},
		"several schedules": {func(r *scheduler.BackfillRequest) { r.Task = "allow-all" }, task.CodeInvalid, "has 2 schedules"},
		"another's":         {func(r *scheduler.BackfillRequest) { r.Schedule = second }, task.CodeNotFound, "no schedule"},
		"policy":            {func(r *scheduler.BackfillRequest) { r.Overlap = task.OverlapCancelOther }, task.CodeInvalid, "cancel-other"},
		"backwards":         {func(r *scheduler.BackfillRequest) { r.From, r.To = r.To, r.From }, task.CodeInvalid, "no span"},
		"empty span":        {func(r *scheduler.BackfillRequest) { r.To = r.From }, task.CodeInvalid, "no span"},
		"no times":          {func(r *scheduler.BackfillRequest) { r.From, r.To = time.Time{}, time.Time{} }, task.CodeInvalid, "no span"},
		"the future":        {func(r *scheduler.BackfillRequest) { r.To = r.To.AddDate(1, 0, 0) }, task.CodeInvalid, "future"},
		"no due time":       {func(r *scheduler.BackfillRequest) { r.From = r.To.Add(-time.Minute) }, task.CodeInvalid, "no due time"},
		"over a million": {func(r *scheduler.BackfillRequest) {
			r.Task, r.Schedule, r.From = "allow-all", two, r.To.AddDate(-1, 0, 0)
		}, task.CodeInvalid, "more than 1000000"},
	} {
		r := f.request("skip", 5, "")
		c.change(&r)
		_, _, err := scheduler.NewBackfills(f.store).Create(t.Context(), r)
		require.Equal(t, c.code, task.CodeOf(err), "%s: %v", name, err)
		require.ErrorContains(t, err, c.says, name)
	}
	require.Zero(t, f.count(`SELECT count(*) FROM backfills`))
}
