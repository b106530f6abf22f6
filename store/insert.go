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
	Parent *Parent         // the run that starts it as its child
	Trace  string          // that it belongs to, when that is sampled; "": none

	schedule int64 // of a due time; 0: none
	dueAt    time.Time
	buffered bool      // it waits until the schedule's earlier run has ended
	backfill int64     // it belongs to; 0: none
	as       *taskInfo // what its task is to it; nil: what it is to all
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
	keys, refused := s.keysOf(view, runs)
	if refused != nil {
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
		family, err := lockParents(ctx, tx, runs)
		if err != nil {
			return err
		}
		if err := takeKeys(ctx, tx, view, runs, keys, accepted); err != nil {
			return err
		}
		plan = newInsertion(view)
		plan.family = family
		for i := range runs {
			if !accepted[i].Duplicate {
				plan.add(accepted[i].ID, runs[i], runs[i].Parent.keys(keyAt(keys, i)))
			}
		}
		if plan.empty() {
			return nil
		}
		if err := plan.admit(ctx, tx); err != nil {
			return err
		}
		return plan.write(ctx, tx)
	})
	if err != nil {
		return nil, nil, err
	}
	return accepted, plan.parcels(), nil
}

// insertion gathers the column arrays of one batch of new runs.
type insertion struct {
	view   *laneView
	packer packer
	family *family // nil: no run has a parent

	ids                          []uuid.UUID
	tasks, queues                []string
	states                       []string
	revisions                    []int64
	fences, priorities           []int32
	parcelIDs, releases, planned []*int64
	params                       []*string
	backfills                    []*int64
	due, available               []*time.Time
	lanes                        []*string // where it is not the queue
	rateKeys, concurrencyKeys    []*string
	traces                       []*string // nil while no run has one
	waiting                      []int     // indexes into ids of runs that go to ready
	holds                        []string  // of the waiting ones

	candidates []candidate // waiting ones that may start at once
	groups     map[string]int
	held       []*bool // a place ends with it; false: it is packed
	holders    []holder
	rated      []ratedRun
}

func newInsertion(view *laneView) *insertion {
	return &insertion{view: view}
}

func (p *insertion) empty() bool { return len(p.ids) == 0 }

func (p *insertion) parcels() []Parcel { return p.packer.list() }

func (p *insertion) add(id uuid.UUID, run NewRun, keys LimitKeys) {
	info, _ := p.view.of(&run)
	p.family.add(id, run.Parent, &info)
	p.ids = append(p.ids, id)
	p.tasks, p.queues = append(p.tasks, run.Task), append(p.queues, info.queue)
	p.revisions, p.priorities = append(p.revisions, info.revision), append(p.priorities, info.priority)
	p.params = append(p.params, nullText(string(run.Params)))
	if run.Trace != "" {
		p.traces = append(p.traces, make([]*string, len(p.ids)-len(p.traces))...)
		trace := run.Trace
		p.traces[len(p.ids)-1] = &trace
	}
	var schedule *int64
	var due, available *time.Time
	if run.schedule != 0 {
		schedule, due = &run.schedule, &run.dueAt
	}
	var backfill *int64
	if run.backfill != 0 {
		backfill = &run.backfill
	}
	p.backfills = append(p.backfills, backfill)
	later := run.At.After(p.view.now)
	if later {
		available = &run.At
	}
	p.planned, p.due, p.available = append(p.planned, schedule), append(p.due, due), append(p.available, available)
	var lane *string
	if info.lane != info.queue {
		lane = &info.lane
	}
	p.lanes, p.rateKeys, p.concurrencyKeys = append(p.lanes, lane), append(p.rateKeys, keys.Rate), append(p.concurrencyKeys, keys.Concurrency)
	limited := keys.Rate != nil || keys.Concurrency != nil
	p.held = append(p.held, nil)

	if !later && !info.paused && !limited && !run.buffered && run.backfill == 0 &&
		p.packer.put(info.lane, id, info.micros, p.view.lanes[info.lane].direct()) {
		p.states, p.fences = append(p.states, string(task.StateDispatched)), append(p.fences, 1)
		release := p.view.release
		p.releases, p.parcelIDs = append(p.releases, &release), append(p.parcelIDs, nil) // the parcel's id follows
		return
	}
	p.states, p.fences = append(p.states, string(task.StateQueued)), append(p.fences, 0)
	p.releases, p.parcelIDs = append(p.releases, nil), append(p.parcelIDs, nil)
	p.waiting = append(p.waiting, len(p.ids)-1)
	if limited && !later && !info.paused && !run.buffered && run.backfill == 0 && run.as == nil && (run.Parent == nil || run.Parent.Entry == nil) {
		p.wait(run, keys)
	}
	switch {
	case run.buffered:
		p.holds = append(p.holds, holdBuffered)
	case later:
		p.holds = append(p.holds, holdLater)
	case info.paused:
		p.holds = append(p.holds, holdPaused)
	case limited:
		p.holds = append(p.holds, holdLimited)
	default:
		p.holds = append(p.holds, holdNone)
	}
}

func (p *insertion) write(ctx context.Context, tx pgx.Tx) error {
	batch := &pgx.Batch{}
	if err := p.queue(ctx, tx, batch); err != nil {
		return err
	}
	return tx.SendBatch(ctx, batch).Close()
}

// queue writes the parcels and queues the rest.
func (p *insertion) queue(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) error {
	homes, err := p.packer.write(ctx, tx)
	if err != nil {
		return err
	}
	for i, id := range p.ids {
		if home, ok := homes[id]; ok {
			p.parcelIDs[i] = &home
		}
	}
	p.holders = p.packer.loose(p.holders)
	for _, h := range p.holders {
		*p.held[h.at] = true
	}
	p.queueRuns(batch)
	p.queueGranted(batch)
	if len(p.waiting) > 0 {
		p.queueReady(batch)
	}
	p.family.queue(batch)
	return nil
}

func (p *insertion) queueRuns(batch *pgx.Batch) {
	rows := &rowSet{}
	rows.array("id", "uuid", p.ids)
	rows.one("created_at", "timestamptz", p.view.now)
	rows.together(of("task", "text", p.tasks), of("revision", "bigint", p.revisions), of("priority", "smallint", p.priorities),
		of("queue", "text", p.queues), ofNull("lane", "text", p.lanes))
	rows.together(of("state", "text", p.states), of("fence", "integer", p.fences), ofNull("release", "bigint", p.releases))
	rows.together(ofNull("parcel", "bigint", p.parcelIDs))
	rows.together(ofNull("params", "json", p.params))
	rows.together(ofNull("schedule", "bigint", p.planned))
	rows.together(ofTime("due_at", p.due))
	rows.together(ofTime("available_at", p.available))
	rows.together(ofNull("rate_key", "text", p.rateKeys))
	rows.together(ofNull("concurrency_key", "text", p.concurrencyKeys))
	rows.together(ofNull("backfill", "bigint", p.backfills))
	rows.together(ofNull("held", "boolean", p.held))
	if p.traces != nil {
		rows.together(ofNull("trace", "text", append(p.traces, make([]*string, len(p.ids)-len(p.traces))...)))
	}
	batch.Queue(rows.insert("runs", ""), rows.args...)
}

func (p *insertion) queueReady(batch *pgx.Batch) {
	n := len(p.waiting)
	ids, lanes, tasks := make([]uuid.UUID, n), make([]string, n), make([]string, n)
	priorities, revisions, at, ranks := make([]int32, n), make([]int64, n), make([]time.Time, n), make([]time.Time, n)
	rates, concurrencies, schedules := make([]*string, n), make([]*string, n), make([]*int64, n)
	for to, from := range p.waiting {
		ids[to], lanes[to], tasks[to] = p.ids[from], p.queues[from], p.tasks[from]
		if p.lanes[from] != nil {
			lanes[to] = *p.lanes[from]
		}
		priorities[to], revisions[to], at[to] = p.priorities[from], p.revisions[from], p.view.now
		if p.available[from] != nil {
			at[to] = *p.available[from]
		}
		ranks[to] = p.view.now.Add(-time.Duration(p.priorities[from]) * priorityAge)
		if p.backfills[from] != nil {
			ranks[to] = ranks[to].Add(backfillRank)
		}
		if p.holds[to] == holdBuffered {
			schedules[to] = p.planned[from]
		}
		rates[to], concurrencies[to] = p.rateKeys[from], p.concurrencyKeys[from]
	}
	rows := &rowSet{}
	rows.array("run", "uuid", ids)
	rows.together(of("lane", "text", lanes), of("priority", "smallint", priorities), of("revision", "bigint", revisions), of("task", "text", tasks))
	rows.together(of("hold", "text", p.holds))
	rows.together(of("available_at", "timestamptz", at))
	rows.together(of("rank", "timestamptz", ranks))
	rows.together(ofNull("rate_key", "text", rates))
	rows.together(ofNull("concurrency_key", "text", concurrencies))
	rows.together(ofNull("schedule", "bigint", schedules))
	batch.Queue(rows.insert("ready", ""), rows.args...)
}

// priorityAge is how much longer than a run of one priority less a run seems to
// have waited; ranked says the same in SQL.
const priorityAge = time.Minute

const ranked = `created_at - priority * interval '1 minute'`
