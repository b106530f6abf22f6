package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

// catchUp makes up for all that is late.
func (f *fixture) catchUp() {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		_, err := f.CatchUp(f.t.Context(), f.term)
		require.NoError(f.t, err)
		return f.count(`SELECT count(*) FROM catch_ups`) == 0
	}, 20*time.Second, time.Millisecond)
}

func (f *fixture) open() (opened int) {
	f.t.Helper()
	for more := true; more; {
		var err error
		more, err = f.OpenBuffered(f.t.Context(), f.term)
		require.NoError(f.t, err)
		if more {
			opened++
		}
	}
	return opened
}

// openSoon opens what waits, past the rest of the duty.
func (f *fixture) openSoon() {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return f.open() > 0 }, 10*time.Second, time.Millisecond)
}

// dueOnce makes the schedule a one-shot that is due now and handles it.
func (f *fixture) dueOnce(id int64) {
	f.t.Helper()
	f.exec(`UPDATE schedules SET cron = NULL, at = clock_timestamp() + interval '1 hour' WHERE id = $1`, id)
	f.catalogue()
	f.exec(`UPDATE schedules SET at = date_trunc('milliseconds', clock_timestamp()) WHERE id = $1`, id)
	f.exec(`UPDATE schedules SET updated_at = at - interval '1 second' WHERE id = $1`, id)
	f.catalogue()
	f.fire()
}

func quiet() logrus.FieldLogger {
	log := logrus.New()
	log.SetLevel(logrus.PanicLevel)
	return log
}

func (f *fixture) state(run uuid.UUID) task.State {
	f.t.Helper()
	r, err := f.store.Run(f.t.Context(), run)
	require.NoError(f.t, err)
	return r.State
}

// end ends an active run as a worker's commit would, without the worker.
func (f *fixture) end(run uuid.UUID, state task.State) {
	f.t.Helper()
	f.exec(`DELETE FROM ready WHERE run = $1 AND hold <> 'buffered'`, run)
	f.exec(`UPDATE runs SET state = $2, finished_at = clock_timestamp(), parcel = NULL WHERE id = $1`, run, string(state))
}

// active lists the runs of a schedule that have not ended and do not wait for another.
func (f *fixture) active(id int64) (n int) {
	f.t.Helper()
	return f.count(`SELECT count(*) FROM runs r WHERE r.schedule = $1 AND r.finished_at IS NULL
		AND NOT EXISTS (SELECT 1 FROM ready w WHERE w.run = r.id AND w.hold = 'buffered')`, id)
}

func (f *fixture) waiting(id int64) int {
	f.t.Helper()
	return f.count(`SELECT count(*) FROM ready WHERE schedule = $1 AND hold = 'buffered'`, id)
}

func (f *fixture) policy(policy task.Overlap) (id int64) {
	f.t.Helper()
	f.task(string(policy))
	id = f.schedule(string(policy), "@every 1h", string(policy))
	f.exec(`UPDATE schedules SET buffer = 2 WHERE id = $1`, id)
	f.catalogue()
	return id
}

func TestOverlapPolicies(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, test := range []struct {
		policy   task.Overlap
		outcomes string // of four due times while the first run goes on
		waiting  int
		active   int
		first    task.State // of the first run
		then     int        // active once the first has ended
	}{
		{task.OverlapSkip, "started skipped skipped skipped", 0, 1, task.StateQueued, 0},
		{task.OverlapBufferOne, "started buffered skipped skipped", 1, 1, task.StateQueued, 1},
		{task.OverlapBufferAll, "started buffered buffered skipped", 2, 1, task.StateQueued, 1},
		{task.OverlapCancelOther, "started buffered buffered buffered", 1, 0, task.StateCancelled, 1},
		{task.OverlapTerminateOther, "started buffered buffered buffered", 1, 0, task.StateCancelled, 1},
		{task.OverlapAllowAll, "started started started started", 0, 4, task.StateQueued, 3},
	} {
		id := f.policy(test.policy)
		for range 4 {
			f.dueOnce(id)
		}
		var outcomes []string
		var runs []uuid.UUID
		for _, fire := range f.fires(string(test.policy)) {
			require.EqualValues(t, 1, fire.Count)
			outcomes = append(outcomes, string(fire.Outcome))
			if fire.Run != nil {
				runs = append(runs, *fire.Run)
			}
		}
		require.Equal(t, test.outcomes, strings.Join(outcomes, " "), test.policy)
		require.Equal(t, test.waiting, f.waiting(id), test.policy)
		require.Equal(t, test.active, f.active(id), test.policy)
		require.Equal(t, test.first, f.state(runs[0]), test.policy)
		if test.first == task.StateQueued {
			if test.policy != task.OverlapAllowAll {
				require.Zero(t, f.open(), "%s: the first run has not ended", test.policy)
			}
			f.end(runs[0], task.StateSucceeded)
		}
		if test.waiting > 0 {
			f.openSoon()
		}
		require.Equal(t, test.then, f.active(id), test.policy)
		require.Equal(t, max(0, test.waiting-1), f.waiting(id), test.policy)
		f.exec(`DELETE FROM ready`)
		f.exec(`UPDATE runs SET state = 'succeeded', finished_at = clock_timestamp() WHERE finished_at IS NULL`)
	}
}

func TestARunAtAWorkerIsAskedToEndForTheNextOne(t *testing.T) {
	t.Parallel()
	f := start(t)
	epoch, err := f.store.RegisterWorker(t.Context(), task.Worker{ID: uuid.NewString(), Host: "h", PID: 1, Version: "test", Queues: []string{"*"}, Slots: 4})
	require.NoError(t, err)
	for _, policy := range []task.Overlap{task.OverlapCancelOther, task.OverlapTerminateOther} {
		id := f.policy(policy)
		f.dueOnce(id)
		first := *f.fires(string(policy))[0].Run
		filled, _, err := f.store.Fill(t.Context(), f.term)
		require.NoError(t, err)
		for _, p := range append(f.parcels.list, filled...) {
			_, err := f.store.Claim(t.Context(), epoch, p.ID, p.DispatchNo)
			require.NoError(t, err)
		}
		f.dueOnce(id)
		run, err := f.store.Run(t.Context(), first)
		require.NoError(t, err)
		require.True(t, run.CancelRequested)
		require.Contains(t, run.Reason, "overlap policy "+string(policy))
		var atOnce bool
		f.scan(&atOnce, `SELECT at_once FROM cancels WHERE run = $1 AND worker = $2`, first, epoch)
		require.Equal(t, policy == task.OverlapTerminateOther, atOnce)
		require.Zero(t, f.open(), "the run before has not ended")
		require.Equal(t, 1, f.active(id))
		f.end(first, task.StateCancelled)
		f.openSoon()
		require.Equal(t, 1, f.active(id))
		require.Equal(t, task.StateQueued, f.state(*f.fires(string(policy))[1].Run))
	}
}

func TestARetryByHandRunsBesideNoOther(t *testing.T) {
	t.Parallel()
	f := start(t)
	id := f.policy(task.OverlapSkip)
	f.dueOnce(id)
	first := *f.fires("skip")[0].Run
	f.end(first, task.StateFailed)
	f.dueOnce(id)
	second := *f.fires("skip")[1].Run
	_, err := f.store.RetryRun(t.Context(), first, "", "the test")
	require.NoError(t, err)
	require.Equal(t, 1, f.active(id))
	require.Equal(t, 1, f.waiting(id))
	f.dueOnce(id)
	require.Equal(t, task.FireSkipped, f.fires("skip")[2].Outcome)
	f.end(second, task.StateFailed)
	f.dueOnce(id)
	require.Equal(t, task.FireSkipped, f.fires("skip")[3].Outcome, "the retried one goes first")
	f.openSoon()
	require.Equal(t, 1, f.active(id))
	f.end(first, task.StateSucceeded)
	_, err = f.store.RetryRun(t.Context(), second, "", "the test")
	require.NoError(t, err)
	require.Equal(t, 1, f.active(id), "nothing stands in its way")
	f.dueOnce(id)
	require.Equal(t, task.FireSkipped, f.fires("skip")[4].Outcome)
}

func TestRunsThatWaitEndWithTheirSchedule(t *testing.T) {
	t.Parallel()
	f := start(t)
	id := f.policy(task.OverlapBufferAll)
	for range 3 {
		f.dueOnce(id)
	}
	require.Equal(t, 2, f.waiting(id))
	f.exec(`DELETE FROM schedules WHERE id = $1`, id)
	require.Eventually(t, func() bool { f.open(); return f.waiting(id) == 0 }, 10*time.Second, time.Millisecond)
	fires := f.fires("buffer-all")
	require.Equal(t, task.StateQueued, f.state(*fires[0].Run), "what has begun goes on")
	run, err := f.store.Run(t.Context(), *fires[1].Run)
	require.NoError(t, err)
	require.Equal(t, task.StateCancelled, run.State)
	require.Contains(t, run.Reason, "deleted")
}

func TestPauseAfterFailuresInARow(t *testing.T) {
	t.Parallel()
	f := start(t)
	id := f.policy(task.OverlapSkip)
	f.exec(`UPDATE schedules SET pause_on_failure = 2 WHERE id = $1`, id)
	next := func(state task.State) task.Fire {
		f.dueOnce(id)
		fires := f.fires("skip")
		last := fires[len(fires)-1]
		if last.Run != nil {
			f.end(*last.Run, state)
		}
		return last
	}
	for _, state := range []task.State{task.StateFailed, task.StateSucceeded, task.StateTimedOut, task.StateCancelled, task.StateQuarantined} {
		require.Equal(t, task.FireStarted, next(state).Outcome)
	}
	paused := next("")
	require.Equal(t, task.FirePaused, paused.Outcome)
	require.Contains(t, paused.Reason, "its last 2 runs failed")
	shown, err := f.store.SchedulesOf(t.Context(), "skip")
	require.NoError(t, err)
	require.True(t, shown[0].Paused)
	var note string
	f.scan(&note, `SELECT note FROM schedules WHERE id = $1`, id)
	require.Contains(t, paused.Reason, note)
	require.Equal(t, task.FirePaused, next("").Outcome)
	_, err = f.store.ResumeSchedule(t.Context(), "skip", id)
	require.NoError(t, err)
	require.Equal(t, task.FireStarted, next(task.StateFailed).Outcome)
	require.Equal(t, task.FireStarted, next(task.StateSucceeded).Outcome, "the count began anew")
}

func TestPauseAndResumeASchedule(t *testing.T) {
	t.Parallel()
	f := start(t)
	id := f.policy(task.OverlapSkip)
	other := f.policy(task.OverlapAllowAll)
	_, err := f.store.PauseSchedule(t.Context(), "skip", id, "until\x00 Monday")
	require.NoError(t, err)
	f.dueOnce(id)
	f.dueOnce(other)
	require.Equal(t, task.FirePaused, f.fires("skip")[0].Outcome)
	require.Contains(t, f.fires("skip")[0].Reason, "Monday")
	require.Equal(t, task.FireStarted, f.fires("allow-all")[0].Outcome)
	_, err = f.store.ResumeSchedule(t.Context(), "skip", id)
	require.NoError(t, err)
	f.dueOnce(id)
	require.Equal(t, task.FireStarted, f.fires("skip")[1].Outcome)
	_, err = f.store.PauseSchedule(t.Context(), "skip", other, "")
	require.Equal(t, task.CodeNotFound, task.CodeOf(err), "the schedule of another task")
	_, err = f.store.ResumeSchedule(t.Context(), "nobody", id)
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
}

// A day's pause of a schedule that is due each second is one row, whatever the number of turns.
func TestRangesGrow(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.task("demo")
	id := f.schedule("demo", "@every 1s", "skip")
	f.exec(`UPDATE schedules SET paused = true, note = 'a' WHERE id = $1`, id)
	f.catalogue()
	grown := func() bool {
		f.fire()
		rows := f.fires("demo")
		last := rows[len(rows)-1]
		return last.Count >= 3
	}
	f.due(id)
	require.Eventually(t, grown, 20*time.Second, 10*time.Millisecond)
	rows := len(f.fires("demo"))
	require.LessOrEqual(t, rows, 2, "a row, or two around midnight")
	f.exec(`UPDATE schedules SET note = 'b' WHERE id = $1`, id)
	require.Eventually(t, func() bool { f.fire(); return len(f.fires("demo")) > rows }, 20*time.Second, 10*time.Millisecond)
	require.Eventually(t, grown, 20*time.Second, 10*time.Millisecond)
	require.LessOrEqual(t, len(f.fires("demo")), rows+2)
	next := f.fires("demo")[0].DueAt
	for _, fire := range f.fires("demo") {
		require.Equal(t, task.FirePaused, fire.Outcome)
		require.Equal(t, next, fire.DueAt)
		require.EqualValues(t, fire.LastDueAt.Sub(fire.DueAt)/time.Second+1, fire.Count)
		next = fire.LastDueAt.Add(time.Second)
	}
}

func TestCatchUpKeepsItsRate(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.Scheduler = scheduler.New(scheduler.Config{CatchUpRate: 5}, f.store, f.parcels, quiet())
	f.task("demo")
	id := f.schedule("demo", "@every 1m", "allow-all")
	f.catalogue()
	f.exec(`UPDATE schedule_due SET due_at = due_at - interval '30 minutes' WHERE schedule = $1`, id)
	f.fire()
	began := time.Now()
	require.Eventually(t, func() bool {
		_, err := f.CatchUp(t.Context(), f.term)
		require.NoError(t, err)
		return f.count(`SELECT count(*) FROM fires WHERE outcome = 'caught_up'`) >= 8
	}, 20*time.Second, 5*time.Millisecond)
	require.Greater(t, time.Since(began), 1200*time.Millisecond, "eight runs at five a second")
	require.Equal(t, 1, f.count(`SELECT count(*) FROM catch_ups`))
	f.exec(`UPDATE schedules SET cron = '@every 2h' WHERE id = $1`, id)
	f.catalogue()
	require.Zero(t, f.count(`SELECT count(*) FROM catch_ups`), "an edit ends the catch-up")
	// A minute that began meanwhile was missed for the edit too.
	require.Equal(t, 1, f.count(`SELECT count(*) FROM fires WHERE outcome = 'missed' AND reason LIKE '%edited%' AND due_at < $1`, began))
}

func TestRefusedTurnsWriteNothing(t *testing.T) {
	t.Parallel()
	f := start(t)
	id := f.policy(task.OverlapBufferAll)
	f.dueOnce(id)
	f.dueOnce(id)
	f.end(*f.fires("buffer-all")[0].Run, task.StateSucceeded)
	f.exec(`INSERT INTO catch_ups (schedule, next_at, last_at, count) VALUES ($1, date_trunc('hour', clock_timestamp()), date_trunc('hour', clock_timestamp()), 1)`, id)
	f.exec(`UPDATE leader SET expires_at = '-infinity'`)
	_, won, err := f.store.Campaign(t.Context(), "another")
	require.NoError(t, err)
	require.True(t, won)
	_, err = f.OpenBuffered(t.Context(), f.term)
	require.ErrorContains(t, err, "no longer leads")
	_, err = f.CatchUp(t.Context(), f.term)
	require.ErrorContains(t, err, "no longer leads")
	require.Equal(t, 1, f.waiting(id))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM catch_ups`))
}
