package store_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Whatever happens after somebody asked to cancel a claimed run, nobody gets it
// again and it ends: as cancelled, or with the end that its worker had reached.
func TestACancelledRunNeverStartsAgain(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		f.exec(`DELETE FROM parcels`)
		f.exec(`DELETE FROM ready`)
		w := f.worker()
		c := f.claimOne(w)
		_, err := f.CancelRun(ctx, c.ID, "ann", rapid.Bool().Draw(rt, "at once"))
		require.NoError(rt, err)
		again := store.Ending{Run: c.ID, Fence: c.Fence, State: task.StateQueued, Attempt: rapid.IntRange(1, 2).Draw(rt, "attempt"), Reason: "the worker was shutting down"}
		events := map[string]func(){
			"requeue": func() { f.write(store.Batch{Worker: w, Endings: []store.Ending{again}}) },
			"retry": func() {
				later := again
				later.After = time.Millisecond
				f.write(store.Batch{Worker: w, Endings: []store.Ending{later}})
			},
			"step": func() {
				f.write(store.Batch{Worker: w, Steps: []store.StepRow{{Run: c.ID, Fence: c.Fence, Step: step("0")}}})
			},
			"interrupt": func() {
				f.write(store.Batch{Worker: w, Stages: []store.StageRow{{Run: c.ID, Fence: c.Fence, Stage: store.StageInterrupted, At: time.Now()}}})
			},
			"succeed": func() { f.write(store.Batch{Worker: w, Endings: []store.Ending{succeeded(c)}}) },
			"cancelled": func() {
				end := again
				end.State = task.StateCancelled
				f.write(store.Batch{Worker: w, Endings: []store.Ending{end}})
			},
			"worker dies":    func() { require.NoError(rt, f.EndWorker(ctx, w, task.WorkerLost, "killed")) },
			"worker stops":   func() { require.NoError(rt, f.EndWorker(ctx, w, task.WorkerStopped, "drained")) },
			"memory kill":    func() { _, err := f.KillWorker(ctx, w, "memory"); require.NoError(rt, err) },
			"reconcile":      func() { f.revoke() },
			"open held runs": func() { _, err := f.OpenDue(ctx, f.term); require.NoError(rt, err) },
			"new leader": func() {
				f.exec(`UPDATE leader SET expires_at = clock_timestamp() - interval '1 second'`)
				lease, won, err := f.Campaign(ctx, uuid.NewString())
				require.NoError(rt, err)
				require.True(rt, won)
				f.term = lease.Term
			},
			"cancel again": func() { _, _ = f.CancelRun(ctx, c.ID, "bob", true) },
			"cancel many": func() {
				_, err := f.CancelRuns(ctx, store.RunFilter{Task: "demo"}, "bob", false)
				require.NoError(rt, err)
			},
			"dispatch": func() {
				other := f.worker()
				for _, p := range f.fill() {
					require.Empty(rt, f.claim(other, p), "a cancelled run was given to a worker")
				}
			},
		}
		for _, name := range rapid.SliceOfN(rapid.SampledFrom(slices.Sorted(maps.Keys(events))), 0, 6).Draw(rt, "events") {
			events[name]()
		}
		for _, name := range []string{"worker dies", "reconcile", "open held runs", "dispatch"} {
			events[name]()
		}
		run := f.run(c.ID)
		require.Contains(rt, []task.State{task.StateCancelled, task.StateSucceeded}, run.State)
		if run.State == task.StateCancelled {
			require.Contains(rt, run.Reason, "cancelled")
		}
		require.NotNil(rt, run.CancelAskedAt)
		require.Zero(rt, f.exec(`UPDATE ready SET lane = lane`))
	})
}

func TestStagesOfACancellation(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	w := f.worker()
	c := f.claimOne(w)
	for range 2 {
		_, err := f.CancelRun(ctx, c.ID, "ann", false)
		require.NoError(t, err)
	}
	_, err := f.CancelRun(ctx, c.ID, "bob", true)
	require.NoError(t, err)
	answer, err := f.Beat(ctx, store.Beat{Epoch: w, State: task.WorkerActive})
	require.NoError(t, err)
	require.Equal(t, []store.CancelAsk{{Run: c.ID, AtOnce: true, Fence: c.Fence}}, answer.Cancel)
	asked := *f.run(c.ID).CancelAskedAt

	at := time.Now().Truncate(time.Microsecond)
	stage := func(stage store.Stage, fence int32) store.StageRow {
		return store.StageRow{Run: c.ID, Fence: fence, Stage: stage, At: at}
	}
	f.write(store.Batch{Worker: w, Stages: []store.StageRow{stage(store.StageKilled, c.Fence+1)}})
	require.Nil(t, f.run(c.ID).KilledAt, "a worker that lost the run writes nothing")
	for range 2 { // an ambiguous commit is repeated
		f.write(store.Batch{Worker: w, Stages: []store.StageRow{stage(store.StageInterrupted, c.Fence), stage(store.StageKilled, c.Fence)},
			Endings: []store.Ending{{Run: c.ID, Fence: c.Fence, State: task.StateCancelled, Reason: "cancelled on request"}}})
	}
	answer, err = f.Beat(ctx, store.Beat{Epoch: w, State: task.WorkerActive})
	require.NoError(t, err)
	require.Empty(t, answer.Cancel, "the run has ended")
	run := f.run(c.ID)
	require.Equal(t, task.StateCancelled, run.State)
	require.Equal(t, "cancelled by ann", run.Reason)
	require.True(t, run.CancelAskedAt.Equal(asked))
	require.True(t, run.InterruptedAt.Equal(at))
	require.True(t, run.KilledAt.Equal(at))
	counts, err := f.StageCounts(ctx)
	require.NoError(t, err)
	require.Equal(t, map[store.Stage]int64{store.StageRequested: 1, store.StageInterrupted: 1, store.StageKilled: 1}, counts)

	run, err = f.RetryRun(ctx, c.ID, "", "carol")
	require.NoError(t, err)
	require.Nil(t, run.CancelAskedAt)
	require.Nil(t, run.InterruptedAt)
	require.Nil(t, run.KilledAt)
	require.Equal(t, "carol", run.RetriedBy)
	require.NotNil(t, run.RetriedAt)
}

// walk takes all steps of a bulk change.
func walk(t *testing.T, f store.RunFilter, step func(context.Context, store.RunFilter) (store.BulkStep, error)) (sum store.BulkStep, steps int) {
	t.Helper()
	for {
		did, err := step(context.Background(), f)
		require.NoError(t, err)
		sum.Matched, sum.Done, sum.Skipped, sum.Failed = sum.Matched+did.Matched, sum.Done+did.Done, sum.Skipped+did.Skipped, sum.Failed+did.Failed
		steps++
		if did.Next == uuid.Nil {
			return sum, steps
		}
		f.Before = did.Next
	}
}

func TestBulkCancelAndRetry(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.apply(task.Definition{Name: "other", Chain: []byte(`["nop"]`)})
	w := f.worker()
	running := f.claimOne(w)
	ended := f.claimOne(w)
	f.write(store.Batch{Worker: w, Endings: []store.Ending{succeeded(ended)}})
	const many = 1300 // beyond two batches; most of them wait in ready
	f.submit(many)
	_, _, err := f.InsertRuns(ctx, []store.NewRun{{Task: "other"}, {Task: "other", At: time.Now().Add(time.Hour)}})
	require.NoError(t, err)
	f.exec(`INSERT INTO waits (run, attempt, iteration, path, kind, task) SELECT id, 1, 0, '0', 'event', task FROM runs WHERE task = 'other' AND available_at IS NOT NULL`)

	cancel := func(ctx context.Context, f2 store.RunFilter) (store.BulkStep, error) {
		return f.CancelRuns(ctx, f2, "ann", false)
	}
	retry := func(ctx context.Context, f2 store.RunFilter) (store.BulkStep, error) {
		return f.RetryRuns(ctx, f2, "ann")
	}
	live, _ := walk(t, store.RunFilter{}, f.CountLive)
	require.Equal(t, many+3, live.Matched)
	live, _ = walk(t, store.RunFilter{Task: "other"}, f.CountLive)
	require.Equal(t, 2, live.Matched)
	live, _ = walk(t, store.RunFilter{Since: time.Now().Add(time.Hour)}, f.CountLive)
	require.Zero(t, live.Matched)
	live, _ = walk(t, store.RunFilter{Task: "demo", State: "waiting"}, f.CountLive)
	require.Zero(t, live.Matched)

	sum, steps := walk(t, store.RunFilter{Task: "demo"}, cancel)
	require.Equal(t, store.BulkStep{Matched: many + 1, Done: many + 1}, sum)
	require.GreaterOrEqual(t, steps, 3)
	require.True(t, f.run(running.ID).CancelRequested)
	require.False(t, f.run(running.ID).State.Terminal())
	require.Equal(t, task.StateSucceeded, f.run(ended.ID).State)
	live, _ = walk(t, store.RunFilter{Task: "other"}, f.CountLive)
	require.Equal(t, 2, live.Matched)

	gone, _ := walk(t, store.RunFilter{State: "failed,timed_out"}, f.CountEnded)
	require.Zero(t, gone.Matched)
	gone, _ = walk(t, store.RunFilter{Task: "demo", State: "cancelled"}, f.CountEnded)
	require.Equal(t, many, gone.Matched)
	f.exec(`UPDATE runs SET tail = '{"no": "list"}' WHERE id = (SELECT max(id::text)::uuid FROM runs WHERE task = 'demo')`)
	sum, _ = walk(t, store.RunFilter{Task: "demo", State: "cancelled"}, retry)
	require.Equal(t, store.BulkStep{Matched: many, Done: many - 1, Failed: 1}, sum)
	sum, _ = walk(t, store.RunFilter{Task: "demo", State: "cancelled"}, retry)
	require.Equal(t, 1, sum.Matched, "only what failed is left for a repetition")
}

// Until its children were told, a run that was cancelled is not put back to work.
func TestNoRetryWhileTheChildrenAreBeingCancelled(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := t.Context()
	w := f.worker()
	p := f.claimOne(w)
	var runs []store.NewRun
	for range 600 { // more than a page
		runs = append(runs, store.NewRun{Task: "demo", Parent: &store.Parent{Run: p.ID, Path: "0", InheritCancel: true, Group: "g"}})
	}
	_, _, err := f.InsertRuns(ctx, runs)
	require.NoError(t, err)
	f.write(store.Batch{Worker: w, Endings: []store.Ending{parked(p, store.Park{Kind: task.WaitChildren, Path: "0", Detail: task.WaitDetail{Group: "g", Children: 600}})}})
	_, err = f.CancelRun(ctx, p.ID, "anna", false)
	require.NoError(t, err)
	_, err = f.RetryRun(ctx, p.ID, "", "anna")
	require.ErrorContains(t, err, "its children are still being cancelled")
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	step, err := f.RetryRuns(ctx, store.RunFilter{}, "anna")
	require.NoError(t, err)
	require.Equal(t, store.BulkStep{Matched: 1, Failed: 1, Faults: step.Faults}, step)
	require.ErrorContains(t, step.Faults[0].Err, "its children are still being cancelled")
	for more := true; more; {
		more, err = f.CancelChildren(ctx, f.term)
		require.NoError(t, err)
	}
	require.Zero(t, f.scalar(`SELECT count(*) FROM runs WHERE finished_at IS NULL`))
	_, err = f.RetryRun(ctx, p.ID, "", "anna")
	require.NoError(t, err)
}

// A child that was asked to end has the others of its group cancelled, too, when
// its worker gives it back.
func TestACancelledChildThatIsGivenBackStopsTheOthers(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := t.Context()
	w := f.worker()
	p := f.claimOne(w)
	child := store.NewRun{Task: "demo", Parent: &store.Parent{Run: p.ID, Path: "0", Group: "g", Stop: true}}
	_, parcels, err := f.InsertRuns(ctx, []store.NewRun{child})
	require.NoError(t, err)
	require.Len(t, parcels, 1)
	c := f.claim(w, parcels[0])[0]
	require.True(t, c.Held)
	_, err = f.CancelRun(ctx, c.ID, "anna", false)
	require.NoError(t, err)
	for range 2 { // an ambiguous commit is repeated
		f.write(store.Batch{Worker: w, Endings: []store.Ending{{Run: c.ID, Fence: c.Fence, State: task.StateQueued, Attempt: 1, Held: c.Held}}})
	}
	require.Equal(t, task.StateCancelled, f.run(c.ID).State)
	require.Zero(t, f.holds())
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM child_cancels WHERE parent = $1 AND children = 'g'`, p.ID))
}

// A worker that its supervisor kills for its memory counts against one run at most.
func TestWhoIsGuiltyOfAMemoryKill(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		ordinary int
		suspect  bool
		guilty   bool
	}{
		{"the only run", 1, false, true},
		{"one of several", 2, false, false},
		{"a suspect among others", 2, true, true},
		{"a suspect alone", 0, true, true},
		{"no run", 0, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			w := f.worker()
			var ids []uuid.UUID
			for range tt.ordinary {
				ids = append(ids, f.claimOne(w).ID)
			}
			if tt.suspect {
				c := f.claimOne(w)
				ids = append(ids, c.ID)
				f.exec(`UPDATE parcels SET lane = 'suspect:default' WHERE $1 = ANY (runs)`, c.ID)
			}
			guilty, err := f.KillWorker(context.Background(), w, "too much memory")
			require.NoError(t, err)
			require.Equal(t, tt.guilty, guilty != nil)
			require.Len(t, f.revoke(), len(ids))
			for i, id := range ids {
				var kills int
				require.NoError(t, f.Pool().QueryRow(context.Background(), `SELECT kills FROM runs WHERE id = $1`, id).Scan(&kills))
				blamed := tt.guilty && i == len(ids)-1
				require.Equal(t, blamed, kills == 1, "run %d", i)
				require.Equal(t, blamed, guilty != nil && *guilty == id)
				require.Equal(t, 1, f.run(id).Attempt)
				require.Equal(t, blamed, strings.Contains(f.run(id).Reason, "the memory that this run took"), f.run(id).Reason)
			}
			guilty, err = f.KillWorker(context.Background(), w, "again")
			require.NoError(t, err)
			require.Nil(t, guilty)
		})
	}
}
