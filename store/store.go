// Package store owns the rows of tasks, schedules, fires, runs, steps, logs,
// workers, tokens and the audit trail, and every transaction on them. It
// implements the row side of docs/run-protocol.md: each write of a worker is
// checked against the run's fence, each write of the leader against its term.
//
// It returns concrete structs and decides nothing about when something should
// run; transactions never leave it. It does not enqueue: what it returns as
// Parcel must be given to the queue after the commit, and is found again by
// Stranded when that did not happen.
package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catena-run/catena/task"
)

// Config says how to reach the database.
type Config struct {
	URL      string // postgres://...
	MaxConns int32  // of the main pool; 0: 10
}

// Store is safe for concurrent use.
type Store struct {
	pool  *pgxpool.Pool
	beats *pgxpool.Pool // heartbeats and lease renewals never queue behind work
	ids   *minter
	days  *daySet // partitions of fires known to exist
}

// Open connects and pings. The caller closes the store.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 10
	}
	pool, err := openPool(ctx, cfg.URL, cfg.MaxConns)
	if err != nil {
		return nil, err
	}
	beats, err := openPool(ctx, cfg.URL, 2)
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &Store{pool: pool, beats: beats, ids: &minter{}, days: newDaySet()}, nil
}

func openPool(ctx context.Context, url string, conns int32) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		// pgx masks the password in this message.
		return nil, task.Errorf(task.CodeInvalid, "postgres url: %w", err).At("postgres.url").
			Fix("write postgres://user:password@host:5432/database")
	}
	cfg.MaxConns = conns
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, wrap(err, "open the database")
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, wrap(err, "reach the database")
	}
	return pool, nil
}

// Pool gives the main pool to the sibling that owns the package tables.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// Close waits for checked-out connections and closes both pools.
func (s *Store) Close() {
	s.beats.Close()
	s.pool.Close()
}

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return wrap(s.pool.Ping(ctx), "ping the database") }

// Now returns the database clock.
func (s *Store) Now(ctx context.Context) (now time.Time, err error) {
	err = s.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	return now, wrap(err, "read the database clock")
}

// inTx runs work in one transaction and repeats it after a deadlock or a
// serialization failure; work must be free of other effects.
func (s *Store) inTx(ctx context.Context, doing string, work func(pgx.Tx) error) error {
	for attempt := 0; ; attempt++ {
		err := pgx.BeginFunc(ctx, s.pool, work)
		if err == nil || !retriable(err) || attempt == 5 {
			return wrap(err, doing)
		}
	}
}

func retriable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40P01" || pg.Code == "40001")
}

// dataError reports whether a value was refused, so that repeating the same
// statement is of no use.
func dataError(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	class := pg.Code[:2]
	return class == "22" || class == "23" || class == "54"
}

// wrap names what was being done and gives the error a code. Coded errors pass.
func wrap(err error, doing string) error {
	if err == nil {
		return nil
	}
	var coded *task.Error
	if errors.As(err, &coded) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return task.Errorf(task.CodeCancelled, "%s: %w", doing, err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return task.Errorf(task.CodeTimeout, "%s: %w", doing, err)
	}
	if Unreachable(err) {
		return task.Errorf(task.CodeUnavailable, "%s: %w", doing, err).Fix("check that Postgres runs and postgres.url is right")
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" {
		return task.Errorf(task.CodeUnavailable, "%s: %w", doing, err).Fix("the schema is missing or old: run `catena migrate up`")
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Unreachable reports whether err means that the database could not be asked,
// as opposed to having answered no.
func Unreachable(err error) bool {
	if err == nil {
		return false
	}
	var connect *pgconn.ConnectError
	var network net.Error
	if errors.As(err, &connect) || errors.As(err, &network) || task.CodeOf(err) == task.CodeUnavailable {
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// 57P: shutting down or starting up; 08: connection; 53300: too many connections
		return strings.HasPrefix(pg.Code, "57P") || strings.HasPrefix(pg.Code, "08") || pg.Code == "53300"
	}
	text := err.Error()
	return strings.Contains(text, "unexpected EOF") || strings.Contains(text, "conn closed") || strings.Contains(text, "closed pool")
}

// clean makes text acceptable to a text column: valid UTF-8 without NUL.
func clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}
