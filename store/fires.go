package store

import (
	"context"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// FireFilter selects rows of the ledger; zero fields do not filter.
type FireFilter struct {
	Task    string
	Outcome task.FireOutcome
	Since   time.Time
	Limit   int // 0: 100; at most 10000

	// Only what follows this place of the list. Fires of the same due time are
	// in the order of their schedules.
	Before         time.Time
	BeforeSchedule int64
}

const fireColumns = `f.schedule, f.task, f.due_at, f.last_due_at, f.count, f.outcome, f.reason, f.run, f.fired_at`

// fireCondition is that of every list of fires: $1 since, $2 and $3 the place to go on at, $6 the outcome.
const fireCondition = `($1::timestamptz IS NULL OR f.last_due_at >= $1)
	AND ($2::timestamptz IS NULL OR f.due_at <= $2 AND (f.due_at < $2 OR f.schedule > $3))
	AND ($6 = '' OR f.outcome = $6)`

// firesOfTask reads each schedule that the task has or had by the primary key.
const firesOfTask = `
	SELECT ` + fireColumns + ` FROM schedule_tasks t CROSS JOIN LATERAL (
		SELECT * FROM fires f WHERE f.schedule = t.schedule AND f.task = t.task AND ` + fireCondition + `
		ORDER BY f.due_at DESC LIMIT $4
	) f WHERE t.task = $5 ORDER BY f.due_at DESC, f.schedule LIMIT $4`

// allFires reads the partitions of due times from $5 on.
const allFires = `
	SELECT ` + fireColumns + ` FROM fires f WHERE ` + fireCondition + ` AND f.due_at >= $5
	ORDER BY f.due_at DESC, f.schedule LIMIT $4`

// Fires lists the ledger, newest due time first. A task that never existed is a not_found error.
func (s *Store) Fires(ctx context.Context, f FireFilter) ([]task.Fire, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 10_000)
	if f.BeforeSchedule == 0 {
		f.BeforeSchedule = math.MaxInt64 // a time alone leaves out all fires of that time
	}
	args := []any{nullTime(f.Since), nullTime(f.Before), f.BeforeSchedule, limit}
	if f.Task != "" {
		if !storable(f.Task) {
			return nil, s.unknownTask(ctx, f.Task)
		}
		list, err := s.fires(ctx, firesOfTask, append(args, f.Task, string(f.Outcome))...)
		if err == nil && len(list) == 0 {
			err = s.everExisted(ctx, f.Task)
		}
		return list, err
	}
	newest := f.Before
	if newest.IsZero() {
		var err error
		if newest, err = s.Now(ctx); err != nil {
			return nil, err
		}
	}
	// The newest are wanted and have no index of their own: most often they are in the last partition or two.
	list, err := s.fires(ctx, allFires, append(args, newest.UTC().Truncate(day), string(f.Outcome))...)
	if err == nil && len(list) < limit {
		list, err = s.fires(ctx, allFires, append(args, time.Unix(0, 0), string(f.Outcome))...)
	}
	return list, err
}

func (s *Store) fires(ctx context.Context, sql string, args ...any) ([]task.Fire, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(err, "read the ledger")
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[task.Fire])
	return list, wrap(err, "read the ledger")
}
