package migrations

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catena-run/catena/task"
)

// Check tells whether this binary may work on the database: the database must
// not be older than the binary, nor so new that the binary is out of its range.
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	applied, minCompatible, err := read(ctx, pool)
	if err != nil {
		return task.Errorf(task.CodeUnavailable, "cannot read the schema version of the database: %w", err).
			Fix("check that postgres.url is right and that the server answers")
	}
	return judge(Version(), applied, minCompatible)
}

// judge is the rule of Check.
func judge(binary, applied, minCompatible int64) error {
	switch {
	case applied < binary:
		return task.Errorf(task.CodeUnavailable, "the database has schema version %d; this binary needs %d", applied, binary).
			Fix("run `catena migrate up`")
	case binary < minCompatible:
		return task.Errorf(task.CodeUnavailable, "this binary has schema version %d; the database (version %d) needs at least %d", binary, applied, minCompatible).
			Fix("use a newer release of catena")
	default:
		return nil
	}
}

// read returns zeros for a database that was never migrated.
func read(ctx context.Context, pool *pgxpool.Pool) (applied, minCompatible int64, err error) {
	err = pool.QueryRow(ctx, "SELECT coalesce(max(version_id) FILTER (WHERE is_applied), 0) FROM "+table).Scan(&applied)
	if isUndefinedTable(err) || (err == nil && applied == 0) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	err = pool.QueryRow(ctx, "SELECT min_compatible FROM schema_info").Scan(&minCompatible)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errors.New("the table schema_info is empty")
	}
	return applied, minCompatible, err
}

func isUndefinedTable(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "42P01"
}
