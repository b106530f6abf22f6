package ours

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/bench"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Figure is one measured number with its unit.
type Figure struct {
	Name  string
	Value string
}

// Parts measures what has no peer to run beside: the cost of a durable step,
// calls of a package function, and a million schedules.
func Parts(ctx context.Context, servers bench.Servers, schedules int) ([]Figure, error) {
	var all []Figure
	for _, measure := range []func(context.Context, bench.Servers) ([]Figure, error){
		durableSteps, functionCalls,
		func(ctx context.Context, s bench.Servers) ([]Figure, error) { return manySchedules(ctx, s, schedules) },
	} {
		figures, err := measure(ctx, servers)
		if err != nil {
			return all, err
		}
		all = append(all, figures...)
	}
	return all, nil
}

// durableSteps runs chains of many nops, 16 at once: each nop is a step that is
// committed before the next begins.
func durableSteps(ctx context.Context, servers bench.Servers) ([]Figure, error) {
	const steps, runs = 100, 16
	var mu sync.Mutex
	var spent []time.Duration
	cl, err := Open(ctx, servers, func(_ task.State, d time.Duration) { mu.Lock(); spent = append(spent, d/steps); mu.Unlock() })
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	items := make([][]string, steps)
	for i := range items {
		items[i] = []string{"nop"}
	}
	text, err := json.Marshal(items)
	if err != nil {
		return nil, err
	}
	if err := cl.Apply(ctx, task.Definition{Name: "steps", Chain: text}); err != nil {
		return nil, err
	}
	cl.StartWorker(ctx)
	requests := make([]dispatch.Request, runs)
	for i := range requests {
		requests[i].Task = "steps"
	}
	began := time.Now()
	for range 5 {
		if _, err := cl.Dispatch.Submit(ctx, requests); err != nil {
			return nil, err
		}
		if err := cl.Drained(ctx); err != nil {
			return nil, err
		}
	}
	mu.Lock()
	defer mu.Unlock()
	return []Figure{
		{"durable step, 16 runs at once, p50", bench.Percentile(spent, 0.5).String()},
		{"durable step, 16 runs at once, p99", bench.Percentile(spent, 0.99).String()},
		{"durable steps/s, 16 runs at once", perSecond(5*runs*steps, began)},
	}, nil
}

// functionCalls calls a TypeScript function from as many goroutines as cores.
func functionCalls(ctx context.Context, servers bench.Servers) ([]Figure, error) {
	cl, err := Open(ctx, servers, nil)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	version, err := push(ctx, cl.Packages)
	if err != nil {
		return nil, err
	}
	log := logrus.New()
	engine := script.New(script.Config{}, log)
	defer engine.Close()
	const calls = 20_000
	var left atomic.Int64
	var failed atomic.Int64
	left.Store(calls)
	began := time.Now()
	var all sync.WaitGroup
	for range runtime.NumCPU() {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				o := engine.Call(ctx, script.Call{Version: version, Module: "greet", Function: "main", Input: json.RawMessage(`{"name":"you"}`), External: true})
				if !o.Success {
					failed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := failed.Load(); n > 0 {
		return nil, fmt.Errorf("%d calls failed", n)
	}
	return []Figure{{"calls/s of a package function, one process", perSecond(calls, began)}}, nil
}

// push stores a small package and loads it as a worker does.
func push(ctx context.Context, packages *pkgstore.Store) (*pkgstore.Version, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string]string{
		"catena.yaml": "name: bench\nexports: [\"greet?main\"]\n",
		"greet.ts":    "export async function main(input: {name: string}) { return { text: `hello ${input.name}` }; }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	content, err := pkgstore.ReadDir(dir, pkgstore.Limits{})
	if err != nil {
		return nil, err
	}
	pushed, err := packages.Push(ctx, content, task.DefaultChannel, "bench")
	if err != nil {
		return nil, err
	}
	return packages.Load(ctx, pushed.Digest)
}

// manySchedules measures the scheduler on a table of many schedules, none of
// them due but those it makes due.
func manySchedules(ctx context.Context, servers bench.Servers, n int) ([]Figure, error) {
	cl, err := Open(ctx, servers, nil)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	pool := cl.Store.Pool()
	// One transaction, so that the leader does not begin to plan in between.
	if _, err := pool.Exec(ctx, `
		INSERT INTO schedules (task, cron, overlap) SELECT 'noop', '0 0 1 1 *', 'allow-all' FROM generate_series(1, `+strconv.Itoa(n)+`);
		UPDATE schedules SET planned = version;
		INSERT INTO schedule_due SELECT id, clock_timestamp() + interval '1 day' + id * interval '1 millisecond' FROM schedules`); err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, `VACUUM ANALYZE`); err != nil {
		return nil, err
	}
	empty, err := emptyTicks(ctx, cl.Store)
	if err != nil {
		return nil, err
	}
	name := func(text string) string { return fmt.Sprintf("%s, %d schedules", text, n) }
	figures := []Figure{{name("empty tick, p50"), bench.Percentile(empty, 0.5).String()}, {name("empty tick, p99"), bench.Percentile(empty, 0.99).String()}}

	const many = 50_000
	fires, err := burst(ctx, cl, many)
	if err != nil {
		return nil, err
	}
	figures = append(figures, Figure{name("fires/s with their runs"), fmt.Sprintf("%.0f", fires)})
	late, err := lateness(ctx, cl, 1000)
	if err != nil {
		return nil, err
	}
	return append(figures,
		Figure{name("lateness of 1,000 due at once, p50"), bench.Percentile(late, 0.5).String()},
		Figure{name("lateness of 1,000 due at once, p99"), bench.Percentile(late, 0.99).String()}), nil
}

func emptyTicks(ctx context.Context, s *store.Store) ([]time.Duration, error) {
	var samples []time.Duration
	for range 500 {
		began := time.Now()
		if _, _, err := s.NextDue(ctx); err != nil {
			return nil, err
		}
		samples = append(samples, time.Since(began))
	}
	return samples, nil
}

// burst makes n schedules due and waits until the leader has fired them all.
func burst(ctx context.Context, cl *Cluster, n int) (perSecond float64, err error) {
	pool := cl.Store.Pool()
	if _, err := pool.Exec(ctx, `UPDATE schedule_due SET due_at = clock_timestamp() WHERE schedule <= (SELECT min(schedule) FROM schedule_due) + $1`, n-1); err != nil {
		return 0, err
	}
	began := time.Now()
	err = poll(ctx, func() (done bool, err error) {
		err = pool.QueryRow(ctx, `SELECT NOT EXISTS (SELECT 1 FROM schedule_due WHERE due_at < clock_timestamp() + interval '1 hour')`).Scan(&done)
		return done, err
	})
	return float64(n) / time.Since(began).Seconds(), err
}

// lateness makes n schedules due at one coming second and returns how late
// each was fired by the database clock.
func lateness(ctx context.Context, cl *Cluster, n int) ([]time.Duration, error) {
	pool := cl.Store.Pool()
	var due time.Time
	if err := pool.QueryRow(ctx, `SELECT date_trunc('second', clock_timestamp()) + interval '3 seconds'`).Scan(&due); err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, `UPDATE schedule_due SET due_at = $1 WHERE schedule <= (SELECT min(schedule) FROM schedule_due) + $2`, due, n-1); err != nil {
		return nil, err
	}
	var late []time.Duration
	err := poll(ctx, func() (bool, error) {
		rows, err := pool.Query(ctx, `SELECT fired_at FROM fires WHERE due_at = $1`, due)
		if err != nil {
			return false, err
		}
		defer rows.Close()
		late = late[:0]
		for rows.Next() {
			var at time.Time
			if err := rows.Scan(&at); err != nil {
				return false, err
			}
			late = append(late, at.Sub(due))
		}
		return len(late) >= n, rows.Err()
	})
	return late, err
}

func perSecond(n int, since time.Time) string {
	return fmt.Sprintf("%.0f", float64(n)/time.Since(since).Seconds())
}
