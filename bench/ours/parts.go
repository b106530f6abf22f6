package ours

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
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
	Goal  string // "": none
	Share string // of the goal that was reached: 1 and more is good
}

// most is a duration that is not to exceed a goal.
func most(name string, d, goal time.Duration) Figure {
	return Figure{name, d.String(), "<= " + goal.String(), fmt.Sprintf("%.2f", float64(goal)/float64(d))}
}

// least is a rate that is to reach a goal.
func least(name string, rate, goal float64) Figure {
	return Figure{name, fmt.Sprintf("%.0f", rate), fmt.Sprintf(">= %.0f", goal), fmt.Sprintf("%.2f", rate/goal)}
}

// Parts measures what has no peer to run beside: the cost of a durable step,
// calls of a package function, and a million schedules. only is a part of the
// names of those to measure; "": all.
func Parts(ctx context.Context, servers bench.Servers, schedules int, only string) ([]Figure, error) {
	var all []Figure
	for _, part := range []struct {
		name    string
		measure func(context.Context, bench.Servers) ([]Figure, error)
	}{
		{"steps", durableSteps},
		{"calls", functionCalls},
		{"schedules", func(ctx context.Context, s bench.Servers) ([]Figure, error) { return manySchedules(ctx, s, schedules) }},
	} {
		if !strings.Contains(part.name, only) {
			continue
		}
		figures, err := part.measure(ctx, servers)
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
		{Name: "durable step, 16 runs at once, p50", Value: bench.Percentile(spent, 0.5).String()},
		{Name: "durable step, 16 runs at once, p99", Value: bench.Percentile(spent, 0.99).String()},
		{Name: "durable steps/s, 16 runs at once", Value: perSecond(5*runs*steps, began)},
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
	return []Figure{{Name: "calls/s of a package function, one process", Value: perSecond(calls, began)}}, nil
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
	figures := []Figure{
		most(name("empty tick, p50"), bench.Percentile(empty, 0.5), time.Millisecond),
		most(name("empty tick, p99"), bench.Percentile(empty, 0.99), time.Millisecond),
	}

	const many = 50_000
	fires, err := burst(ctx, cl, many)
	if err != nil {
		return nil, err
	}
	figures = append(figures, least(name("fires/s, committed with their runs"), fires, 30_000))
	late, err := lateness(ctx, cl, 1000)
	if err != nil {
		return nil, err
	}
	return append(figures,
		Figure{Name: name("lateness of 1,000 due at once, p50"), Value: bench.Percentile(late, 0.5).String()},
		most(name("lateness of 1,000 due at once, p99"), bench.Percentile(late, 0.99), 250*time.Millisecond)), nil
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

// burst makes n schedules due and waits until the leader has fired them all:
// until their ledger rows, their runs, accepted, and their next due times are
// committed. No worker runs, so that the runs wait in the ready table.
func burst(ctx context.Context, cl *Cluster, n int) (perSecond float64, err error) {
	pool := cl.Store.Pool()
	var due time.Time
	if err := pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&due); err != nil {
		return 0, err
	}
	if _, err := pool.Exec(ctx, `UPDATE schedule_due SET due_at = $1 WHERE schedule <= (SELECT min(schedule) FROM schedule_due) + $2`, due, n-1); err != nil {
		return 0, err
	}
	began := time.Now()
	err = poll(ctx, func() (done bool, err error) {
		// By the index, with a constant: the look must cost nothing beside what is measured.
		err = pool.QueryRow(ctx, `SELECT coalesce((SELECT due_at > $1 FROM schedule_due WHERE due_at >= $1 ORDER BY due_at LIMIT 1), true)`, due).Scan(&done)
		return done, err
	})
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	var fires, runs int
	if err := pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM fires WHERE run IS NOT NULL), (SELECT count(*) FROM runs)`).Scan(&fires, &runs); err != nil {
		return 0, err
	}
	if fires != n || runs != n {
		return 0, fmt.Errorf("of %d due schedules %d fires were started and %d runs accepted", n, fires, runs)
	}
	return float64(n) / took.Seconds(), nil
}

// lateness makes n schedules due at one coming second and returns how late
// each of their runs was committed, by the clock of this machine, which is the database's.
func lateness(ctx context.Context, cl *Cluster, n int) ([]time.Duration, error) {
	pool := cl.Store.Pool()
	var due time.Time
	if err := pool.QueryRow(ctx, `SELECT date_trunc('second', clock_timestamp()) + interval '3 seconds'`).Scan(&due); err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, `UPDATE schedule_due SET due_at = $1 WHERE schedule <= (SELECT min(schedule) FROM schedule_due) + $2`, due, n-1); err != nil {
		return nil, err
	}
	select {
	case <-time.After(time.Until(due)):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var late []time.Duration
	err := poll(ctx, func() (bool, error) {
		var seen int
		if err := pool.QueryRow(ctx, `SELECT count(*) FROM fires WHERE due_at = $1 AND run IS NOT NULL`, due).Scan(&seen); err != nil {
			return false, err
		}
		now := time.Since(due)
		for len(late) < seen {
			late = append(late, now)
		}
		return len(late) >= n, nil
	})
	return late, err
}

func perSecond(n int, since time.Time) string {
	return fmt.Sprintf("%.0f", float64(n)/time.Since(since).Seconds())
}
