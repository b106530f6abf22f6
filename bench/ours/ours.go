// Package ours runs Catena itself for the measurements: a leading master and a
// worker in one process, on a database of its own, put together as node does.
package ours

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/bench"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/migrations"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/worker"
)

// Catena measures runs of a task whose chain is one nop.
type Catena struct {
	Servers bench.Servers
}

// Name of the subject.
func (c Catena) Name() string { return "Catena" }

const (
	submitBatch = 500
	submitters  = 4
)

// Throughput submits in batches while a worker works. A run has ended when its
// outcome is committed.
func (c Catena) Throughput(ctx context.Context, n int) (float64, error) {
	cl, err := Open(ctx, c.Servers, nil)
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	cl.StartWorker(ctx)
	if err := cl.warm(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cl.submit(ctx, n); err != nil {
		return 0, err
	}
	if err := cl.Drained(ctx); err != nil {
		return 0, err
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// Backlog submits first and then starts the worker.
func (c Catena) Backlog(ctx context.Context, n int) (float64, error) {
	cl, err := Open(ctx, c.Servers, nil)
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	if err := cl.submit(ctx, n); err != nil {
		return 0, err
	}
	began := time.Now()
	cl.StartWorker(ctx)
	if err := cl.Drained(ctx); err != nil {
		return 0, err
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// Latency is the time from the call of Submit to the start of the chain.
func (c Catena) Latency(ctx context.Context, n int) (p50, p99 time.Duration, err error) {
	started := make(chan time.Time, 10_000) // more than warm runs
	cl, err := Open(ctx, c.Servers, func(_ task.State, d time.Duration) { started <- time.Now().Add(-d) })
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	cl.StartWorker(ctx)
	if err := cl.warm(ctx); err != nil {
		return 0, 0, err
	}
	for len(started) > 0 {
		<-started
	}
	var samples []time.Duration
	for range n {
		select {
		case <-time.After(rand.N(time.Second)):
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
		at := time.Now()
		if _, err := cl.Dispatch.Submit(ctx, []dispatch.Request{{Task: "noop"}}); err != nil {
			return 0, 0, err
		}
		select {
		case start := <-started:
			samples = append(samples, start.Sub(at))
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
	return bench.Percentile(samples, 0.5), bench.Percentile(samples, 0.99), nil
}

// Cluster is a running Catena.
type Cluster struct {
	Store    *store.Store
	Dispatch *dispatch.Dispatcher
	Packages *pkgstore.Store
	Term     func() bool

	queue   *queue.Asynq
	engine  *script.Engine
	log     *logrus.Logger
	observe func(task.State, time.Duration)
	work    sync.WaitGroup
	stop    context.CancelFunc
	ctx     context.Context
	drop    func()
}

// Open makes a database and starts a leading master on it.
func Open(ctx context.Context, servers bench.Servers, observe func(task.State, time.Duration)) (cl *Cluster, err error) {
	address, drop, err := database(ctx, servers.PostgresURL)
	if err != nil {
		return nil, err
	}
	cl = &Cluster{drop: drop, observe: observe, log: logrus.New()}
	cl.log.SetOutput(io.Discard)
	cl.ctx, cl.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			cl.Close()
		}
	}()
	if cl.Store, err = store.Open(ctx, store.Config{URL: address, MaxConns: 16, Keys: dispatch.NewKeys()}); err != nil {
		return cl, err
	}
	if err := migrations.Up(ctx, cl.Store.Pool(), cl.log); err != nil {
		return cl, err
	}
	if err := cl.Store.EnsurePartitions(ctx); err != nil {
		return cl, err
	}
	id, err := cl.Store.ClusterID(ctx)
	if err != nil {
		return cl, err
	}
	if cl.queue, err = queue.Open(queue.Config{URL: servers.RedisURL, Namespace: "bench-" + id[:8]}, cl.log); err != nil {
		return cl, err
	}
	cl.Packages = pkgstore.New(cl.Store.Pool(), pkgstore.Config{})
	cl.Dispatch = dispatch.New(cl.Store, cl.queue, cl.log)
	cl.engine = script.New(script.Config{}, cl.log)
	if err := cl.Apply(ctx, task.Definition{Name: "noop", Chain: json.RawMessage(`[["nop"]]`)}); err != nil {
		return cl, err
	}
	return cl, cl.lead(ctx)
}

// Apply makes a task.
func (cl *Cluster) Apply(ctx context.Context, def task.Definition) error {
	_, err := cl.Store.ApplyTasks(ctx, []task.Definition{def}, false)
	return err
}

func (cl *Cluster) lead(ctx context.Context) error {
	m := master.New(master.Config{Name: "bench", Lead: true}, master.Deps{
		Store: cl.Store, Queue: cl.queue, Dispatch: cl.Dispatch, Log: cl.log,
		Scheduler: scheduler.New(scheduler.DefaultConfig(), cl.Store, cl.Dispatch, cl.log),
	})
	cl.work.Go(func() { _ = m.Run(cl.ctx) })
	return poll(ctx, func() (bool, error) { return m.Leads(), nil })
}

// StartWorker starts a worker in this process.
func (cl *Cluster) StartWorker(context.Context) {
	w, err := worker.New(worker.Config{Version: "bench"}, worker.Deps{
		Store: cl.Store, Queue: cl.queue, Packages: pkgstore.NewCache(cl.Packages, 0), Scripts: cl.engine,
		Dispatch: cl.Dispatch, Log: cl.log, Observe: cl.observe,
	})
	if err != nil {
		panic(err) // the configuration above is constant
	}
	cl.work.Go(func() { _ = w.Run(cl.ctx) })
}

// warm runs a few tasks so that their cost is known, as it is of any task that
// has run before.
func (cl *Cluster) warm(ctx context.Context) error {
	for range 3 {
		if err := cl.submit(ctx, submitBatch); err != nil {
			return err
		}
		if err := cl.Drained(ctx); err != nil {
			return err
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

func (cl *Cluster) submit(ctx context.Context, n int) error {
	requests := make([]dispatch.Request, submitBatch)
	for i := range requests {
		requests[i].Task = "noop"
	}
	batches := make(chan int)
	failures := make([]error, submitters)
	var all sync.WaitGroup
	for i := range submitters {
		all.Go(func() {
			for size := range batches {
				if failures[i] != nil {
					continue
				}
				_, failures[i] = cl.Dispatch.Submit(ctx, requests[:size])
			}
		})
	}
	for left := n; left > 0; left -= submitBatch {
		batches <- min(left, submitBatch)
	}
	close(batches)
	all.Wait()
	return errors.Join(failures...)
}

// Drained waits until nothing is ready and no parcel is left: the last outcome
// of a parcel is committed together with the parcel's end.
func (cl *Cluster) Drained(ctx context.Context) error {
	return poll(ctx, func() (done bool, err error) {
		err = cl.Store.Pool().QueryRow(ctx, `SELECT NOT EXISTS (SELECT 1 FROM ready) AND NOT EXISTS (SELECT 1 FROM parcels)`).Scan(&done)
		return done, err
	})
}

// Close stops everything and drops the database.
func (cl *Cluster) Close() {
	cl.stop()
	cl.work.Wait()
	if cl.engine != nil {
		cl.engine.Close()
	}
	if cl.queue != nil {
		_ = cl.queue.Close()
	}
	if cl.Store != nil {
		cl.Store.Close()
	}
	cl.drop()
}

func poll(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// database makes a database on the server and returns its URL.
func database(ctx context.Context, server string) (address string, drop func(), err error) {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return "", nil, err
	}
	defer conn.Close(ctx)
	name := fmt.Sprintf("bench_catena_%d", rand.Int64())
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", nil, err
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", nil, err
	}
	u.Path = "/" + name
	return u.String(), func() {
		ctx := context.WithoutCancel(ctx)
		if conn, err := pgx.Connect(ctx, server); err == nil {
			_, _ = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
			_ = conn.Close(ctx)
		}
	}, nil
}
