package store

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// lostAfterTicks is how many cluster ticks a silent worker falls behind before
// its runs are taken back.
const lostAfterTicks = 5

// RegisterWorker enters a new worker process and returns its epoch.
func (s *Store) RegisterWorker(ctx context.Context, w task.Worker) (epoch int64, err error) {
	err = s.beats.QueryRow(ctx, `
		INSERT INTO workers (id, host, pid, version, master, slot, queues, slots, rss, tags, tick, packs)
		VALUES ($1, $2, $3, $4, $5, $10, $6, $7, $8, coalesce($9::text[], '{}'), (SELECT tick FROM cluster), true) RETURNING epoch`,
		w.ID, w.Host, w.PID, w.Version, w.Master, w.Queues, w.Slots, w.RSS, w.Tags, w.Slot).Scan(&epoch)
	return epoch, wrap(err, "register worker "+w.ID)
}

// Beat is what a worker tells at each heartbeat.
type Beat struct {
	Epoch   int64
	State   task.WorkerState // active or draining
	Running int
	RSS     int64
	// ClockOffset is how far the worker's clock is ahead of the database's; nil: not known yet.
	ClockOffset *time.Duration
	CPU         float64
	Alone       bool // no master supervises it, so it obeys its orders itself
}

// BeatAnswer is what it hears.
type BeatAnswer struct {
	Now     time.Time   // the database clock when it took the heartbeat
	Revoked bool        // the epoch is over: interrupt everything, write nothing
	Cancel  []CancelAsk // runs of this worker that somebody wants cancelled
	Drain   string      // who wants the worker to drain; "": nobody
}

// CancelAsk is a run that somebody wants cancelled.
type CancelAsk struct {
	Run    uuid.UUID
	AtOnce bool  // without a grace
	Fence  int32 // of the run when it was asked: a later claim is of a run that somebody put back to work
}

// Beat records a sign of life on a connection of its own.
func (s *Store) Beat(ctx context.Context, b Beat) (answer BeatAnswer, err error) {
	batch := &pgx.Batch{}
	var offset *float64
	if b.ClockOffset != nil {
		offset = new(offsetMS(*b.ClockOffset))
	}
	batch.Queue(`UPDATE workers SET tick = (SELECT tick FROM cluster), beat_at = clock_timestamp(), state = $2, running = $3, rss = $4,
			cpu = $5, clock_offset_ms = coalesce($6, clock_offset_ms)
		WHERE epoch = $1 AND state IN ('active', 'draining') RETURNING beat_at`, b.Epoch, b.State, b.Running, b.RSS, b.CPU, offset).
		QueryRow(func(row pgx.Row) error {
			err := row.Scan(&answer.Now)
			answer.Revoked = errors.Is(err, pgx.ErrNoRows)
			if answer.Revoked {
				return nil
			}
			return err
		})
	batch.Queue(`SELECT run, at_once, fence FROM cancels WHERE worker = $1`, b.Epoch).Query(func(rows pgx.Rows) (err error) {
		answer.Cancel, err = pgx.CollectRows(rows, pgx.RowToStructByPos[CancelAsk])
		return err
	})
	if b.Alone {
		batch.Queue(`SELECT coalesce(min(asked_by), '') FROM worker_orders WHERE worker = $1 AND kind = 'drain' AND state = 'asked'`, b.Epoch).
			QueryRow(func(row pgx.Row) error { return row.Scan(&answer.Drain) })
	}
	return answer, wrap(s.beats.SendBatch(ctx, batch).Close(), "send a heartbeat")
}

// offsetMS is in whole microseconds, so that they read well.
func offsetMS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// StoppedAsAsked is the reason that a worker gives for an end in order. Whoever
// asked knows better.
const StoppedAsAsked = "stopped as asked"

// EndWorker records that a worker process has ended: stopped when that was
// planned, lost when it died. Runs that it left are found by Revoke at once. Of one
// that has recorded its end itself, it only completes the reason.
func (s *Store) EndWorker(ctx context.Context, epoch int64, state task.WorkerState, reason string) error {
	_, err := s.beats.Exec(ctx, `UPDATE workers SET state = CASE WHEN state = 'stopped' THEN state ELSE $2 END, reason = $3,
			ended_at = coalesce(ended_at, clock_timestamp())
		WHERE epoch = $1 AND (state IN ('active', 'draining') OR state = 'stopped' AND reason = $4)`, epoch, state, clean(reason), StoppedAsAsked)
	return wrap(err, "record the end of a worker")
}

// KillWorker records that a worker was killed for its memory. That is a death
// which its supervisor caused, so it counts against one run at most: the only one
// that the worker had, else the one of a suspect lane. That run is returned.
func (s *Store) KillWorker(ctx context.Context, epoch int64, reason string) (guilty *uuid.UUID, err error) {
	err = s.beats.QueryRow(ctx, killWorker, epoch, clean(reason)).Scan(&guilty)
	if isMissing(err) {
		return nil, nil
	}
	return guilty, wrap(err, "record the end of a worker")
}

// The ids of a parcel are sorted, which names its runs' partitions.
const killWorker = `
		UPDATE workers SET state = 'lost', killed = true, reason = $2, ended_at = clock_timestamp(), guilty = (
			SELECT CASE WHEN count(*) = 1 THEN (array_agg(u.id))[1]
				WHEN count(*) FILTER (WHERE u.suspect) = 1 THEN (array_agg(u.id) FILTER (WHERE u.suspect))[1] END
			FROM (SELECT r.id, p.lane LIKE 'suspect:%' AS suspect FROM parcels p
				CROSS JOIN LATERAL (SELECT r.id FROM runs r WHERE r.id = ANY (p.runs) AND r.id BETWEEN p.runs[1] AND p.runs[cardinality(p.runs)]
					AND r.parcel = p.id AND r.state IN ('dispatched', 'running') OFFSET 0) r
				WHERE p.worker = $1 AND p.state = 'claimed') u)
		WHERE epoch = $1 AND state IN ('active', 'draining') RETURNING guilty`

// MarkLost marks the workers that fell silent and returns their ids.
func (s *Store) MarkLost(ctx context.Context, term int64) (lost []string, err error) {
	err = s.inTx(ctx, "mark lost workers", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			UPDATE workers w SET state = 'lost', reason = 'no heartbeat for ' || c.tick - w.tick || ' ticks', ended_at = clock_timestamp()
			FROM cluster c WHERE w.state IN ('active', 'draining') AND w.tick <= c.tick - $1 RETURNING w.id`, lostAfterTicks)
		if err != nil {
			return err
		}
		lost, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return lost, err
}

// workerColumns are those of task.Worker, with its age last.
const workerColumns = `id, epoch, host, pid, version, master, slot, state, reason, queues, tags, slots, running, rss, cpu, started_at, beat_at,
	clock_offset_ms, coalesce(ended_at, clock_timestamp()) - started_at`

func scanWorker(row pgx.CollectableRow) (w task.Worker, err error) {
	var age time.Duration
	err = row.Scan(&w.ID, &w.Epoch, &w.Host, &w.PID, &w.Version, &w.Master, &w.Slot, &w.State, &w.Reason, &w.Queues, &w.Tags,
		&w.Slots, &w.Running, &w.RSS, &w.CPU, &w.StartedAt, &w.BeatAt, &w.ClockOffset, &age)
	w.Age = task.Duration(age.Round(time.Millisecond))
	return w, err
}

// Workers lists the live workers, or all of the last week, newest first.
func (s *Store) Workers(ctx context.Context, all bool) ([]task.Worker, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+workerColumns+`
		FROM workers WHERE $1 OR state IN ('active', 'draining') ORDER BY epoch DESC LIMIT 1000`, all)
	if err != nil {
		return nil, wrap(err, "list workers")
	}
	list, err := pgx.CollectRows(rows, scanWorker)
	return list, wrap(err, "list workers")
}

// Lanes lists the lanes that tasks or waiting parcels name, without suspect
// lanes: what workers choose from.
func (s *Store) Lanes(ctx context.Context) ([]string, error) {
	rows, err := s.pool.Query(ctx, `
		WITH RECURSIVE l AS (
			(SELECT lane FROM tasks ORDER BY lane LIMIT 1)
			UNION ALL
			SELECT (SELECT t.lane FROM tasks t WHERE t.lane > l.lane ORDER BY t.lane LIMIT 1) FROM l WHERE l.lane IS NOT NULL
		)
		SELECT lane FROM l WHERE lane IS NOT NULL
		UNION SELECT replace(lane, 'suspect:', '') FROM parcels
		UNION SELECT $1 ORDER BY 1`, task.DefaultQueue)
	if err != nil {
		return nil, wrap(err, "list lanes")
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return list, wrap(err, "list lanes")
}

// LearnCosts folds measured durations into the moving averages that parcels
// are sized by. costs maps a task revision to microseconds.
func (s *Store) LearnCosts(ctx context.Context, costs map[int64]float64) error {
	revisions, micros := make([]int64, 0, len(costs)), make([]float64, 0, len(costs))
	for revision, cost := range costs {
		revisions, micros = append(revisions, revision), append(micros, cost)
	}
	_, err := s.pool.Exec(ctx, `INSERT INTO task_costs AS c (revision, micros)
		SELECT * FROM (SELECT unnest($1::bigint[]), unnest($2::float8[])) AS i(revision, micros) ORDER BY revision
		ON CONFLICT (revision) DO UPDATE SET micros = power(c.micros, 0.7) * power(excluded.micros, 0.3)`, revisions, micros)
	return wrap(err, "record the cost of tasks")
}
