package peers

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/catena-run/catena/bench"
)

const (
	riverInsertBatch = 1000 // jobs per InsertManyFast
	// River with its defaults works about 1,000 jobs/s, so a full load would only wait.
	riverDefaultMost = 5000
)

// River is River on a database of its own, made and dropped by each call. A job
// has ended when River says that its completion is committed.
type River struct {
	Servers bench.Servers
	Tuned   bool // 2,000 workers, fetch cooldown 1 ms, poll 10 ms, 20 connections; else River's documented defaults
}

// Name tells which configuration.
func (r River) Name() string {
	if r.Tuned {
		return "River, tuned"
	}
	return "River, defaults"
}

type noopArgs struct{}

func (noopArgs) Kind() string { return "noop" }

type noopWorker struct {
	river.WorkerDefaults[noopArgs]
	work func()
}

func (w *noopWorker) Work(context.Context, *river.Job[noopArgs]) error {
	if w.work != nil {
		w.work()
	}
	return nil
}

// Throughput inserts while the workers run.
func (r River) Throughput(ctx context.Context, n int) (float64, error) {
	return r.measure(ctx, n, false)
}

// Backlog inserts first and then starts the workers.
func (r River) Backlog(ctx context.Context, n int) (float64, error) {
	return r.measure(ctx, n, true)
}

func (r River) measure(ctx context.Context, n int, backlog bool) (result float64, err error) {
	if !r.Tuned {
		n = min(n, riverDefaultMost)
	}
	pool, drop, err := r.open(ctx)
	if err != nil {
		return 0, err
	}
	defer drop()
	client, err := r.client(pool, nil)
	if err != nil {
		return 0, err
	}
	events, cancel := client.SubscribeConfig(&river.SubscribeConfig{ChanSize: n + 1, Kinds: []river.EventKind{river.EventKindJobCompleted}})
	defer cancel()
	began := time.Now()
	if !backlog {
		if err := client.Start(ctx); err != nil {
			return 0, err
		}
	}
	if err := insertMany(ctx, client, n); err != nil {
		return 0, err
	}
	if backlog {
		began = time.Now()
		if err := client.Start(ctx); err != nil {
			return 0, err
		}
	}
	defer func() { err = firstOf(err, client.StopAndCancel(context.WithoutCancel(ctx))) }()
	for range n {
		select {
		case <-events:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return rate(n, began), nil
}

// Latency is the time from the call of Insert to the first line of the worker.
func (r River) Latency(ctx context.Context, n int) (p50, p99 time.Duration, err error) {
	pool, drop, err := r.open(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer drop()
	started := make(chan time.Time, n)
	client, err := r.client(pool, func() { started <- time.Now() })
	if err != nil {
		return 0, 0, err
	}
	if err := client.Start(ctx); err != nil {
		return 0, 0, err
	}
	defer func() { err = firstOf(err, client.StopAndCancel(context.WithoutCancel(ctx))) }()
	samples, err := sample(ctx, n, started, func() error {
		_, err := client.Insert(ctx, noopArgs{}, nil)
		return err
	})
	return bench.Percentile(samples, 0.5), bench.Percentile(samples, 0.99), err
}

func (r River) client(pool *pgxpool.Pool, work func()) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &noopWorker{work: work})
	config := &river.Config{
		Logger:  slog.New(slog.DiscardHandler),
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 100}},
		Workers: workers,
	}
	if r.Tuned {
		config.Queues[river.QueueDefault] = river.QueueConfig{MaxWorkers: 2000}
		config.FetchCooldown = time.Millisecond
		config.FetchPollInterval = 10 * time.Millisecond
	}
	return river.NewClient(riverpgxv5.New(pool), config)
}

// open makes a database with River's tables; drop removes it.
func (r River) open(ctx context.Context) (pool *pgxpool.Pool, drop func(), err error) {
	admin, err := pgx.Connect(ctx, r.Servers.PostgresURL)
	if err != nil {
		return nil, nil, err
	}
	name := fmt.Sprintf("bench_river_%08x", rand.Uint32())
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return nil, nil, firstOf(err, admin.Close(ctx))
	}
	drop = func() {
		late := context.WithoutCancel(ctx)
		if pool != nil {
			pool.Close()
		}
		_, _ = admin.Exec(late, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		_ = admin.Close(late)
	}
	if pool, err = r.migrated(ctx, name); err != nil {
		drop()
		return nil, nil, err
	}
	return pool, drop, nil
}

func (r River) migrated(ctx context.Context, database string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(r.Servers.PostgresURL)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.Database = database
	if r.Tuned {
		config.MaxConns = 20
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	if err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

func insertMany(ctx context.Context, client *river.Client[pgx.Tx], n int) error {
	for n > 0 {
		size := min(n, riverInsertBatch)
		batch := make([]river.InsertManyParams, size)
		for i := range batch {
			batch[i].Args = noopArgs{}
		}
		if _, err := client.InsertManyFast(ctx, batch); err != nil {
			return err
		}
		n -= size
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
