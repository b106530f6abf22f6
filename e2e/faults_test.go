package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/task"
)

const (
	supervised = 2                // workers of each master
	recovery   = 10 * time.Second // from a loss to running again, for 99 of 100
)

// sources are the scheduled tasks of a trial.
func sources() map[string]history.Source {
	replaced := []task.State{task.StateSucceeded, task.StateCancelled}
	return map[string]history.Source{
		"faults/tick":            {Schedules: 2},
		"faults/tock":            {Exclusive: true},
		"faults/buffer-one":      {Exclusive: true},
		"faults/buffer-all":      {Exclusive: true},
		"faults/cancel-other":    {Exclusive: true, States: replaced},
		"faults/terminate-other": {Exclusive: true, States: replaced},
	}
}

const schedules = 7 // of the tasks above

// trial is a cluster under load and faults.
type trial struct {
	*cluster
	load    *load
	guests  *visitors
	ledger  *ledger
	island  *island // nil: see without
	remote  *program
	without string // why there is no network namespace
	disk    *disk
	link    *link         // to Postgres
	outage  time.Duration // of what is away, full or wrong for a while
	size    int           // workers of the cluster

	mu       sync.Mutex // faults may happen at the same time
	rng      *rand.Rand
	losses   []time.Time // when workers were killed or cut off
	counts   map[string]int
	skipped  map[string]string // faults that cannot happen here, and why
	windows  []history.Window
	replaced []time.Duration // kill -9 of a supervised worker to its successor at work
	hung     []time.Duration // its suspension to its successor at work
	whole    map[string]time.Duration
}

func newTrial(t *testing.T, seed uint64, settings ...string) *trial {
	t.Helper()
	tr := &trial{cluster: newCluster(t, append([]string{"worker.slots=8"}, settings...)...), rng: rand.New(rand.NewPCG(seed, 2)),
		outage: away, counts: map[string]int{}, skipped: map[string]string{}, whole: map[string]time.Duration{}}
	var err error
	if tr.island, err = newIsland(t); err != nil {
		tr.island, tr.without = nil, err.Error()
		t.Logf("no network namespace: %v", err)
	} else {
		tr.recorder = newRecorderAt(t, tr.island.recorder)
	}
	tr.disk = newDisk(t)
	tr.site = newSite(t)
	tr.link = tr.linkPostgres()
	tr.startMaster(supervised)
	tr.startMaster(supervised)
	tr.startAlone()
	tr.size = 2*supervised + 1
	if tr.island != nil {
		tr.startRemote()
		tr.size++
	}
	tr.awaitWorkers(tr.size)
	tr.push()
	for _, name := range []string{"schedules", "policies", "guilty"} {
		text, err := os.ReadFile("testdata/" + name + ".yaml")
		require.NoError(t, err)
		tr.apply(string(text))
	}
	tr.load = newLoad(tr.cluster, seed)
	tr.ledger = newLedger(schedules, slices.Sorted(maps.Keys(sources()))...)
	return tr
}

// startAlone starts the worker that no master supervises. Its log goes to a disk
// that can be full.
func (tr *trial) startAlone() {
	tr.t.Helper()
	w := startTo(tr.t, tr.disk.log, tr.path, "a worker alone", tr.env, tr.args("worker", "log.level=debug")...)
	tr.cluster.workers = []*program{w}
}

// startRemote starts a worker on the island.
func (tr *trial) startRemote() {
	tr.t.Helper()
	postgres := newLink(tr.t, "tcp", tr.island.servers+":0", "unix", tr.link.address)
	redis := newLink(tr.t, "tcp", tr.island.servers+":0", "tcp", strings.TrimSuffix(strings.TrimPrefix(tr.redis.URL, "redis://"), "/0"))
	env := []string{"CATENA_POSTGRES_URL=postgres://catena@" + postgres.address + "/catena?sslmode=disable",
		"CATENA_REDIS_URL=redis://" + redis.address + "/0", "CATENA_LOG_FORMAT=json"}
	tr.remote = startAs(tr.t, "ip", "a remote worker", env, append([]string{"netns", "exec", tr.island.name, tr.path}, tr.args("worker")...)...)
}

// receive lets requests come to the shared servers of all masters.
func (tr *trial) receive(n int, every time.Duration) {
	tr.guests = visit(tr.t, n, every, func(i int) door {
		tr.cluster.mu.Lock()
		defer tr.cluster.mu.Unlock()
		m := tr.masters[i/2%len(tr.masters)]
		if i%2 == 0 {
			return door{address: m.http}
		}
		return door{address: m.https, tls: tr.site.client()}
	})
}

// strike does faults at the same time and waits until the cluster has all of its
// workers again.
func (tr *trial) strike(faults ...fault) {
	tr.t.Helper()
	var names []string
	harm, outage, began := history.HarmNone, false, time.Now()
	var all sync.WaitGroup
	for _, f := range faults {
		if f.needs != nil {
			if why := f.needs(tr); why != "" {
				tr.skipped[f.name] = why
				continue
			}
		}
		tr.counts[f.name]++
		names, harm, outage = append(names, f.name), max(harm, f.harm), outage || f.away
		all.Go(func() { f.do(tr) })
	}
	all.Wait()
	if tr.t.Failed() {
		tr.t.FailNow() // a fault could not be done
	}
	tr.awaitWorkers(tr.size)
	tr.ledger.read(tr.cluster)
	name := strings.Join(names, " + ")
	tr.windows = append(tr.windows, history.Window{From: began, To: time.Now(), Harm: harm, Outage: outage, Fault: name})
	took := time.Since(began).Round(time.Millisecond)
	tr.whole[name] = max(tr.whole[name], took)
	tr.t.Logf("%s: whole again after %v", name, took)
}

func (tr *trial) lost() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.losses = append(tr.losses, time.Now())
}

func (tr *trial) random(n int) int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.rng.IntN(n)
}

// judge ends the schedules, waits for all runs and compares the records.
func (tr *trial) judge(limit time.Duration) {
	tr.t.Helper()
	require.NoError(tr.t, tr.load.err)
	fires := tr.ledger.end(tr.cluster, limit, func() { tr.ledger.pause(tr.cluster) })
	tr.awaitEnds(tr.load.ids(), limit)
	tr.guests.leave()
	record := history.Record{Accepted: tr.load.accepted, Executions: tr.recorder.all(), Runs: tr.allRuns(), Fires: fires, Every: time.Second,
		Sources: sources(), Failures: tr.guests.failed(), Windows: tr.windows, Losses: tr.losses, Recovery: recovery}
	record.Commits = tr.commits(record)
	problems := record.Check()
	tr.report(record, problems)
	require.Empty(tr.t, problems[:min(len(problems), 20)], "%d problems", len(problems))
	tr.eventually(func() bool {
		return tr.text(`SELECT (SELECT count(*) FROM parcels) + (SELECT count(*) FROM ready) || ' left'`) == "0 left"
	}, "parcels or ready runs are left over though all runs have ended")
	require.True(tr.t, len(tr.losses) == 0 || len(history.Recoveries(record.Executions, tr.losses)) > 0, "no loss has interrupted a step")
	require.NotEmpty(tr.t, record.Commits, "no outcome was compared with the recorder")
}

// commits reads the outcomes of the runs that the recorder saw to execute a step
// more than once, which are those in which a stale worker could have written,
// and of some others.
func (tr *trial) commits(r history.Record) (all []history.Commit) {
	tr.t.Helper()
	type place struct {
		run     uuid.UUID
		step    int
		item    string
		attempt int
	}
	times, wanted := map[place]int{}, map[uuid.UUID]bool{}
	for i, e := range r.Executions {
		p := place{e.Run, e.Step, e.Item, e.Attempt}
		if times[p]++; times[p] > 1 || i%200 == 0 {
			wanted[e.Run] = true
		}
	}
	for id := range wanted {
		run := must(tr.cluster, func(ctx context.Context, api *client.Client) (task.Run, error) { return api.Run(ctx, id) })
		for _, step := range run.Steps {
			outcome, err := json.Marshal(step.Outcome)
			require.NoError(tr.t, err)
			for _, serial := range history.Marks(outcome) {
				all = append(all, history.Commit{Run: id, Serial: serial})
			}
		}
	}
	return all
}

// report prints what was tested.
func (tr *trial) report(r history.Record, problems []string) {
	states, outcomes, lossy := map[task.State]int{}, map[task.FireOutcome]int64{}, 0
	for _, run := range r.Runs {
		states[run.State]++
		if run.Losses > 0 {
			lossy++
		}
	}
	for _, f := range r.Fires {
		outcomes[f.Outcome] += f.Count
	}
	fmt.Printf("runs: %d accepted, %d in all %v, %d lost a worker; steps executed: %d; outcomes compared: %d; due times: %v\n",
		len(r.Accepted), len(r.Runs), states, lossy, len(r.Executions), len(r.Commits), outcomes)
	fmt.Println(tr.guests.summary())
	for _, f := range faults() {
		fmt.Printf("fault: %3d x %s", tr.counts[f.name], f.name)
		if why := tr.skipped[f.name]; why != "" {
			fmt.Printf(" (not possible here: %s)", why)
		}
		fmt.Println()
	}
	spread("a loss to running again, Postgres and Redis at hand", history.Times(r.Timed()))
	spread("kill -9 of a supervised worker to its successor at work", tr.replaced)
	spread("suspension of a supervised worker to its successor at work", tr.hung)
	for _, p := range history.Promises() {
		word := "kept"
		if n := history.Broken(problems, p.Promise); n > 0 {
			word = fmt.Sprintf("BROKEN %d times", n)
		}
		fmt.Printf("%s %s: %s\n", p.Promise, p.Text, word)
	}
}

func spread(what string, list []time.Duration) {
	slices.Sort(list)
	part := func(p float64) time.Duration { return history.Percentile(list, p).Round(time.Millisecond) }
	fmt.Printf("from %s: %d times, p50 %v, p90 %v, p99 %v, most %v\n", what, len(list), part(0.5), part(0.9), part(0.99), part(1))
}

// TestFaultsShort lets many kinds of faults happen, several at a time, under a
// stream of runs and requests.
func TestFaultsShort(t *testing.T) {
	tr := newTrial(t, 1)
	tr.outage = 3 * time.Second
	stop := make(chan struct{})
	var streams sync.WaitGroup
	for range 3 {
		streams.Go(func() { tr.load.stream(t.Context(), stop, 8, 100*time.Millisecond) })
	}
	streams.Go(func() { tr.load.cancels(t.Context(), stop, 700*time.Millisecond) })
	end := sync.OnceFunc(func() { close(stop); streams.Wait() })
	defer end()
	tr.receive(8, 100*time.Millisecond)
	for _, group := range shortFaults() {
		pace(t.Context(), 500*time.Millisecond)
		tr.strike(group...)
	}
	end()
	tr.judge(patience)
}

// TestFaultsLong is for `make faults`. CATENA_TEST_RUNS, CATENA_TEST_FAULT_COUNT,
// CATENA_TEST_FAULT_KIND and CATENA_TEST_SEED change what it does.
func TestFaultsLong(t *testing.T) {
	if os.Getenv("CATENA_TEST_FAULTS") != "long" {
		t.Skip("`make faults` runs it")
	}
	all := faults()
	if kind := os.Getenv("CATENA_TEST_FAULT_KIND"); kind != "" {
		wanted, err := regexp.Compile(kind)
		require.NoError(t, err)
		all = slices.DeleteFunc(all, func(f fault) bool { return !wanted.MatchString(f.name) })
		require.NotEmpty(t, all, "no fault is called %q", kind)
	}
	runs, number := setting(t, "CATENA_TEST_RUNS", 100_000), setting(t, "CATENA_TEST_FAULT_COUNT", 4*uint64(len(all)))
	seed := setting(t, "CATENA_TEST_SEED", uint64(time.Now().UnixNano()%1_000_000))
	fmt.Printf("%d runs, %d faults, seed %d (CATENA_TEST_SEED=%d does the same faults again)\n", runs, number, seed, seed)
	began := time.Now()
	tr := newTrial(t, seed, "worker.maxMemory=600MiB")
	stop, shares := make(chan struct{}), make(chan int) // a fault waits for the share before it, so that faults and load end together
	var streams sync.WaitGroup
	streams.Go(func() { tr.load.shares(t.Context(), shares) })
	streams.Go(func() { tr.load.cancels(t.Context(), stop, 500*time.Millisecond) })
	end := sync.OnceFunc(func() { close(stop); close(shares); streams.Wait() })
	defer end()
	tr.receive(16, 50*time.Millisecond)
	for i := 0; i < int(number); i++ {
		shares <- int(runs/number) + 1
		pace(t.Context(), time.Duration(200+tr.rng.IntN(2500))*time.Millisecond)
		if i%len(all) == 0 { // each kind comes up, in an order of chance
			tr.rng.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
		}
		tr.strike(all[i%len(all)])
	}
	end()
	tr.judge(20 * time.Minute)
	fmt.Printf("took %v\n", time.Since(began).Round(time.Second))
	require.Empty(t, tr.skipped, "the long trial must have every fault")
}

func setting(t *testing.T, name string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

// shares submits so many runs for each number that it gets, as fast as the
// cluster takes them, with a bounded number waiting.
func (l *load) shares(ctx context.Context, shares <-chan int) {
	for left := range shares {
		for left > 0 && ctx.Err() == nil {
			n := min(left, 1+l.random(100))
			var ids []uuid.UUID
			if ids = l.submit(ctx, l.pick(), n); ids == nil {
				return
			}
			left -= len(ids)
			for waiting, _ := strconv.Atoi(l.c.text(`SELECT count(*)::text FROM ready`)); waiting > 3000 && ctx.Err() == nil; {
				pace(ctx, 100*time.Millisecond)
				waiting, _ = strconv.Atoi(l.c.text(`SELECT count(*)::text FROM ready`))
			}
		}
	}
}

// disk is a small file system that can be full.
type disk struct {
	dir string
	log *os.File
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{dir: t.TempDir()}
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Logf("no small disk: %v", err)
	} else {
		t.Cleanup(func() { _ = syscall.Unmount(d.dir, syscall.MNT_DETACH) })
	}
	var err error
	d.log, err = os.OpenFile(d.dir+"/log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.log.Close() })
	return d
}
