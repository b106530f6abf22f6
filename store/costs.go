package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Costs returns the moving averages of the tasks whose present revision has run.
func (s *Store) Costs(ctx context.Context) ([]task.Cost, error) {
	rows, err := s.pool.Query(ctx, `SELECT t.name, c.micros FROM tasks t JOIN task_costs c ON c.revision = t.revision ORDER BY t.name`)
	if err != nil {
		return nil, wrap(err, "read the costs of tasks")
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[task.Cost])
	return list, wrap(err, "read the costs of tasks")
}
