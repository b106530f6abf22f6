package store_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func parked(c store.Claimed, p store.Park) store.Ending {
	return store.Ending{Run: c.ID, Fence: c.Fence, State: task.StateWaiting, Attempt: c.Attempt, StartedAt: time.Now(), Held: c.Held, Park: &p}
}

func eventPark(name, key string) store.Park {
	return store.Park{Kind: task.WaitEvent, Path: "0", Name: name, Key: key, For: time.Hour, Detail: task.WaitDetail{Late: "late"}}
}

func (f *fixture) send(name, key string) int {
	f.t.Helper()
	_, reached, err := f.SendEvent(context.Background(), store.NewEvent{Name: name, Key: key, Data: json.RawMessage(`{"n":1}`), By: "shop"})
	require.NoError(f.t, err)
	return reached
}

// again claims a run that was parked and goes on.
func (f *fixture) again(w int64, id uuid.UUID) store.Claimed {
	f.t.Helper()
	for _, p := range f.fill() {
		for _, c := range f.claim(w, p) {
			if c.ID == id {
				return c
			}
		}
	}
	require.FailNow(f.t, "the run is not ready")
	return store.Claimed{}
}

func TestAParkedRunIsWrittenOnceAndGoesOn(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	c := f.claimOne(w)
	end := parked(c, eventPark("paid", "7"))
	end.Park.Steps = []task.Step{step("0")}
	batch := store.Batch{Worker: w, Endings: []store.Ending{end}, Parcels: []int64{1}}
	for range 2 { // the second time as after an unclear answer
		require.False(t, f.write(batch).Stale[c.ID])
	}
	r := f.run(c.ID)
	require.Equal(t, task.StateWaiting, r.State)
	require.Equal(t, "paid", r.Wait.Name)
	require.Equal(t, "7", r.Wait.Key)
	require.Len(t, r.Steps, 1)
	require.Equal(t, 1, f.send("paid", "7"))
	require.False(t, f.write(batch).Stale[c.ID], "it was written, whatever came after")
	require.Equal(t, task.StateQueued, f.run(c.ID).State)
	again := f.again(w, c.ID)
	require.Len(t, again.Done, 1)
	require.Len(t, again.Waits, 1)
	require.JSONEq(t, `{"n":1}`, string(again.Waits[0].Outcome.Data))
	require.True(t, f.write(store.Batch{Worker: w, Endings: []store.Ending{parked(store.Claimed{ID: c.ID, Fence: c.Fence, Attempt: 1},
		store.Park{Kind: task.WaitDelay, Path: "1", For: time.Hour})}}).Stale[c.ID], "an old fence parks nothing")
}

// begin opens a transaction that may take its time.
func (f *fixture) begin() pgx.Tx {
	f.t.Helper()
	tx, err := f.Pool().Begin(context.Background())
	require.NoError(f.t, err)
	_, err = tx.Exec(context.Background(), `SET LOCAL idle_in_transaction_session_timeout = 0`)
	require.NoError(f.t, err)
	return tx
}

// TestAnEventAtTheMomentOfTheParkIsNotLost takes every order of the statements
// of a park and of an event that do not see each other.
func TestAnEventAtTheMomentOfTheParkIsNotLost(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := t.Context()
	w := f.worker()
	const insertEvent = `INSERT INTO events (name, key, data, expires_at) VALUES ('paid', $1, '1', clock_timestamp() + interval '1 hour')`
	park := func(c store.Claimed, key string) {
		require.False(t, f.write(store.Batch{Worker: w, Endings: []store.Ending{parked(c, eventPark("paid", key))}}).Stale[c.ID])
	}
	match := func(id uuid.UUID) {
		t.Helper()
		_, err := f.MatchEvents(ctx, f.term, store.EventCursor{})
		require.NoError(t, err)
		require.Equal(t, task.StateQueued, f.run(id).State)
		f.exec(`DELETE FROM ready`)
	}
	sent := f.claimOne(w) // the event was committed before the park began
	f.exec(insertEvent, "sent")
	park(sent, "sent")
	require.Equal(t, task.StateQueued, f.run(sent.ID).State, "the park itself finds it")
	f.exec(`DELETE FROM ready`)

	open := f.claimOne(w) // the event's transaction is open while the park begins and commits
	tx := f.begin()
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err := tx.Exec(ctx, insertEvent, "open")
	require.NoError(t, err)
	park(open, "open")
	require.Equal(t, task.StateWaiting, f.run(open.ID).State)
	require.NoError(t, tx.Commit(ctx))
	match(open.ID)

	late := f.claimOne(w) // the park's transaction waits for a lock while the event is sent
	tx = f.begin()
	_, err = tx.Exec(ctx, `SELECT 1 FROM runs WHERE id = $1 FOR NO KEY UPDATE`, late.ID)
	require.NoError(t, err)
	written := make(chan error, 1)
	go func() {
		_, err := f.Write(ctx, store.Batch{Worker: w, Endings: []store.Ending{parked(late, eventPark("paid", "late"))}})
		written <- err
	}()
	require.Eventually(t, func() bool {
		var n int
		return f.Pool().QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n) == nil && n > 0
	}, time.Minute, time.Millisecond)
	require.Zero(t, f.send("paid", "late"))
	require.NoError(t, tx.Commit(ctx))
	require.NoError(t, <-written)
	require.Equal(t, task.StateQueued, f.run(late.ID).State)
	f.exec(`DELETE FROM ready`)

	none := f.claimOne(w)
	park(none, "none")
	_, err = f.MatchEvents(ctx, f.term, store.EventCursor{})
	require.NoError(t, err)
	require.Equal(t, task.StateWaiting, f.run(none.ID).State)
	_, err = f.MatchEvents(ctx, f.term+1, store.EventCursor{})
	require.NoError(t, err, "nothing to write, no term needed")
}

func TestACancelledRunDoesNotWait(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := t.Context()
	w := f.worker()
	asked := f.claimOne(w)
	_, err := f.CancelRun(ctx, asked.ID, "anna", false)
	require.NoError(t, err)
	require.False(t, f.write(store.Batch{Worker: w, Endings: []store.Ending{parked(asked, eventPark("a", ""))}}).Stale[asked.ID])
	r := f.run(asked.ID)
	require.Equal(t, task.StateCancelled, r.State)
	require.Equal(t, "cancelled by anna", r.Reason)
	require.Zero(t, f.exec(`DELETE FROM waits`))

	c := f.claimOne(w)
	f.write(store.Batch{Worker: w, Endings: []store.Ending{parked(c, eventPark("a", ""))}})
	r, err = f.CancelRun(ctx, c.ID, "anna", false)
	require.NoError(t, err)
	require.Equal(t, task.StateCancelled, r.State)
	require.Zero(t, f.send("a", ""), "its wait has ended")
	require.Equal(t, int64(1), f.exec(`DELETE FROM waits WHERE outcome IS NOT NULL`))
	r, err = f.RetryRun(ctx, c.ID, "", "anna")
	require.NoError(t, err)
	require.Equal(t, task.StateQueued, r.State)
}

func TestDueWaitsEnd(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := t.Context()
	w := f.worker()
	event, delay := f.claimOne(w), f.claimOne(w)
	f.write(store.Batch{Worker: w, Endings: []store.Ending{parked(event, eventPark("a", "")), parked(delay, store.Park{Kind: task.WaitDelay, Path: "0", For: time.Hour})}})
	n, err := f.EndDueWaits(ctx, f.term)
	require.NoError(t, err)
	require.Zero(t, n)
	f.exec(`UPDATE waits SET until = clock_timestamp()`)
	_, err = f.EndDueWaits(ctx, f.term-1)
	require.Error(t, err, "a leader of the past ends nothing")
	n, err = f.EndDueWaits(ctx, f.term)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	got := map[uuid.UUID]task.Outcome{}
	for _, p := range f.fill() {
		for _, c := range f.claim(w, p) {
			got[c.ID] = c.Waits[0].Outcome
		}
	}
	require.Equal(t, "late", got[event.ID].Reason)
	require.True(t, got[delay.ID].Success)
}

func TestChildrenAndTheirParentsCancellation(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := t.Context()
	w := f.worker()
	parent := f.claimOne(w)
	child := store.NewRun{Task: "demo", Parent: &store.Parent{Run: parent.ID, Path: "0", InheritCancel: true, Group: "g"}}
	apart := store.NewRun{Task: "demo", Parent: &store.Parent{Run: parent.ID, Path: "1"}}

	// The children's transaction holds the parent: the cancellation comes after it and finds them.
	tx := f.begin()
	_, err := tx.Exec(ctx, `SELECT 1 FROM runs WHERE id = $1 FOR SHARE`, parent.ID)
	require.NoError(t, err)
	cancelled := make(chan error, 1)
	go func() {
		_, err := f.CancelRun(ctx, parent.ID, "anna", false)
		cancelled <- err
	}()
	require.Eventually(t, func() bool {
		var n int
		return f.Pool().QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n) == nil && n > 0
	}, time.Minute, time.Millisecond)
	select {
	case err := <-cancelled:
		require.FailNow(t, "the cancellation did not wait", "%v", err)
	default:
	}
	require.NoError(t, tx.Rollback(ctx))
	require.NoError(t, <-cancelled)
	_, _, err = f.InsertRuns(ctx, []store.NewRun{child})
	require.ErrorContains(t, err, "starts no children", "and after it there are none")

	parent = f.claimOne(w)
	child.Parent.Run, apart.Parent.Run = parent.ID, parent.ID
	var runs []store.NewRun
	for range 700 {
		runs = append(runs, child)
	}
	accepted, _, err := f.InsertRuns(ctx, append(runs, apart))
	require.NoError(t, err)
	require.Equal(t, int64(700), f.exec(`UPDATE holds SET scope = scope WHERE scope = 'children' AND key = 'g'`))
	f.write(store.Batch{Worker: w, Endings: []store.Ending{parked(parent, store.Park{Kind: task.WaitChildren, Path: "0", Detail: task.WaitDetail{Group: "g", Children: 700}})}})
	next, err := f.EndChildren(ctx, f.term, uuid.Nil)
	require.NoError(t, err)
	require.Equal(t, uuid.Nil, next)
	require.Equal(t, task.StateWaiting, f.run(parent.ID).State)
	_, err = f.CancelRun(ctx, parent.ID, "anna", false)
	require.NoError(t, err)
	turns := 0
	for more := true; more; turns++ {
		more, err = f.CancelChildren(ctx, f.term)
		require.NoError(t, err)
	}
	require.Greater(t, turns, 2, "in bounded batches")
	require.Equal(t, int64(0), f.exec(`DELETE FROM holds`))
	for i, a := range accepted {
		if state := f.run(a.ID).State; i == 700 {
			require.NotEqual(t, task.StateCancelled, state, "it does not inherit")
		} else if i%100 == 0 {
			require.Equal(t, task.StateCancelled, state)
		}
	}
}
