package scheduler_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func (f *fixture) nextDue(id int64) (at *time.Time) {
	f.t.Helper()
	f.scan(&at, `SELECT (SELECT due_at FROM schedule_due WHERE schedule = $1)`, id)
	if at != nil {
		*at = at.UTC()
	}
	return at
}

func TestCalendarsWrittenBySQL(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	var id int64
	f.scan(&id, `INSERT INTO schedules (task, cron, exclude) VALUES ('demo', '0 12 * * *', '{holidays/fr}') RETURNING id`)
	other := f.schedule("demo", "0 12 * * *", "skip")
	f.catalogue()
	require.Contains(t, f.invalid(id), "no calendar holidays/fr")
	require.Nil(t, f.nextDue(id))
	require.Empty(t, f.invalid(other))
	plain := *f.nextDue(other)

	// The calendar comes: the schedule fires, but not on its days.
	f.exec(`INSERT INTO calendars (name, days) VALUES ('holidays/fr', json_build_array($1::text))`, plain.Format(time.DateOnly))
	f.catalogue()
	require.Empty(t, f.invalid(id))
	require.Equal(t, plain.AddDate(0, 0, 1), *f.nextDue(id))
	require.Equal(t, plain, *f.nextDue(other), "who does not exclude it is left alone")

	// It changes, is broken, is mended, is renamed, goes.
	f.exec(`UPDATE calendars SET days = '["1999-01-01"]'`)
	f.catalogue()
	require.Equal(t, plain, *f.nextDue(id))
	for _, bad := range []string{`["soon"]`, `[1]`, `[{"a": 1}]`, `[null, "2026-02-30"]`} {
		f.exec(`UPDATE calendars SET days = $1::text::json`, bad)
		f.catalogue()
		require.Contains(t, f.invalid(id), "calendar holidays/fr is invalid", bad)
		require.Nil(t, f.nextDue(id))
		require.Equal(t, 1, f.count(`SELECT count(*) FROM calendars WHERE invalid LIKE '%days%' AND checked`), bad)
		list, err := f.store.Calendars(t.Context())
		require.NoError(t, err, "a bad row stops no listing")
		require.NotEmpty(t, list[0].Invalid)
		require.Equal(t, 1, list[0].Schedules)
	}
	f.exec(`UPDATE calendars SET days = '["--01-01/--12-31"]'`)
	f.catalogue()
	require.Contains(t, f.invalid(id), "never fires")
	require.Zero(t, f.count(`SELECT count(*) FROM calendars WHERE invalid <> ''`))
	f.exec(`UPDATE calendars SET days = '[]'`)
	f.catalogue()
	require.Empty(t, f.invalid(id))
	f.exec(`UPDATE calendars SET name = 'other'`)
	f.catalogue()
	require.Contains(t, f.invalid(id), "no calendar")
	f.exec(`UPDATE calendars SET name = 'holidays/fr'`)
	f.catalogue()
	require.Empty(t, f.invalid(id))
	f.exec(`DELETE FROM calendars`)
	f.catalogue()
	require.Contains(t, f.invalid(id), "no calendar")
}

// A plan that was made of a calendar's old days must not stand.
func TestAPlanOfAnOldCalendarDoesNotStand(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	f.exec(`INSERT INTO calendars (name, days) VALUES ('a', '[]')`)
	f.exec(`INSERT INTO schedules (task, cron, exclude) VALUES ('demo', '@daily', '{a}')`)
	read, err := f.store.UnplannedSchedules(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, read, 1)
	require.Equal(t, map[string]string{"a": "[]"}, read[0].Calendars)
	f.exec(`UPDATE calendars SET days = '["--12-25"]'`)
	next := read[0].ChangedAt.Add(time.Hour)
	require.NoError(t, f.store.PlanSchedules(t.Context(), f.term, []store.Plan{{Schedule: read[0].ID, Version: read[0].Version, ChangedAt: read[0].ChangedAt, Next: &next}}))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM schedules WHERE planned IS DISTINCT FROM version`))
}

func TestSpecsWrittenBySQL(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	insert := func(columns, values string) (id int64) {
		t.Helper()
		f.scan(&id, `INSERT INTO schedules (task, `+columns+`) VALUES ('demo', `+values+`) RETURNING id`)
		return id
	}
	bad := map[int64]string{}
	for _, c := range []struct{ columns, values, reason string }{
		{"interval_ms", "1500", "whole seconds"},
		{"interval_ms, offset_ms", "60000, 60000", "not shorter"},
		{"interval_ms, offset_ms", "60000, 9223372036854775807", "not shorter"},
		{"interval_ms, dst", "60000, 'once'", "cron and calendar only"},
		{"cron, starts_at", "'@daily', 'infinity'", "start: the time is out of range"},
		{"cron, starts_at", "'@daily', '-infinity'", "start: the time is out of range"},
		{"cron, ends_at", "'@daily', 'infinity'", "end: the time is out of range"},
		{"cron, ends_at", "'@daily', '294000-01-01Z'", "end: the time is out of range"},
		{"cron, starts_at, ends_at", "'@daily', '2027-01-02Z', '2027-01-01Z'", "ends before"},
		{"cron, jitter_ms", "'@daily', 9223372036854775807", "jitter"},
		{"calendar", `'{}'`, "no time of day"},
		{"calendar", `'{"times": "08:00"}'`, "calendar"},
		{"calendar", `'{"time": ["08:00"]}'`, "time"},
		{"calendar", `'{"times": ["08:00"], "days": [1e400]}'`, "calendar"},
		{"calendar", `'{"times": ["08:00"], "days": [31], "months": ["feb"]}'`, "never fires"},
		{"cron, exclude", "'@daily', '{NULL}'", "cannot name a calendar"},
		{"cron, exclude", "'@daily', '{{a,b},{c,d}}'", "no calendar a"},
		{"at, exclude", "'2030-01-01Z', '{a}'", "does not go with at"},
	} {
		bad[insert(c.columns, c.values)] = c.reason
	}
	far := insert("interval_ms", "9223372036854775807")
	good := []int64{
		insert("interval_ms, offset_ms, jitter_ms, starts_at", "3600000, 60000, 1000, '2030-01-01Z'"),
		insert("calendar, timezone, dst", `'{"times": ["08:00"], "weekdays": ["mon-fri"], "days": [-1]}', 'Europe/Paris', 'twice'`),
		insert("cron, catch_up_ms", "'@daily', 9223372036854775807"),
	}
	f.catalogue()
	for id, reason := range bad {
		require.Contains(t, f.invalid(id), reason)
		require.Nil(t, f.nextDue(id))
	}
	require.NotEmpty(t, f.invalid(far))
	for _, id := range good {
		require.Empty(t, f.invalid(id))
		require.NotNil(t, f.nextDue(id))
	}
	require.Equal(t, "2030-01-01T00:01:00Z", f.nextDue(good[0]).Format(time.RFC3339))
	_, err := f.store.Task(t.Context(), "demo")
	require.NoError(t, err)
}

func TestARunStartsByItsJitter(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	var id int64
	f.scan(&id, `INSERT INTO schedules (task, interval_ms, jitter_ms, overlap) VALUES ('demo', 1000, 86400000, 'allow-all') RETURNING id`)
	f.catalogue()
	f.due(id)
	f.fire()
	fire := f.fires("demo")[0]
	require.Equal(t, task.FireStarted, fire.Outcome)
	run, err := f.store.Run(t.Context(), *fire.Run)
	require.NoError(t, err)
	read, err := f.store.Task(t.Context(), "demo")
	require.NoError(t, err)
	require.Equal(t, task.Duration(24*time.Hour), read.Schedule[0].Jitter)
	spec, err := scheduler.Parse(read.Schedule[0])
	require.NoError(t, err)
	require.True(t, run.DueAt.Equal(fire.DueAt), "the jitter does not move the due time")
	require.NotNil(t, run.AvailableAt)
	require.True(t, run.AvailableAt.Equal(spec.StartAt(fire.DueAt)), "%v, %v", run.AvailableAt, spec.StartAt(fire.DueAt))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM ready WHERE run = $1 AND hold = 'later'`, run.ID))
}

// Several schedules of one task have each their due times, ledger and verdict.
func TestSchedulesOfOneTaskAreIndependent(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	fast, slow, bad := f.schedule("demo", "@every 1s", "skip"), f.schedule("demo", "@every 1h", "skip"), f.schedule("demo", "0 0 30 2 *", "skip")
	paused := f.schedule("demo", "@every 1s", "skip")
	f.exec(`UPDATE schedules SET paused = true WHERE id = $1`, paused)
	f.catalogue()
	require.NotEmpty(t, f.invalid(bad))
	f.due(fast)
	f.due(paused)
	before := *f.nextDue(slow)
	f.fire()
	outcomes := map[int64]task.FireOutcome{}
	for _, fire := range f.fires("demo") {
		if _, seen := outcomes[fire.Schedule]; !seen {
			outcomes[fire.Schedule] = fire.Outcome
		}
	}
	require.Equal(t, map[int64]task.FireOutcome{fast: task.FireStarted, paused: task.FirePaused}, outcomes)
	require.Equal(t, before, *f.nextDue(slow))
	f.due(slow)
	f.fire()
	var outcome string
	f.scan(&outcome, `SELECT outcome FROM fires WHERE schedule = $1`, slow)
	require.Equal(t, "started", outcome, "the run of another schedule does not overlap")
	f.exec(`DELETE FROM schedules WHERE id = $1`, fast)
	require.NotNil(t, f.nextDue(slow))
}
