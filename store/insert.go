package store

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Parcel is what the queue carries: the id of a row that says which runs it holds.
type Parcel struct {
	ID         int64
	Lane       string
	DispatchNo int
}

// NewRun asks for one run of a task.
type NewRun struct {
	Task   string
	Params json.RawMessage // a JSON object, or nil for the task's own
	At     time.Time       // not before; zero: now
	Key    string          // idempotency key within the task; "": none

	schedule int64 // set by FireDue only
	dueAt    time.Time
}

// Accepted answers one NewRun, at the same index.
type Accepted struct {
	ID        uuid.UUID
	Duplicate bool // the key had made this run before
}

// keyLifetime is how long an idempotency key protects.
const keyLifetime = 7 * day

// RefusedRuns says which runs of a call cannot be accepted, by index, and why.
// Nothing of the call was written.
type RefusedRuns struct{ Reasons map[int]error }

// Error gives the reason of the first.
func (r *RefusedRuns) Error() string { return r.Unwrap().Error() }

// Unwrap returns the reason of the first.
func (r *RefusedRuns) Unwrap() error {
	return r.Reasons[slices.Min(slices.Collect(maps.Keys(r.Reasons)))]
}

// InsertRuns accepts the given runs in one transaction, all or none: when it
// returns without error they are durable and cannot be lost; *RefusedRuns names
// those that stand in the way. Runs that need
// not wait are inserted inside their parcels, which the caller enqueues;
// the others go to the ready table.
func (s *Store) InsertRuns(ctx context.Context, runs []NewRun) ([]Accepted, []Parcel, error) {
	view, err := s.lookAtLanes(ctx, s.pool, runs)
	if err != nil {
		return nil, nil, err
	}
	if refused := view.refuse(runs); refused != nil {
		s.suggestTasks(ctx, runs, refused)
		return nil, nil, refused
	}
	var accepted []Accepted
	var plan *insertion
	err = s.inTx(ctx, "insert runs", func(tx pgx.Tx) error {
		ids := s.ids.mint(view.now, len(runs))
		accepted = make([]Accepted, len(runs))
		for i, id := range ids {
			accepted[i] = Accepted{ID: id}
		}
		if err := takeKeys(ctx, tx, runs, accepted, view.now); err != nil {
			return err
		}
		if err := refuseOtherRequests(ctx, tx, runs, accepted); err != nil {
			return err
		}
		plan = newInsertion(view)
		for i := range runs {
			if !accepted[i].Duplicate {
				plan.add(accepted[i].ID, runs[i])
			}
		}
		if plan.empty() {
			return nil
		}
		return plan.write(ctx, tx)
	})
	if err != nil {
		return nil, nil, err
	}
	return accepted, plan.parcels(), nil
}

// takeKeys claims the idempotency keys, in key order, and marks runs whose key
// was taken by an earlier run, or by one further up in the same call.
func takeKeys(ctx context.Context, tx pgx.Tx, runs []NewRun, accepted []Accepted, now time.Time) error {
	type name struct{ task, key string }
	var keyed []int
	for i := range runs {
		if runs[i].Key != "" {
			keyed = append(keyed, i)
		}
	}
	if len(keyed) == 0 {
		return nil
	}
	slices.SortStableFunc(keyed, func(a, b int) int {
		x, y := name{runs[a].Task, runs[a].Key}, name{runs[b].Task, runs[b].Key}
		switch {
		case x == y:
			return a - b
		case x.task < y.task || x.task == y.task && x.key < y.key:
			return -1
		}
		return 1
	})
	var tasks, keys []string
	var ids []uuid.UUID
	var at []*time.Time
	for n, i := range keyed {
		if n > 0 && runs[keyed[n-1]].Task == runs[i].Task && runs[keyed[n-1]].Key == runs[i].Key {
			continue
		}
		tasks, keys, ids = append(tasks, runs[i].Task), append(keys, runs[i].Key), append(ids, accepted[i].ID)
		at = append(at, nullTime(runs[i].At))
	}
	// The second statement sees what a concurrent owner of a key has committed.
	if _, err := tx.Exec(ctx, `
		INSERT INTO run_keys AS k (task, key, run, expires_at, at)
		SELECT t, key, id, $4, at FROM unnest($1::text[], $2::text[], $3::uuid[], $5::timestamptz[]) AS i(t, key, id, at)
		ON CONFLICT (task, key) DO UPDATE SET run = excluded.run, expires_at = excluded.expires_at, at = excluded.at
		WHERE k.expires_at < clock_timestamp()`, tasks, keys, ids, now.Add(keyLifetime), at); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `SELECT k.task, k.key, k.run FROM run_keys k
		JOIN unnest($1::text[], $2::text[]) AS i(t, key) ON k.task = i.t AND k.key = i.key`, tasks, keys)
	if err != nil {
		return err
	}
	owner := make(map[name]uuid.UUID, len(ids))
	var n name
	var id uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&n.task, &n.key, &id}, func() error { owner[n] = id; return nil }); err != nil {
		return err
	}
	for _, i := range keyed {
		if id := owner[name{runs[i].Task, runs[i].Key}]; id != accepted[i].ID {
			accepted[i] = Accepted{ID: id, Duplicate: true}
		}
	}
	return nil
}

// insertion gathers the column arrays of one batch of new runs.
type insertion struct {
	view   *laneView
	packer packer

	ids                          []uuid.UUID
	tasks, queues                []string
	states                       []string
	revisions                    []int64
	fences, priorities           []int32
	parcelIDs, releases, planned []*int64
	params                       []*string
	due, available               []*time.Time
	waiting                      []int    // indexes into ids of runs that go to ready
	holds                        []string // of the waiting ones
}

func newInsertion(view *laneView) *insertion {
	return &insertion{view: view}
}

func (p *insertion) empty() bool { return len(p.ids) == 0 }

func (p *insertion) parcels() []Parcel { return p.packer.list() }

func (p *insertion) add(id uuid.UUID, run NewRun) {
	info := p.view.tasks[run.Task]
	p.ids = append(p.ids, id)
	p.tasks, p.queues = append(p.tasks, run.Task), append(p.queues, info.queue)
	p.revisions, p.priorities = append(p.revisions, info.revision), append(p.priorities, info.priority)
	p.params = append(p.params, nullText(string(run.Params)))
	var schedule *int64
	var due, available *time.Time
	if run.schedule != 0 {
		schedule, due = &run.schedule, &run.dueAt
	}
	later := run.At.After(p.view.now)
	if later {
		available = &run.At
	}
	p.planned, p.due, p.available = append(p.planned, schedule), append(p.due, due), append(p.available, available)

	if !later && !info.paused && p.packer.put(info.queue, id, info.micros, p.view.lanes[info.queue].direct()) {
		p.states, p.fences = append(p.states, string(task.StateDispatched)), append(p.fences, 1)
		release := p.view.release
		p.releases, p.parcelIDs = append(p.releases, &release), append(p.parcelIDs, nil) // the parcel's id follows
		return
	}
	p.states, p.fences = append(p.states, string(task.StateQueued)), append(p.fences, 0)
	p.releases, p.parcelIDs = append(p.releases, nil), append(p.parcelIDs, nil)
	p.waiting = append(p.waiting, len(p.ids)-1)
	switch {
	case later:
		p.holds = append(p.holds, holdLater)
	case info.paused:
		p.holds = append(p.holds, holdPaused)
	default:
		p.holds = append(p.holds, holdNone)
	}
}

func (p *insertion) write(ctx context.Context, tx pgx.Tx) error {
	homes, err := p.packer.write(ctx, tx)
	if err != nil {
		return err
	}
	for i, id := range p.ids {
		if home, ok := homes[id]; ok {
			p.parcelIDs[i] = &home
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(`
		INSERT INTO runs (id, task, revision, state, fence, parcel, priority, queue, params, release, schedule, due_at, created_at, available_at)
		SELECT id, task, revision, state, fence, parcel, priority, queue, params::json, release, schedule, due_at, $13, available_at
		FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::bigint[], $7::int[], $8::text[], $9::text[],
			$10::bigint[], $11::bigint[], $12::timestamptz[], $14::timestamptz[])
			AS i(id, task, revision, state, fence, parcel, priority, queue, params, release, schedule, due_at, available_at)`,
		p.ids, p.tasks, p.revisions, p.states, p.fences, p.parcelIDs, p.priorities, p.queues, p.params,
		p.releases, p.planned, p.due, p.view.now, p.available)
	if len(p.waiting) > 0 {
		p.queueReady(batch)
	}
	return tx.SendBatch(ctx, batch).Close()
}

func (p *insertion) queueReady(batch *pgx.Batch) {
	n := len(p.waiting)
	ids, lanes, tasks := make([]uuid.UUID, n), make([]string, n), make([]string, n)
	priorities, revisions, at := make([]int32, n), make([]int64, n), make([]time.Time, n)
	for to, from := range p.waiting {
		ids[to], lanes[to], tasks[to] = p.ids[from], p.queues[from], p.tasks[from]
		priorities[to], revisions[to], at[to] = p.priorities[from], p.revisions[from], p.view.now
		if p.available[from] != nil {
			at[to] = *p.available[from]
		}
	}
	batch.Queue(`INSERT INTO ready (run, lane, priority, revision, task, hold, available_at)
		SELECT * FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::bigint[], $5::text[], $6::text[], $7::timestamptz[])`,
		ids, lanes, priorities, revisions, tasks, p.holds, at)
}
