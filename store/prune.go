package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// pruneBatch bounds what one transaction removes.
const pruneBatch = 10_000

// sweepPages are how many times as many rows of live runs it looks through.
const sweepPages = 20

// daily gives runs to work, those of one day at a time: one partition.
func daily(ids []uuid.UUID, work func(ids []uuid.UUID) error) error {
	sortedIDs(ids)
	for len(ids) > 0 {
		first := timeOf(ids[0]).UTC().Truncate(day)
		n := 1
		for n < len(ids) && timeOf(ids[n]).UTC().Truncate(day).Equal(first) {
			n++
		}
		if err := work(ids[:n]); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// ended returns those of the runs that have ended or are gone.
func ended(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (over []uuid.UUID, err error) {
	err = daily(ids, func(ids []uuid.UUID) error {
		low, high := bounds(ids)
		rows, err := tx.Query(ctx, endedRuns, ids, low, high)
		if err != nil {
			return err
		}
		some, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		over = append(over, some...)
		return err
	})
	return over, err
}

const endedRuns = `SELECT i.id FROM unnest($1::uuid[]) AS i(id)
	WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = i.id AND r.id = ANY ($1) AND r.id BETWEEN $2 AND $3 AND r.finished_at IS NULL)`

// sweepEnded removes rows that ended runs have left behind: answered cancel
// requests, and holds where a binary that knows no limits has ended the run.
func sweepEnded(ctx context.Context, tx pgx.Tx) error {
	for _, kind := range []struct{ find, remove string }{
		{`SELECT run FROM cancels WHERE run > $1 ORDER BY run LIMIT $2`, sweptCancels},
		{`SELECT DISTINCT run FROM holds WHERE run > $1 AND taken_at < (SELECT clock_timestamp() - interval '1 minute') ORDER BY run LIMIT $2`,
			sweptHolds},
	} {
		var after uuid.UUID
		for range sweepPages {
			rows, err := tx.Query(ctx, kind.find, after, pruneBatch)
			if err != nil {
				return err
			}
			ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
			if err != nil || len(ids) == 0 {
				return err
			}
			after = ids[len(ids)-1]
			full := len(ids) == pruneBatch
			over, err := ended(ctx, tx, ids)
			if err != nil {
				return err
			}
			err = daily(over, func(ids []uuid.UUID) error {
				low, high := bounds(ids)
				_, err := tx.Exec(ctx, kind.remove, ids, low, high)
				return err
			})
			if err != nil {
				return err
			}
			if !full {
				break
			}
		}
	}
	return nil
}

// A run that had ended may go again by now, and has then taken its place anew:
// both are looked at again, the place behind the lock on its row.
const (
	stillEnded = ` AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = x.run AND r.id = ANY ($1) AND r.id BETWEEN $2 AND $3 AND r.finished_at IS NULL)`

	sweptCancels = `DELETE FROM cancels x WHERE x.run = ANY ($1)` + stillEnded
	sweptHolds   = `DELETE FROM holds x WHERE x.run = ANY ($1) AND x.taken_at < (SELECT clock_timestamp() - interval '1 minute')` + stillEnded
)

// Sweep removes a bounded number of what is of no more use: answered cancel
// requests, expired keys, workers that ended a week ago and audit rows older
// than the given age. It reports whether there is more.
func (s *Store) Sweep(ctx context.Context, term int64, audit time.Duration) (more bool, err error) {
	err = s.inTx(ctx, "sweep", func(tx pgx.Tx) error {
		more = false
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		if err := sweepEnded(ctx, tx); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		batch.Queue(`DELETE FROM events WHERE id = ANY (ARRAY(SELECT id FROM events WHERE expires_at < (SELECT clock_timestamp())
			ORDER BY expires_at LIMIT $1))`, pruneBatch)
		batch.Queue(`DELETE FROM workers WHERE state IN ('stopped', 'lost') AND ended_at < clock_timestamp() - interval '7 days'
			AND NOT EXISTS (SELECT 1 FROM parcels p WHERE p.worker = workers.epoch)`)
		batch.Queue(`DELETE FROM masters WHERE beat_at < clock_timestamp() - interval '7 days'`)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		// The clock in sub-selects, so that the oldest are found by index.
		tag, err := tx.Exec(ctx, `DELETE FROM run_keys WHERE ctid = ANY (ARRAY(SELECT ctid FROM run_keys
			WHERE expires_at < (SELECT clock_timestamp()) ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))`, pruneBatch)
		if err != nil {
			return err
		}
		more = tag.RowsAffected() == pruneBatch
		tag, err = tx.Exec(ctx, `DELETE FROM audit WHERE id = ANY (ARRAY(SELECT id FROM audit
			WHERE at < (SELECT clock_timestamp() - $1 * interval '1 millisecond') ORDER BY at LIMIT $2))`, audit.Milliseconds(), pruneBatch)
		more = more || tag.RowsAffected() == pruneBatch
		return err
	})
	return more, err
}

// pruneMargin is how much older than the oldest run that is kept a revision
// must be: far more than the moment between reading a task and accepting its run.
const pruneMargin = day

// PruneRevisions removes a bounded number of task revisions that were replaced
// before the oldest run that is kept was made, so that none has them; a child run
// may have its parent's, which is older. It also forgets the costs of revisions
// that are gone. It reports whether there is more.
func (s *Store) PruneRevisions(ctx context.Context, term int64) (more bool, err error) {
	oldest, err := s.oldestRuns(ctx)
	if err != nil || oldest.IsZero() {
		return false, err
	}
	last := int64(0)         // next time from the beginning
	after := s.pruned.Load() // so that revisions that children keep stand in nobody's way
	err = s.inTx(ctx, "prune revisions", func(tx pgx.Tx) error {
		more, last = false, 0
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, replacedRevisions, oldest.Add(-pruneMargin), pruneBatch, after)
		if err != nil {
			return err
		}
		replaced, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		if len(replaced) > 0 { // else the runs need not be read
			_, err := tx.Exec(ctx, `DELETE FROM task_revisions WHERE id = ANY($1)
				AND id NOT IN (SELECT c.revision FROM runs c WHERE c.parent IS NOT NULL AND c.revision = ANY($1))`, replaced)
			if err != nil {
				return err
			}
		}
		if more = len(replaced) == pruneBatch; more {
			last = replaced[len(replaced)-1]
		}
		_, err = tx.Exec(ctx, `DELETE FROM task_costs c WHERE NOT EXISTS (SELECT 1 FROM task_revisions r WHERE r.id = c.revision)`)
		return err
	})
	if err == nil {
		s.pruned.Store(last)
	}
	return more, err
}

const replacedRevisions = `SELECT r.id FROM task_revisions r
	WHERE r.id > $3 AND EXISTS (SELECT 1 FROM task_revisions n WHERE n.task = r.task AND n.id > r.id AND n.created_at < $1)
		AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.revision = r.id) ORDER BY r.id LIMIT $2`

// oldestRuns returns where the oldest partition of runs begins.
func (s *Store) oldestRuns(ctx context.Context) (oldest time.Time, err error) {
	all, err := s.partitions(ctx)
	for _, p := range all {
		if p.table == "runs" && (oldest.IsZero() || p.day.Before(oldest)) {
			oldest = p.day
		}
	}
	return oldest, err
}
