package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Figures are counts from the narrow tables.
type Figures struct {
	Workers map[task.WorkerState]WorkerFigures // live ones
	Ready   []LaneFigures                      // State: what holds the runs, "" when nothing does
	Parcels []LaneFigures
	Waits   map[task.WaitKind]int64  // of runs that are set aside
	Waited  map[string]time.Duration // by lane: how long the oldest work has waited that nobody has claimed
}

// WorkerFigures are those of the workers in one state.
type WorkerFigures struct{ Count, Running int }

// LaneFigures count rows of a lane in one state.
type LaneFigures struct {
	Lane  string
	State string
	Count int64
}

// Figures counts workers, ready runs and parcels.
func (s *Store) Figures(ctx context.Context) (Figures, error) {
	f := Figures{Workers: map[task.WorkerState]WorkerFigures{}, Waited: map[string]time.Duration{}, Waits: map[task.WaitKind]int64{}}
	batch := &pgx.Batch{}
	batch.Queue(`SELECT state, count(*), sum(running) FROM workers WHERE state IN ('active', 'draining') GROUP BY state`).
		Query(func(rows pgx.Rows) error {
			var state task.WorkerState
			var w WorkerFigures
			_, err := pgx.ForEachRow(rows, []any{&state, &w.Count, &w.Running}, func() error { f.Workers[state] = w; return nil })
			return err
		})
	lanes := func(into *[]LaneFigures) func(pgx.Rows) error {
		return func(rows pgx.Rows) (err error) {
			*into, err = pgx.CollectRows(rows, pgx.RowToStructByPos[LaneFigures])
			return err
		}
	}
	batch.Queue(`SELECT lane, hold, count(*) FROM ready GROUP BY lane, hold ORDER BY 1, 2`).Query(lanes(&f.Ready))
	batch.Queue(`SELECT lane, state, count(*) FROM parcels GROUP BY lane, state ORDER BY 1, 2`).Query(lanes(&f.Parcels))
	batch.Queue(`SELECT kind, count(*) FROM waits WHERE outcome IS NULL GROUP BY kind`).Query(func(rows pgx.Rows) error {
		var kind task.WaitKind
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&kind, &n}, func() error { f.Waits[kind] = n; return nil })
		return err
	})
	batch.Queue(laneHeads + ` SELECT lane, greatest(extract(epoch FROM clock_timestamp() - min(since)), 0)::float8 FROM head GROUP BY lane`).
		Query(func(rows pgx.Rows) error {
			var lane string
			var seconds float64
			_, err := pgx.ForEachRow(rows, []any{&lane, &seconds}, func() error {
				f.Waited[lane] = time.Duration(seconds * float64(time.Second))
				return nil
			})
			return err
		})
	return f, wrap(s.pool.SendBatch(ctx, batch).Close(), "count")
}

// laneHeads is the oldest work of each lane that nobody has claimed: the head
// of what is ready, found by index, and its unclaimed parcels.
const laneHeads = `
	WITH RECURSIVE l AS (
		(SELECT lane FROM ready WHERE hold = '' ORDER BY lane LIMIT 1)
		UNION ALL
		SELECT (SELECT r.lane FROM ready r WHERE r.hold = '' AND r.lane > l.lane ORDER BY r.lane LIMIT 1) FROM l WHERE l.lane IS NOT NULL
	), head AS (
		SELECT lane, (SELECT r.available_at FROM ready r WHERE r.lane = l.lane AND r.hold = '' ORDER BY r.rank, r.run LIMIT 1) AS since FROM l WHERE lane IS NOT NULL
		UNION ALL
		SELECT lane, min(created_at) FROM parcels WHERE state = 'unclaimed' GROUP BY lane
	)`

// countLimit bounds what ClusterFigures counts of the runs that wait.
const countLimit = 10_000

// ClusterFigures are the figures of the cluster that its workers are told; the
// caller adds those of its own master.
func (s *Store) ClusterFigures(ctx context.Context) (f task.ClusterFigures, err error) {
	err = s.pool.QueryRow(ctx, laneHeads+`
		SELECT clock_timestamp(), coalesce((SELECT holder FROM leader WHERE expires_at > clock_timestamp()), ''),
			w.count, w.slots, w.running, w.rss,
			(SELECT count(*) FROM (SELECT 1 FROM ready WHERE hold = '' LIMIT $1) r),
			coalesce(greatest(extract(epoch FROM clock_timestamp() - (SELECT min(since) FROM head)) * 1000, 0), 0)::float8
		FROM (SELECT count(*), coalesce(sum(slots), 0) AS slots, coalesce(sum(running), 0) AS running, coalesce(sum(rss), 0)::bigint AS rss
			FROM workers WHERE state IN ('active', 'draining')) w`, countLimit).
		Scan(&f.At, &f.Leader, &f.Workers, &f.Slots, &f.Running, &f.Memory, &f.Ready, &f.Waited)
	f.At = f.At.UTC()
	return f, wrap(err, "read the figures of the cluster")
}

// Backlog is what waits for the workers of one master, and what they do.
type Backlog struct {
	Waited  time.Duration // the oldest work that nobody has claimed; 0: there is none
	Limited bool          // runs wait at rate or concurrency limits
	Running int           // runs in them
}

// BacklogFilter says what those workers serve.
type BacklogFilter struct {
	Queues []string // "*": all
	Tags   []string
	Master string // whose workers
}

// Backlog looks at the head of each lane, by index.
func (s *Store) Backlog(ctx context.Context, f BacklogFilter) (b Backlog, err error) {
	var seconds float64
	err = s.pool.QueryRow(ctx, laneHeads+`, named AS (
			SELECT string_to_array(regexp_replace(lane, '^suspect:', ''), '+') AS part, since FROM head
		)
		SELECT coalesce(extract(epoch FROM clock_timestamp() - min(since)), 0)::float8,
			EXISTS (SELECT 1 FROM ready WHERE hold = 'limited'),
			(SELECT coalesce(sum(running), 0) FROM workers WHERE state = 'active' AND master = $3)
		FROM named WHERE (part[1] = ANY ($1) OR '*' = ANY ($1)) AND part[2:] <@ $2`, f.Queues, f.Tags, f.Master).Scan(&seconds, &b.Limited, &b.Running)
	b.Waited = time.Duration(max(seconds, 0) * float64(time.Second))
	return b, wrap(err, "look for waiting work")
}

// LaneWait counts the runs that wait in a lane.
type LaneWait struct {
	Lane string
	Runs int64
}

// UnservedLanes lists the lanes in which runs wait and that no active worker
// serves: none has the queue and all the tags.
func (s *Store) UnservedLanes(ctx context.Context) ([]LaneWait, error) {
	rows, err := s.pool.Query(ctx, `SELECT l.lane, l.runs FROM (SELECT lane, count(*) AS runs FROM ready WHERE hold <> 'later' GROUP BY lane) l
		WHERE `+laneSlots("l.lane")+` = 0 ORDER BY 1`)
	if err != nil {
		return nil, wrap(err, "look for lanes that nobody serves")
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[LaneWait])
	return list, wrap(err, "look for lanes that nobody serves")
}

// MinCompatible returns the oldest schema version whose binaries may use the database.
func (s *Store) MinCompatible(ctx context.Context) (version int64, err error) {
	err = s.pool.QueryRow(ctx, `SELECT min_compatible FROM schema_info`).Scan(&version)
	return version, wrap(err, "read the schema's compatibility")
}
