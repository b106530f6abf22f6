package store_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

const packedKeys = 10

// packed is a cluster whose parcels hold many limited runs.
func packed(t *testing.T, limits task.Definition) (f *fixture, worker int64) {
	t.Helper()
	f = openLimited(t, limits)
	f.exec(`INSERT INTO task_costs (revision, micros) SELECT revision, 100 FROM tasks WHERE name = 'limited'`)
	return f, f.worker()
}

// askAll asks for a run of each key, all of which start in one parcel.
func (f *fixture) askAll() (ids []uuid.UUID, p store.Parcel) {
	f.t.Helper()
	keys := make([]string, packedKeys)
	for i := range keys {
		keys[i] = "k" + strconv.Itoa(i)
	}
	ids = f.ask(keys...)
	require.Len(f.t, f.direct, 1)
	p, f.direct = f.direct[0], nil
	return ids, p
}

func (f *fixture) packedPlaces() int64 {
	return f.scalar(`SELECT count(*) FROM parcels, generate_series(1, length(places), 8) AS i
		WHERE substring(places FROM i FOR 8) <> '\x0000000000000000'`)
}

func (f *fixture) packedTokens() int64 {
	return f.scalar(`SELECT coalesce(sum(cardinality(runs)), 0) FROM token_packs`)
}

func TestPlacesEndWithTheirParcel(t *testing.T) {
	t.Parallel()
	f, w := packed(t, perKey)
	_, first := f.askAll()
	_, second := f.askAll()
	require.EqualValues(t, 2*packedKeys, f.packedPlaces())
	require.Zero(t, f.holds())
	third := f.ask("k3")
	require.Empty(t, f.direct, "both places of the key are taken")
	require.Empty(t, f.admit(), "the leader counts them too")
	why := f.why(third[0])
	require.Len(t, why.Holders, 2)
	require.Contains(t, why.Sentence, "the concurrency limit of 2 for the key \"k3\" is reached")

	var all []store.Ending
	for _, c := range f.claim(w, first) {
		require.True(t, c.Held)
		e := ended(c)
		e.Parcel = first.ID
		all = append(all, e)
	}
	b := store.Batch{Worker: w, Endings: all, Parcels: []int64{first.ID}}
	for range 2 { // the second is a repetition
		f.write(b)
		require.EqualValues(t, packedKeys, f.packedPlaces())
	}
	require.Len(t, f.admit(), 1)
	require.EqualValues(t, 1, f.holds())
	require.NotZero(t, second.ID)
}

// A run that leaves its parcel before the others takes its place along or gives
// it back; the others' stay packed.
func TestARunThatLeavesItsParcel(t *testing.T) {
	t.Parallel()
	end := func(change func(*store.Ending)) func(*fixture, int64, store.Parcel, []uuid.UUID) {
		return func(f *fixture, w int64, p store.Parcel, _ []uuid.UUID) {
			e := ended(f.claim(w, p)[0])
			e.Parcel = p.ID
			change(&e)
			b := store.Batch{Worker: w, Endings: []store.Ending{e}}
			f.write(b)
			f.write(b) // a repetition
		}
	}
	for name, c := range map[string]struct {
		leave         func(f *fixture, w int64, p store.Parcel, ids []uuid.UUID)
		packed, holds int64
	}{
		"waits":       {end(func(e *store.Ending) { e.State, e.Attempt, e.After = task.StateQueued, 2, time.Hour }), packedKeys - 1, 0},
		"goes again":  {end(func(e *store.Ending) { e.State, e.Attempt = task.StateQueued, 2 }), packedKeys - 1, 1},
		"not started": {end(func(e *store.Ending) { e.State, e.StartedAt = task.StateQueued, time.Time{} }), packedKeys - 1, 0},
		"is parked": {end(func(e *store.Ending) {
			e.State, e.Park = task.StateWaiting, &store.Park{Path: "0", Kind: task.WaitDelay, For: time.Hour}
		}), packedKeys - 1, 1},
		"stale": {end(func(e *store.Ending) { e.Fence++ }), packedKeys, 0},
		"is cancelled": {func(f *fixture, _ int64, _ store.Parcel, ids []uuid.UUID) {
			_, err := f.CancelRun(context.Background(), ids[0], "test", false)
			require.NoError(f.t, err)
		}, packedKeys - 1, 0},
		"its worker is lost": {func(f *fixture, w int64, p store.Parcel, _ []uuid.UUID) {
			require.Len(f.t, f.claim(w, p), packedKeys)
			require.NoError(f.t, f.EndWorker(context.Background(), w, task.WorkerLost, "killed"))
			require.Len(f.t, f.revoke(), packedKeys)
		}, 0, packedKeys},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, w := packed(t, perKey)
			ids, p := f.askAll()
			c.leave(f, w, p, ids)
			require.Equal(t, c.packed, f.packedPlaces())
			require.Equal(t, c.holds, f.holds())
			require.Zero(t, f.scalar(`SELECT count(*) FROM holds h JOIN runs r ON r.id = h.run WHERE r.finished_at IS NOT NULL OR r.held IS NOT TRUE OR h.key <> r.concurrency_key`))
		})
	}
}

// A binary that does not know what is packed would count and end rows only.
func TestNothingIsPackedBesideAnOlderBinary(t *testing.T) {
	t.Parallel()
	limits := perKey
	limits.Rate = &task.Rate{Limit: 2, Per: task.Duration(time.Second), Key: "${params.k}"}
	for name, older := range map[string]string{
		"worker": `UPDATE workers SET packs = false`,
		"leader": `UPDATE leader SET packs_term = term - 1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := packed(t, limits)
			f.exec(older)
			f.askAll()
			require.Zero(t, f.packedPlaces()+f.packedTokens())
			require.EqualValues(t, packedKeys, f.holds())
			require.EqualValues(t, packedKeys, f.scalar(`SELECT sum(tokens) FROM rate_uses`))
		})
	}
}

// A worker that was given up gives a run back, or wants it tried again, which was
// taken from it with its place.
func TestAWorkerThatWasGivenUpFreesNoPlace(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, time.Hour} {
		f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1, Key: "${params.k}"}})
		w := f.worker()
		f.ask("a", "a")
		c := f.claimAll(w, f.admit())[0]
		require.NoError(t, f.EndWorker(context.Background(), w, task.WorkerLost, "silent"))
		require.Len(t, f.revoke(), 1)
		e := ended(c)
		e.State, e.Attempt, e.After = task.StateQueued, c.Attempt+1, after
		if after == 0 {
			e.Attempt, e.StartedAt = c.Attempt, time.Time{}
		}
		f.write(store.Batch{Worker: w, Endings: []store.Ending{e}})
		require.EqualValues(t, 1, f.holds())
		f.worker()
		require.Empty(t, f.admit())
		require.Len(t, f.fill(), 1, "the one that was taken back")
	}
}

// Ends and cancellations lock parcels in the same order.
func TestLeavingLocksParcelsInOrder(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f, w := packed(t, perKey)
	_, first := f.askAll()
	_, second := f.askAll()
	early, again := ended(f.claim(w, first)[0]), ended(f.claim(w, second)[0])
	early.Parcel, again.Parcel, again.State, again.Attempt = first.ID, second.ID, task.StateQueued, 2
	tx, err := f.Pool().Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	_, err = tx.Exec(ctx, `SELECT FROM parcels WHERE id = $1 FOR UPDATE`, first.ID)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := f.Write(ctx, store.Batch{Worker: w, Endings: []store.Ending{again, early}})
		done <- err
	}()
	require.Eventually(t, func() bool {
		return f.scalar(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
	}, 20*time.Second, 5*time.Millisecond, "it waits for the first")
	_, err = tx.Exec(ctx, `SELECT FROM parcels WHERE id = $1 FOR UPDATE NOWAIT`, second.ID)
	require.NoError(t, err, "and has not locked the second")
	require.NoError(t, tx.Rollback(ctx))
	require.NoError(t, <-done)
}

// Windows are counted in whole milliseconds.
func TestWindowsThatHardlyDiffer(t *testing.T) {
	t.Parallel()
	f, _ := packed(t, task.Definition{Rate: &task.Rate{Limit: 2, Per: task.Duration(time.Second), Key: "${params.k}"}})
	other := task.Definition{Name: "other", Chain: []byte(`["nop"]`), Rate: &task.Rate{Limit: 2, Per: task.Duration(time.Second - 500*time.Microsecond + time.Millisecond), Key: "${params.k}"}}
	require.NoError(t, other.Validate())
	f.apply(other)
	f.exec(`INSERT INTO task_costs (revision, micros) SELECT revision, 100 FROM tasks WHERE name = 'other'`)
	var runs []store.NewRun
	for i := range packedKeys {
		params := []byte(`{"k":"` + strconv.Itoa(i) + `"}`)
		runs = append(runs, store.NewRun{Task: "limited", Params: params}, store.NewRun{Task: "other", Params: params})
	}
	_, parcels, err := f.InsertRuns(context.Background(), runs)
	require.NoError(t, err)
	require.Len(t, parcels, 1)
	require.Equal(t, []int64{1000, 1001}, []int64{f.scalar(`SELECT min(per_ms) FROM token_packs`), f.scalar(`SELECT max(per_ms) FROM token_packs`)})
}

// An end before that of the parcel gives back one place and leaves the others packed.
func TestARunThatEndsEarlyGivesItsPlaceBack(t *testing.T) {
	t.Parallel()
	for name, outcome := range map[string]string{"ends": `{}`, "cannot end": `{"data": "\u0000"}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, w := packed(t, perKey)
			_, p := f.askAll()
			for i, c := range f.claim(w, p)[:2] {
				require.True(t, c.Packed)
				e := ended(c)
				e.Parcel, e.Outcome = p.ID, []byte(outcome)
				for range 2 { // the second is a repetition
					f.write(store.Batch{Worker: w, Endings: []store.Ending{e}})
					require.EqualValues(t, packedKeys-1-i, f.packedPlaces())
				}
			}
			require.Zero(t, f.holds())
		})
	}
}

// Children of a group have a row there and a packed place besides.
func TestChildrenThatArePacked(t *testing.T) {
	t.Parallel()
	f, w := packed(t, perKey)
	ids, _ := f.submit(1)
	parent := ids[0]
	runs := []store.NewRun{{Task: "demo", Parent: &store.Parent{Run: parent, Path: "0", Group: "g"}}}
	for i := range packedKeys {
		runs = append(runs, store.NewRun{Task: "limited", Params: []byte(`{"k":"` + strconv.Itoa(i) + `"}`),
			Parent: &store.Parent{Run: parent, Path: "0", Group: "g"}})
	}
	_, parcels, err := f.InsertRuns(context.Background(), runs)
	require.NoError(t, err)
	require.EqualValues(t, packedKeys, f.packedPlaces())
	require.EqualValues(t, packedKeys+1, f.holds())
	for _, p := range parcels {
		var all []store.Ending
		for _, c := range f.claim(w, p) {
			e := ended(c)
			e.Parcel = p.ID
			all = append(all, e)
		}
		f.write(store.Batch{Worker: w, Endings: all, Parcels: []int64{p.ID}})
	}
	require.Zero(t, f.holds())
}

func TestPackedTokens(t *testing.T) {
	t.Parallel()
	limits := task.Definition{Rate: &task.Rate{Limit: 2, Per: task.Duration(5 * time.Second), Key: "${params.k}"}}
	f, w := packed(t, limits)
	ctx := context.Background()
	ids, first := f.askAll()
	_, second := f.askAll()
	require.EqualValues(t, 2*packedKeys, f.packedTokens())
	require.Zero(t, f.scalar(`SELECT count(*) FROM rate_uses`))
	third := f.ask("k3")
	require.Empty(t, f.direct)
	require.Empty(t, f.admit())
	why := f.why(third[0])
	require.Equal(t, task.WaitRate, why.Waits)

	_, err := f.CancelRun(ctx, ids[3], "test", false)
	require.NoError(t, err)
	require.EqualValues(t, 2*packedKeys-1, f.packedTokens(), "what no worker has claimed is not used")
	f.claimAll(w, f.admit())
	claimed := f.claim(w, first)
	require.Len(t, claimed, packedKeys-1)
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM token_packs WHERE back_at < 'infinity'`))
	back := store.Ending{Run: claimed[0].ID, Fence: claimed[0].Fence, State: task.StateQueued, Attempt: 1, Parcel: first.ID, Rated: true}
	for range 2 {
		f.write(store.Batch{Worker: w, Endings: []store.Ending{back}})
		require.EqualValues(t, 2*packedKeys-2, f.packedTokens(), "nor what has not started")
	}
	_, err = f.CancelRun(ctx, claimed[1].ID, "test", false)
	require.NoError(t, err)
	require.EqualValues(t, 2*packedKeys-2, f.packedTokens(), "what was claimed is used")

	f.exec(`DELETE FROM parcels WHERE id = $1`, second.ID)
	f.exec(`UPDATE token_packs SET back_at = back_at - interval '6 seconds' WHERE back_at < 'infinity'`)
	_, err = f.ForgetTokens(ctx, f.term)
	require.NoError(t, err)
	require.EqualValues(t, packedKeys, f.packedTokens(), "those of the second, whose window begins with the end of its parcel")
	require.EqualValues(t, packedKeys, f.scalar(`SELECT sum(cardinality(runs)) FROM token_packs WHERE back_at < 'infinity'`))
}

// Long windows and few runs have a row for each key, which an index finds.
func TestTokensThatAreNotPacked(t *testing.T) {
	t.Parallel()
	f, _ := packed(t, task.Definition{Rate: &task.Rate{Limit: 2, Per: task.Duration(time.Minute), Key: "${params.k}"}})
	f.askAll()
	require.Zero(t, f.packedTokens())
	require.EqualValues(t, packedKeys, f.scalar(`SELECT count(*) FROM rate_uses`))
}
