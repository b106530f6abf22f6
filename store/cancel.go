package store

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Stage is how far the end of a run that was told to stop had to go.
type Stage string

// The stages. StageRequested is written by the request itself, the others by
// the worker.
const (
	StageRequested   Stage = "requested"   // somebody asked to cancel it
	StageInterrupted Stage = "interrupted" // its code was stopped, the grace being over
	StageKilled      Stage = "killed"      // its worker process is replaced, the code having gone on
)

// StageRow says that a run reached a stage.
type StageRow struct {
	Run   uuid.UUID
	Fence int32
	Stage Stage
	At    time.Time
}

// CancelRun ends a run that no worker has claimed at once, and asks the worker
// otherwise: the answer then has CancelRequested set. atOnce asks it to
// interrupt the code without a grace, also when a cancellation is under way. A
// run that has ended is a conflict.
func (s *Store) CancelRun(ctx context.Context, id uuid.UUID, by string, atOnce bool) (task.Run, error) {
	err := s.inTx(ctx, "cancel run "+id.String(), func(tx pgx.Tx) error { return cancelOne(ctx, tx, id, by, atOnce) })
	if err != nil {
		return task.Run{}, err
	}
	return s.Run(ctx, id)
}

func cancelOne(ctx context.Context, tx pgx.Tx, id uuid.UUID, by string, atOnce bool) error {
	done, err := cancelRuns(ctx, tx, []uuid.UUID{id}, by, atOnce)
	switch {
	case err != nil:
		return err
	case done.over[id] != "":
		return task.Errorf(task.CodeConflict, "run %s has ended: it is %s", id, done.over[id])
	case len(done.ended)+len(done.asked) == 0:
		return noRun(id)
	}
	return nil
}

// cancelled says what became of runs that somebody wants cancelled.
type cancelled struct {
	ended []uuid.UUID              // no worker had them
	asked []uuid.UUID              // their workers are told
	over  map[uuid.UUID]task.State // had ended before
	fresh int                      // nobody had asked before
}

// cancelRuns cancels the runs in the given transaction. Locks are taken in the
// order runs, parcels, ready, each by id, as a worker's writes do; a clash with
// the dispatcher's other order is a deadlock that is retried.
func cancelRuns(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, by string, atOnce bool) (cancelled, error) {
	c, parcels, err := lockForCancel(ctx, tx, ids)
	if err != nil || len(parcels) == 0 {
		return c, err
	}
	workers, err := lockParcels(ctx, tx, parcels)
	if err != nil {
		return c, err
	}
	var told []int64 // the worker of each asked run
	for id, parcel := range parcels {
		if worker := workers[parcel]; worker != 0 {
			c.asked, told = append(c.asked, id), append(told, worker)
		} else {
			c.ended = append(c.ended, id)
		}
	}
	batch := &pgx.Batch{}
	if len(c.ended) > 0 {
		low, high := bounds(c.ended)
		queueUnused(batch, c.ended, parcels)
		batch.Queue(`DELETE FROM ready WHERE run = ANY($1)`, c.ended)
		batch.Queue(`UPDATE runs SET state = 'cancelled', cancel_requested = true, cancel_requested_at = clock_timestamp(),
			fence = fence + 1, parcel = NULL, reason = $2, finished_at = clock_timestamp()
			WHERE id = ANY($1) AND id BETWEEN $3 AND $4`, c.ended, clean("cancelled by "+by), low, high)
		if left := parcelsOf(c.ended, parcels); len(left) > 0 {
			queueLeft(batch, left, c.ended)
		}
		queueCancelled(batch, c.ended, by)
	}
	if len(c.asked) > 0 {
		low, high := bounds(c.asked)
		batch.Queue(`UPDATE runs SET cancel_requested = true, cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
			reason = CASE WHEN cancel_requested THEN reason ELSE $2 END
			WHERE id = ANY($1) AND id BETWEEN $3 AND $4`, c.asked, clean("cancel asked by "+by), low, high)
		batch.Queue(`INSERT INTO cancels (run, worker, at_once, fence)
			SELECT r.id, i.worker, $3, r.fence FROM unnest($1::uuid[], $2::bigint[]) AS i(run, worker) JOIN runs r ON r.id = i.run
			WHERE r.id = ANY ($1) AND r.id BETWEEN $4 AND $5
			ON CONFLICT (run) DO UPDATE SET worker = excluded.worker, at_once = cancels.at_once AND cancels.fence >= excluded.fence OR excluded.at_once,
				fence = excluded.fence`, c.asked, told, atOnce, low, high)
		queueChildCancels(batch, c.asked, by)
		for _, worker := range slices.Compact(slices.Sorted(slices.Values(told))) {
			batch.Queue(`SELECT pg_notify('catena_cancel', $1)`, strconv.FormatInt(worker, 10))
		}
	}
	batch.Queue(countStage, StageRequested, c.fresh) // last: every request waits for this row
	return c, tx.SendBatch(ctx, batch).Close()
}

// lockForCancel locks the runs and returns the parcels of those that have not
// ended; 0 when a run is in none.
func lockForCancel(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (c cancelled, parcels map[uuid.UUID]int64, err error) {
	c.over, parcels = map[uuid.UUID]task.State{}, map[uuid.UUID]int64{}
	low, high := bounds(ids)
	rows, err := tx.Query(ctx, `SELECT id, state, coalesce(parcel, 0), cancel_requested FROM runs
		WHERE id = ANY($1) AND id BETWEEN $2 AND $3 ORDER BY id FOR NO KEY UPDATE`, ids, low, high)
	if err != nil {
		return c, nil, err
	}
	var id uuid.UUID
	var state task.State
	var parcel int64
	var requested bool
	_, err = pgx.ForEachRow(rows, []any{&id, &state, &parcel, &requested}, func() error {
		if state.Terminal() {
			c.over[id] = state
			return nil
		}
		parcels[id] = parcel
		if !requested {
			c.fresh++
		}
		return nil
	})
	return c, parcels, err
}

// lockParcels waits for claims under way: after them the workers are known.
func lockParcels(ctx context.Context, tx pgx.Tx, of map[uuid.UUID]int64) (workers map[int64]int64, err error) {
	ids := make([]int64, 0, len(of))
	for _, parcel := range of {
		ids = append(ids, parcel)
	}
	rows, err := tx.Query(ctx, `SELECT id, worker FROM parcels WHERE id = ANY($1) AND id > 0 ORDER BY id FOR UPDATE`, ids)
	if err != nil {
		return nil, err
	}
	workers = map[int64]int64{}
	var id int64
	var worker *int64
	_, err = pgx.ForEachRow(rows, []any{&id, &worker}, func() error {
		if worker != nil {
			workers[id] = *worker
		}
		return nil
	})
	return workers, err
}

const countStage = `UPDATE cancel_stages SET count = count + $2 WHERE stage = $1 AND $2 > 0`

// queueStages notes stages of runs, also of one that has ended meanwhile but not
// of one that was taken away. To repeat it is safe.
func queueStages(batch *pgx.Batch, rows []StageRow) {
	for _, stage := range []struct {
		name   Stage
		column string
	}{{StageInterrupted, "interrupted_at"}, {StageKilled, "killed_at"}} {
		var ids []uuid.UUID
		var fences []int32
		var at []time.Time
		for _, row := range rows {
			if row.Stage == stage.name {
				ids, fences, at = append(ids, row.Run), append(fences, row.Fence), append(at, row.At)
			}
		}
		if len(ids) == 0 {
			continue
		}
		low, high := bounds(ids)
		batch.Queue(`WITH i AS (SELECT * FROM unnest($1::uuid[], $2::int[], $3::timestamptz[]) AS i(id, fence, at)
			), locked AS MATERIALIZED (
				SELECT r.id, i.at FROM runs r JOIN i ON i.id = r.id WHERE r.id BETWEEN $4 AND $5 AND r.fence = i.fence
					AND r.`+stage.column+` IS DISTINCT FROM i.at ORDER BY r.id FOR NO KEY UPDATE OF r
			), u AS (
				UPDATE runs r SET `+stage.column+` = l.at FROM locked l WHERE r.id = l.id AND r.id BETWEEN $4 AND $5 RETURNING r.id
			)
			UPDATE cancel_stages SET count = count + (SELECT count(*) FROM u) WHERE stage = $6 AND EXISTS (SELECT 1 FROM u)`,
			ids, fences, at, low, high, stage.name)
	}
}

// StageCounts says how often each stage was reached since the cluster began.
func (s *Store) StageCounts(ctx context.Context) (map[Stage]int64, error) {
	rows, err := s.pool.Query(ctx, `SELECT stage, count FROM cancel_stages`)
	if err != nil {
		return nil, wrap(err, "count cancellations")
	}
	counts := map[Stage]int64{}
	var stage Stage
	var count int64
	_, err = pgx.ForEachRow(rows, []any{&stage, &count}, func() error { counts[stage] = count; return nil })
	return counts, wrap(err, "count cancellations")
}
