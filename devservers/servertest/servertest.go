// Package servertest gives tests a real PostgreSQL and a real Redis.
//
// Each test gets a database of its own, made from a migrated template, and a
// name of its own in Redis. The servers are those of CATENA_TEST_POSTGRES_URL
// and CATENA_TEST_REDIS_URL when set, as cmd/testservers does for a whole
// `go test ./...`; else the test process starts private ones, which die with it.
//
// The package is for tests only and never connects to a server it was not told of.
package servertest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/devservers"
)

// The variables that name servers to use.
const (
	EnvPostgres = "CATENA_TEST_POSTGRES_URL"
	EnvRedis    = "CATENA_TEST_REDIS_URL"
)

const (
	startPatience = 2 * time.Minute
	dropPatience  = 30 * time.Second
)

// The servers of this test process, started when first asked for. They are the
// only state of the package: a server per test would cost a second each.
var (
	sharedFolder   = sync.OnceValues(makeFolder)
	sharedPostgres = sync.OnceValues(openCluster)
	sharedRedis    = sync.OnceValues(openRedis)
)

// Postgres returns a pool on a migrated database of the test's own. Both are
// gone when the test has ended.
func Postgres(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return PoolOf(t, PostgresURL(t))
}

// PoolOf opens a pool that is closed at the test's end. A connection that the
// test has not given back by then fails it.
func PoolOf(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatalf("parse the test database's URL: %v", err)
	}
	cfg.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatalf("connect to the test database: %v", err)
	}
	t.Cleanup(func() { closePool(t, pool) })
	return pool
}

func closePool(t testing.TB, pool *pgxpool.Pool) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(15 * time.Second):
		t.Errorf("%d connections were not given back to the pool", pool.Stat().AcquiredConns())
	}
}

// PostgresURL returns the URL of a migrated database of the test's own.
func PostgresURL(t testing.TB) string { return database(t, true) }

// EmptyPostgresURL returns the URL of a database of the test's own without any
// table, for tests of the migrations.
func EmptyPostgresURL(t testing.TB) string { return database(t, false) }

func database(t testing.TB, migrated bool) string {
	t.Helper()
	c, err := sharedPostgres()
	if err != nil {
		t.Fatalf("test PostgreSQL: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	name := "test_" + slug(t.Name(), 30) + "_" + random()
	if err := c.create(ctx, name, migrated); err != nil {
		t.Fatalf("create the test database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), dropPatience)
		defer cancel()
		if err := c.drop(ctx, name); err != nil {
			t.Errorf("drop the test database: %v", err)
		}
	})
	return c.urlOf(name)
}

// Redis returns the URL of a Redis that the tests of this process, and with
// CATENA_TEST_REDIS_URL of others too, share: keep to RedisNamespace in it and
// never flush it. A test that does starts its own with OwnRedis.
func Redis(t testing.TB) string {
	t.Helper()
	url, err := sharedRedis()
	if err != nil {
		t.Fatalf("test Redis: %v", err)
	}
	return url
}

// OwnRedis starts a Redis for one test, which may empty, kill and restart it.
func OwnRedis(t testing.TB) *devservers.Redis {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	r, err := devservers.StartRedis(ctx, devservers.RedisConfig{DataDir: filepath.Join(Dir(t), "redis"), Log: quiet()})
	if err != nil {
		t.Fatalf("start a Redis: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), dropPatience)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Errorf("stop the test's Redis: %v", err)
		}
	})
	return r
}

// RedisNamespace returns a name that no other test has, of letters and digits.
// Every key that contains it is deleted when the test has ended.
func RedisNamespace(t testing.TB) string {
	t.Helper()
	url, name := Redis(t), "t"+random()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), dropPatience)
		defer cancel()
		if err := deleteKeys(ctx, url, name); err != nil {
			t.Logf("keys of %s are left in Redis: %v", name, err)
		}
	})
	return name
}

func deleteKeys(ctx context.Context, url, name string) error {
	options, err := redis.ParseURL(url)
	if err != nil {
		return err
	}
	client := redis.NewClient(options)
	defer client.Close()
	var keys []string
	scan := client.Scan(ctx, 0, "*"+name+"*", 1000).Iterator()
	for scan.Next(ctx) {
		keys = append(keys, scan.Val())
	}
	if scan.Err() != nil || len(keys) == 0 {
		return scan.Err()
	}
	return client.Unlink(ctx, keys...).Err()
}

// Dir returns a temporary folder for a test that starts servers of its own. Unlike
// t.TempDir, the server's user can enter it when the tests run as root.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := openTempDir("catena-dir-")
	if err != nil {
		t.Fatalf("make a folder: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// LeakOptions are for goleak.VerifyTestMain: the shared servers run until the
// process ends.
func LeakOptions() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/catena-run/catena/lifecycle.(*Child).run"),
		goleak.IgnoreAnyFunction("github.com/catena-run/catena/devservers.(*miniServer).tick"),
	}
}

// openRedis returns the URL of the environment's Redis, or starts one.
func openRedis() (string, error) {
	if url := os.Getenv(EnvRedis); url != "" {
		return url, nil
	}
	dir, err := sharedFolder()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	r, err := devservers.StartRedis(ctx, devservers.RedisConfig{DataDir: filepath.Join(dir, "redis"), Log: quiet()})
	if err != nil {
		return "", err
	}
	return r.URL, nil
}

func makeFolder() (string, error) {
	removeDeadFolders()
	return NewFolder()
}

// quiet logs warnings and errors only.
func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetLevel(logrus.WarnLevel)
	return log
}

func random() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

var notPlain = regexp.MustCompile(`[^a-z0-9]+`)

func slug(name string, limit int) string {
	s := strings.Trim(notPlain.ReplaceAllString(strings.ToLower(name), "_"), "_")
	return s[:min(len(s), limit)]
}

// errNoTempDir is for a root process whose temporary folders the server's user cannot enter.
var errNoTempDir = errors.New("no temporary folder that the server's user can enter; set TMPDIR to one")
