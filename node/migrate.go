package node

import (
	"context"
	"io"
	"slices"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/migrations"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Schema is the state of the database's schema.
type Schema struct {
	Version       int64 // of the database
	Newest        int64 // that this binary knows
	MinCompatible int64
	Changed       []int64 // applied or undone now
	Migrations    []migrations.Migration
}

// MigrateUp applies all missing migrations and makes the first partitions.
func MigrateUp(ctx context.Context, cfg configs.Config, log io.Writer) (Schema, error) {
	return migrate(ctx, cfg, func(s *store.Store) error {
		if err := migrations.Up(ctx, s.Pool(), logTo(cfg, log)); err != nil {
			return err
		}
		return s.EnsurePartitions(ctx)
	})
}

// MigrateDown undoes migrations until the database has the version; 0 means the
// newest one only.
func MigrateDown(ctx context.Context, cfg configs.Config, to int64, log io.Writer) (Schema, error) {
	return migrate(ctx, cfg, func(s *store.Store) error {
		if err := atRest(ctx, s); err != nil {
			return err
		}
		for {
			if err := migrations.Down(ctx, s.Pool(), logTo(cfg, log)); err != nil {
				return err
			}
			if to == 0 {
				return nil
			}
			now, err := readSchema(ctx, s)
			if err != nil || now.Version <= to {
				return err
			}
		}
	})
}

// atRest refuses while processes of the cluster are at work: they would lose
// the columns that they write.
func atRest(ctx context.Context, s *store.Store) error {
	var masters, workers int
	err := s.Pool().QueryRow(ctx, `SELECT (SELECT count(*) FROM leader WHERE expires_at > clock_timestamp()),
		(SELECT count(*) FROM workers WHERE state IN ('active', 'draining') AND beat_at > clock_timestamp() - interval '10 seconds')`).Scan(&masters, &workers)
	if err != nil || masters+workers == 0 {
		return nil // without these tables nobody can be at work
	}
	return task.Errorf(task.CodeConflict, "%d leader and %d workers are at work on this database", masters, workers).
		Fix("stop all masters and workers of the cluster first; to run the previous binary no migration has to be taken back")
}

// MigrateStatus only looks.
func MigrateStatus(ctx context.Context, cfg configs.Config) (Schema, error) {
	return migrate(ctx, cfg, func(*store.Store) error { return nil })
}

func migrate(ctx context.Context, cfg configs.Config, do func(*store.Store) error) (Schema, error) {
	s, err := store.Open(ctx, store.Config{URL: cfg.Postgres.URL, MaxConns: 4})
	if err != nil {
		return Schema{}, err
	}
	defer s.Close()
	before, err := readSchema(ctx, s)
	if err != nil {
		return Schema{}, err
	}
	if err := do(s); err != nil {
		return Schema{}, err
	}
	after, err := readSchema(ctx, s)
	for _, m := range after.Migrations {
		was := slices.IndexFunc(before.Migrations, func(b migrations.Migration) bool { return b.Version == m.Version })
		if was >= 0 && (before.Migrations[was].AppliedAt == nil) != (m.AppliedAt == nil) {
			after.Changed = append(after.Changed, m.Version)
		}
	}
	return after, err
}

func readSchema(ctx context.Context, s *store.Store) (Schema, error) {
	list, err := migrations.Status(ctx, s.Pool())
	if err != nil {
		return Schema{}, err
	}
	schema := Schema{Newest: migrations.Version(), Migrations: list}
	for _, m := range list {
		if m.AppliedAt != nil {
			schema.Version = max(schema.Version, m.Version)
		}
	}
	if schema.Version == 0 {
		return schema, nil
	}
	schema.MinCompatible, err = s.MinCompatible(ctx)
	if err != nil {
		return schema, task.Errorf(task.CodeInternal, "read the schema's compatibility: %w", err)
	}
	return schema, nil
}
