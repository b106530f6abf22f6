package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// A lane is what workers consume: a queue, or a queue's suspect lane for runs
// that were unfinished when their worker died.
const suspectPrefix = "suspect:"

// SuspectLane names the suspect lane of a queue.
func SuspectLane(queue string) string { return suspectPrefix + queue }

// Suspect reports whether the lane is a suspect lane.
func Suspect(lane string) bool { return strings.HasPrefix(lane, suspectPrefix) }

// What keeps a ready run from being dispatched.
const (
	holdNone   = ""
	holdLater  = "later"  // its time has not come
	holdPaused = "paused" // its task is paused
)

const (
	parcelMicros   = 20_000 // expected work in one parcel
	parcelRuns     = 500    // most runs in one parcel
	parcelsPerSlot = 2      // unclaimed parcels a lane may have for each slot
)

type laneInfo struct {
	slots   int  // of active workers that serve it
	open    int  // unclaimed parcels
	waiting bool // something is ready and was there first
}

func (l laneInfo) room() int { return max(parcelsPerSlot*l.slots-l.open, 0) }

// direct is how many parcels new runs may fill past the ready table.
func (l laneInfo) direct() int {
	if l.waiting {
		return 0
	}
	return l.room()
}

type taskInfo struct {
	revision int64
	queue    string
	priority int32
	paused   bool
	invalid  string
	micros   float64 // expected per run; 0: unknown
}

// laneView is what an insertion decides by: one consistent-enough look at the
// tasks, their lanes and the clock. Being a moment old it may overshoot a
// lane's room a little, which is harmless.
type laneView struct {
	now     time.Time
	release int64
	tasks   map[string]taskInfo
	lanes   map[string]laneInfo
}

type querier interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

const lookAtTasks = `
	SELECT t.name, t.revision, t.queue, t.priority, t.paused, t.invalid, coalesce(c.micros, 0)
	FROM tasks t LEFT JOIN task_costs c ON c.revision = t.revision WHERE t.name = ANY($1)`

const lookAtLanes = `
	SELECT q.queue,
		(SELECT coalesce(sum(w.slots), 0) FROM workers w
			WHERE w.state = 'active' AND (q.queue = ANY (w.queues) OR '*' = ANY (w.queues))),
		(SELECT count(*) FROM parcels p WHERE p.lane = q.queue AND p.state = 'unclaimed'),
		EXISTS (SELECT 1 FROM ready r WHERE r.lane = q.queue AND r.hold = '')
	FROM (SELECT DISTINCT queue FROM tasks WHERE name = ANY($1)) q`

const lookAtClock = `SELECT clock_timestamp(), (SELECT coalesce(max(id), 0) FROM releases)`

func (s *Store) lookAtLanes(ctx context.Context, db querier, runs []NewRun) (*laneView, error) {
	var names []string
	for i := range runs {
		if len(names) == 0 || names[len(names)-1] != runs[i].Task {
			names = append(names, runs[i].Task)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)

	view := &laneView{tasks: map[string]taskInfo{}, lanes: map[string]laneInfo{}}
	batch := &pgx.Batch{}
	batch.Queue(lookAtTasks, names).Query(func(rows pgx.Rows) error {
		var name string
		var t taskInfo
		_, err := pgx.ForEachRow(rows, []any{&name, &t.revision, &t.queue, &t.priority, &t.paused, &t.invalid, &t.micros},
			func() error { view.tasks[name] = t; return nil })
		return err
	})
	batch.Queue(lookAtLanes, names).Query(func(rows pgx.Rows) error {
		var lane string
		var l laneInfo
		_, err := pgx.ForEachRow(rows, []any{&lane, &l.slots, &l.open, &l.waiting},
			func() error { view.lanes[lane] = l; return nil })
		return err
	})
	batch.Queue(lookAtClock).QueryRow(func(row pgx.Row) error { return row.Scan(&view.now, &view.release) })
	return view, wrap(db.SendBatch(ctx, batch).Close(), "look at tasks and lanes")
}

// refuse looks for runs whose task cannot have any; nil when there is none.
func (v *laneView) refuse(runs []NewRun) *RefusedRuns {
	refused := &RefusedRuns{Reasons: map[int]error{}}
	for i := range runs {
		if err := v.accepts(runs[i].Task); err != nil {
			refused.Reasons[i] = err
		}
	}
	if len(refused.Reasons) == 0 {
		return nil
	}
	return refused
}

// accepts says why a task cannot have runs, or nil.
func (v *laneView) accepts(name string) error {
	info, ok := v.tasks[name]
	if !ok {
		return noTask(name)
	}
	if info.invalid != "" {
		return task.Errorf(task.CodeInvalid, "task %s cannot run: %s", name, info.invalid).Fix("correct the task and apply it again")
	}
	return nil
}

// packer fills parcels up to about 20 ms of expected work. A run of unknown
// cost gets a parcel of its own, so that a long one never blocks short ones.
type packer struct {
	parcels []*packing
	current map[string]*packing
	count   map[string]int
}

type packing struct {
	Parcel
	runs   []uuid.UUID
	micros float64
}

// put adds the run to a parcel of the lane. It reports false when that needs a
// new parcel and the lane's share of them (room) is used up.
func (p *packer) put(lane string, id uuid.UUID, micros float64, room int) bool {
	if p.current == nil {
		p.current, p.count = map[string]*packing{}, map[string]int{}
	}
	cost := micros
	if cost <= 0 || Suspect(lane) {
		cost = parcelMicros
	}
	c := p.current[lane]
	if c == nil || c.micros+cost > parcelMicros || len(c.runs) == parcelRuns {
		if p.count[lane] >= room {
			return false
		}
		c = &packing{Parcel: Parcel{Lane: lane, DispatchNo: 1}}
		p.parcels, p.current[lane] = append(p.parcels, c), c
		p.count[lane]++
	}
	c.runs = append(c.runs, id)
	c.micros += cost
	return true
}

// write inserts the parcel rows and returns the parcel of each run.
func (p *packer) write(ctx context.Context, tx pgx.Tx) (map[uuid.UUID]int64, error) {
	homes := map[uuid.UUID]int64{}
	if len(p.parcels) == 0 {
		return homes, nil
	}
	batch := &pgx.Batch{}
	for _, c := range p.parcels {
		slices.SortFunc(c.runs, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
		batch.Queue(`INSERT INTO parcels (lane, runs) VALUES ($1, $2) RETURNING id`, c.Lane, c.runs).
			QueryRow(func(row pgx.Row) error { return row.Scan(&c.ID) })
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, err
	}
	for _, c := range p.parcels {
		for _, id := range c.runs {
			homes[id] = c.ID
		}
	}
	return homes, nil
}

// keep leaves only the given runs in the parcels, and only parcels with runs.
func (p *packer) keep(runs map[uuid.UUID]bool) {
	for _, c := range p.parcels {
		c.runs = slices.DeleteFunc(c.runs, func(id uuid.UUID) bool { return !runs[id] })
	}
	p.parcels = slices.DeleteFunc(p.parcels, func(c *packing) bool { return len(c.runs) == 0 })
}

func (p *packer) list() []Parcel {
	list := make([]Parcel, len(p.parcels))
	for i, c := range p.parcels {
		list[i] = c.Parcel
	}
	return list
}
