package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// pruneBatch bounds what one transaction removes.
const pruneBatch = 10_000

// Sweep removes a bounded number of what is of no more use: answered cancel
// requests, expired keys, workers that ended a week ago and audit rows older
// than the given age. It reports whether there is more.
func (s *Store) Sweep(ctx context.Context, term int64, audit time.Duration) (more bool, err error) {
	err = s.inTx(ctx, "sweep", func(tx pgx.Tx) error {
		more = false
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		batch.Queue(`DELETE FROM cancels c WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = c.run AND r.finished_at IS NULL)`)
		// A binary that knows no limits may have ended runs that hold places.
		batch.Queue(`DELETE FROM holds h WHERE h.taken_at < clock_timestamp() - interval '1 minute'
			AND EXISTS (SELECT 1 FROM runs r WHERE r.id = h.run AND r.finished_at IS NOT NULL)`)
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
	err = s.inTx(ctx, "prune revisions", func(tx pgx.Tx) error {
		more = false
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM task_revisions WHERE id = ANY (ARRAY(
			SELECT r.id FROM task_revisions r
			WHERE EXISTS (SELECT 1 FROM task_revisions n WHERE n.task = r.task AND n.id > r.id AND n.created_at < $1)
				AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.revision = r.id)
				AND NOT EXISTS (SELECT 1 FROM runs c WHERE c.parent IS NOT NULL AND c.revision = r.id)
			LIMIT $2))`, oldest.Add(-pruneMargin), pruneBatch)
		if err != nil {
			return err
		}
		more = tag.RowsAffected() == pruneBatch
		_, err = tx.Exec(ctx, `DELETE FROM task_costs c WHERE NOT EXISTS (SELECT 1 FROM task_revisions r WHERE r.id = c.revision)`)
		return err
	})
	return more, err
}

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
