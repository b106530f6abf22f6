package scheduler_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, servertest.LeakOptions()...) }

// parcels keeps what a scheduler asks to enqueue.
type parcels struct {
	mu   sync.Mutex
	list []store.Parcel
}

func (p *parcels) Enqueue(_ context.Context, more []store.Parcel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, more...)
}

// fixture is a scheduler on a database of its own, whose leader the test is.
type fixture struct {
	*scheduler.Scheduler
	t       *testing.T
	store   *store.Store
	term    int64
	parcels *parcels
}

func start(t *testing.T) *fixture {
	t.Helper()
	return startOn(t, servertest.PostgresURL(t))
}

func startOn(t *testing.T, url string) *fixture {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{URL: url, Traces: func(run uuid.UUID) string {
		return "00-" + strings.ReplaceAll(run.String(), "-", "") + "-00f067aa0ba902b7-01"
	}})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.EnsurePartitions(t.Context()))
	lease, won, err := s.Campaign(t.Context(), "test")
	require.NoError(t, err)
	require.True(t, won)
	log := logrus.New()
	log.SetLevel(logrus.PanicLevel)
	p := &parcels{}
	return &fixture{Scheduler: scheduler.New(scheduler.Config{CatchUpRate: 10_000}, s, p, log), t: t, store: s, term: lease.Term, parcels: p}
}

func (f *fixture) exec(sql string, args ...any) int64 {
	f.t.Helper()
	tag, err := f.store.Pool().Exec(f.t.Context(), sql, args...)
	require.NoError(f.t, err, sql)
	return tag.RowsAffected()
}

func (f *fixture) scan(into any, sql string, args ...any) {
	f.t.Helper()
	require.NoError(f.t, f.store.Pool().QueryRow(f.t.Context(), sql, args...).Scan(into), sql)
}

func (f *fixture) count(sql string, args ...any) (n int) {
	f.t.Helper()
	f.scan(&n, sql, args...)
	return n
}

// task inserts a task by SQL.
func (f *fixture) task(name string) {
	f.t.Helper()
	f.exec(`INSERT INTO tasks (name, chain) VALUES ($1, '["nop"]')`, name)
}

// schedule inserts a schedule by SQL and returns its id.
func (f *fixture) schedule(name, cron, overlap string) (id int64) {
	f.t.Helper()
	f.scan(&id, `INSERT INTO schedules (task, cron, overlap) VALUES ($1, $2, $3) RETURNING id`, name, cron, overlap)
	return id
}

// catalogue does all the checks and plans that wait.
func (f *fixture) catalogue() {
	f.t.Helper()
	for more := true; more; {
		var err error
		more, err = f.Catalogue(f.t.Context(), f.term)
		require.NoError(f.t, err)
	}
	require.Zero(f.t, f.count(`SELECT count(*) FROM tasks WHERE checked IS DISTINCT FROM revision`))
	require.Zero(f.t, f.count(`SELECT count(*) FROM schedules WHERE planned IS DISTINCT FROM version`))
}

// fire handles everything that is due now.
func (f *fixture) fire() {
	f.t.Helper()
	for more := true; more; {
		var err error
		more, err = f.Fire(f.t.Context(), f.term)
		require.NoError(f.t, err)
	}
}

func (f *fixture) invalid(schedule int64) (reason string) {
	f.t.Helper()
	f.scan(&reason, `SELECT invalid FROM schedules WHERE id = $1`, schedule)
	return reason
}

// traced checks that each run has begun a trace of its own.
func (f *fixture) traced() {
	f.t.Helper()
	require.Zero(f.t, f.count(`SELECT count(*) FROM runs WHERE trace IS DISTINCT FROM '00-' || replace(id::text, '-', '') || '-00f067aa0ba902b7-01'`))
}

// fires returns the ledger of a task, oldest first.
func (f *fixture) fires(name string) []task.Fire {
	f.t.Helper()
	list, err := f.store.Fires(f.t.Context(), store.FireFilter{Task: name})
	require.NoError(f.t, err)
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list
}

func (f *fixture) now() time.Time {
	f.t.Helper()
	now, err := f.store.Now(f.t.Context())
	require.NoError(f.t, err)
	return now
}

func TestRowsWrittenBySQL(t *testing.T) {
	t.Parallel()
	f := start(t)
	for name, c := range map[string]struct{ column, value, reason string }{
		"chain-no-list":     {"chain", `"hello"`, "chain"},
		"chain-action":      {"chain", `[{"coll": "a:b"}]`, "coll"},
		"chain-classic":     {"chain", `[["fly"]]`, "fly"},
		"retry-type":        {"retry", `{"attempts": "three"}`, "retry"},
		"retry-field":       {"retry", `{"attempt": 3}`, "attempt"},
		"retry-duration":    {"retry", `{"backoff": 5}`, "duration"},
		"retry-range":       {"retry", `{"attempts": 5000}`, "retry.attempts"},
		"retry-jitter":      {"retry", `{"jitter": 7}`, "retry.jitter"},
		"retry-huge-number": {"retry", `{"factor": 1e400}`, "retry"},
	} {
		columns, values := "name, chain", "'"+name+"', '[\"nop\"]'"
		if c.column == "chain" {
			values = "'" + name + "', '" + c.value + "'"
		} else {
			columns, values = columns+", "+c.column, values+", '"+c.value+"'"
		}
		f.exec(`INSERT INTO tasks (` + columns + `) VALUES (` + values + `)`)
		f.schedule(name, "@every 1s", "skip")
	}
	f.task("good")
	f.exec(`UPDATE tasks SET timeout_ms = 9223372036854775807 WHERE name = 'good'`)
	good := f.schedule("good", "@every 1s", "skip")
	f.catalogue()
	tasks, err := f.store.Tasks(t.Context())
	require.NoError(t, err)
	reasons := map[string]string{"chain-no-list": "list", "chain-action": "coll", "chain-classic": "fly", "retry-type": "retry", "retry-field": "attempt",
		"retry-duration": "duration", "retry-range": "retry.attempts", "retry-jitter": "retry.jitter", "retry-huge-number": "retry"}
	for _, found := range tasks {
		if found.Name == "good" {
			require.Empty(t, found.Invalid)
			require.Positive(t, found.Timeout)
			continue
		}
		require.Contains(t, found.Invalid, reasons[found.Name], found.Name)
	}
	require.Len(t, tasks, len(reasons)+1)
	require.Empty(t, f.invalid(good))

	f.exec(`UPDATE schedule_due SET due_at = date_trunc('second', clock_timestamp())`)
	f.fire()
	require.Equal(t, task.FireStarted, f.fires("good")[0].Outcome)
	skipped := f.fires("chain-action")[0]
	require.Equal(t, task.FireSkipped, skipped.Outcome, "the ledger tells why it did not start")
	require.Contains(t, skipped.Reason, "coll")

	// A correction by SQL is taken up.
	f.exec(`UPDATE tasks SET chain = '["nop"]', retry = '{}' WHERE name <> 'good'`)
	f.catalogue()
	require.Zero(t, f.count(`SELECT count(*) FROM tasks WHERE invalid <> ''`))
}

func TestSchedulesWrittenBySQL(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	bad := map[string]struct{ columns, values, reason string }{
		"nonsense":     {"cron", `'every day'`, "cron"},
		"seven fields": {"cron", `'* * * * * * *'`, "fields"},
		"never":        {"cron", `'0 0 30 2 *'`, "never"},
		"empty":        {"cron", `''`, ""},
		"too fast":     {"cron", `'@every 1ms'`, "cron"},
		"zone":         {"cron, timezone", `'@daily', 'Mars/Base'`, "Mars/Base"},
		"infinity":     {"at", `'infinity'`, "range"},
		"minus":        {"at", `'-infinity'`, "range"},
		"far":          {"at", `'200000-01-01Z'`, "range"},
	}
	ids := map[string]int64{}
	for name, c := range bad {
		var id int64
		f.scan(&id, `INSERT INTO schedules (task, `+c.columns+`) VALUES ('demo', `+c.values+`) RETURNING id`)
		ids[name] = id
	}
	good := f.schedule("demo", "@every 1s", "allow-all")
	f.catalogue()
	for name, c := range bad {
		require.NotEmpty(t, f.invalid(ids[name]), name)
		require.Contains(t, f.invalid(ids[name]), c.reason, name)
	}
	require.Empty(t, f.invalid(good))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM schedule_due`), "only what fires has a due time")
	shown, err := f.store.Task(t.Context(), "demo")
	require.NoError(t, err, "odd times stop no listing")
	require.Len(t, shown.Schedule, len(bad)+1)
	_, err = json.Marshal(shown)
	require.NoError(t, err)

	// Changes by SQL: another time, a pause, the end.
	f.exec(`UPDATE schedules SET cron = '@every 1h' WHERE id = $1`, good)
	f.catalogue()
	require.Equal(t, 1, f.count(`SELECT count(*) FROM schedule_due WHERE extract(epoch FROM due_at)::bigint % 3600 = 0`))
	f.exec(`UPDATE schedules SET cron = 'soon' WHERE id = $1`, good)
	f.catalogue()
	require.NotEmpty(t, f.invalid(good))
	require.Zero(t, f.count(`SELECT count(*) FROM schedule_due`), "an invalid schedule has no due time")
	f.exec(`UPDATE schedules SET cron = '@every 1s' WHERE id = $1`, good)
	f.catalogue()
	require.Empty(t, f.invalid(good))
	f.exec(`UPDATE schedules SET cron = NULL, at = '2020-01-01Z' WHERE id = $1`, good)
	f.catalogue()
	f.fire()
	require.Zero(t, f.count(`SELECT count(*) FROM schedule_due`), "a one-shot is over once the ledger has it")
	ledger := f.fires("demo")
	require.Equal(t, task.FireMissed, ledger[0].Outcome)
}

// Two loops of one leader race over 50 schedules that are due each second.
func TestEveryDueTimeIsCoveredOnce(t *testing.T) {
	t.Parallel()
	f := start(t)
	const schedules = 50
	f.task("all")
	for range schedules {
		f.schedule("all", "@every 1s", "allow-all")
	}
	f.catalogue()
	first := map[int64]time.Time{}
	rows, err := f.store.Pool().Query(t.Context(), `SELECT schedule, due_at FROM schedule_due`)
	require.NoError(t, err)
	for rows.Next() {
		var id int64
		var at time.Time
		require.NoError(t, rows.Scan(&id, &at))
		first[id] = at
	}
	require.NoError(t, rows.Err())
	require.Len(t, first, schedules)

	ctx, stop := context.WithTimeout(t.Context(), 8*time.Second)
	defer stop()
	var racers sync.WaitGroup
	errs := make(chan error, 2)
	for range 2 {
		racers.Go(func() {
			for ctx.Err() == nil {
				if _, err := f.Fire(context.WithoutCancel(ctx), f.term); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	racers.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	f.fire()

	covered := map[int64][]task.Fire{}
	list, err := f.store.Fires(t.Context(), store.FireFilter{Limit: 10_000})
	require.NoError(t, err)
	for i := len(list) - 1; i >= 0; i-- {
		covered[list[i].Schedule] = append(covered[list[i].Schedule], list[i])
	}
	runs := 0
	for id, at := range first {
		require.GreaterOrEqual(t, len(covered[id]), 7)
		for _, fire := range covered[id] {
			require.True(t, fire.DueAt.Equal(at), "schedule %d: %s follows, want %s", id, fire.DueAt, at)
			require.Equal(t, task.FireStarted, fire.Outcome, fire.Reason)
			require.EqualValues(t, 1, fire.Count)
			at = at.Add(time.Second)
			runs++
		}
		require.Equal(t, 1, f.count(`SELECT count(*) FROM schedule_due WHERE schedule = $1 AND due_at = $2`, id, at))
	}
	require.Equal(t, runs, f.count(`SELECT count(*) FROM runs`))
	require.Equal(t, runs, f.count(`SELECT count(*) FROM fires f JOIN runs r ON r.id = f.run AND r.due_at = f.due_at AND r.schedule = f.schedule`))
}

func TestAStaleTermWritesNothing(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	f.schedule("demo", "@every 1s", "allow-all")
	f.catalogue()
	f.exec(`UPDATE leader SET expires_at = '-infinity'`)
	_, won, err := f.store.Campaign(t.Context(), "another")
	require.NoError(t, err)
	require.True(t, won)
	f.exec(`UPDATE schedule_due SET due_at = date_trunc('second', clock_timestamp())`)
	_, err = f.Fire(t.Context(), f.term)
	require.True(t, store.StaleTerm(err), "%v", err)
	f.schedule("demo", "@every 2s", "allow-all")
	_, err = f.Catalogue(t.Context(), f.term)
	require.True(t, store.StaleTerm(err), "%v", err)
	require.Zero(t, f.count(`SELECT count(*) FROM fires`))
	require.Zero(t, f.count(`SELECT count(*) FROM runs`))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM schedule_due`))
}

func TestATurnThatIsRepeatedCountsOnce(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	id := f.schedule("demo", "@every 1h", "allow-all")
	f.catalogue()
	f.exec(`CREATE SEQUENCE turns`) // it does not go back with a transaction
	f.exec(`CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF nextval('turns') < 3 THEN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$`)
	f.exec(`CREATE TRIGGER collide AFTER INSERT ON fires FOR EACH STATEMENT EXECUTE FUNCTION collide()`)
	f.due(id)
	f.fire()
	require.Equal(t, 1, f.count(`SELECT count(*) FROM fires`))
	require.Equal(t, 3, f.count(`SELECT last_value FROM turns`))
	registry := prometheus.NewRegistry()
	require.NoError(t, registry.Register(f.Metrics()))
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == "catena_schedule_lateness_seconds" {
			require.EqualValues(t, 1, family.GetMetric()[0].GetHistogram().GetSampleCount())
			return
		}
	}
	t.Fatal("no metric")
}

// due puts the schedule's next due time to the newest whole second.
func (f *fixture) due(id int64) {
	f.t.Helper()
	require.EqualValues(f.t, 1, f.exec(`UPDATE schedule_due SET due_at = date_trunc('second', clock_timestamp()) WHERE schedule = $1`, id))
}

func TestOverlap(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, overlap := range []string{"skip", "allow-all"} {
		f.task(overlap)
		id := f.schedule(overlap, "@every 1s", overlap)
		f.catalogue()
		f.due(id)
		fires := func(want int) []task.Fire {
			var got []task.Fire
			require.Eventually(t, func() bool { f.fire(); got = f.fires(overlap); return len(got) >= want }, 10*time.Second, 10*time.Millisecond)
			return got
		}
		got := fires(2)
		require.Equal(t, task.FireStarted, got[0].Outcome)
		if overlap == "allow-all" {
			require.Equal(t, task.FireStarted, got[1].Outcome, "beside the run that has not ended")
			require.NotEqual(t, got[0].Run, got[1].Run)
			continue
		}
		require.Equal(t, task.FireSkipped, got[1].Outcome)
		require.Nil(t, got[1].Run)
		require.Contains(t, got[1].Reason, "has not ended")
		f.finish(*got[0].Run)
		n := len(f.fires(overlap))
		got = fires(n + 1)
		require.Equal(t, task.FireStarted, got[n].Outcome, "the run before it has ended")
	}
	f.traced()
}

// finish ends a run as its worker would.
func (f *fixture) finish(run uuid.UUID) {
	f.t.Helper()
	epoch, err := f.store.RegisterWorker(f.t.Context(), task.Worker{ID: uuid.NewString(), Host: "h", PID: 1, Version: "test", Queues: []string{"*"}, Slots: 4})
	require.NoError(f.t, err)
	list, _, err := f.store.Fill(f.t.Context(), f.term)
	require.NoError(f.t, err)
	for _, p := range list {
		claimed, err := f.store.Claim(f.t.Context(), epoch, p.ID, p.DispatchNo)
		require.NoError(f.t, err)
		for _, c := range claimed {
			if c.ID != run {
				continue
			}
			_, err := f.store.Write(f.t.Context(), store.Batch{Worker: epoch, Endings: []store.Ending{{Run: c.ID, Fence: c.Fence,
				State: task.StateSucceeded, Outcome: json.RawMessage(`{"success":true}`), Attempt: 1}}})
			require.NoError(f.t, err)
			return
		}
	}
	require.FailNow(f.t, "the run was in no parcel")
}

func TestMissedWhileNobodyWasThere(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	id := f.schedule("demo", "@every 1m", "allow-all")
	f.catalogue()
	var from time.Time
	f.scan(&from, `UPDATE schedule_due SET due_at = due_at - interval '26 hours' WHERE schedule = $1 RETURNING due_at`, id)
	f.fire()
	require.Equal(t, 1, f.count(`SELECT count(*) FROM catch_ups WHERE count BETWEEN 58 AND 60`), "what is due now did not wait for it")
	f.catchUp()
	got := f.fires("demo")
	require.Equal(t, task.FireMissed, got[0].Outcome)
	require.True(t, got[0].DueAt.Equal(from))
	require.Contains(t, got[0].Reason, "catch-up window of 1h")
	require.Nil(t, got[0].Run)
	next := from
	for i, fire := range got {
		require.True(t, fire.DueAt.Equal(next), "row %d", i)
		require.EqualValues(t, fire.LastDueAt.Sub(fire.DueAt)/time.Minute+1, fire.Count)
		next = fire.LastDueAt.Add(time.Minute)
		if i > 0 && i < len(got)-1 {
			require.Equal(t, task.FireCaughtUp, fire.Outcome, "what is late by less than an hour is caught up")
		}
	}
	require.InDelta(t, 60, len(got)-1, 1)
	require.True(t, next.After(f.now().Add(-time.Second)))
}

func TestPaused(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	f.task("other")
	id, other := f.schedule("demo", "@every 1s", "skip"), f.schedule("other", "@every 1s", "skip")
	f.catalogue()
	_, err := f.store.PauseTask(t.Context(), "demo", "holidays")
	require.NoError(t, err)
	f.exec(`UPDATE schedules SET paused = true WHERE id = $1`, other)
	f.exec(`UPDATE schedule_due SET due_at = due_at - interval '100 seconds'`)
	f.fire()
	paused := f.fires("demo")[0]
	require.Equal(t, task.FirePaused, paused.Outcome)
	require.Contains(t, paused.Reason, "holidays")
	require.GreaterOrEqual(t, paused.Count, int64(99), "a pause is a range")
	require.Equal(t, task.FirePaused, f.fires("other")[0].Outcome)
	require.Zero(t, f.count(`SELECT count(*) FROM runs`))
	_, err = f.store.ResumeTask(t.Context(), "demo")
	require.NoError(t, err)
	require.Eventually(t, func() bool { f.fire(); return f.count(`SELECT count(*) FROM runs`) > 0 }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM schedule_due WHERE schedule = $1`, id))
}

// A schedule that the ledger refuses must not hold up the others in its batch.
func TestOneBadScheduleStopsNoOther(t *testing.T) {
	t.Parallel()
	f := start(t)
	const schedules = 41
	var ids []int64
	for i := range schedules {
		name := fmt.Sprintf("t%d", i)
		f.task(name)
		ids = append(ids, f.schedule(name, "@every 1h", "skip"))
	}
	f.catalogue()
	bad := []int64{ids[0], ids[20], ids[40]}
	f.exec(`UPDATE schedule_due SET due_at = date_trunc('second', clock_timestamp())`)
	for _, id := range bad {
		f.exec(`INSERT INTO fires (schedule, due_at, last_due_at, count, task, outcome) SELECT schedule, due_at, due_at, 1, 'x', 'skipped'
			FROM schedule_due WHERE schedule = $1`, id)
	}
	f.exec(`INSERT INTO schedules (id, task, cron, planned, version) VALUES (100000, 't0', '@daily', 1, 1)`)
	f.exec(`UPDATE schedules SET planned = version WHERE id = 100000`)
	f.exec(`INSERT INTO schedule_due (schedule, due_at) VALUES (100000, '-infinity')`)

	f.fire()
	require.Equal(t, schedules-len(bad), f.count(`SELECT count(*) FROM runs`))
	for _, id := range bad {
		require.Contains(t, f.invalid(id), "could not be recorded")
		require.Contains(t, f.invalid(id), "planned = NULL", "the reason says what to do")
		require.Zero(t, f.count(`SELECT count(*) FROM schedule_due WHERE schedule = $1`, id))
	}
	require.Equal(t, len(bad), f.count(`SELECT count(*) FROM schedules WHERE invalid <> ''`))
	_, err := f.store.Tasks(t.Context())
	require.NoError(t, err)

	f.exec(`UPDATE schedules SET planned = NULL WHERE id = $1`, bad[0])
	f.catalogue()
	require.Empty(t, f.invalid(bad[0]))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM schedule_due WHERE schedule = $1 AND due_at > clock_timestamp()`, bad[0]))
}

// TestAScheduleThatCannotBeReadAnyMoreIsFlagged: it was good when it was planned.
func TestAScheduleThatCannotBeReadAnyMoreIsFlagged(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	id := f.schedule("demo", "@every 1h", "skip")
	f.catalogue()
	f.exec(`ALTER TABLE schedules DISABLE TRIGGER ALL`)
	f.exec(`UPDATE schedules SET timezone = 'Mars/Olympus'`) // as if this machine's zones had lost it
	f.exec(`UPDATE schedule_due SET due_at = date_trunc('second', clock_timestamp())`)
	f.fire()
	require.Contains(t, f.invalid(id), "Mars/Olympus")
	fires := f.fires("demo")
	require.Len(t, fires, 1)
	require.Equal(t, task.FireSkipped, fires[0].Outcome)
	require.Contains(t, fires[0].Reason, "Mars/Olympus")
	require.Zero(t, f.count(`SELECT count(*) FROM schedule_due WHERE due_at < 'infinity'`))
}
