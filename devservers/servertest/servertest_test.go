package servertest_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/devservers/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, servertest.LeakOptions()...) }

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	for range 3 {
		t.Run("same name", func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			var tasks int
			require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM tasks").Scan(&tasks))
			require.Zero(t, tasks)
			_, err := pool.Exec(t.Context(), `INSERT INTO tasks (name, chain) VALUES ('a', '[]')`)
			require.NoError(t, err)
		})
	}
}

func TestDatabaseIsDroppedAtTheEndWithOpenConnections(t *testing.T) {
	t.Parallel()
	var url string
	t.Run("user", func(t *testing.T) {
		url = servertest.PostgresURL(t)
		conn, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		require.NoError(t, conn.Ping(t.Context())) // left open on purpose
	})
	_, err := pgx.Connect(t.Context(), url)
	require.ErrorContains(t, err, "does not exist")
}

func TestEmptyDatabaseHasNoTable(t *testing.T) {
	t.Parallel()
	pool := servertest.PoolOf(t, servertest.EmptyPostgresURL(t))
	var tables int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").Scan(&tables))
	require.Zero(t, tables)
}

func TestRedisNamespaceIsCleaned(t *testing.T) {
	t.Parallel()
	options, err := redis.ParseURL(servertest.Redis(t))
	require.NoError(t, err)
	client := redis.NewClient(options)
	defer client.Close()
	var name string
	t.Run("user", func(t *testing.T) {
		name = servertest.RedisNamespace(t)
		require.NotEqual(t, name, servertest.RedisNamespace(t))
		require.NoError(t, client.Set(t.Context(), "asynq:{"+name+"}:pending", "x", 0).Err())
	})
	left, err := client.Exists(context.Background(), "asynq:{"+name+"}:pending").Result()
	require.NoError(t, err)
	require.Zero(t, left)
}

func TestDirCanBeEnteredByAll(t *testing.T) {
	t.Parallel()
	info, err := os.Stat(servertest.Dir(t))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
}
