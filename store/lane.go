package store

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// A lane is what workers consume: a queue with the tags that a worker must have
// (task.Lane), or its suspect lane for runs that were unfinished when their worker died.
const suspectPrefix = "suspect:"

// SuspectLane names the suspect lane of a lane.
func SuspectLane(lane string) string { return suspectPrefix + lane }

// Suspect reports whether the lane is a suspect lane.
func Suspect(lane string) bool { return strings.HasPrefix(lane, suspectPrefix) }

// What keeps a ready run from being dispatched.
const (
	holdNone     = ""
	holdLater    = "later"    // its time has not come
	holdPaused   = "paused"   // its task is paused
	holdLimited  = "limited"  // admission has not let it start
	holdBuffered = "buffered" // an earlier run of its schedule has not ended
)

// openHold is the hold of a row of ready that nothing else holds.
const openHold = `CASE WHEN rate_key IS NULL AND concurrency_key IS NULL THEN '' ELSE 'limited' END`

// laneSlots counts the slots of active workers that serve a lane; in a suspect
// lane each worker has one.
func laneSlots(lane string) string {
	return strings.ReplaceAll(`(SELECT coalesce(sum(CASE WHEN LANE LIKE 'suspect:%' THEN 1 ELSE w.slots END), 0) FROM workers w
		WHERE w.state = 'active' AND (split_part(replace(LANE, 'suspect:', ''), '+', 1) = ANY (w.queues) OR '*' = ANY (w.queues))
			AND (string_to_array(LANE, '+'))[2:] <@ w.tags)`, "LANE", lane)
}

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
	lane     string
	limits   task.Limits
	params   json.RawMessage // of a task with limits
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
	gone    map[int64]taskInfo // by revision, of tasks that were deleted under their runs
}

type querier interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

const lookAtTasks = `
	SELECT t.name, t.revision, t.queue, t.lane, t.priority, t.paused, t.invalid, coalesce(c.micros, 0), t.rate::text, t.concurrency::text, t.dedupe::text,
		CASE WHEN num_nonnulls(t.rate, t.concurrency, t.dedupe) > 0 THEN t.params::text END
	FROM tasks t LEFT JOIN task_costs c ON c.revision = t.revision WHERE t.name = ANY($1)`

var lookAtLanes = `
	SELECT q.lane, ` + laneSlots("q.lane") + `,
		(SELECT count(*) FROM parcels p WHERE p.lane = q.lane AND p.state = 'unclaimed'),
		EXISTS (SELECT 1 FROM ready r WHERE r.lane = q.lane AND r.hold = '')
	FROM (SELECT DISTINCT lane FROM tasks WHERE name = ANY($1)) q`

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
		var rate, concurrency, dedupe, params *string
		_, err := pgx.ForEachRow(rows, []any{&name, &t.revision, &t.queue, &t.lane, &t.priority, &t.paused, &t.invalid, &t.micros,
			&rate, &concurrency, &dedupe, &params}, func() error {
			view.tasks[name] = t.withLimits(rate, concurrency, dedupe, params)
			return nil
		})
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
	if err := db.SendBatch(ctx, batch).Close(); err != nil {
		return view, wrap(err, "look at tasks and lanes")
	}
	return view, view.lookAtGone(ctx, db, runs)
}

// lookAtGone reads the revisions of runs that go on though their task is deleted.
func (v *laneView) lookAtGone(ctx context.Context, db querier, runs []NewRun) error {
	var revisions []int64
	for i := range runs {
		if _, there := v.tasks[runs[i].Task]; !there && runs[i].ofRevision() && !slices.Contains(revisions, runs[i].Parent.Revision) {
			revisions = append(revisions, runs[i].Parent.Revision)
		}
	}
	if len(revisions) == 0 {
		return nil
	}
	v.gone = map[int64]taskInfo{}
	batch := &pgx.Batch{}
	batch.Queue(`SELECT id, queue, coalesce(nullif(lane, ''), queue), priority FROM task_revisions WHERE id = ANY($1)`, revisions).Query(func(rows pgx.Rows) error {
		var t taskInfo
		_, err := pgx.ForEachRow(rows, []any{&t.revision, &t.queue, &t.lane, &t.priority}, func() error { v.gone[t.revision] = t; return nil })
		return err
	})
	return wrap(db.SendBatch(ctx, batch).Close(), "look at revisions of deleted tasks")
}

func (t taskInfo) withLimits(rate, concurrency, dedupe, params *string) taskInfo {
	if params == nil {
		return t
	}
	t.params = json.RawMessage(*params)
	var err error
	if t.limits, err = parseLimits(rate, concurrency, dedupe); err != nil && t.invalid == "" {
		t.invalid = err.Error() // nobody has checked the row yet
	}
	return t
}

// of returns what the task of a run is to it.
func (v *laneView) of(run *NewRun) (info taskInfo, known bool) {
	if run.as != nil {
		return *run.as, true
	}
	if info, known = v.tasks[run.Task]; !known && run.ofRevision() {
		info, known = v.gone[run.Parent.Revision]
	}
	return info, known
}

// accepts says why a task cannot have this run, or nil. One that is a part of
// its parent goes on with the parent's revision, whatever became of the task.
func (v *laneView) accepts(run *NewRun) error {
	info, ok := v.of(run)
	if !ok {
		return noTask(run.Task)
	}
	if info.invalid != "" && !run.ofRevision() {
		return task.Errorf(task.CodeInvalid, "task %s cannot run: %s", run.Task, info.invalid).Fix("correct the task and apply it again")
	}
	return nil
}

// ofRevision reports whether the run is a part of its parent, with its revision.
func (r *NewRun) ofRevision() bool { return r.Parent != nil && r.Parent.Entry != nil }

// packer fills parcels up to about 20 ms of expected work. A run of unknown
// cost gets a parcel of its own, so that a long one never blocks short ones.
type packer struct {
	packs   bool // places and tokens; see packed
	parcels []*packing
	current map[string]*packing
	count   map[string]int
}

type packing struct {
	Parcel
	runs   []uuid.UUID
	micros float64
	places map[uuid.UUID]keyNumber // that runs of it have; see packed
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
		batch.Queue(`INSERT INTO parcels (lane, runs, places) VALUES ($1, $2, $3) RETURNING id`, c.Lane, c.runs, c.packed(p.packs)).
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
		maps.DeleteFunc(c.places, func(id uuid.UUID, _ keyNumber) bool { return !runs[id] })
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
