package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Figures are counts from the narrow tables.
type Figures struct {
	Workers map[task.WorkerState]WorkerFigures // live ones
	Ready   []LaneFigures                      // State: what holds the runs, "" when nothing does
	Parcels []LaneFigures
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
	f := Figures{Workers: map[task.WorkerState]WorkerFigures{}}
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
	return f, wrap(s.pool.SendBatch(ctx, batch).Close(), "count")
}

// MinCompatible returns the oldest schema version whose binaries may use the database.
func (s *Store) MinCompatible(ctx context.Context) (version int64, err error) {
	err = s.pool.QueryRow(ctx, `SELECT min_compatible FROM schema_info`).Scan(&version)
	return version, wrap(err, "read the schema's compatibility")
}
