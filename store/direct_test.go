package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func (f *fixture) waiting(key string) int64 {
	f.t.Helper()
	return f.scalar(`SELECT count(*) FROM ready WHERE hold = 'limited' AND coalesce(concurrency_key, rate_key) = $1`, key)
}

func TestALimitedRunStartsAtOnceWhereItsPlaceIsFree(t *testing.T) {
	t.Parallel()
	f := openLimited(t, perKey)
	w := f.worker()
	f.ask("a", "b", "a", "a", "c")
	require.Len(t, f.direct, 4, "two of a")
	require.EqualValues(t, 1, f.waiting("a"))
	require.EqualValues(t, 4, f.holds())
	claimed := f.claimAll(w, f.direct)
	require.Len(t, claimed, 4)
	for _, c := range claimed {
		require.True(t, c.Held)
		f.write(store.Batch{Worker: w, Endings: []store.Ending{ended(c)}, Parcels: []int64{}})
	}
	require.Zero(t, f.holds())

	f.direct = nil
	f.ask("a", "b")
	require.Len(t, f.direct, 1, "nobody overtakes a run that waits for the same")
	require.EqualValues(t, 2, f.waiting("a"))
}

func TestATokenIsTakenAtOnce(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Rate: &task.Rate{Limit: 2, Per: task.Duration(time.Hour), Key: "${params.k}"}})
	w := f.worker()
	f.ask("a", "a", "a", "b")
	require.Len(t, f.direct, 3)
	require.EqualValues(t, 1, f.waiting("a"))
	require.EqualValues(t, 3, f.scalar(`SELECT sum(tokens) FROM rate_uses WHERE back_at = 'infinity'`))
	for _, c := range f.claimAll(w, f.direct) {
		require.True(t, c.Rated)
	}
	require.Zero(t, f.scalar(`SELECT count(*) FROM rate_uses WHERE back_at = 'infinity'`), "the windows begin with the claim")
	f.ask("a")
	require.EqualValues(t, 2, f.waiting("a"))
}

// Where others wait for room in the lane, those that come take half of it.
func TestRunsThatComeLeaveRoomToThoseThatWait(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 100, Key: "${params.k}"}})
	f.ask("a") // no worker yet
	f.worker() // four slots: eight parcels
	f.ask("b", "c", "d", "e", "f", "g")
	require.Len(t, f.direct, 4)
	require.Len(t, f.admit(), 7)
}

// A turn of an older binary takes the lock of all for itself: what comes
// meanwhile waits for its own turn and is accepted nevertheless.
func TestALimitedRunIsAcceptedWhileAnotherHasTheLock(t *testing.T) {
	t.Parallel()
	f := openLimited(t, perKey)
	ctx := context.Background()
	f.worker()
	conn, err := f.Pool().Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(0x6361746e61646d))
	require.NoError(t, err)
	f.ask("a")
	require.Empty(t, f.direct)
	require.EqualValues(t, 1, f.waiting("a"))
	_, err = conn.Exec(ctx, `SELECT pg_advisory_unlock_all()`)
	require.NoError(t, err)
	require.Len(t, f.admit(), 1)
}

// Runs of tasks with and without limits in one call.
func TestAnInsertionOfManyKinds(t *testing.T) {
	t.Parallel()
	f := openLimited(t, perKey)
	ctx := context.Background()
	f.worker()
	now, err := f.Now(ctx)
	require.NoError(t, err)
	var runs []store.NewRun
	for i := range 12 {
		run := store.NewRun{Task: "demo"}
		if i%3 == 1 {
			run = store.NewRun{Task: "limited", Params: json.RawMessage(`{"k":"a"}`)}
		}
		if i%3 == 2 {
			run.At, run.Key = now.Add(time.Hour), string(rune('a'+i))
		}
		runs = append(runs, run)
	}
	accepted, parcels, err := f.InsertRuns(ctx, runs)
	require.NoError(t, err)
	require.Len(t, parcels, 6, "four without limits, two places")
	for i, a := range accepted {
		run := f.run(a.ID)
		require.Equal(t, runs[i].Task, run.Task)
		switch {
		case i%3 == 2:
			require.Equal(t, task.StateQueued, run.State)
			require.WithinDuration(t, runs[i].At, *run.AvailableAt, time.Millisecond)
		case i%3 == 0 || i < 6:
			require.Equal(t, task.StateDispatched, run.State)
		default:
			require.Equal(t, task.StateQueued, run.State)
		}
	}
}

// A run waits for the place of its key; whoever comes with another key must not
// take the token that it needs as well.
func TestNobodyIsOvertakenAtTheSecondLimit(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1, Key: "${params.k}"},
		Rate: &task.Rate{Limit: 100, Per: task.Duration(time.Hour), Key: "${params.k}"}})
	f.worker()
	f.ask("a", "b")
	require.Len(t, f.direct, 2)
	f.ask("a")
	f.ask("c")
	require.Len(t, f.direct, 2)
	require.EqualValues(t, 1, f.waiting("c"))
	require.Len(t, f.admit(), 3, "the leader starts it")
}

func TestNobodyIsOvertakenFromAnotherLane(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1, Key: "${params.k}"}})
	f.worker()
	f.ask("a", "a")
	f.exec(`UPDATE ready SET lane = 'suspect:default'`)
	f.exec(`DELETE FROM holds`)
	f.ask("a", "b")
	require.Len(t, f.direct, 2, "the first of a, and b")
	require.EqualValues(t, 2, f.waiting("a"))
}

func TestOnlyLimitsThatAreSoonCountedStartAtOnce(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1001, Key: "${params.k}"}})
	f.worker()
	f.ask("a")
	require.Empty(t, f.direct)
	require.Len(t, f.admit(), 1)
	f.limit(task.Definition{Concurrency: &task.Concurrency{Limit: 1000, Key: "${params.k}"}})
	f.ask("a")
	require.Len(t, f.direct, 1)
}

// demos makes tasks of one place each and returns a run of each.
func (f *fixture) demos(n int) (runs []store.NewRun) {
	f.t.Helper()
	for i := range n {
		name := fmt.Sprintf("task%02d", i)
		f.apply(task.Definition{Name: name, Chain: json.RawMessage(`["nop"]`), Concurrency: &task.Concurrency{Limit: 1}})
		runs = append(runs, store.NewRun{Task: name})
	}
	f.worker()
	f.exec(`UPDATE workers SET slots = 100`)
	return runs
}

func TestAnInsertionTakesFewLocks(t *testing.T) {
	t.Parallel()
	f := open(t)
	_, parcels, err := f.InsertRuns(context.Background(), f.demos(53))
	require.NoError(t, err)
	require.Len(t, parcels, 50)
	require.Len(t, f.admit(), 3, "the leader starts the rest")
}

// lockTask takes the lock of the task elsewhere until the function is called.
func (f *fixture) lockTask(name string) (unlock func()) {
	f.t.Helper()
	hash := fnv.New64a()
	_, _ = hash.Write([]byte("catena limits of " + name)) // never fails
	conn, err := f.Pool().Acquire(context.Background())
	require.NoError(f.t, err)
	_, err = conn.Exec(context.Background(), `SELECT pg_advisory_lock($1)`, int64(hash.Sum64()))
	require.NoError(f.t, err)
	return func() {
		_, err := conn.Exec(context.Background(), `SELECT pg_advisory_unlock_all()`)
		require.NoError(f.t, err)
		conn.Release()
	}
}

func TestOneLockedTaskDelaysNoOther(t *testing.T) {
	t.Parallel()
	f := open(t)
	runs := f.demos(20)
	unlock := f.lockTask("task07")
	accepted, parcels, err := f.InsertRuns(context.Background(), runs)
	unlock()
	require.NoError(t, err)
	require.Len(t, parcels, 19)
	require.Equal(t, task.StateQueued, f.run(accepted[7].ID).State)
	require.Len(t, f.admit(), 1)
}

// An insertion knows the limits from before it has the lock.
func TestALimitThatIsLoweredMeanwhileHolds(t *testing.T) {
	t.Parallel()
	f := openLimited(t, perKey)
	f.worker()
	f.ask("a")
	require.Len(t, f.direct, 1)
	unlock := f.lockTask("limited")
	done := make(chan error, 1)
	go func() {
		_, _, err := f.InsertRuns(context.Background(), []store.NewRun{{Task: "limited", Params: json.RawMessage(`{"k":"a"}`)}})
		done <- err
	}()
	require.Eventually(t, func() bool { // it waits, or its patience has ended
		return len(done) > 0 || f.scalar(`SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
			WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted`) > 0
	}, 10*time.Second, time.Millisecond)
	f.limit(task.Definition{Concurrency: &task.Concurrency{Limit: 1, Key: "${params.k}"}})
	unlock()
	require.NoError(t, <-done)
	require.EqualValues(t, 1, f.waiting("a"))
	require.EqualValues(t, 1, f.holds())
}
