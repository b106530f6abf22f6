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
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxuuid "github.com/vgarvardt/pgx-google-uuid/v5"

	"github.com/catena-run/catena/task"
)

// Config says how to reach the database.
type Config struct {
	URL      string // postgres://...
	MaxConns int32  // of the main pool; 0: 10
	Keys     Keyer  // nil: keys of limits hold no expressions
	Traces   Tracer // nil: runs that a schedule starts belong to no trace
	Readonly bool   // every transaction is read-only: what would write fails
}

// Tracer begins the trace of a run that nobody asked for; "" when it is not sampled.
type Tracer func(run uuid.UUID) string

// Store is safe for concurrent use.
type Store struct {
	keys  Keyer
	trace Tracer
	pool  *pgxpool.Pool
	beats *pgxpool.Pool // heartbeats and lease renewals never queue behind work
	bulk  *pgxpool.Pool // batched statements on runs, planned as bulkPlans says
	ids   *minter
	days  *daySet // partitions of fires known to exist

	admission admission
	pruned    atomic.Int64 // the revision up to which PruneRevisions has looked
}

// Open connects and pings. The caller closes the store.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 10
	}
	s := &Store{keys: cfg.Keys, trace: cfg.Traces, ids: &minter{}, days: newDaySet()}
	if s.trace == nil {
		s.trace = func(uuid.UUID) string { return "" }
	}
	if s.keys == nil {
		s.keys = plainKeys{}
	}
	for _, p := range []struct {
		pool     **pgxpool.Pool
		conns    int32
		settings map[string]string
	}{{&s.pool, cfg.MaxConns, nil}, {&s.beats, 2, nil}, {&s.bulk, 2, bulkPlans}} {
		if cfg.Readonly {
			p.settings = readOnly(p.settings)
		}
		pool, err := openPool(ctx, cfg.URL, p.conns, p.settings)
		if err != nil {
			s.Close()
			return nil, err
		}
		*p.pool = pool
	}
	return s, nil
}

// bulkPlans are the planner settings of statements that join runs with some
// hundreds of ids. A partition of today has no statistics yet; the planner then
// expects one row and chooses a nested loop over all pairs, which took seconds
// for 2,000 ids. A generic plan spares planning with 500 constants (some ms)
// and still prunes partitions when it runs. What remains is a scan of the
// primary key in its order, so that the rows are locked in the order of their ids, as
// everywhere; a bitmap would give them in the order in which they lie on disk.
// Where there is no other way than a forbidden one, its price would have
// Postgres compile the statement: seconds for a few rows.
var bulkPlans = map[string]string{
	"enable_nestloop": "off", "enable_bitmapscan": "off", "enable_seqscan": "off", "plan_cache_mode": "force_generic_plan",
	"jit": "off",
}

// readOnly adds what makes the server refuse to write, and to work for long.
func readOnly(settings map[string]string) map[string]string {
	settings = maps.Clone(settings)
	if settings == nil {
		settings = map[string]string{}
	}
	settings["default_transaction_read_only"], settings["statement_timeout"] = "on", "30000"
	return settings
}

// setBulkPlans does the same for the rest of a transaction.
func setBulkPlans(batch *pgx.Batch) {
	for name, value := range bulkPlans {
		batch.Queue("SET LOCAL " + name + " = " + value)
	}
}

func useBulkPlans(ctx context.Context, tx pgx.Tx) error {
	settings := &pgx.Batch{}
	setBulkPlans(settings)
	return tx.SendBatch(ctx, settings).Close()
}

func openPool(ctx context.Context, url string, conns int32, settings map[string]string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		// pgx masks the password in this message.
		return nil, task.Errorf(task.CodeInvalid, "postgres url: %w", err).At("postgres.url").
			Fix("write postgres://user:password@host:5432/database")
	}
	cfg.MaxConns = conns
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	// A leader that is suspended inside a transaction must not hold its locks for
	// ever, and a cut cable must be noticed: another master waits for both.
	parameters := cfg.ConnConfig.RuntimeParams
	for name, value := range map[string]string{
		"idle_in_transaction_session_timeout": "3000",
		"tcp_keepalives_idle":                 "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3",
		// A plan that a setting below forbids counts as very dear, for which Postgres
		// would compile code: 3.6 s for a statement of 0.1 ms.
		"jit": "off",
	} {
		if _, told := parameters[name]; !told {
			parameters[name] = value
		}
	}
	for name, value := range settings {
		parameters[name] = value
	}
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		pgxuuid.Register(conn.TypeMap()) // else ids pass through database/sql's text form, a third of the CPU
		return nil
	}
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

// Close waits for checked-out connections and closes the pools.
func (s *Store) Close() {
	for _, pool := range []*pgxpool.Pool{s.bulk, s.beats, s.pool} {
		if pool != nil {
			pool.Close()
		}
	}
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
	if pg.Code == "23514" && pg.ConstraintName == "" {
		return false // no partition takes the row: the value is not at fault
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
