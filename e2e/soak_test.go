package e2e

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/shirou/gopsutil/v3/process"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
)

// soakTime is how long `make soak` lasts; 0: it was not asked for.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("CATENA_TEST_SOAK")
	if text == "" {
		t.Skip("`make soak` runs it")
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err, "CATENA_TEST_SOAK")
	return d
}

// soakTasks are without package code; those of the fault tests are with it.
const soakTasks = `
name: soak/nop
chain: [nop]
---
name: soak/set
chain:
  - set: {text: "${params.text}"}
  - set: {outcome: {success: true, data: "${vars.text}"}}
params: {text: a}
`

// TestSoak puts half of what it can take on a cluster and looks whether it grows.
func TestSoak(t *testing.T) {
	length := soakTime(t)
	c := newCluster(t, "worker.slots=16")
	m := c.startMaster(2)
	c.awaitWorkers(2)
	c.push()
	c.apply(soakTasks)
	l := newLoad(c, 5)
	l.kinds = append(kinds(), kind{task: "soak/nop", attempt: 1, weight: 30}, kind{task: "soak/set", attempt: 1, weight: 30})
	guests := visitRate(t, m.http, 100)
	most := c.capacity(l, max(20*time.Second, length/30))
	rate := most / 2
	fmt.Printf("soak for %v at %d runs/s, half of the %d/s that the cluster takes, and 100 requests/s\n", length, rate, most)

	stop := make(chan struct{})
	var streams sync.WaitGroup
	streams.Go(func() { l.steady(t.Context(), stop, rate) })
	began, figures := time.Now(), history.Series{}
	before := len(l.ids())
	for next := began; time.Since(began) < length; next = next.Add(min(10*time.Second, length/20)) {
		pace(t.Context(), time.Until(next))
		c.sample(m, time.Since(began), figures)
	}
	took, done := time.Since(began), len(l.ids())-before
	close(stop)
	streams.Wait()
	guests.leave()
	require.NoError(t, l.err)
	require.Empty(t, guests.failed())
	c.awaitWorkers(2)
	c.within(5*time.Minute, func() bool { return c.text(`SELECT count(*)::text FROM runs WHERE finished_at IS NULL`) == "0" }, "runs do not end")
	require.Equal(t, strconv.Itoa(len(l.ids())), c.text(`SELECT count(*)::text FROM runs WHERE state = 'succeeded'`))
	fmt.Printf("%d runs in %v (%.0f/s), all succeeded; %s\n", done, took.Round(time.Second), float64(done)/took.Seconds(), guests.summary())

	var problems []string
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		trend := history.TrendOf(figures[name], length/5) // what it takes to get warm is no growth
		fmt.Printf("%-28s %s\n", name, trend)
		if trend.Grows() {
			problems = append(problems, name+" grows: "+trend.String())
		}
	}
	require.NotEmpty(t, figures)
	require.Empty(t, problems)
}

// capacity is how many runs a second the cluster ends while as many wait as it likes.
func (c *cluster) capacity(l *load, length time.Duration) int {
	c.t.Helper()
	stop, began := make(chan struct{}), time.Now()
	var streams sync.WaitGroup
	for range 4 {
		streams.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if n, _ := strconv.Atoi(c.text(`SELECT count(*)::text FROM ready`)); n > 2000 {
					pace(c.t.Context(), 50*time.Millisecond)
					continue
				}
				l.submit(c.t.Context(), l.pick(), 50)
			}
		})
	}
	pace(c.t.Context(), length)
	ended, err := strconv.Atoi(c.text(`SELECT count(*)::text FROM runs WHERE finished_at IS NOT NULL`))
	require.NoError(c.t, err)
	took := time.Since(began)
	close(stop)
	streams.Wait()
	c.within(5*time.Minute, func() bool { return c.text(`SELECT count(*)::text FROM runs WHERE finished_at IS NULL`) == "0" }, "the cluster does not work off what it got")
	return int(float64(ended) / took.Seconds())
}

// sample reads the figures of the master and its workers.
func (c *cluster) sample(m *node, at time.Duration, figures history.Series) {
	c.t.Helper()
	add := func(name, unit string, value float64) {
		figures[name] = append(figures[name], history.Sample{At: at, Value: value, Unit: unit})
	}
	processes := map[string]int{"master": m.pid()}
	for i, w := range c.live() {
		processes[fmt.Sprintf("worker %d", i+1)] = w.PID
	}
	for name, pid := range processes {
		p, err := process.NewProcess(int32(pid))
		require.NoError(c.t, err)
		memory, err := p.MemoryInfo()
		require.NoError(c.t, err)
		files, err := p.NumFDs()
		require.NoError(c.t, err)
		add(name+" RSS", "MiB", float64(memory.RSS)/(1<<20))
		add(name+" descriptors", "", float64(files))
	}
	for labels, n := range c.goroutines(m) {
		name := "master"
		if labels != "" {
			name = labels
		}
		add(name+" goroutines", "", n)
	}
}

var goroutineLine = regexp.MustCompile(`^(?:go_goroutines|catena_worker_goroutines)(\{[^}]*\})? ([0-9.e+]+)$`)

// goroutines are read from the metrics of the master, those of its workers where it tells them.
func (c *cluster) goroutines(m *node) map[string]float64 {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, m.admin+"/metrics", nil)
	require.NoError(c.t, err)
	request.Header.Set("Authorization", "Bearer "+c.token)
	res, err := http.DefaultClient.Do(request)
	require.NoError(c.t, err)
	defer res.Body.Close()
	require.Equal(c.t, http.StatusOK, res.StatusCode)
	found := map[string]float64{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if match := goroutineLine.FindStringSubmatch(lines.Text()); match != nil {
			value, err := strconv.ParseFloat(match[2], 64)
			require.NoError(c.t, err)
			found[match[1]] = value
		}
	}
	require.NotEmpty(c.t, found, "the master tells nothing of its goroutines")
	return found
}

// TestIdle measures what a master takes that has nothing to do but to watch many
// schedules and its workers.
func TestIdle(t *testing.T) {
	length := min(max(soakTime(t), 10*time.Second), time.Minute)
	const memory, share = 150e6, 0.05 // bytes of RSS, part of a core
	c := newCluster(t)
	m := c.startMaster(4)
	c.awaitWorkers(4)
	conn, err := pgx.Connect(t.Context(), c.postgres.URL)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	for _, sql := range []string{
		`INSERT INTO tasks (name, chain) SELECT 'idle/' || i, '["nop"]' FROM generate_series(1, 10000) i`,
		`INSERT INTO schedules (task, cron) SELECT 'idle/' || i, format('%s %s 1 1 *', i % 60, i % 24) FROM generate_series(1, 10000) i`,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	c.within(2*time.Minute, func() bool { return c.text(`SELECT count(*)::text FROM schedule_due`) == "10000" }, "the schedules are not planned")
	pace(t.Context(), length/3) // for what follows the planning
	used := func(pid int) (cpu time.Duration, rss uint64) {
		p, err := process.NewProcess(int32(pid))
		require.NoError(t, err)
		times, err := p.Times()
		require.NoError(t, err)
		info, err := p.MemoryInfo()
		require.NoError(t, err)
		return time.Duration((times.User + times.System) * float64(time.Second)), info.RSS
	}
	processes := map[string]int{"master": m.pid()}
	for i, w := range c.live() {
		processes[fmt.Sprintf("worker %d", i+1)] = w.PID
	}
	before, began := map[string]time.Duration{}, time.Now()
	for name, pid := range processes {
		before[name], _ = used(pid)
	}
	pace(t.Context(), length)
	took := time.Since(began)
	for _, name := range slices.Sorted(maps.Keys(processes)) {
		cpu, rss := used(processes[name])
		part := float64(cpu-before[name]) / float64(took)
		fmt.Printf("idle with 10,000 schedules and 4 workers over %v on %d cores: %s %.1f MB, %.2f %% of a core\n",
			took.Round(time.Second), runtime.NumCPU(), name, float64(rss)/1e6, 100*part)
		if name == "master" {
			require.Less(t, float64(rss), memory)
			require.Less(t, part, share)
		}
	}
}
