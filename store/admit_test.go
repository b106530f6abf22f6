package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// byKey reads the key from the params' member "k".
type byKey struct{}

func (byKey) Keys(_ int64, limits task.Limits, _, own json.RawMessage) (store.LimitKeys, error) {
	return store.KeysOf(limits, func(field, _ string) (string, error) {
		var params struct{ K string }
		if err := json.Unmarshal(own, &params); err != nil || params.K == "" {
			return "", task.Errorf(task.CodeInvalid, "%s: params have no k", field).At("params")
		}
		return params.K, nil
	})
}

func openLimited(t *testing.T, limits task.Definition) *fixture {
	t.Helper()
	f := openWith(t, store.Config{Keys: byKey{}})
	f.limit(limits)
	return f
}

func (f *fixture) limit(def task.Definition) {
	f.t.Helper()
	def.Name, def.Chain = "limited", json.RawMessage(`["nop"]`)
	require.NoError(f.t, def.Validate())
	f.apply(def)
}

// ask inserts a run of the limited task for each key.
func (f *fixture) ask(keys ...string) []uuid.UUID {
	f.t.Helper()
	runs := make([]store.NewRun, len(keys))
	for i, k := range keys {
		runs[i] = store.NewRun{Task: "limited", Params: json.RawMessage(`{"k":"` + k + `"}`)}
	}
	accepted, parcels, err := f.InsertRuns(context.Background(), runs)
	require.NoError(f.t, err)
	f.direct = append(f.direct, parcels...)
	ids := make([]uuid.UUID, len(keys))
	for i, a := range accepted {
		ids[i] = a.ID
	}
	return ids
}

// admit returns the parcels of runs that started when they were asked for, and
// takes turns until nothing more is admitted.
func (f *fixture) admit() (parcels []store.Parcel) {
	f.t.Helper()
	parcels, f.direct = f.direct, nil
	for {
		more, again, err := f.Admit(context.Background(), f.term)
		require.NoError(f.t, err)
		parcels = append(parcels, more...)
		if !again {
			return parcels
		}
	}
}

func (f *fixture) claimAll(worker int64, parcels []store.Parcel) (runs []store.Claimed) {
	f.t.Helper()
	for _, p := range parcels {
		runs = append(runs, f.claim(worker, p)...)
	}
	return runs
}

func (f *fixture) holds() int64 { return f.scalar(`SELECT count(*) FROM holds`) }

func ended(c store.Claimed) store.Ending {
	e := succeeded(c)
	e.Held, e.Packed, e.Rated = c.Held, c.Packed, c.Rated
	return e
}

func repeated(key string, n int) []string {
	return strings.Split(strings.Repeat(key+" ", n)[:n*(len(key)+1)-1], " ")
}

var perKey = task.Definition{Concurrency: &task.Concurrency{Limit: 2, Key: "${params.k}"}}

func TestNoMoreRunsOfAKeyThanItsPlaces(t *testing.T) {
	t.Parallel()
	f := openLimited(t, perKey)
	w := f.worker()
	f.ask("a", "a", "a", "a", "b")
	claimed := f.claimAll(w, f.admit())
	require.Len(t, claimed, 3, "two of a, one of b")
	require.EqualValues(t, 3, f.holds())
	require.Empty(t, f.admit())
	require.Empty(t, f.fill(), "a limited run goes no other way")

	f.write(store.Batch{Worker: w, Endings: []store.Ending{ended(claimed[0])}})
	require.EqualValues(t, 2, f.holds())
	f.write(store.Batch{Worker: w, Endings: []store.Ending{ended(claimed[0])}}) // repeated after an unclear commit
	require.EqualValues(t, 2, f.holds())
	stale := ended(claimed[1])
	stale.Fence++
	require.True(t, f.write(store.Batch{Worker: w, Endings: []store.Ending{stale}}).Stale[stale.Run])
	require.EqualValues(t, 2, f.holds(), "who may not write the end frees no place")
	require.Len(t, f.claimAll(w, f.admit()), 1)
}

func TestKeysTakeTurns(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 100, Key: "${params.k}"}})
	w := f.worker() // four slots: eight parcels
	f.ask(append(repeated("a", 50), "b", "c", "d")...)
	keys := map[string]int{}
	for _, c := range f.claimAll(w, f.admit()) {
		var p struct{ K string }
		require.NoError(t, json.Unmarshal(c.Params, &p))
		keys[p.K]++
	}
	require.Equal(t, map[string]int{"a": 5, "b": 1, "c": 1, "d": 1}, keys)
}

func TestARateCountsFromTheClaim(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Rate: &task.Rate{Limit: 2, Per: task.Duration(time.Hour), Key: "${params.k}"}})
	w := f.worker()
	f.ask("a", "a", "a", "b")
	parcels := f.admit()
	require.EqualValues(t, 3, f.scalar(`SELECT sum(tokens) FROM rate_uses WHERE back_at = 'infinity'`), "no window runs before the claim")
	claimed := f.claimAll(w, parcels)
	require.Len(t, claimed, 3)
	require.Zero(t, f.scalar(`SELECT count(*) FROM rate_uses WHERE back_at = 'infinity'`))
	f.exec(`UPDATE rate_uses SET back_at = back_at - interval '30 minutes'`)
	require.Empty(t, f.admit(), "the window has not passed")
	f.exec(`UPDATE rate_uses SET back_at = back_at - interval '31 minutes'`)
	require.Len(t, f.admit(), 1)
	more, err := f.ForgetTokens(context.Background(), f.term)
	require.NoError(t, err)
	require.False(t, more)
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM rate_uses`))
}

func TestARunThatDidNotStartGivesPlaceAndTokenBack(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Rate: &task.Rate{Limit: 1, Per: task.Duration(time.Hour)}, Concurrency: &task.Concurrency{Limit: 1}})
	w := f.worker()
	f.ask("a")
	parcels := f.admit()
	c := f.claimAll(w, parcels)[0]
	back := store.Ending{Run: c.ID, Fence: c.Fence, State: task.StateQueued, Attempt: 1, Parcel: parcels[0].ID, Held: c.Held, Rated: c.Rated}
	for range 2 { // the second is a repetition
		f.write(store.Batch{Worker: w, Endings: []store.Ending{back}})
		require.Zero(t, f.holds())
		require.Zero(t, f.scalar(`SELECT sum(tokens) FROM rate_uses`))
	}
	require.Len(t, f.claimAll(w, f.admit()), 1)
}

func TestARunCancelledBeforeTheClaimGivesItsTokenBack(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Rate: &task.Rate{Limit: 2, Per: task.Duration(time.Hour), Key: "${params.k}"}})
	ctx := context.Background()
	w := f.worker()
	ids := f.ask("a", "a")
	parcels := f.admit()
	f.exec(`UPDATE runs SET parcel = $1`, parcels[0].ID) // both in one
	f.exec(`UPDATE parcels SET runs = $2 WHERE id = $1`, parcels[0].ID, ids)
	f.exec(`DELETE FROM parcels WHERE id <> $1`, parcels[0].ID)
	f.exec(`DELETE FROM rate_uses WHERE parcel <> $1`, parcels[0].ID)
	f.exec(`UPDATE rate_uses SET tokens = 2`)
	_, err := f.CancelRun(ctx, ids[0], "test", false)
	require.NoError(t, err)
	require.EqualValues(t, 1, f.scalar(`SELECT sum(tokens) FROM rate_uses`), "the other keeps its own")
	_, err = f.CancelRun(ctx, ids[1], "test", false)
	require.NoError(t, err)
	require.Zero(t, f.scalar(`SELECT count(*) FROM rate_uses`))
	f.exec(`INSERT INTO rate_uses (parcel, task, key, per_ms, tokens) VALUES ($1, 'limited', 'b', 1000, 1)`, parcels[0].ID)
	require.Empty(t, f.claim(w, parcels[0]))
	require.Zero(t, f.scalar(`SELECT count(*) FROM rate_uses`), "they go with the empty parcel")

	f.ask("a", "a")
	claimed := f.claimAll(w, f.admit())
	require.Len(t, claimed, 2)
	_, err = f.CancelRun(ctx, claimed[0].ID, "test", false)
	require.NoError(t, err)
	require.EqualValues(t, 2, f.scalar(`SELECT sum(tokens) FROM rate_uses`), "what was claimed is used")
}

func TestTokensOfAParcelThatIsGoneComeBack(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Rate: &task.Rate{Limit: 1, Per: task.Duration(time.Second), Key: "${params.k}"}})
	ctx := context.Background()
	f.worker()
	f.ask("a", "b", "a")
	require.Len(t, f.admit(), 2)
	f.exec(`DELETE FROM parcels WHERE id = (SELECT parcel FROM rate_uses WHERE key = 'a')`)
	_, err := f.ForgetTokens(ctx, f.term)
	require.NoError(t, err)
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM rate_uses WHERE back_at = 'infinity'`), "that of b")
	f.exec(`UPDATE rate_uses SET back_at = back_at - interval '2 seconds'`)
	require.Len(t, f.admit(), 1)
}

func TestARetryWaitsWithoutItsPlace(t *testing.T) {
	t.Parallel()
	f := openLimited(t, perKey)
	w := f.worker()
	f.ask("a", "a", "a")
	claimed := f.claimAll(w, f.admit())
	require.Len(t, claimed, 2)
	again := ended(claimed[0])
	again.State, again.Attempt, again.After = task.StateQueued, 2, time.Hour
	f.write(store.Batch{Worker: w, Endings: []store.Ending{again}})
	require.Len(t, f.claimAll(w, f.admit()), 1, "its place is free")
	f.exec(`UPDATE ready SET available_at = clock_timestamp() WHERE hold = 'later'`)
	opened, err := f.OpenDue(context.Background(), f.term)
	require.NoError(t, err)
	require.EqualValues(t, 1, opened)
	require.Empty(t, f.admit(), "it needs a place again")
	require.Empty(t, f.fill())
	f.write(store.Batch{Worker: w, Endings: []store.Ending{ended(claimed[1])}})
	require.Equal(t, claimed[0].ID, f.claimAll(w, f.admit())[0].ID)
}

func TestARunOfALostWorkerKeepsItsPlaceAndTakesANewToken(t *testing.T) {
	t.Parallel()
	limits := perKey
	limits.Rate = &task.Rate{Limit: 3, Per: task.Duration(time.Hour)}
	f := openLimited(t, limits)
	ctx := context.Background()
	w := f.worker()
	f.ask("a", "a", "a")
	lost := f.claimAll(w, f.admit())
	require.Len(t, lost, 2)
	require.NoError(t, f.EndWorker(ctx, w, task.WorkerLost, "killed"))
	require.Len(t, f.revoke(), 2)
	require.EqualValues(t, 2, f.holds())
	other := f.worker()
	parcels := f.admit()
	require.Len(t, parcels, 1, "one token was left")
	require.True(t, store.Suspect(parcels[0].Lane))
	c := f.claimAll(other, parcels)
	require.Len(t, c, 1)
	require.True(t, c[0].Held)
	f.exec(`DELETE FROM rate_uses`)
	require.Len(t, f.claimAll(other, f.admit()), 1, "the other lost run, for the third there is no place")
	require.EqualValues(t, 2, f.holds())
}

func TestCancelAndQuarantineGivePlacesBack(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1}})
	ctx := context.Background()
	f.worker()
	ids := f.ask("a", "b")
	require.Len(t, f.admit(), 1)
	_, err := f.CancelRun(ctx, ids[0], "test", false)
	require.NoError(t, err)
	require.Zero(t, f.holds())
	w := f.worker()
	c := f.claimAll(w, f.admit())
	require.Len(t, c, 1)
	f.exec(`UPDATE runs SET kills = 2 WHERE id = $1`, c[0].ID)
	f.exec(`UPDATE parcels SET lane = 'suspect:default'`)
	require.NoError(t, f.EndWorker(ctx, w, task.WorkerLost, "killed"))
	revoked := f.revoke()
	require.Len(t, revoked, 1)
	require.Equal(t, task.StateQuarantined, revoked[0].State)
	require.Zero(t, f.holds())
	run, err := f.RetryRun(ctx, c[0].ID, "", "test")
	require.NoError(t, err)
	require.Equal(t, task.StateQueued, run.State)
	require.Empty(t, f.fill(), "a retry by hand goes through admission too")
	require.Len(t, f.admit(), 1)
}

func TestAnEditOfALimitActsAtOnce(t *testing.T) {
	t.Parallel()
	f := openLimited(t, perKey)
	w := f.worker()
	f.ask(repeated("a", 6)...)
	require.Len(t, f.claimAll(w, f.admit()), 2)
	f.limit(task.Definition{Concurrency: &task.Concurrency{Limit: 3, Key: "${params.k}"}})
	require.Len(t, f.claimAll(w, f.admit()), 1)
	_, err := f.PauseTask(context.Background(), "limited", "audit")
	require.NoError(t, err)
	f.limit(task.Definition{})
	require.Empty(t, f.admit(), "paused")
	_, err = f.ResumeTask(context.Background(), "limited")
	require.NoError(t, err)
	require.Len(t, f.claimAll(w, f.admit()), 3, "no limit is left")
	require.EqualValues(t, 6, f.holds(), "should one come back, these count")
}

func TestRejectNewEndsWhatFindsNoPlace(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 2, Key: "${params.k}", Strategy: task.StrategyRejectNew}})
	f.worker()
	ids := f.ask("a", "a", "a", "b")
	require.Len(t, f.admit(), 3)
	rejected := f.run(ids[2])
	require.Equal(t, task.StateCancelled, rejected.State)
	require.Contains(t, rejected.Reason, `the concurrency limit of 2 is reached for the key "a"`)
	require.Zero(t, f.scalar(`SELECT count(*) FROM ready`))
}

func TestATurnEndsABoundedNumberOfRuns(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1, Key: "${params.k}", Strategy: task.StrategyRejectNew}})
	ctx := context.Background()
	f.worker()
	ids := f.ask(repeated("a", 602)...)
	child := f.ask("b")[0]
	f.exec(`UPDATE runs SET parent = $1, inherit_cancel = true WHERE id = $2`, ids[1], child)
	_, more, err := f.Admit(ctx, f.term)
	require.NoError(t, err)
	require.True(t, more)
	require.EqualValues(t, 500, f.scalar(`SELECT count(*) FROM runs WHERE state = 'cancelled'`))
	f.admit()
	require.EqualValues(t, 601, f.scalar(`SELECT count(*) FROM runs WHERE state = 'cancelled'`))
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM child_cancels`), "the children of a rejected run end too")
}

func TestATurnCancelsABoundedNumberOfRunsUnderWay(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 150, Key: "${params.k}", Strategy: task.StrategyCancelRunning}})
	ctx := context.Background()
	f.worker()
	old := f.ask(repeated("a", 150)...)
	f.exec(`DELETE FROM ready`)
	f.exec(`DELETE FROM parcels`)
	f.exec(`INSERT INTO holds (run, scope, key) SELECT unnest($1::uuid[]), 'limit:limited', 'a' ON CONFLICT DO NOTHING`, old)
	f.ask(repeated("a", 150)...)
	_, more, err := f.Admit(ctx, f.term)
	require.NoError(t, err)
	require.True(t, more)
	require.EqualValues(t, 100, f.scalar(`SELECT count(*) FROM runs WHERE cancel_requested`))
	for more {
		_, more, err = f.Admit(ctx, f.term)
		require.NoError(t, err)
		if f.scalar(`SELECT count(*) FROM runs WHERE cancel_requested`) == 150 {
			break
		}
	}
	require.EqualValues(t, 150, f.scalar(`SELECT count(*) FROM runs WHERE cancel_requested`))
}

func TestCancelRunningLetsTheNewestLive(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1, Key: "${params.k}", Strategy: task.StrategyCancelRunning}})
	w := f.worker()
	first := f.claimAll(w, func() []store.Parcel { f.ask("a"); return f.admit() }())[0]
	ids := f.ask("a", "a")
	require.Empty(t, f.admit())
	require.True(t, f.run(first.ID).CancelRequested, "the one under way may end in order")
	require.Equal(t, task.StateCancelled, f.run(ids[0]).State, "overtaken while it waited")
	require.Contains(t, f.run(ids[0]).Reason, "cancel-running")
	require.Empty(t, f.admit(), "its place is not free yet")
	over := ended(first)
	over.State = task.StateCancelled
	f.write(store.Batch{Worker: w, Endings: []store.Ending{over}})
	next := f.claimAll(w, f.admit())
	require.Len(t, next, 1)
	require.Equal(t, ids[1], next[0].ID)
}

func TestCancelRunningSparesTheNewerFromAnOlderOneThatComesBack(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1, Key: "${params.k}", Strategy: task.StrategyCancelRunning}})
	w := f.worker()
	f.ask("a")
	old := f.claimAll(w, f.admit())[0]
	again := ended(old)
	again.State, again.Attempt, again.After = task.StateQueued, 2, time.Hour
	f.write(store.Batch{Worker: w, Endings: []store.Ending{again}})
	newer := f.ask("a")[0]
	require.Len(t, f.claimAll(w, f.admit()), 1)
	f.exec(`UPDATE ready SET available_at = clock_timestamp() WHERE hold = 'later'`)
	_, err := f.OpenDue(context.Background(), f.term)
	require.NoError(t, err)
	require.Empty(t, f.admit())
	require.False(t, f.run(newer).CancelRequested)
	require.Equal(t, task.StateCancelled, f.run(old.ID).State)
	require.Contains(t, f.run(old.ID).Reason, "cancel-running")
}

func TestALimitedRunOfALaterTimeWaitsForItFirst(t *testing.T) {
	t.Parallel()
	f := openLimited(t, perKey)
	ctx := context.Background()
	f.worker()
	hold := func(id uuid.UUID) (hold string) {
		require.NoError(t, f.Pool().QueryRow(ctx, `SELECT hold FROM ready WHERE run = $1`, id).Scan(&hold))
		return hold
	}
	insert := func(at time.Time) uuid.UUID {
		accepted, _, err := f.InsertRuns(ctx, []store.NewRun{{Task: "limited", Params: json.RawMessage(`{"k":"a"}`), At: at}})
		require.NoError(t, err)
		return accepted[0].ID
	}
	now, err := f.Now(ctx)
	require.NoError(t, err)
	later := insert(now.Add(time.Hour))
	_, err = f.PauseTask(ctx, "limited", "audit")
	require.NoError(t, err)
	both, paused := insert(now.Add(time.Hour)), insert(time.Time{})
	require.Equal(t, []string{"later", "later", "paused"}, []string{hold(later), hold(both), hold(paused)})
	_, err = f.ResumeTask(ctx, "limited")
	require.NoError(t, err)
	require.NoError(t, f.SyncPauses(ctx, f.term))
	require.Equal(t, "limited", hold(paused))
	require.Len(t, f.admit(), 1, "the others' time has not come")
	require.Equal(t, []string{"later", "later"}, []string{hold(later), hold(both)})
	f.exec(`UPDATE ready SET available_at = clock_timestamp()`)
	_, err = f.OpenDue(ctx, f.term)
	require.NoError(t, err)
	require.Equal(t, []string{"limited", "limited"}, []string{hold(later), hold(both)})
	require.Len(t, f.admit(), 1, "one place was left")
}

func TestRunsWithAndWithoutLimitsShareTheRoom(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1000}})
	f.submit(40)
	f.ask(repeated("a", 40)...)
	f.worker()
	limited := 0
	for range 6 {
		limited += len(f.admit())
		f.fill()
		f.exec(`DELETE FROM parcels WHERE id = (SELECT min(id) FROM parcels)`) // room for one
	}
	require.Greater(t, limited, 5)
	require.Less(t, limited, 10)
}

func TestTagsChooseTheWorkers(t *testing.T) {
	t.Parallel()
	f := openWith(t, store.Config{})
	ctx := context.Background()
	f.apply(task.Definition{Name: "tagged", Chain: json.RawMessage(`["nop"]`), Tags: []string{"gpu", "eu"}})
	f.worker()
	_, parcels, err := f.InsertRuns(ctx, []store.NewRun{{Task: "tagged"}})
	require.NoError(t, err)
	require.Empty(t, parcels)
	require.Empty(t, f.fill(), "no worker has the tags")
	unserved, err := f.UnservedLanes(ctx)
	require.NoError(t, err)
	require.Equal(t, []store.LaneWait{{Lane: "default+eu+gpu", Runs: 1}}, unserved)

	w, err := f.RegisterWorker(ctx, task.Worker{ID: "tagged", Host: "h", PID: 1, Version: "test", Queues: []string{"default"}, Slots: 2,
		Tags: []string{"gpu", "eu", "fast"}})
	require.NoError(t, err)
	filled := f.fill()
	require.Len(t, filled, 1)
	require.Equal(t, "default+eu+gpu", filled[0].Lane)
	c := f.claim(w, filled[0])
	require.NoError(t, f.EndWorker(ctx, w, task.WorkerLost, ""))
	require.Len(t, f.revoke(), 1)
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM ready WHERE lane = 'suspect:default+eu+gpu'`))
	_, err = f.CancelRun(ctx, c[0].ID, "test", false)
	require.NoError(t, err)
	_, err = f.RetryRun(ctx, c[0].ID, "", "test")
	require.NoError(t, err)
	require.EqualValues(t, 1, f.scalar(`SELECT count(*) FROM ready WHERE lane = 'default+eu+gpu'`))
	lanes, err := f.Lanes(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"default", "default+eu+gpu"}, lanes)
	unserved, err = f.UnservedLanes(ctx)
	require.NoError(t, err)
	require.Len(t, unserved, 1)
}

func TestNothingStarvesInALane(t *testing.T) {
	t.Parallel()
	f := open(t)
	high, low := 9, 0
	f.apply(task.Definition{Name: "high", Chain: json.RawMessage(`["nop"]`), Priority: &high},
		task.Definition{Name: "low", Chain: json.RawMessage(`["nop"]`), Priority: &low})
	insert := func(name string) uuid.UUID {
		accepted, _, err := f.InsertRuns(context.Background(), []store.NewRun{{Task: name}})
		require.NoError(t, err)
		return accepted[0].ID
	}
	old := insert("low")
	f.exec(`UPDATE ready SET rank = rank - interval '10 minutes'`) // as if made ten minutes ago
	urgent, young := insert("high"), insert("low")
	w := f.worker()
	var order []uuid.UUID
	for _, p := range f.fill() {
		for _, c := range f.claim(w, p) {
			order = append(order, c.ID)
		}
	}
	require.Equal(t, []uuid.UUID{old, urgent, young}, order)
}

func TestDedupeAnswersWithTheFirstRun(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Dedupe: &task.Dedupe{Key: "${params.k}", Window: task.Duration(time.Minute)}})
	ctx := context.Background()
	run := func(k, key string) store.NewRun {
		return store.NewRun{Task: "limited", Params: json.RawMessage(`{"k":"` + k + `"}`), Key: key}
	}
	got, _, err := f.InsertRuns(ctx, []store.NewRun{run("a", ""), run("a", "mine"), run("b", ""), run("a", "")})
	require.NoError(t, err)
	require.False(t, got[0].Duplicate)
	require.Equal(t, store.Accepted{ID: got[0].ID, Duplicate: true}, got[1])
	require.Equal(t, store.Accepted{ID: got[0].ID, Duplicate: true}, got[3])
	require.False(t, got[2].Duplicate)
	require.EqualValues(t, 2, f.scalar(`SELECT count(*) FROM runs`))
	f.exec(`UPDATE run_keys SET expires_at = clock_timestamp() - interval '1 second' WHERE key LIKE 'dedupe:%'`)
	again, _, err := f.InsertRuns(ctx, []store.NewRun{run("a", "mine")})
	require.NoError(t, err)
	require.Equal(t, store.Accepted{ID: got[0].ID, Duplicate: true}, again[0], "the idempotency key remembers the answer")
	next, _, err := f.InsertRuns(ctx, []store.NewRun{run("a", "")})
	require.NoError(t, err)
	require.False(t, next[0].Duplicate, "the window is over")
	both, _, err := f.InsertRuns(ctx, []store.NewRun{run("a", "twice"), run("a", "twice")})
	require.NoError(t, err)
	first := store.Accepted{ID: next[0].ID, Duplicate: true}
	require.Equal(t, []store.Accepted{first, first}, both, "both have the answer that one has")
}

func TestAKeyThatCannotBeComputedRefusesOnlyItsRun(t *testing.T) {
	t.Parallel()
	f := openLimited(t, perKey)
	_, _, err := f.InsertRuns(context.Background(), []store.NewRun{{Task: "demo"}, {Task: "limited", Params: json.RawMessage(`{}`)}})
	var refused *store.RefusedRuns
	require.ErrorAs(t, err, &refused)
	require.Len(t, refused.Reasons, 1)
	require.ErrorContains(t, refused.Reasons[1], "concurrency.key")
	require.Zero(t, f.scalar(`SELECT count(*) FROM runs`))
}

func TestDueTimesOfTasksWithKeys(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limits  task.Definition
		keyer   store.Keyer
		reasons []string // of the three due times; "": started
	}{
		"a key that fails": {perKey, byKey{}, []string{"concurrency.key", "concurrency.key", "concurrency.key"}},
		"dedupe": {task.Definition{Dedupe: &task.Dedupe{Key: "day", Window: task.Duration(time.Hour)}}, nil,
			[]string{"", "dedupe: run", "dedupe: run"}},
		"reject-new": {task.Definition{Concurrency: &task.Concurrency{Limit: 2, Strategy: task.StrategyRejectNew}}, nil,
			[]string{"", "", "reject-new"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openWith(t, store.Config{Keys: c.keyer})
			f.limit(c.limits)
			ctx := context.Background()
			f.exec(`INSERT INTO schedules (task, cron, overlap) VALUES ('limited', '* * * * *', 'allow-all')`)
			changed, err := f.UnplannedSchedules(ctx, 10)
			require.NoError(t, err)
			first := time.Now().Add(-3 * time.Minute).Truncate(time.Minute)
			require.NoError(t, f.PlanSchedules(ctx, f.term, []store.Plan{{Schedule: changed[0].ID, Version: changed[0].Version, ChangedAt: changed[0].ChangedAt, Next: &first}}))
			fired, err := f.FireDue(ctx, f.term, store.Take{Limit: 10}, func(due store.Due, _ time.Time) store.Decision {
				d := store.Decision{}
				for n := range 3 {
					at := due.DueAt.Add(time.Duration(n) * time.Minute)
					d.Fires = append(d.Fires, task.Fire{DueAt: at, LastDueAt: at, Count: 1, Outcome: task.FireStarted})
				}
				return d
			})
			require.NoError(t, err)
			require.Equal(t, 1, fired.Taken)
			require.Empty(t, fired.Parcels)
			fires, err := f.Fires(ctx, store.FireFilter{Task: "limited"})
			require.NoError(t, err)
			require.Len(t, fires, 3)
			runs := 0
			for i, want := range c.reasons {
				got := fires[2-i] // newest first
				if want == "" {
					runs++
					require.Equal(t, task.FireStarted, got.Outcome)
					continue
				}
				require.Equal(t, task.FireSkipped, got.Outcome)
				require.Contains(t, got.Reason, want)
			}
			require.EqualValues(t, runs, f.scalar(`SELECT count(*) FROM runs`))
		})
	}
}

// However many runs of one key wait, a turn looks at the first of them.
func TestManyBlockedRunsCostATurnNothing(t *testing.T) {
	t.Parallel()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1, Key: "${params.k}"}})
	w := f.worker()
	f.ask("a")
	require.Len(t, f.claimAll(w, f.admit()), 1)
	f.exec(`INSERT INTO ready (run, lane, priority, revision, task, hold, available_at, concurrency_key)
		SELECT gen_random_uuid(), 'default', 5, 1, 'limited', 'limited', clock_timestamp(), 'a' FROM generate_series(1, 200000)`)
	require.Empty(t, f.admit())
	fastest := time.Hour
	for range 20 {
		began := time.Now()
		require.Empty(t, f.admit())
		fastest = min(fastest, time.Since(began))
	}
	require.Less(t, fastest, 100*time.Millisecond)
	f.ask("b")
	require.Len(t, f.admit(), 1)
}

func ExampleLimitKeys() {
	keys, _ := store.KeysOf(task.Limits{Rate: &task.Rate{}, Concurrency: &task.Concurrency{Key: "${params.customer}"}},
		func(field, text string) (string, error) { return "acme", nil })
	fmt.Println(*keys.Rate, *keys.Concurrency, keys.Dedupe == nil)
	// Output: * acme true
}
