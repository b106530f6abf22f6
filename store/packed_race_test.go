package store_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// oddPlaces says in one snapshot who should have a place of a limit, packed or
// as a row, and has none, and who has one and should not. A parcel that was disowned goes
// with what is left in it when it is taken back.
const oddPlaces = `
	WITH has AS (
		SELECT u.run, p.worker = 0 AS disowned FROM parcels p CROSS JOIN LATERAL unnest(p.runs) WITH ORDINALITY AS u(run, at)
		WHERE p.places IS NOT NULL AND substring(p.places FROM 8 * u.at::int - 7 FOR 8) <> '\x0000000000000000'
		UNION ALL SELECT run, false FROM holds WHERE scope LIKE 'limit:%'
	), n AS (SELECT run, count(*) AS places, bool_or(disowned) AS disowned FROM has GROUP BY run
	), odd AS (
		SELECT r.state, CASE
			WHEN r.state IN ('dispatched', 'running', 'waiting') AND n.places IS NULL THEN 'goes without a place'
			WHEN r.finished_at IS NOT NULL AND n.places > 0 AND n.disowned IS NOT TRUE THEN 'has ended with its place'
			WHEN n.places > 1 THEN 'has two places'
			WHEN q.concurrency_key IS NOT NULL AND n.places > 0 THEN 'waits for a place that it has'
			WHEN q.run IS NOT NULL AND q.concurrency_key IS NULL AND n.places IS NULL THEN 'has lost its place' END AS what
		FROM runs r LEFT JOIN n ON n.run = r.id LEFT JOIN ready q ON q.run = r.id WHERE r.task = 'limited'
	)
	SELECT state || ' run ' || what FROM odd WHERE what IS NOT NULL
	UNION ALL SELECT 'limit exceeded' FROM runs WHERE task = 'limited' AND state IN ('dispatched', 'running', 'waiting')
		GROUP BY concurrency_key HAVING count(*) > 2`

// placeRace is a cluster of which everybody acts at random.
type placeRace struct {
	*fixture
	parcels chan store.Parcel

	mu  sync.Mutex
	ids []uuid.UUID
}

// Workers end, give back, park, fail, die and write as zombies, while others ask
// for runs, cancel and retry them: at every moment each run under way has exactly one place.
func TestPlacesInARace(t *testing.T) {
	t.Parallel()
	per := task.Duration(time.Second)
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 2, Key: "${params.k}"}, Rate: &task.Rate{Limit: 40, Per: per, Key: "${params.k}"}})
	f.exec(`INSERT INTO task_costs (revision, micros) SELECT revision, 200 FROM tasks WHERE name = 'limited'`)
	r := &placeRace{fixture: f, parcels: make(chan store.Parcel, 100_000)}
	ctx, stop := context.WithTimeout(t.Context(), 8*time.Second)
	defer stop()
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() { r.lead(ctx) })
	}
	for n := range uint64(3) {
		all.Go(func() { r.ask(ctx, rand.New(rand.NewPCG(1, n))) })
	}
	all.Go(func() { r.meddle(ctx, rand.New(rand.NewPCG(2, 0))) })
	for n := range uint64(6) {
		all.Go(func() { r.work(ctx, rand.New(rand.NewPCG(3, n))) })
	}
	var packed int64
	odd := map[string]int{}
	for ctx.Err() == nil {
		var seen int64
		_ = f.Pool().QueryRow(ctx, `SELECT count(*) FROM parcels WHERE places IS NOT NULL`).Scan(&seen)
		packed += seen
		rows, err := f.Pool().Query(ctx, oddPlaces)
		if err != nil {
			continue
		}
		for rows.Next() {
			var what string
			require.NoError(t, rows.Scan(&what))
			odd[what]++
		}
	}
	stop()
	all.Wait()
	require.Empty(t, odd)
	require.Positive(t, packed)
	require.Zero(t, f.scalar(`SELECT count(*) FROM token_packs t WHERE back_at = 'infinity' AND NOT EXISTS (SELECT FROM parcels p WHERE p.id = t.parcel)`))
	require.Zero(t, f.scalar(`SELECT count(*) FROM token_packs WHERE length(keys) <> 8 * cardinality(runs)`))
	require.Zero(t, f.scalar(`SELECT count(*) FROM parcels WHERE length(places) <> 8 * cardinality(runs)`))
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (r *placeRace) lead(ctx context.Context) {
	for turn := 0; ctx.Err() == nil; turn++ {
		admitted, _, _ := r.Admit(ctx, r.term)
		filled, _, _ := r.Fill(ctx, r.term)
		_, _ = r.OpenDue(ctx, r.term)
		_, _, _ = r.Revoke(ctx, r.term)
		_, _ = r.EndDueWaits(ctx, r.term)
		if turn%50 == 0 {
			stranded, _ := r.Stranded(ctx, r.term)
			filled = append(filled, stranded...)
		}
		for _, p := range append(admitted, filled...) {
			r.parcels <- p
		}
	}
}

func (r *placeRace) ask(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		var runs []store.NewRun
		for range 20 {
			runs = append(runs, store.NewRun{Task: "limited", Params: json.RawMessage(`{"k":"` + strconv.Itoa(rng.IntN(60)) + `"}`)})
		}
		accepted, direct, err := r.InsertRuns(ctx, runs)
		if err != nil {
			continue
		}
		r.mu.Lock()
		for _, a := range accepted {
			r.ids = append(r.ids, a.ID)
		}
		r.mu.Unlock()
		for _, p := range direct {
			r.parcels <- p
		}
		rest(ctx, time.Duration(rng.IntN(30))*time.Millisecond)
	}
}

// meddle cancels and retries by hand some of the newest runs.
func (r *placeRace) meddle(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		r.mu.Lock()
		newest := r.ids[max(len(r.ids)-300, 0):]
		r.mu.Unlock()
		if len(newest) > 0 {
			id := newest[rng.IntN(len(newest))]
			if _, err := r.CancelRun(ctx, id, "test", false); err != nil { // it has ended
				_, _ = r.RetryRun(ctx, id, "", "test")
			}
		}
		rest(ctx, time.Duration(rng.IntN(5))*time.Millisecond)
	}
}

func (r *placeRace) register(ctx context.Context) (epoch int64) {
	for epoch == 0 && ctx.Err() == nil {
		epoch, _ = r.RegisterWorker(ctx, task.Worker{ID: uuid.NewString(), Host: "h", PID: 1, Version: "test", Queues: []string{"*"}, Slots: 4})
	}
	return epoch
}

func (r *placeRace) work(ctx context.Context, rng *rand.Rand) {
	epoch := r.register(ctx)
	for ctx.Err() == nil {
		var p store.Parcel
		select {
		case p = <-r.parcels:
		case <-ctx.Done():
			return
		}
		runs, err := r.Claim(ctx, epoch, p.ID, p.DispatchNo)
		if err == nil && rng.IntN(25) == 0 && len(runs) > 0 { // it has lost track of the parcel
			_ = r.Disown(ctx, epoch, []int64{p.ID})
		}
		if err != nil || !r.execute(ctx, rng, epoch, p, runs) {
			epoch = r.register(ctx)
		}
	}
}

// execute writes the ends of a parcel's runs, a few at a time, or dies.
func (r *placeRace) execute(ctx context.Context, rng *rand.Rand, epoch int64, p store.Parcel, runs []store.Claimed) (lives bool) {
	rng.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
	b := store.Batch{Worker: epoch}
	for i, c := range runs {
		if rng.IntN(80) == 0 {
			var zombie sync.WaitGroup
			if last := b; rng.IntN(2) == 0 {
				zombie.Go(func() { _, _ = r.Write(ctx, last) })
			}
			for r.EndWorker(ctx, epoch, task.WorkerLost, "killed") != nil && ctx.Err() == nil {
			}
			zombie.Wait()
			return false
		}
		b.Endings = append(b.Endings, anyEnd(rng, c, p))
		done := i == len(runs)-1
		if !done && rng.IntN(4) > 0 {
			continue
		}
		if done {
			b.Parcels = []int64{p.ID}
		}
		for ctx.Err() == nil {
			if _, err := r.Write(ctx, b); err == nil && rng.IntN(5) > 0 {
				break // else once more, as after an unclear commit
			}
		}
		b.Endings = nil
	}
	return true
}

// anyEnd is one of the things that happen to runs.
func anyEnd(rng *rand.Rand, c store.Claimed, p store.Parcel) store.Ending {
	e := ended(c)
	e.Parcel = p.ID
	switch rng.IntN(10) {
	case 0: // it has not started
		e = store.Ending{Run: c.ID, Fence: c.Fence, State: task.StateQueued, Attempt: c.Attempt, Parcel: p.ID, Held: c.Held, Packed: c.Packed, Rated: c.Rated, Lane: p.Lane}
	case 1:
		e.State, e.Attempt, e.After = task.StateQueued, c.Attempt+1, time.Duration(rng.IntN(20))*time.Millisecond
	case 2:
		e.State, e.Park = task.StateWaiting, &store.Park{Path: "0", Kind: task.WaitDelay, For: 5 * time.Millisecond}
	case 3:
		e.Outcome = []byte(`{"data": "\u0000"}`)
	case 4, 5:
		e.State, e.Reason = task.StateFailed, "no"
	}
	return e
}
