package migrations_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/migrations"
	"github.com/catena-run/catena/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, servertest.LeakOptions()...) }

func emptyDatabase(t *testing.T) (*pgxpool.Pool, *logrus.Logger, *test.Hook) {
	t.Helper()
	log, hook := test.NewNullLogger()
	return servertest.PoolOf(t, servertest.EmptyPostgresURL(t)), log, hook
}

// objects counts what the schema consists of, without goose's own table.
func objects(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'goose%')
		     + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)`).Scan(&n))
	return n
}

func TestUpDownUp(t *testing.T) {
	t.Parallel()
	pool, log, hook := emptyDatabase(t)
	require.NoError(t, migrations.Up(t.Context(), pool, log))
	require.Len(t, hook.AllEntries(), int(migrations.Version()))
	full := objects(t, pool)
	require.Greater(t, full, 20)
	_, err := pool.Exec(t.Context(), `INSERT INTO tasks (name, chain) VALUES ('a/b', '[]')`)
	require.NoError(t, err)

	require.NoError(t, migrations.Up(t.Context(), pool, log), "nothing left to do is fine")
	for range migrations.Version() {
		require.NoError(t, migrations.Down(t.Context(), pool, log))
	}
	require.Zero(t, objects(t, pool), "down must leave nothing")
	require.Error(t, migrations.Down(t.Context(), pool, log))

	require.NoError(t, migrations.Up(t.Context(), pool, log))
	require.Equal(t, full, objects(t, pool))
}

func TestStatus(t *testing.T) {
	t.Parallel()
	pool, log, _ := emptyDatabase(t)
	list, err := migrations.Status(t.Context(), pool)
	require.NoError(t, err)
	require.Len(t, list, int(migrations.Version()))
	for i, m := range list {
		require.EqualValues(t, i+1, m.Version, "versions must count up from 1 without gaps: Version relies on it")
		require.Nil(t, m.AppliedAt)
	}
	require.Equal(t, "00001_init.sql", list[0].Name)

	require.NoError(t, migrations.Up(t.Context(), pool, log))
	list, err = migrations.Status(t.Context(), pool)
	require.NoError(t, err)
	for _, m := range list {
		require.NotNil(t, m.AppliedAt)
		require.False(t, m.AppliedAt.IsZero())
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	pool, log, _ := emptyDatabase(t)
	exec := func(sql string, args ...any) {
		_, err := pool.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
	}
	requireOld := func() {
		err := migrations.Check(t.Context(), pool)
		require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
		require.ErrorContains(t, err, "run `catena migrate up`")
	}
	requireOld() // never migrated
	require.NoError(t, migrations.Up(t.Context(), pool, log))
	require.NoError(t, migrations.Check(t.Context(), pool))

	// A newer binary has expanded the schema; this one may still work on it.
	newer := migrations.Version() + 2
	exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, true)", newer)
	require.NoError(t, migrations.Check(t.Context(), pool))
	require.NoError(t, migrations.Up(t.Context(), pool, log), "up leaves a newer database as it is")

	// It has contracted the schema: this binary is too old.
	exec("UPDATE schema_info SET min_compatible = $1", migrations.Version()+1)
	err := migrations.Check(t.Context(), pool)
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	require.EqualError(t, err, fmt.Sprintf("this binary has schema version %d; the database (version %d) needs at least %d; use a newer release of catena",
		migrations.Version(), newer, migrations.Version()+1))

	exec("DELETE FROM goose_db_version WHERE version_id = $1", newer)
	for range migrations.Version() {
		require.NoError(t, migrations.Down(t.Context(), pool, log))
	}
	requireOld() // taken back
}

func TestCheckWithoutAServer(t *testing.T) {
	t.Parallel()
	pool := servertest.PoolOf(t, "postgres://catena@127.0.0.1:1/catena?connect_timeout=2")
	err := migrations.Check(t.Context(), pool)
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	require.ErrorContains(t, err, "postgres.url")
}

func TestUpsAtOnceDoNotCollide(t *testing.T) {
	t.Parallel()
	url := servertest.EmptyPostgresURL(t)
	log, hook := test.NewNullLogger()
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		pool := servertest.PoolOf(t, url) // as from different processes
		wg.Go(func() { errs[i] = migrations.Up(t.Context(), pool, log) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Len(t, hook.AllEntries(), int(migrations.Version()), "each migration is applied once")
}

// A backup reads for as long as it takes: a migration lets others at the
// tables meanwhile, and goes on when it is over.
func TestUpWaitsForALongReader(t *testing.T) {
	t.Parallel()
	pool, log, hook := emptyDatabase(t)
	require.NoError(t, migrations.Up(t.Context(), pool, log))
	for range migrations.Version() - 5 {
		require.NoError(t, migrations.Down(t.Context(), pool, log))
	}
	hook.Reset()
	reader, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = reader.Exec(t.Context(), `LOCK TABLE runs IN ACCESS SHARE MODE`)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- migrations.Up(t.Context(), pool, log) }()
	require.Eventually(t, func() bool { return len(hook.AllEntries()) > 0 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, logrus.WarnLevel, hook.AllEntries()[0].Level)
	require.NoError(t, reader.Commit(t.Context()))
	require.NoError(t, <-done)
	require.NoError(t, migrations.Check(t.Context(), pool))
}

// The previous binary goes on beside this one: what it sends must still be
// understood, and what it leaves out must have a default. The file holds every statement
// that the binary of schema 1 was seen to send, one to a line.
func TestStatementsOfTheOlderBinaryAreUnderstood(t *testing.T) {
	t.Parallel()
	pool, log, _ := emptyDatabase(t)
	require.NoError(t, migrations.Up(t.Context(), pool, log))
	text, err := os.ReadFile("testdata/statements_of_schema_1.sql")
	require.NoError(t, err)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for i, statement := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		name := fmt.Sprintf("old_%d", i)
		_, err := conn.Conn().Prepare(t.Context(), name, statement)
		require.NoError(t, err, "line %d: %s", i+1, statement)
		required := `SELECT count(*) FROM information_schema.columns c JOIN regexp_match($1, '^INSERT INTO (\w+)[^(]*\(([^)]*)\)') m ON c.table_name = m[1]
			WHERE c.table_schema = 'public' AND c.is_nullable = 'NO' AND c.column_default IS NULL AND c.is_identity = 'NO'
				AND c.column_name <> ALL (regexp_split_to_array(m[2], ',\s*'))`
		var missing int
		require.NoError(t, conn.QueryRow(t.Context(), required, statement).Scan(&missing))
		require.Zero(t, missing, "line %d leaves out a column that has no default: %s", i+1, statement)
	}
}
