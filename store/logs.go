package store

import (
	"context"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Logs returns up to limit lines of a run's log after the given sequence number.
func (s *Store) Logs(ctx context.Context, run uuid.UUID, after int64, limit int) ([]task.LogLine, error) {
	if limit <= 0 || limit > 10_000 {
		limit = 10_000
	}
	var trace *string
	err := s.pool.QueryRow(ctx, `SELECT trace FROM runs WHERE id = $1`, run).Scan(&trace)
	if isMissing(err) {
		return nil, noRun(run)
	}
	if err != nil {
		return nil, wrap(err, "read logs")
	}
	rows, err := s.pool.Query(ctx, `SELECT seq, at, level, step, message FROM run_logs WHERE run = $1 AND seq > $2 ORDER BY seq LIMIT $3`,
		run, after, limit)
	if err != nil {
		return nil, wrap(err, "read logs")
	}
	lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l task.LogLine, err error) {
		var message []byte
		err = row.Scan(&l.Seq, &l.At, &l.Level, &l.Step, &message)
		l.TraceID = traceID(trace)
		l.Message = strings.ToValidUTF8(string(message), "\uFFFD")
		return l, err
	})
	return lines, wrap(err, "read logs")
}
