package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// TaskAt returns a task without its schedules, and the release that a run of
// it would be pinned to, as of one moment. It takes no lock.
func (s *Store) TaskAt(ctx context.Context, name string) (t task.Task, release int64, err error) {
	err = s.look(ctx, "read task "+name, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, taskColumns+`WHERE name = $1`, name)
		if err != nil {
			return err
		}
		if t, err = pgx.CollectExactlyOneRow(rows, scanTask); isMissing(err) {
			return noTask(name)
		} else if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT coalesce(max(id), 0) FROM releases`).Scan(&release)
	})
	return t, release, err
}

// look runs work in one read-only transaction with one view of the data.
func (s *Store) look(ctx context.Context, doing string, work func(pgx.Tx) error) error {
	return wrap(pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, work), doing)
}

// PeekDue reads up to limit schedules that are due by the database clock, as
// FireDue would take them, and takes none.
func (s *Store) PeekDue(ctx context.Context, limit int) (due []Due, now time.Time, err error) {
	err = s.look(ctx, "look at due schedules", func(tx pgx.Tx) error {
		if due, err = readDue(ctx, tx, Take{Limit: limit}, ""); err != nil {
			return err
		}
		if err := s.addCalendars(ctx, tx, due); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	})
	return due, now, err
}

// Peek is what a leader would find to do beside due schedules.
type Peek struct {
	Ready    []ReadyRun // open, or held until a time that has come
	Stranded []Parcel   // unclaimed for too long
	Lost     []string   // workers that fell silent
}

// ReadyRun is a run that waits for its parcel.
type ReadyRun struct {
	Run  uuid.UUID
	Task string
	Lane string
}

// PeekWork reads up to limit rows of each kind that the leader's duties would
// work on.
func (s *Store) PeekWork(ctx context.Context, limit int) (p Peek, err error) {
	err = s.look(ctx, "look at what waits", func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		batch.Queue(`SELECT run, task, lane FROM ready r
			WHERE (hold = '' OR hold = 'later' AND available_at <= (SELECT clock_timestamp()))
				AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.name = r.task AND t.paused)
			ORDER BY lane, run LIMIT $1`, limit).Query(func(rows pgx.Rows) (err error) {
			p.Ready, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ReadyRun])
			return err
		})
		batch.Queue(`SELECT id, lane, dispatch_no FROM parcels WHERE state = 'unclaimed'
			AND dispatched_at < (SELECT clock_timestamp()) - interval '2 seconds' ORDER BY id LIMIT $1`, limit).Query(func(rows pgx.Rows) (err error) {
			p.Stranded, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Parcel])
			return err
		})
		batch.Queue(`SELECT w.id FROM workers w, cluster c WHERE w.state IN ('active', 'draining') AND w.tick <= c.tick - $1
			ORDER BY w.epoch LIMIT $2`, lostAfterTicks, limit).Query(func(rows pgx.Rows) (err error) {
			p.Lost, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
		return tx.SendBatch(ctx, batch).Close()
	})
	return p, err
}
