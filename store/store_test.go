package store_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// fixture is a store on a database of its own with a leader and one task.
type fixture struct {
	*store.Store
	t    *testing.T
	term int64

	direct []store.Parcel // of limited runs that started when they were asked for
}

func open(t *testing.T) *fixture {
	t.Helper()
	return openWith(t, store.Config{})
}

func openWith(t *testing.T, cfg store.Config) *fixture {
	t.Helper()
	ctx := context.Background()
	cfg.URL = servertest.PostgresURL(t)
	s, err := store.Open(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.EnsurePartitions(ctx))
	lease, won, err := s.Campaign(ctx, "test")
	require.NoError(t, err)
	require.True(t, won)
	f := &fixture{Store: s, t: t, term: lease.Term}
	f.apply(task.Definition{Name: "demo", Chain: json.RawMessage(`["nop"]`)})
	return f
}

func (f *fixture) apply(defs ...task.Definition) []store.Applied {
	f.t.Helper()
	applied, err := f.ApplyTasks(context.Background(), defs, false)
	require.NoError(f.t, err)
	return applied
}

func (f *fixture) exec(sql string, args ...any) int64 {
	f.t.Helper()
	tag, err := f.Pool().Exec(context.Background(), sql, args...)
	require.NoError(f.t, err)
	return tag.RowsAffected()
}

func (f *fixture) worker() int64 {
	f.t.Helper()
	epoch, err := f.RegisterWorker(context.Background(), task.Worker{ID: uuid.NewString(), Host: "h", PID: 1, Version: "test", Queues: []string{"*"}, Slots: 4})
	require.NoError(f.t, err)
	return epoch
}

// submit inserts n runs of demo.
func (f *fixture) submit(n int) ([]uuid.UUID, []store.Parcel) {
	f.t.Helper()
	runs := make([]store.NewRun, n)
	for i := range runs {
		runs[i].Task = "demo"
	}
	accepted, parcels, err := f.InsertRuns(context.Background(), runs)
	require.NoError(f.t, err)
	ids := make([]uuid.UUID, n)
	for i, a := range accepted {
		ids[i] = a.ID
	}
	return ids, parcels
}

// claimOne submits a run and has the worker claim it.
func (f *fixture) claimOne(worker int64) store.Claimed {
	f.t.Helper()
	_, parcels := f.submit(1)
	require.Len(f.t, parcels, 1)
	return f.claim(worker, parcels[0])[0]
}

func (f *fixture) claim(worker int64, p store.Parcel) []store.Claimed {
	f.t.Helper()
	runs, err := f.Claim(context.Background(), worker, p.ID, p.DispatchNo)
	require.NoError(f.t, err)
	return runs
}

func (f *fixture) run(id uuid.UUID) task.Run {
	f.t.Helper()
	r, err := f.Run(context.Background(), id)
	require.NoError(f.t, err)
	return r
}

func (f *fixture) write(b store.Batch) store.Written {
	f.t.Helper()
	w, err := f.Write(context.Background(), b)
	require.NoError(f.t, err)
	return w
}

func (f *fixture) fill() []store.Parcel {
	f.t.Helper()
	parcels, _, err := f.Fill(context.Background(), f.term)
	require.NoError(f.t, err)
	return parcels
}

func (f *fixture) revoke() []store.Revoked {
	f.t.Helper()
	revoked, _, err := f.Revoke(context.Background(), f.term)
	require.NoError(f.t, err)
	return revoked
}

func succeeded(c store.Claimed) store.Ending {
	return store.Ending{Run: c.ID, Fence: c.Fence, State: task.StateSucceeded, Outcome: json.RawMessage(`{"success":true}`), StartedAt: time.Now()}
}

func step(path string) task.Step {
	outcome := task.Succeed(json.RawMessage(`{"at":"` + path + `"}`))
	now := time.Now()
	return task.Step{Path: path, Name: "s" + path, Attempt: 1, Outcome: &outcome, StartedAt: now, FinishedAt: now}
}

func TestARunIsInsertedInsideItsParcelClaimedAndFinished(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	c := f.claimOne(w)
	require.Equal(t, int32(1), c.Fence)

	written := f.write(store.Batch{Worker: w, Endings: []store.Ending{succeeded(c)}, Parcels: []int64{1},
		Logs: []store.LogRow{{Run: c.ID, Line: task.LogLine{Seq: 1, At: time.Now(), Level: "info", Message: "nul \x00 stays out of text"}}}})
	require.False(t, written.Stale[c.ID])
	r := f.run(c.ID)
	require.Equal(t, task.StateSucceeded, r.State)
	require.True(t, r.Outcome.Success)
	lines, err := f.Logs(context.Background(), c.ID, 0, 0)
	require.NoError(t, err)
	require.Len(t, lines, 1)
}

func TestWithoutWorkersRunsWaitInReadyAndFillTakesThemByPriority(t *testing.T) {
	t.Parallel()
	f := open(t)
	high := 9
	f.apply(task.Definition{Name: "urgent", Chain: json.RawMessage(`["nop"]`), Priority: &high})
	ids, parcels := f.submit(1)
	require.Empty(t, parcels)
	require.Equal(t, task.StateQueued, f.run(ids[0]).State)
	urgent, parcels, err := f.InsertRuns(context.Background(), []store.NewRun{{Task: "urgent"}})
	require.NoError(t, err)
	require.Empty(t, parcels)

	w := f.worker()
	filled := f.fill()
	require.Len(t, filled, 2)
	first := f.claim(w, filled[0])
	require.Equal(t, urgent[0].ID, first[0].ID, "the urgent run goes first")
	require.Equal(t, ids[0], f.claim(w, filled[1])[0].ID)
}

func TestParcelsHoldWhatFitsTwentyMilliseconds(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.worker()
	_, parcels := f.submit(3)
	require.Len(t, parcels, 3, "runs of unknown cost travel alone")
	tk, err := f.Task(context.Background(), "demo")
	require.NoError(t, err)
	require.NoError(t, f.LearnCosts(context.Background(), map[int64]float64{tk.Revision: 1000}))
	_, parcels = f.submit(50)
	require.Len(t, parcels, 3, "twenty runs of 1 ms each fit one parcel")
}

func TestOnlyTheFirstClaimOfADispatchWins(t *testing.T) {
	t.Parallel()
	f := open(t)
	a, b := f.worker(), f.worker()
	_, parcels := f.submit(1)
	require.Len(t, f.claim(a, parcels[0]), 1)
	require.Empty(t, f.claim(b, parcels[0]))
	stale := parcels[0]
	stale.DispatchNo++
	require.Empty(t, f.claim(b, stale))
}

func TestAnUnclaimedParcelIsEnqueuedAgainUnderAFreshNumber(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	_, parcels := f.submit(1)
	stranded, err := f.Stranded(context.Background(), f.term)
	require.NoError(t, err)
	require.Empty(t, stranded, "not yet")
	f.exec(`UPDATE parcels SET dispatched_at = dispatched_at - interval '3 seconds'`)
	stranded, err = f.Stranded(context.Background(), f.term)
	require.NoError(t, err)
	require.Equal(t, []store.Parcel{{ID: parcels[0].ID, Lane: "default", DispatchNo: 2}}, stranded)
	require.Empty(t, f.claim(w, parcels[0]), "the old number is void")
	require.Len(t, f.claim(w, stranded[0]), 1)
}

func TestStepsAndEndingsOfAStaleWorkerWriteNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	c := f.claimOne(w)
	require.NoError(t, f.EndWorker(context.Background(), w, task.WorkerLost, "killed"))
	revoked := f.revoke()
	require.Len(t, revoked, 1)
	require.Equal(t, task.StateQueued, revoked[0].State)

	out := f.write(store.Batch{Worker: w, Steps: []store.StepRow{{Run: c.ID, Fence: c.Fence, Step: step("0")}}})
	require.True(t, out.Stale[c.ID])
	out = f.write(store.Batch{Worker: w, Endings: []store.Ending{succeeded(c)}})
	require.True(t, out.Stale[c.ID])
	again := store.Ending{Run: c.ID, Fence: c.Fence, State: task.StateQueued, Attempt: 2}
	require.True(t, f.write(store.Batch{Worker: w, Endings: []store.Ending{again}}).Stale[c.ID])

	r := f.run(c.ID)
	require.Equal(t, task.StateQueued, r.State)
	require.Equal(t, 1, r.Attempt, "no retry is burnt")
	require.Equal(t, 1, r.Losses)
	require.Empty(t, r.Steps)
}

func TestALostRunGoesOnAfterItsLastCommittedStep(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	c := f.claimOne(w)
	rows := []store.StepRow{{Run: c.ID, Fence: c.Fence, Step: step("0")}, {Run: c.ID, Fence: c.Fence, Step: step("1")}}
	require.False(t, f.write(store.Batch{Worker: w, Steps: rows}).Stale[c.ID])
	require.False(t, f.write(store.Batch{Worker: w, Steps: rows}).Stale[c.ID], "an unclear commit is repeated")
	require.NoError(t, f.EndWorker(context.Background(), w, task.WorkerLost, "killed"))
	require.Len(t, f.revoke(), 1)

	other := f.worker()
	parcels := f.fill()
	require.Len(t, parcels, 1)
	require.True(t, store.Suspect(parcels[0].Lane))
	next := f.claim(other, parcels[0])[0]
	require.Greater(t, next.Fence, c.Fence)
	require.Len(t, next.Done, 2)
	require.Equal(t, "1", next.Done[1].Path)
}

func TestRepeatingAnEndingIsSuccess(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	c := f.claimOne(w)
	over := store.Batch{Worker: w, Endings: []store.Ending{succeeded(c)}}
	require.False(t, f.write(over).Stale[c.ID])
	finished := *f.run(c.ID).FinishedAt
	require.False(t, f.write(over).Stale[c.ID])
	require.Equal(t, finished, *f.run(c.ID).FinishedAt)

	c = f.claimOne(w)
	again := store.Batch{Worker: w, Endings: []store.Ending{{Run: c.ID, Fence: c.Fence, State: task.StateQueued, Attempt: 2, After: time.Hour}}}
	require.False(t, f.write(again).Stale[c.ID])
	require.False(t, f.write(again).Stale[c.ID])
	require.Equal(t, 2, f.run(c.ID).Attempt)
	require.Empty(t, f.fill(), "it waits for its time")
}

func TestARunThatKeepsKillingItsWorkerIsQuarantined(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	c := f.claimOne(w)
	for death := range 4 {
		require.NoError(t, f.EndWorker(context.Background(), w, task.WorkerLost, "killed"))
		revoked := f.revoke()
		require.Len(t, revoked, 1, "death %d", death)
		if death == 3 {
			require.Equal(t, task.StateQuarantined, revoked[0].State)
			break
		}
		w = f.worker()
		parcels := f.fill()
		require.Len(t, parcels, 1)
		require.Len(t, f.claim(w, parcels[0]), 1)
	}
	r := f.run(c.ID)
	require.Equal(t, task.StateQuarantined, r.State)
	require.Contains(t, r.Reason, "died 3 times")
}

func TestAPlannedStopDoesNotCountTowardsQuarantine(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	f.claimOne(w)
	for range 6 {
		require.NoError(t, f.EndWorker(context.Background(), w, task.WorkerStopped, "drained"))
		revoked := f.revoke()
		require.Len(t, revoked, 1)
		require.Equal(t, task.StateQueued, revoked[0].State)
		w = f.worker()
		require.Len(t, f.claim(w, f.fill()[0]), 1)
	}
}

func TestSilentWorkersAreLostByTicksNotByTime(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	w := f.worker()
	f.exec(`UPDATE workers SET beat_at = beat_at - interval '1 hour'`)
	lost, err := f.MarkLost(ctx, f.term)
	require.NoError(t, err)
	require.Empty(t, lost, "an hour without the database makes nobody lost")
	f.exec(`UPDATE cluster SET tick = tick + 4`)
	lost, err = f.MarkLost(ctx, f.term)
	require.NoError(t, err)
	require.Empty(t, lost)
	f.exec(`UPDATE cluster SET tick = tick + 1`)
	lost, err = f.MarkLost(ctx, f.term)
	require.NoError(t, err)
	require.Len(t, lost, 1)
	answer, err := f.Beat(ctx, store.Beat{Epoch: w, State: task.WorkerActive})
	require.NoError(t, err)
	require.True(t, answer.Revoked)
	_, parcels := f.submit(1)
	require.Empty(t, parcels)
}

func TestAStaleLeaderWritesNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.submit(1)
	f.worker()
	f.exec(`UPDATE leader SET expires_at = clock_timestamp() - interval '1 second'`)
	lease, won, err := f.Campaign(ctx, "other")
	require.NoError(t, err)
	require.True(t, won)
	require.Greater(t, lease.Term, f.term)
	_, _, err = f.Fill(ctx, f.term)
	require.True(t, store.StaleTerm(err), "%v", err)
	renewed, err := f.Renew(ctx, f.term)
	require.NoError(t, err)
	require.False(t, renewed)
	_, won, err = f.Campaign(ctx, "third")
	require.NoError(t, err)
	require.False(t, won)
}

func TestTakeoverWaitsForALeaderWriteUnderWay(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	tx, err := f.Pool().Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `SELECT 1 FROM leader WHERE term = $1 FOR KEY SHARE`, f.term)
	require.NoError(t, err)
	renewed, err := f.Renew(ctx, f.term)
	require.NoError(t, err)
	require.True(t, renewed, "a renewal does not wait for writes")
	f.exec(`UPDATE leader SET expires_at = clock_timestamp() - interval '1 second'`)
	taken := make(chan error, 1)
	go func() {
		_, _, err := f.Campaign(ctx, "other")
		taken <- err
	}()
	require.Eventually(t, func() bool {
		var waiting int
		require.NoError(t, f.Pool().QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND wait_event_type = 'Lock'`).Scan(&waiting))
		return waiting == 1
	}, 10*time.Second, 5*time.Millisecond)
	select {
	case <-taken:
		t.Fatal("took over beside a write under way")
	default:
	}
	require.NoError(t, tx.Commit(ctx))
	require.NoError(t, <-taken)
}

func TestAnIdempotencyKeyMakesOneRun(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	runs := []store.NewRun{{Task: "demo", Key: "b"}, {Task: "demo", Key: "a"}, {Task: "demo", Key: "b"}}
	results := make(chan []store.Accepted, 2)
	for range 2 {
		go func() {
			accepted, _, err := f.InsertRuns(ctx, runs)
			if err != nil {
				t.Error(err)
			}
			results <- accepted
		}()
	}
	one, two := <-results, <-results
	require.Equal(t, one[0].ID, two[0].ID)
	require.Equal(t, one[1].ID, two[1].ID)
	require.Equal(t, one[0].ID, one[2].ID)
	require.NotEqual(t, one[0].ID, one[1].ID)
	list, err := f.Runs(ctx, store.RunFilter{Task: "demo"})
	require.NoError(t, err)
	require.Len(t, list, 2)
}

func TestCancelOfAnUnclaimedRunNeverRunsIt(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	w := f.worker()
	ids, parcels := f.submit(1)
	r, err := f.CancelRun(ctx, ids[0], "ann", false)
	require.NoError(t, err)
	require.Equal(t, task.StateCancelled, r.State)
	require.Empty(t, f.claim(w, parcels[0]))
	require.Zero(t, f.exec(`UPDATE parcels SET lane = lane`), "the empty parcel stays with its worker")
	_, err = f.CancelRun(ctx, ids[0], "ann", false)
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
}

func TestCancelThatMeetsAClaimWaitsForIt(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	w := f.worker()
	ids, parcels := f.submit(1)
	tx, err := f.Pool().Begin(ctx) // a claim that has not committed
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `UPDATE parcels SET state = 'claimed', worker = $2 WHERE id = $1`, parcels[0].ID, w)
	require.NoError(t, err)
	cancelled := make(chan task.Run, 1)
	go func() {
		r, err := f.CancelRun(ctx, ids[0], "ann", false)
		if err != nil {
			t.Error(err)
		}
		cancelled <- r
	}()
	require.Eventually(t, func() bool {
		var waiting int
		require.NoError(t, f.Pool().QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND wait_event_type = 'Lock'`).Scan(&waiting))
		return waiting == 1
	}, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, tx.Commit(ctx))
	r := <-cancelled
	require.Equal(t, task.StateDispatched, r.State)
	require.True(t, r.CancelRequested)
	answer, err := f.Beat(ctx, store.Beat{Epoch: w, State: task.WorkerActive})
	require.NoError(t, err)
	require.Equal(t, []store.CancelAsk{{Run: ids[0], Fence: 1}}, answer.Cancel)

	again := store.Ending{Run: ids[0], Fence: 1, State: task.StateQueued, Attempt: 2}
	require.False(t, f.write(store.Batch{Worker: w, Endings: []store.Ending{again}}).Stale[ids[0]])
	require.Equal(t, task.StateCancelled, f.run(ids[0]).State, "a run that somebody cancelled does not go again")
}

func TestACancelledRunOfALostWorkerStaysCancelled(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	w := f.worker()
	c := f.claimOne(w)
	_, err := f.CancelRun(ctx, c.ID, "ann", false)
	require.NoError(t, err)
	require.NoError(t, f.EndWorker(ctx, w, task.WorkerLost, "killed"))
	revoked := f.revoke()
	require.Len(t, revoked, 1)
	require.Equal(t, task.StateCancelled, revoked[0].State)
	require.Empty(t, f.fill())
}

func TestARefusedValueFailsOnlyItself(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	var endings []store.Ending
	var culprit uuid.UUID
	for i := range 9 {
		c := f.claimOne(w)
		e := succeeded(c)
		if i == 4 {
			e.Outcome, culprit = json.RawMessage(`{"success":true,`), c.ID
		}
		endings = append(endings, e)
	}
	out := f.write(store.Batch{Worker: w, Endings: endings})
	require.Len(t, out.Refused, 1)
	require.Error(t, out.Refused[culprit])
	require.Equal(t, task.StateFailed, f.run(culprit).State)
	require.Contains(t, f.run(culprit).Reason, "cannot be stored")
	for _, e := range endings {
		if e.Run != culprit {
			require.Equal(t, task.StateSucceeded, f.run(e.Run).State)
		}
	}
}

func TestOutcomesThatJSONBWouldRefuseAreStored(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	c := f.claimOne(w)
	e := succeeded(c)
	e.Outcome = json.RawMessage(`{"success":true,"data":["\u0000","\ud800",1e400000]}`)
	e.Reason = "a NUL \x00 and half a rune \xff"
	require.Empty(t, f.write(store.Batch{Worker: w, Endings: []store.Ending{e}}).Refused)
	require.Contains(t, string(f.run(c.ID).Outcome.Data), "1e400000")
}

func TestRetryByHandReusesEarlierSteps(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	w := f.worker()
	c := f.claimOne(w)
	f.write(store.Batch{Worker: w, Steps: []store.StepRow{{Run: c.ID, Fence: c.Fence, Step: step("0")}, {Run: c.ID, Fence: c.Fence, Step: step("1")}}})
	bad := step("2")
	failure := task.Fail("no")
	bad.Outcome = &failure
	tail, err := json.Marshal([]task.Step{bad})
	require.NoError(t, err)
	f.write(store.Batch{Worker: w, Endings: []store.Ending{{Run: c.ID, Fence: c.Fence, State: task.StateFailed, Reason: "no", Tail: tail}}})
	require.Len(t, f.run(c.ID).Steps, 3)

	_, err = f.RetryRun(ctx, c.ID, "nonsense", "ann")
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	r, err := f.RetryRun(ctx, c.ID, "s1", "ann")
	require.NoError(t, err)
	require.Equal(t, task.StateQueued, r.State)
	next := f.claim(w, f.fill()[0])[0]
	require.Len(t, next.Done, 1)
	require.Equal(t, "0", next.Done[0].Path)
	_, err = f.RetryRun(ctx, c.ID, "", "ann")
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
}

func TestPausedTasksKeepTheirRuns(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.worker()
	_, err := f.PauseTask(ctx, "demo", "on fire")
	require.NoError(t, err)
	_, parcels := f.submit(2)
	require.Empty(t, parcels)
	require.Empty(t, f.fill())
	f.apply(task.Definition{Name: "other", Chain: json.RawMessage(`["nop"]`)})
	_, parcels, err = f.InsertRuns(ctx, []store.NewRun{{Task: "other"}})
	require.NoError(t, err)
	require.Len(t, parcels, 1, "a paused neighbour does not slow others")
	_, err = f.ResumeTask(ctx, "demo")
	require.NoError(t, err)
	require.NoError(t, f.SyncPauses(ctx, f.term))
	require.Len(t, f.fill(), 2)
}

func TestDelayedRunsOpenWhenTheirTimeComes(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.worker()
	_, parcels, err := f.InsertRuns(ctx, []store.NewRun{{Task: "demo", At: time.Now().Add(time.Hour)}})
	require.NoError(t, err)
	require.Empty(t, parcels)
	n, err := f.OpenDue(ctx, f.term)
	require.NoError(t, err)
	require.Zero(t, n)
	f.exec(`UPDATE ready SET available_at = clock_timestamp()`)
	pending, err := f.Pending(ctx)
	require.NoError(t, err)
	require.Equal(t, store.Pending{Due: true}, pending)
	n, err = f.OpenDue(ctx, f.term)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.Len(t, f.fill(), 1)
}
