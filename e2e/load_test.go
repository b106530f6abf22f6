package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/task"
)

// kind is a sort of run and what is expected of it.
type kind struct {
	task    string
	params  string
	attempt int
	marks   int // steps and items that it executes
	weight  int
	states  []task.State // how it may end; none: succeeded
}

func kinds() []kind {
	return []kind{
		{task: "faults/short", params: `{}`, attempt: 1, marks: 1, weight: 12},
		{task: "faults/short", params: `{"ms": 300}`, attempt: 1, marks: 1, weight: 4},
		{task: "faults/steps", params: `{"ms": 20}`, attempt: 1, marks: 4, weight: 2},
		{task: "faults/steps", params: `{"ms": 150}`, attempt: 1, marks: 4, weight: 2},
		{task: "faults/flaky", params: `{}`, attempt: 3, marks: 3, weight: 2},
		{task: "faults/each", params: `{}`, attempt: 1, marks: 7, weight: 1},
	}
}

// load is a client that starts runs and keeps its own list of what was
// accepted. It trusts no answer that it did not get: it asks again with the same keys.
type load struct {
	c     *cluster
	kinds []kind

	mu       sync.Mutex
	rng      *rand.Rand
	keys     int
	accepted []history.Accepted
	err      error
}

func newLoad(c *cluster, seed uint64) *load {
	return &load{c: c, kinds: kinds(), rng: rand.New(rand.NewPCG(seed, 1))}
}

func (l *load) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, err)
}

func (l *load) random(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.IntN(n)
}

func (l *load) pick() kind {
	all, total := l.kinds, 0
	for _, k := range all {
		total += k.weight
	}
	n := l.random(total)
	for _, k := range all {
		if n -= k.weight; n < 0 {
			return k
		}
	}
	return all[0]
}

// submit has n runs of one kind accepted.
func (l *load) submit(ctx context.Context, k kind, n int) []uuid.UUID {
	requests := make([]client.RunRequest, n)
	l.mu.Lock()
	for i := range requests {
		l.keys++
		requests[i] = client.RunRequest{Key: fmt.Sprintf("key-%d", l.keys), Params: json.RawMessage(k.params)}
	}
	l.mu.Unlock()
	result, err := ask(ctx, l.c, func(ctx context.Context, api *client.Client) (client.BatchResult, error) {
		return api.StartRuns(ctx, k.task, requests)
	})
	if err == nil && len(result.IDs) != n {
		err = fmt.Errorf("%d ids for %d runs", len(result.IDs), n)
	}
	if err != nil {
		l.failed(fmt.Errorf("submit runs of %s: %w", k.task, err))
		return nil
	}
	states := k.states
	if len(states) == 0 {
		states = []task.State{task.StateSucceeded}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range result.IDs {
		l.accepted = append(l.accepted, history.Accepted{ID: id, Task: k.task, Attempt: k.attempt, Marks: k.marks, States: states})
	}
	return result.IDs
}

// stream submits a few runs of some kind, again and again until stop is closed.
func (l *load) stream(ctx context.Context, stop <-chan struct{}, size int, every time.Duration) {
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(every):
			l.submit(ctx, l.pick(), 1+l.random(size))
		}
	}
}

// steady submits so many runs a second, of all kinds, until stop is closed.
func (l *load) steady(ctx context.Context, stop <-chan struct{}, rate int) {
	const parts = 20 // of a second
	for next := time.Now(); ; next = next.Add(time.Second / parts) {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
			l.submit(ctx, l.pick(), rate/parts)
		}
	}
}

// cancels starts runs and cancels each a moment later, until stop is closed.
func (l *load) cancels(ctx context.Context, stop <-chan struct{}, every time.Duration) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(every):
			all.Go(func() { l.cancelOne(ctx) })
		}
	}
}

func (l *load) cancelOne(ctx context.Context) {
	ids := l.submit(ctx, kind{task: "faults/steps", params: `{"ms": 700}`, attempt: 1, marks: 4}, 1)
	if len(ids) == 0 {
		return
	}
	pace(ctx, time.Duration(l.random(2500))*time.Millisecond)
	_, err := ask(ctx, l.c, func(ctx context.Context, api *client.Client) (task.Run, error) {
		return api.CancelRun(ctx, ids[0], "a test")
	})
	if err != nil && task.CodeOf(err) != task.CodeConflict { // a conflict: it has ended
		l.failed(fmt.Errorf("cancel run %s: %w", ids[0], err))
		return
	}
	run, err := ask(ctx, l.c, func(ctx context.Context, api *client.Client) (task.Run, error) { return api.WaitRun(ctx, ids[0]) })
	closed := time.Now()
	if err != nil {
		l.failed(fmt.Errorf("wait for the cancelled run %s: %w", ids[0], err))
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.accepted {
		if a := &l.accepted[i]; a.ID == ids[0] {
			a.Closed = closed
			if run.State == task.StateCancelled {
				a.States = []task.State{task.StateCancelled} // and stays so
			}
		}
	}
}

func (l *load) ids() []uuid.UUID {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]uuid.UUID, len(l.accepted))
	for i, a := range l.accepted {
		list[i] = a.ID
	}
	return list
}

var scheduleLine = regexp.MustCompile(`(?m)^schedule:.*$`)

// ledger keeps the fires of the scheduled tasks, of which the API gives the
// newest thousand.
type ledger struct {
	schedules int // of the tasks
	tasks     []string
	fires     map[ledgerKey]task.Fire
}

func newLedger(schedules int, tasks ...string) *ledger {
	return &ledger{schedules: schedules, tasks: tasks, fires: map[ledgerKey]task.Fire{}}
}

type ledgerKey struct {
	schedule int64
	due      time.Time
}

// read adds what is new; a range may have grown. It must be called before a thousand more are there.
func (l *ledger) read(c *cluster) {
	c.t.Helper()
	for _, name := range l.tasks {
		list := must(c, func(ctx context.Context, api *client.Client) ([]task.Fire, error) {
			return api.Fires(ctx, client.FireFilter{Task: name, Limit: 1000})
		})
		for _, f := range list {
			l.fires[ledgerKey{f.Schedule, f.DueAt}] = f
		}
	}
}

// reached counts the schedules whose ledger goes beyond t.
func (l *ledger) reached(t time.Time) int {
	beyond := map[int64]bool{}
	for _, f := range l.fires {
		if f.LastDueAt.After(t) {
			beyond[f.Schedule] = true
		}
	}
	return len(beyond)
}

// end waits until the ledger has reached the present, stops the schedules and
// waits for what they have started. It returns all fires.
func (l *ledger) end(c *cluster, limit time.Duration, stop func()) []task.Fire {
	c.t.Helper()
	now := time.Now()
	c.within(30*time.Second, func() bool {
		l.read(c)
		return l.reached(now) == l.schedules && c.text(`SELECT count(*)::text FROM catch_ups`) == "0"
	}, "the schedules do not reach the present")
	stop()
	c.within(limit, func() bool {
		return c.text(`SELECT count(*)::text FROM runs WHERE schedule IS NOT NULL AND finished_at IS NULL`) == "0"
	}, "scheduled runs do not end")
	l.read(c)
	return slices.Collect(maps.Values(l.fires))
}

// pause keeps the schedules from making more; runs that wait for their turn get it.
func (l *ledger) pause(c *cluster) {
	c.t.Helper()
	ids := map[int64]string{}
	for _, f := range l.fires {
		ids[f.Schedule] = f.Task
	}
	for id, name := range ids {
		must(c, func(ctx context.Context, api *client.Client) (task.Task, error) {
			return api.PauseSchedule(ctx, name, id, "the trial is over")
		})
	}
}

// awaitEnds waits until all of the runs have ended.
func (c *cluster) awaitEnds(ids []uuid.UUID, limit time.Duration) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	done := 0
	_, err := ask(ctx, c, func(ctx context.Context, api *client.Client) (map[uuid.UUID]task.State, error) {
		return api.WaitRuns(ctx, ids, func(n, _ int) { done = n })
	})
	require.NoError(c.t, err, "%d of %d runs have ended", done, len(ids))
}

// allRuns reads every run of the cluster.
func (c *cluster) allRuns() []task.Run {
	c.t.Helper()
	var all []task.Run
	before := uuid.Nil
	for {
		page := must(c, func(ctx context.Context, api *client.Client) ([]task.Run, error) {
			return api.Runs(ctx, client.RunFilter{Limit: 1000, Before: before})
		})
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		before = page[len(page)-1].ID
	}
}
