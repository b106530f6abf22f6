package store

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// RunFilter selects runs; zero fields do not filter.
type RunFilter struct {
	Task   string
	State  string // one state or several with commas
	Since  time.Time
	Limit  int       // 0: 100; at most 10000
	Before uuid.UUID // only runs made before this one

	WaitingFor task.WaitKind // only runs that wait for such a thing
	Parents    []uuid.UUID   // only the children of these runs
}

// Runs lists runs with their steps, newest first. Since runs has no index on
// state, each class of states is looked up where it stands: live runs in ready,
// parcels and waits, those that failed in failed_runs. Only those that
// succeeded are found by walking from the newest on. A task that never existed
// is a not_found error.
func (s *Store) Runs(ctx context.Context, f RunFilter) ([]task.Run, error) {
	states, err := parseStates(f.State)
	if err != nil {
		return nil, err
	}
	if f.Task != "" && !storable(f.Task) {
		return nil, s.unknownTask(ctx, f.Task)
	}
	l := listing{store: s, task: f.Task, low: uuid.Nil, high: uuid.Max, limit: f.Limit}
	if !f.Since.IsZero() {
		l.low = idFloor(f.Since)
	}
	if f.Before != uuid.Nil {
		l.high = f.Before
	}
	if l.limit <= 0 {
		l.limit = 100
	}
	l.limit = min(l.limit, 10_000)
	var list []task.Run
	switch {
	case len(f.Parents) > 0:
		list, err = l.children(ctx, f.Parents, f.WaitingFor, states)
	case f.WaitingFor != "":
		list, err = l.waiting(ctx, f.WaitingFor, states)
	default:
		list, err = l.collect(ctx, states)
	}
	if err == nil && len(list) == 0 && f.Task != "" {
		err = s.everExisted(ctx, f.Task)
	}
	if err != nil {
		return nil, err
	}
	return list, s.addSteps(ctx, list)
}

// parseStates returns nil for every state.
func parseStates(text string) ([]task.State, error) {
	if text == "" {
		return nil, nil
	}
	var states []task.State
	for name := range strings.SplitSeq(text, ",") {
		state := task.State(name)
		if !state.Valid() {
			return nil, task.Errorf(task.CodeInvalid, "unknown state %q", name).At("state").Fix("use one of %v", task.States)
		}
		if !slices.Contains(states, state) {
			states = append(states, state)
		}
	}
	if len(states) == len(task.States) {
		return nil, nil
	}
	return states, nil
}

// listing is one call of Runs: runs from low to high, the second excluded.
type listing struct {
	store     *Store
	task      string
	low, high uuid.UUID
	limit     int
}

func (l listing) collect(ctx context.Context, states []task.State) ([]task.Run, error) {
	if len(states) == 0 {
		return l.walk(ctx, nil)
	}
	var list []task.Run
	for _, class := range []struct {
		find   func(context.Context, []task.State) ([]task.Run, error)
		states []task.State
	}{
		{l.live, intersect(states, task.StateQueued, task.StateDispatched, task.StateRunning, task.StateWaiting)},
		{l.failed, intersect(states, task.StateFailed, task.StateCancelled, task.StateTimedOut, task.StateQuarantined)},
		{l.walk, intersect(states, task.StateSucceeded)},
	} {
		if len(class.states) == 0 {
			continue
		}
		found, err := class.find(ctx, class.states)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	// A run that changed its state meanwhile may have been found twice.
	slices.SortStableFunc(list, func(a, b task.Run) int { return slices.Compare(b.ID[:], a.ID[:]) })
	list = slices.CompactFunc(list, func(a, b task.Run) bool { return a.ID == b.ID })
	return list[:min(len(list), l.limit)], nil
}

func intersect(states []task.State, class ...task.State) []task.State {
	return slices.DeleteFunc(class, func(s task.State) bool { return !slices.Contains(states, s) })
}

// Pages of a walk: the first is small since it is often enough.
const firstPage, nextPage = 1000, 10_000

// The pages know nothing of states: what the planner expects of a state, above
// all in a partition without statistics, would have it read and sort everything.
// That of a task goes by the index on task and id, whatever is expected of the task.
const (
	walkPage = `SELECT id, state FROM runs WHERE id >= $1 AND id < $2 ORDER BY id DESC`
	taskPage = `SELECT id, state FROM runs WHERE id >= $1 AND id < $2 AND (task, id) >= ($4, $1) AND (task, id) < ($4, $2)
		ORDER BY task DESC, id DESC`
)

// walkStatement reads a page. The limit is part of the text: of one that is a
// parameter the planner expects a tenth of the table.
func walkStatement(page string, limit int) string {
	return `SELECT coalesce(array_agg(id ORDER BY id DESC) FILTER (WHERE state = ANY ($3)), '{}'), count(*),
		(array_agg(id ORDER BY id))[1] FROM (` + page + ` LIMIT ` + strconv.Itoa(limit) + `) x`
}

// indexPlans leave a page nothing but the index that has its order. The planner's
// estimate of a comparison of rows leaves out those that are equal in the first
// column, which are all: it would rather sort the few it expects. What is left
// counts as dear, which must not have it compiled.
var indexPlans = map[string]string{"enable_sort": "off", "enable_bitmapscan": "off", "enable_seqscan": "off", "jit": "off"}

// setIndexPlans sets them for the rest of a transaction.
func setIndexPlans(batch *pgx.Batch) {
	for name, value := range indexPlans {
		batch.Queue("SET LOCAL " + name + " = " + value)
	}
}

// byIndex runs one statement that way, in one round trip.
func (s *Store) byIndex(ctx context.Context, read func(pgx.Rows) error, sql string, args ...any) error {
	batch := &pgx.Batch{}
	setIndexPlans(batch)
	batch.Queue(sql, args...).Query(read)
	return s.pool.SendBatch(ctx, batch).Close()
}

// walk goes through the runs from the newest on until it has found enough.
func (l listing) walk(ctx context.Context, states []task.State) ([]task.Run, error) {
	wanted, limit := states, firstPage
	if len(states) == 0 {
		wanted, limit = task.States[:], l.limit
	}
	page, args := walkPage, []any{l.low, l.high, wanted}
	if l.task != "" {
		page, args = taskPage, append(args, l.task)
	}
	var found []uuid.UUID
	for {
		var ids []uuid.UUID
		var seen int
		var last *uuid.UUID
		err := l.store.byIndex(ctx, func(rows pgx.Rows) error {
			_, err := pgx.ForEachRow(rows, []any{&ids, &seen, &last}, func() error { return nil })
			return err
		}, walkStatement(page, limit), args...)
		if err != nil {
			return nil, wrap(err, "read runs")
		}
		found = append(found, ids...)
		if len(found) >= l.limit || seen < limit {
			break
		}
		args[1], limit = *last, nextPage
	}
	return l.byID(ctx, found[:min(len(found), l.limit)], states)
}

// failedPage and failedTaskPage go by the index that begins with the state, or
// with the task and the state, for the same reason.
const (
	failedPage     = `(f.state, f.run) >= (s.state, $1) AND (f.state, f.run) < (s.state, $2) ORDER BY f.state DESC, f.run DESC`
	failedTaskPage = `(f.task, f.state, f.run) >= ($4, s.state, $1) AND (f.task, f.state, f.run) < ($4, s.state, $2)
		ORDER BY f.task DESC, f.state DESC, f.run DESC`
)

func failedStatement(page string, limit int) string {
	n := strconv.Itoa(limit)
	return `SELECT x.run FROM unnest($3::text[]) AS s(state) CROSS JOIN LATERAL (
		SELECT f.run FROM failed_runs f WHERE ` + page + ` LIMIT ` + n + `) x ORDER BY x.run DESC LIMIT ` + n
}

// failed finds the ids of each state by index, the newest of each.
func (l listing) failed(ctx context.Context, states []task.State) ([]task.Run, error) {
	page, args := failedPage, []any{l.low, l.high, states}
	if l.task != "" {
		page, args = failedTaskPage, append(args, l.task)
	}
	var ids []uuid.UUID
	err := l.store.byIndex(ctx, func(rows pgx.Rows) (err error) {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	}, failedStatement(page, l.limit), args...)
	if err != nil {
		return nil, wrap(err, "read runs")
	}
	return l.byID(ctx, ids, states)
}

// live looks into the narrow tables, in one statement: a run that goes from one
// to another is in one of them. What stands there is verified with the run
// itself: a parcel also names runs of it that have ended already.
func (l listing) live(ctx context.Context, states []task.State) ([]task.Run, error) {
	only, args := "", []any{l.low, l.high}
	if l.task != "" {
		only, args = ` AND task = $3`, append(args, l.task)
	}
	newest := ` ORDER BY run DESC LIMIT ` + strconv.Itoa(l.limit)
	var parts []string
	for _, place := range []struct {
		states []task.State
		sql    string
	}{
		{intersect(states, task.StateQueued), `SELECT run FROM ready WHERE run >= $1 AND run < $2` + only + newest},
		{intersect(states, task.StateWaiting), `SELECT run FROM waits WHERE outcome IS NULL AND run >= $1 AND run < $2` + only + newest},
		{intersect(states, task.StateDispatched, task.StateRunning),
			`SELECT x.run FROM parcels p, unnest(p.runs) AS x(run) WHERE x.run >= $1 AND x.run < $2`},
	} {
		if len(place.states) > 0 {
			parts = append(parts, "("+place.sql+")")
		}
	}
	sql := strings.Join(parts, " UNION ALL ")
	if l.task != "" {
		sql = `SELECT run FROM (` + sql + `) x WHERE $3::text IS NOT NULL` // parcels alone do not name it
	}
	ids, err := l.ids(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(b[:], a[:]) })
	return l.byID(ctx, slices.Compact(ids), states)
}

func (l listing) ids(ctx context.Context, sql string, args ...any) ([]uuid.UUID, error) {
	rows, err := l.store.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(err, "read runs")
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	return ids, wrap(err, "read runs")
}

// runsByID looks up each id in its partition. The offset keeps the planner from
// other ideas, such as an index on the task.
const runsByID = `FROM unnest($1::uuid[]) AS i(id) CROSS JOIN LATERAL (SELECT * FROM runs WHERE id = i.id OFFSET 0) r
	LEFT JOIN workers w ON w.epoch = r.worker `

// byID reads those of the runs that are of the task and in one of the states,
// up to the limit; the ids come in descending order.
func (l listing) byID(ctx context.Context, ids []uuid.UUID, states []task.State) ([]task.Run, error) {
	if len(states) == 0 {
		states = task.States[:]
	}
	var list []task.Run
	for chunk := range slices.Chunk(ids, 1000) {
		found, err := l.store.readRuns(ctx, runsByID+`WHERE r.state = ANY ($2) AND ($3 = '' OR r.task = $3) ORDER BY r.id DESC`, chunk, states, l.task)
		if err != nil {
			return nil, err
		}
		if list = append(list, found...); len(list) >= l.limit {
			break
		}
	}
	return list[:min(len(list), l.limit)], nil
}

func (s *Store) readRuns(ctx context.Context, from string, args ...any) ([]task.Run, error) {
	rows, err := s.pool.Query(ctx, runColumns+from, args...)
	if err != nil {
		return nil, wrap(err, "read runs")
	}
	list, err := pgx.CollectRows(rows, scanRun)
	return list, wrap(err, "read runs")
}

// addSteps completes runs with their committed steps.
func (s *Store) addSteps(ctx context.Context, list []task.Run) error {
	if len(list) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	steps, err := readSteps(ctx, s.pool, ids)
	if err != nil {
		return err
	}
	for i := range list {
		r := &list[i]
		r.Steps = mergeSteps(steps[r.ID], r.Steps)
	}
	return s.showWaits(ctx, list)
}
