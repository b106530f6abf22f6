package store_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func TestRejectNewSparesARunThatHasBegun(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1, Key: "${params.k}", Strategy: task.StrategyRejectNew}})
	w := f.worker()
	f.ask("a")
	first := f.claimAll(w, f.admit())[0]
	again := ended(first)
	again.State, again.Attempt, again.After, again.StartedAt = task.StateQueued, 2, time.Hour, time.Now()
	f.write(store.Batch{Worker: w, Endings: []store.Ending{again}})
	f.ask("a")
	second := f.claimAll(w, f.admit())[0]
	f.exec(`UPDATE ready SET available_at = clock_timestamp() WHERE hold = 'later'`)
	_, err := f.OpenDue(t.Context(), f.term)
	require.NoError(t, err)
	third := f.ask("a")
	require.Empty(t, f.admit())
	require.Equal(t, task.StateQueued, f.run(first.ID).State, "its second attempt waits for the place")
	rejected := f.run(third[0])
	require.Equal(t, task.StateCancelled, rejected.State, "a new run does not")
	require.NotNil(t, rejected.CancelAskedAt)
	f.write(store.Batch{Worker: w, Endings: []store.Ending{ended(second)}})
	require.Equal(t, first.ID, f.claimAll(w, f.admit())[0].ID)
}

// TestARunSpawnsThoughItsTaskIsGone: what it runs is pinned.
func TestARunSpawnsThoughItsTaskIsGone(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	invalid, deleted := f.claimOne(w), f.claimOne(w)
	f.exec(`UPDATE tasks SET invalid = 'broken' WHERE name = 'demo'`)
	child := f.spawn(w, invalid, "g1", "1")
	require.Equal(t, invalid.Revision, child.Revision)
	_, _, err := f.InsertRuns(t.Context(), []store.NewRun{{Task: "demo", Parent: &store.Parent{Run: invalid.ID, Path: "0"}}})
	require.ErrorContains(t, err, "cannot run: broken", "a run of its own has the task of now")

	require.NoError(t, f.DeleteTask(t.Context(), "demo"))
	_, parcels, err := f.InsertRuns(t.Context(), []store.NewRun{{Task: "demo", Parent: &store.Parent{Run: deleted.ID, Path: "0", Group: "g2",
		Entry: json.RawMessage(`{"group":"g2","index":0,"item":1}`), Revision: deleted.Revision, Release: deleted.Release}}})
	require.NoError(t, err)
	require.Empty(t, parcels)
	filled := f.fill()
	require.Len(t, filled, 1)
	claimed := f.claim(w, filled[0])
	require.Equal(t, deleted.Revision, claimed[0].Revision)
	_, _, err = f.InsertRuns(t.Context(), []store.NewRun{{Task: "demo"}})
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
}

// TestARetriedChildIsWaitedForAgain while its parent waits for the others.
func TestARetriedChildIsWaitedForAgain(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	parent := f.claimOne(w)
	group := parent.ID.String()
	var children []store.Claimed
	for i, entry := range []string{`{"index":0,"item":1}`, `{"index":1,"item":2}`} {
		_, parcels, err := f.InsertRuns(t.Context(), []store.NewRun{{Task: "demo", Parent: &store.Parent{Run: parent.ID, Path: "0", Group: group,
			Entry: json.RawMessage(entry), Revision: parent.Revision}}})
		require.NoError(t, err, i)
		children = append(children, f.claim(w, parcels[0])...)
	}
	f.write(store.Batch{Worker: w, Endings: []store.Ending{parked(parent, store.Park{Kind: task.WaitChildren, Path: "0",
		Detail: task.WaitDetail{Group: group, Children: 2}})}})
	failed := ended(children[0])
	failed.State, failed.Outcome, failed.Reason = task.StateFailed, json.RawMessage(`{"success":false,"reason":"no"}`), "no"
	f.write(store.Batch{Worker: w, Endings: []store.Ending{failed}})
	_, err := f.RetryRun(t.Context(), children[0].ID, "", "anna")
	require.NoError(t, err)
	f.write(store.Batch{Worker: w, Endings: []store.Ending{ended(children[1])}})
	_, err = f.EndChildren(t.Context(), f.term, uuid.Nil)
	require.NoError(t, err)
	require.Equal(t, task.StateWaiting, f.run(parent.ID).State, "one of its children goes again")

	filled := f.fill()
	f.write(store.Batch{Worker: w, Endings: []store.Ending{ended(f.claim(w, filled[0])[0])}})
	_, err = f.EndChildren(t.Context(), f.term, uuid.Nil)
	require.NoError(t, err)
	require.Equal(t, task.StateQueued, f.run(parent.ID).State)
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM waits WHERE run = $1 AND (outcome->>'success')::boolean`, parent.ID))
	require.Zero(t, f.holds())

	// Once the parent has gone on, nobody waits for it.
	f.exec(`UPDATE runs SET state = 'failed' WHERE id = $1`, children[0].ID)
	_, err = f.RetryRun(t.Context(), children[0].ID, "", "anna")
	require.NoError(t, err)
	require.Zero(t, f.holds())
}

func TestSweepRemovesWhatEndedRunsLeft(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	live, over := f.claimOne(w), f.claimOne(w)
	f.write(store.Batch{Worker: w, Endings: []store.Ending{ended(over)}})
	for _, id := range []uuid.UUID{live.ID, over.ID} {
		f.exec(`INSERT INTO holds (run, scope, key, taken_at) VALUES ($1, 'limit:demo', '*', clock_timestamp() - interval '2 minutes')`, id)
		f.exec(`INSERT INTO cancels (run, worker) VALUES ($1, 1)`, id)
	}
	_, err := f.Sweep(t.Context(), f.term, time.Hour)
	require.NoError(t, err)
	require.EqualValues(t, 1, f.holds())
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM cancels`))
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM holds h JOIN cancels c USING (run) WHERE run = $1`, live.ID))
}

// A place that an older binary left behind is the run's own once it goes again.
func TestSweepSparesAPlaceThatIsTakenAnew(t *testing.T) {
	t.Parallel()
	f := openLimited(t, perKey)
	id := f.ask("a")[0] // no worker yet
	f.exec(`INSERT INTO holds (run, scope, key, taken_at) VALUES ($1, 'limit:limited', 'b', clock_timestamp() - interval '2 minutes')`, id)
	f.worker()
	require.Len(t, f.admit(), 1)
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM holds WHERE key = 'a' AND taken_at > clock_timestamp() - interval '1 minute'`))
}

func TestAStaleTermChecksNoCalendar(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.exec(`INSERT INTO calendars (name, days) VALUES ('c', '["x"]')`)
	list, err := f.UncheckedCalendars(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.True(t, store.StaleTerm(f.MarkCalendarChecked(t.Context(), f.term-1, list[0], "bad")))
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM calendars WHERE NOT checked`))
	require.NoError(t, f.MarkCalendarChecked(t.Context(), f.term, list[0], "bad"))
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM calendars WHERE checked AND invalid = 'bad'`))
}
