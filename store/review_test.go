package store_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func (f *fixture) scalar(sql string, args ...any) (n int64) {
	f.t.Helper()
	require.NoError(f.t, f.Pool().QueryRow(context.Background(), sql, args...).Scan(&n))
	return n
}

func TestASuspendedLeaderDoesNotKeepItsLocks(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	conn, err := f.Pool().Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(ctx, `BEGIN`) // and then nothing more, as after a SIGSTOP
	require.NoError(t, err)
	_, err = conn.Exec(ctx, `SELECT 1 FROM leader WHERE term = $1 FOR KEY SHARE`, f.term)
	require.NoError(t, err)
	f.exec(`UPDATE leader SET expires_at = clock_timestamp() - interval '1 second'`)
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, won, err := f.Campaign(limit, "other")
	require.NoError(t, err)
	require.True(t, won)
}

func TestRunsOfADeletedTaskKeepTheirLane(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.apply(task.Definition{Name: "batch", Chain: json.RawMessage(`["nop"]`), Queue: "nightly"})
	_, _, err := f.InsertRuns(ctx, []store.NewRun{{Task: "batch"}})
	require.NoError(t, err)
	require.NoError(t, f.DeleteTask(ctx, "batch"))
	f.worker()
	require.Len(t, f.fill(), 1)
	queues, err := f.Lanes(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"default", "nightly"}, queues)
}

func TestApplyingTheSameAgainMakesNoRevision(t *testing.T) {
	t.Parallel()
	f := open(t)
	def := task.Definition{Name: "same", Chain: json.RawMessage(`["nop"]`), Schedule: []task.Schedule{{Cron: "* * * * *"}}}
	require.Equal(t, "created", f.apply(def)[0].Change)
	before := f.scalar(`SELECT count(*) FROM task_revisions`)
	for range 3 {
		require.Equal(t, "unchanged", f.apply(def)[0].Change)
	}
	require.Equal(t, before, f.scalar(`SELECT count(*) FROM task_revisions`))
	def.Queue = "other"
	require.Equal(t, "updated", f.apply(def)[0].Change)
	require.Equal(t, before+1, f.scalar(`SELECT count(*) FROM task_revisions`))
}

func TestAReleasedSuspectStaysASuspect(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	c := f.claimOne(w)
	again := store.Ending{Run: c.ID, Fence: c.Fence, State: task.StateQueued, Attempt: 1, Lane: store.SuspectLane("default")}
	require.False(t, f.write(store.Batch{Worker: w, Endings: []store.Ending{again}}).Stale[c.ID])
	parcels := f.fill()
	require.Len(t, parcels, 1)
	require.True(t, store.Suspect(parcels[0].Lane))
}

func TestADisownedParcelIsTakenBack(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	w := f.worker()
	c := f.claimOne(w)
	held, err := f.ClaimedBy(ctx, w)
	require.NoError(t, err)
	require.Empty(t, held, "not yet")
	f.exec(`UPDATE parcels SET claimed_at = claimed_at - interval '1 minute'`)
	held, err = f.ClaimedBy(ctx, w)
	require.NoError(t, err)
	require.Len(t, held, 1)
	require.Empty(t, f.revoke())
	require.NoError(t, f.Disown(ctx, w, held))
	revoked := f.revoke()
	require.Len(t, revoked, 1)
	require.Equal(t, c.ID, revoked[0].ID)
}

func TestAnEditLosesNoDueTime(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.exec(`INSERT INTO schedules (task, cron) VALUES ('demo', '* * * * *')`)
	changed, err := f.UnplannedSchedules(ctx, 10)
	require.NoError(t, err)
	require.Len(t, changed, 1)
	overdue := time.Now().Add(-40 * 24 * time.Hour).Truncate(time.Minute) // older than any partition
	require.NoError(t, f.PlanSchedules(ctx, f.term, []store.Plan{{Schedule: changed[0].ID, Version: changed[0].Version, ChangedAt: changed[0].ChangedAt, Next: &overdue}}))
	f.exec(`UPDATE schedules SET cron = '*/5 * * * *'`)
	changed, err = f.UnplannedSchedules(ctx, 10)
	require.NoError(t, err)
	require.Len(t, changed, 1)
	next := changed[0].ChangedAt.Add(time.Minute)
	require.NoError(t, f.PlanSchedules(ctx, f.term, []store.Plan{{Schedule: changed[0].ID, Version: changed[0].Version, ChangedAt: changed[0].ChangedAt, Next: &next}}))
	fires, err := f.Fires(ctx, store.FireFilter{Task: "demo"})
	require.NoError(t, err)
	require.Len(t, fires, 1)
	require.Equal(t, task.FireMissed, fires[0].Outcome)
	require.True(t, fires[0].DueAt.Equal(overdue))
}

func TestAFiredOneShotIsNotPlannedAgain(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	at := time.Now().Add(-time.Second).Truncate(time.Second)
	f.exec(`INSERT INTO schedules (task, at) VALUES ('demo', $1)`, at)
	plan := func() {
		changed, err := f.UnplannedSchedules(ctx, 10)
		require.NoError(t, err)
		require.Len(t, changed, 1)
		require.NoError(t, f.PlanSchedules(ctx, f.term, []store.Plan{{Schedule: changed[0].ID, Version: changed[0].Version, ChangedAt: changed[0].ChangedAt, Next: &at}}))
	}
	plan()
	fired, err := f.FireDue(ctx, f.term, store.Take{Limit: 10}, func(due store.Due, now time.Time) store.Decision {
		return store.Decision{Fires: []task.Fire{{DueAt: due.DueAt, LastDueAt: due.DueAt, Count: 1, Outcome: task.FireStarted}}}
	})
	require.NoError(t, err)
	require.Equal(t, 1, fired.Taken)
	f.exec(`UPDATE tasks SET name = 'renamed' WHERE name = 'demo'`)
	plan()
	require.Zero(t, f.scalar(`SELECT count(*) FROM schedule_due WHERE due_at < 'infinity'`))
}

// docs/database.md tells readers to put a time into every query of runs.
func TestIDFloorIsTheLeastIDOfATime(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.submit(3)
	require.EqualValues(t, 3, f.scalar(`SELECT count(*) FROM runs WHERE id >= catena_id_floor(clock_timestamp() - interval '1 minute')`))
	require.Zero(t, f.scalar(`SELECT count(*) FROM runs WHERE id >= catena_id_floor(clock_timestamp() + interval '1 minute')`))
	require.Zero(t, f.scalar(`SELECT count(*) FROM runs WHERE id < catena_id_floor(created_at)`))
}

func TestTheClockMayGoBack(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.exec(`UPDATE cluster SET ticked_at = clock_timestamp() + interval '1 day'`)
	before := f.scalar(`SELECT tick FROM cluster`)
	_, err := f.Tick(ctx)
	require.NoError(t, err)
	require.Equal(t, before+1, f.scalar(`SELECT tick FROM cluster`))
	f.exec(`UPDATE leader SET expires_at = clock_timestamp() + interval '1 day'`)
	_, won, err := f.Campaign(ctx, "other")
	require.NoError(t, err)
	require.True(t, won)
}

func TestTheBacklogIsTheOldestWorkThatIsServed(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.apply(task.Definition{Name: "night", Chain: json.RawMessage(`["nop"]`), Queue: "nightly"})
	ask := func(queues ...string) time.Duration {
		b, err := f.Backlog(ctx, store.BacklogFilter{Queues: queues, Tags: []string{}})
		require.NoError(t, err)
		return b.Waited
	}
	require.Zero(t, ask("*"))
	_, _, err := f.InsertRuns(ctx, []store.NewRun{{Task: "demo"}, {Task: "night"}, {Task: "demo", At: time.Now().Add(time.Hour)}})
	require.NoError(t, err)
	f.exec(`UPDATE ready SET available_at = available_at - interval '1 minute' WHERE task = 'night'`)
	require.InDelta(t, 60, ask("*").Seconds(), 20)
	require.InDelta(t, 60, ask("nightly").Seconds(), 20)
	require.Less(t, ask("default"), 20*time.Second)
	require.Positive(t, ask("default"))
	require.Zero(t, ask("other"))
	f.worker()
	require.NotEmpty(t, f.fill())
	require.Positive(t, ask("default"), "an unclaimed parcel waits too")
	figures, err := f.Figures(ctx)
	require.NoError(t, err)
	require.Contains(t, figures.Waited, "default")
}
