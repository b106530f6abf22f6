// Package migrations holds the database schema as numbered SQL files and moves
// a database from one version to another.
//
// A change of the schema first expands (the previous binary keeps working) and
// contracts a version later, raising schema_info.min_compatible. The package
// refuses to repair a database that something else has changed.
package migrations

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/task"
)

//go:embed sql/*.sql
var files embed.FS

// table holds the applied versions; goose's own tool knows it by this name.
const table = "goose_db_version"

// Migration is one numbered step of the schema.
type Migration struct {
	Version   int64
	Name      string
	AppliedAt *time.Time // nil: not applied
}

// Version is the schema version of this binary: the number of its SQL files.
func Version() int64 {
	names, _ := fs.Glob(files, "sql/*.sql") // the pattern is valid
	return int64(len(names))
}

// Hash identifies the content of the SQL files.
func Hash() string {
	sum := sha256.New()
	names, _ := fs.Glob(files, "sql/*.sql")
	for _, name := range names {
		content, _ := files.ReadFile(name) // embedded: cannot fail
		sum.Write([]byte(path.Base(name) + "\x00"))
		sum.Write(content)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// A step that finds its table locked for longer than the lock_timeout in its SQL
// is tried again, with pauses in which those go on who queued behind it.
const (
	lockTries = 30
	lockPause = time.Second
)

// Up brings the database to this binary's version. It waits for another Up on
// the same database, up to five minutes, and about a minute and a half for tables that others
// have locked; a newer database is left as it is.
func Up(ctx context.Context, pool *pgxpool.Pool, log logrus.FieldLogger) error {
	return with(pool, func(p *goose.Provider) error {
		for try := 1; ; try++ {
			results, err := p.Up(ctx)
			var partial *goose.PartialError
			if errors.As(err, &partial) {
				results = partial.Applied
			}
			for _, r := range results {
				log.WithFields(logrus.Fields{"version": r.Source.Version, "duration": r.Duration.String()}).Info("migration applied")
			}
			if !locked(err) {
				return failed("cannot migrate the database up", err)
			}
			if try == lockTries {
				return task.Errorf(task.CodeUnavailable, "cannot migrate the database up: a long transaction keeps a table locked: %w", err).
					Fix("try again when no backup or long query reads the database; pg_stat_activity lists them")
			}
			log.WithError(err).Warn("the migration waits for a long transaction, such as that of a backup, and is tried again")
			select {
			case <-ctx.Done():
				return failed("cannot migrate the database up", ctx.Err())
			case <-time.After(lockPause):
			}
		}
	})
}

// locked reports whether a step got no lock in its time.
func locked(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55P03"
}

// Down takes back the newest applied migration, with its data; nothing applied
// is an error.
func Down(ctx context.Context, pool *pgxpool.Pool, log logrus.FieldLogger) error {
	return with(pool, func(p *goose.Provider) error {
		r, err := p.Down(ctx)
		if err != nil {
			return failed("cannot migrate the database down", err)
		}
		log.WithFields(logrus.Fields{"version": r.Source.Version, "duration": r.Duration.String()}).Info("migration taken back")
		return nil
	})
}

// Status lists this binary's migrations and when each was applied.
func Status(ctx context.Context, pool *pgxpool.Pool) ([]Migration, error) {
	var list []Migration
	err := with(pool, func(p *goose.Provider) error {
		states, err := p.Status(ctx)
		for _, s := range states {
			m := Migration{Version: s.Source.Version, Name: path.Base(s.Source.Path)}
			if s.State == goose.StateApplied {
				m.AppliedAt = &s.AppliedAt
			}
			list = append(list, m)
		}
		return failed("cannot read the state of the migrations", err)
	})
	return list, err
}

func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return task.Errorf(task.CodeInternal, "%s: %w", what, err).Fix("see `catena migrate status`")
}

// with runs do with a provider over pool. The session lock keeps two processes
// from migrating at once.
func with(pool *pgxpool.Pool, do func(*goose.Provider) error) error {
	sqlFiles, err := fs.Sub(files, "sql")
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return err
	}
	var db *sql.DB = stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, sqlFiles,
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true), goose.WithTableName(table))
	if err != nil {
		return task.Errorf(task.CodeInternal, "the embedded migrations are not usable: %w", err)
	}
	return do(provider)
}
