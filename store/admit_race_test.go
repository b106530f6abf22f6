package store_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// recorder counts what is under way, outside the database.
type recorder struct {
	mu     sync.Mutex
	places map[string]map[uuid.UUID]bool // by key: a run that is taken back stays in
	done   map[uuid.UUID]bool
	cost   map[uuid.UUID]bool // runs whose worker died
	over   []string
	begun  []time.Time // claims
}

func (r *recorder) begin(key string, id uuid.UUID, limit int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.places[key] == nil {
		r.places[key] = map[uuid.UUID]bool{}
	}
	r.places[key][id] = true
	if len(r.places[key]) > limit {
		r.over = append(r.over, key)
	}
	r.begun = append(r.begun, time.Now())
}

// end is told before the end is written: a place may be taken at that moment.
func (r *recorder) end(key string, id uuid.UUID, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.places[key], id)
	if ended {
		r.done[id] = true
	}
}

func (r *recorder) ended() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.done)
}

// Eight workers claim, finish, fail, give back, cancel and get lost while two
// leaders' turns of one term overlap and others ask for runs: no key ever has more runs than places.
func TestLimitsUnderEightWorkers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]race{
		"many wait":           {keys: 5, each: 24, together: 1, rate: &task.Rate{Limit: 60, Per: task.Duration(time.Second)}},
		"most start":          {keys: 5, each: 24, together: 1, free: true},
		"some, by tokens":     {keys: 5, each: 24, together: 1, rate: &task.Rate{Limit: 60, Per: task.Duration(time.Second)}, free: true},
		"packed":              {keys: 40, each: 15, together: 20, free: true},
		"packed, with tokens": {keys: 40, each: 5, together: 20, rate: &task.Rate{Limit: 60, Per: task.Duration(time.Second)}, free: true},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); limitsUnderEightWorkers(t, c) })
	}
}

// race is what the runs of a task compete for.
type race struct {
	keys, each int // runs of each key
	together   int // runs that are asked for at once
	rate       *task.Rate
	free       bool // askers wait for the end of their runs, so that many find a free place
}

func limitsUnderEightWorkers(t *testing.T, c race) {
	const limit = 2
	keys, rate, free := c.keys, c.rate, c.free
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: limit, Key: "${params.k}"}, Rate: rate})
	if c.together > 1 { // of a known cost, so that a parcel has many
		f.exec(`INSERT INTO task_costs (revision, micros) SELECT revision, 100 FROM tasks WHERE name = 'limited'`)
	}
	var all []string
	for i := range keys * c.each {
		all = append(all, strconv.Itoa(i%keys))
	}
	half := len(all) / 2
	if free {
		half = keys
	}
	ids := f.ask(all[:half]...) // before there is room
	r := &recorder{places: map[string]map[uuid.UUID]bool{}, done: map[uuid.UUID]bool{}, cost: map[uuid.UUID]bool{}}
	parcels := make(chan store.Parcel, 10_000)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	var group sync.WaitGroup
	var started, packed atomic.Int64
	defer group.Wait()
	defer stop()
	for range 2 {
		group.Go(func() {
			for ctx.Err() == nil {
				admitted, _, err := f.Admit(ctx, f.term)
				if err != nil {
					continue
				}
				filled, _, _ := f.Fill(ctx, f.term) // suspects and what went back
				_, _ = f.OpenDue(ctx, f.term)
				_, _, _ = f.Revoke(ctx, f.term)
				for _, p := range append(admitted, filled...) {
					parcels <- p
				}
			}
		})
	}
	group.Go(func() { // what else a leader does
		for ctx.Err() == nil {
			_, _ = f.ForgetTokens(ctx, f.term)
			stranded, _ := f.Stranded(ctx, f.term)
			for _, p := range stranded {
				parcels <- p
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	})
	const askers = 6
	for n := range askers { // the others start at once, where they can
		group.Go(func() {
			for i := half + n*c.together; i < len(all) && ctx.Err() == nil; i += askers * c.together {
				var runs []store.NewRun
				for _, key := range all[i:min(i+c.together, len(all))] {
					runs = append(runs, store.NewRun{Task: "limited", Params: json.RawMessage(`{"k":"` + key + `"}`)})
				}
				accepted, direct, err := f.InsertRuns(ctx, runs)
				if err != nil {
					i -= askers * c.together
					continue
				}
				started.Add(int64(len(direct)))
				packed.Add(f.scalar(`SELECT count(*) FROM parcels WHERE places IS NOT NULL`))
				for _, p := range direct {
					parcels <- p
				}
				for free && ctx.Err() == nil && !r.hasEnded(accepted[0].ID) {
					select {
					case <-time.After(time.Millisecond):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	for n := range 8 {
		group.Go(func() {
			(&raceWorker{fixture: f, recorder: r, rng: rand.New(rand.NewPCG(uint64(n), 9))}).work(ctx, parcels, limit)
		})
	}
	require.Eventually(t, func() bool { return r.ended() == len(all) }, 2*time.Minute, 10*time.Millisecond)
	stop()
	group.Wait()
	require.Len(t, ids, half)
	t.Logf("%d of %d runs started without a turn", started.Load(), len(all))
	if free && rate == nil { // with two limits none starts while another of the task waits
		require.Positive(t, started.Load())
	}
	require.Empty(t, r.over, "more runs of these keys than places")
	if c.together > 1 && rate == nil {
		require.Positive(t, packed.Load())
	}
	require.Zero(t, f.holds())
	require.Zero(t, f.scalar(`SELECT count(*) FROM parcels`))
	require.Zero(t, f.scalar(`SELECT count(*) FROM ready`))
	most, first := 0, 0
	for i, at := range r.begun { // claims are noted in their order, up to a moment
		for at.Sub(r.begun[first]) > 800*time.Millisecond {
			first++
		}
		most = max(most, i-first+1)
	}
	if rate != nil {
		require.LessOrEqual(t, most, rate.Limit)
	}
}

// dies says whether a run may cost its worker: once, so that none is quarantined.
func (r *recorder) dies(id uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.cost[id]
	r.cost[id] = true
	return !before
}

func (r *recorder) hasEnded(id uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done[id]
}

type raceWorker struct {
	*fixture
	recorder *recorder
	rng      *rand.Rand
	epoch    int64
}

func (w *raceWorker) work(ctx context.Context, parcels <-chan store.Parcel, limit int) {
	for {
		if w.epoch == 0 {
			epoch, err := w.RegisterWorker(ctx, task.Worker{ID: uuid.NewString(), Host: "h", PID: 1, Version: "test", Queues: []string{"*"}, Slots: 4})
			if err != nil {
				return
			}
			w.epoch = epoch
		}
		select {
		case <-ctx.Done():
			return
		case p := <-parcels:
			runs, err := w.Claim(ctx, w.epoch, p.ID, p.DispatchNo)
			if err != nil { // it does not know whether it has the parcel
				w.die(ctx)
			}
			w.runAll(ctx, runs, p, limit)
		}
	}
}

// runAll executes a parcel and writes its ends one by one or all at once.
func (w *raceWorker) runAll(ctx context.Context, runs []store.Claimed, p store.Parcel, limit int) {
	single := w.rng.IntN(2) == 0
	var ends []raceEnd
	for i, c := range runs {
		e, lives := w.run(ctx, c, p, limit)
		if !lives {
			return
		}
		ends = append(ends, e)
		if single || i == len(runs)-1 {
			var done []int64
			if i == len(runs)-1 {
				done = []int64{p.ID}
			}
			w.commit(ctx, ends, done)
			ends = nil
		}
	}
}

// raceEnd is an end to write.
type raceEnd struct {
	store.Ending
	key string
}

// run does with a claimed run one of the things that happen to runs.
func (w *raceWorker) run(ctx context.Context, c store.Claimed, p store.Parcel, limit int) (end raceEnd, lives bool) {
	var params struct{ K string }
	_ = json.Unmarshal(c.Params, &params) // as the test wrote them
	key := params.K
	e := ended(c)
	e.Parcel = p.ID
	dice := w.rng.IntN(10)
	if dice == 0 { // it has not started
		w.recorder.end(key, c.ID, false)
		return raceEnd{store.Ending{Run: c.ID, Fence: c.Fence, State: task.StateQueued, Attempt: c.Attempt, Parcel: p.ID, Held: c.Held, Packed: c.Packed, Rated: c.Rated, Lane: p.Lane}, key}, true
	}
	w.recorder.begin(key, c.ID, limit)
	select {
	case <-time.After(time.Duration(w.rng.Int64N(int64(4 * time.Millisecond)))):
	case <-ctx.Done():
		return end, false
	}
	if dice == 1 && w.recorder.dies(c.ID) { // the worker dies; the run keeps its place
		w.die(ctx)
		return end, false
	}
	if dice < 4 { // it fails and waits for its next attempt
		e.State, e.Attempt, e.After = task.StateQueued, c.Attempt+1, time.Millisecond
	}
	w.recorder.end(key, c.ID, false)
	return raceEnd{e, key}, true
}

// commit writes ends, again and again as a worker does.
func (w *raceWorker) commit(ctx context.Context, ends []raceEnd, done []int64) {
	b := store.Batch{Worker: w.epoch, Parcels: done}
	for _, e := range ends {
		b.Endings = append(b.Endings, e.Ending)
	}
	for {
		if _, err := w.Write(ctx, b); err == nil {
			break
		} else if ctx.Err() != nil {
			return
		}
	}
	for _, e := range ends {
		if e.State == task.StateSucceeded {
			w.recorder.end(e.key, e.Run, true)
		}
	}
}

// die leaves everything to others.
func (w *raceWorker) die(ctx context.Context) {
	for w.EndWorker(ctx, w.epoch, task.WorkerLost, "killed") != nil && ctx.Err() == nil {
	}
	w.epoch = 0
}
