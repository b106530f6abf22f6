package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/task"
)

const (
	supervised = 2                // workers of each master
	workers    = 2*supervised + 1 // of the cluster
	suspension = 8 * time.Second  // longer than the cluster's patience with a silent worker
	recovery   = 10 * time.Second // from kill -9 to running again, for 99 of 100
	scheduled  = 3                // schedules in testdata/schedules.yaml
)

// trial is a cluster under load and faults.
type trial struct {
	*cluster
	load      *load
	ledger    *ledger
	schedules string
	losses    []time.Time // when workers were killed with -9
	counts    map[string]int
	rng       *rand.Rand
}

func newTrial(t *testing.T, seed uint64) *trial {
	t.Helper()
	text, err := os.ReadFile("testdata/schedules.yaml")
	require.NoError(t, err)
	c := newCluster(t, "worker.slots=8")
	c.startMaster(supervised)
	c.startMaster(supervised)
	c.startWorker()
	c.awaitWorkers(workers)
	c.push()
	c.apply(string(text))
	return &trial{cluster: c, load: newLoad(c, seed), ledger: &ledger{fires: map[ledgerKey]task.Fire{}},
		schedules: string(text), counts: map[string]int{}, rng: rand.New(rand.NewPCG(seed, 2))}
}

// fault is something bad that happens to the cluster.
type fault struct {
	name string
	do   func(*trial)
}

func faults() []fault {
	return []fault{
		{"kill -9 of a supervised worker", (*trial).killSupervised},
		{"kill -9 of a worker that runs alone", (*trial).killAlone},
		{"suspended worker", (*trial).suspend},
		{"kill -9 of the leader", (*trial).killLeader},
		{"FLUSHALL", (*trial).flush},
		{"restart of Redis", (*trial).restartRedis},
		{"restart of Postgres", (*trial).restartPostgres},
	}
}

// strike does a fault and waits until the cluster has all of its workers again.
func (tr *trial) strike(f fault) {
	tr.t.Helper()
	began := time.Now()
	tr.counts[f.name]++
	f.do(tr)
	tr.awaitWorkers(workers)
	tr.ledger.read(tr.cluster)
	tr.t.Logf("%s: whole again after %v", f.name, time.Since(began).Round(time.Millisecond))
}

func (tr *trial) lost() { tr.losses = append(tr.losses, time.Now()) }

func (tr *trial) killSupervised() {
	tr.t.Helper()
	list := slices.DeleteFunc(tr.live(), func(w task.Worker) bool { return w.Master == "" || !exists(w.PID) })
	require.NotEmpty(tr.t, list)
	tr.lost()
	require.NoError(tr.t, syscall.Kill(list[tr.rng.IntN(len(list))].PID, syscall.SIGKILL))
}

func (tr *trial) killAlone() {
	tr.t.Helper()
	tr.lost()
	tr.workers[0].kill()
	tr.workers = nil
	tr.startWorker()
}

func (tr *trial) suspend() {
	tr.t.Helper()
	tr.workers[0].signal(tr.t, syscall.SIGSTOP)
	pace(tr.t.Context(), suspension)
	tr.workers[0].signal(tr.t, syscall.SIGCONT)
}

func (tr *trial) killLeader() {
	tr.t.Helper()
	leader := tr.leader()
	tr.lost()
	tr.replaceMaster(leader, supervised)
}

func (tr *trial) flush() {
	tr.t.Helper()
	options, err := redis.ParseURL(tr.redis.URL)
	require.NoError(tr.t, err)
	admin := redis.NewClient(options)
	defer admin.Close()
	require.NoError(tr.t, admin.FlushAll(tr.t.Context()).Err())
}

func (tr *trial) restartRedis() {
	tr.t.Helper()
	tr.stopRedis()
	pace(tr.t.Context(), time.Second)
	tr.startRedis()
}

func (tr *trial) restartPostgres() {
	tr.t.Helper()
	tr.stopPostgres()
	pace(tr.t.Context(), time.Second)
	tr.startPostgres()
}

// endSchedules waits until the ledger has reached the present, takes the
// schedules away and returns all fires.
func (tr *trial) endSchedules() []task.Fire {
	tr.t.Helper()
	now := time.Now()
	tr.within(20*time.Second, func() bool {
		tr.ledger.read(tr.cluster)
		return tr.ledger.reached(now) == scheduled && tr.text(`SELECT count(*)::text FROM catch_ups`) == "0"
	}, "the schedules do not reach the present")
	tr.apply(scheduleLine.ReplaceAllString(tr.schedules, ""))
	tr.ledger.read(tr.cluster)
	return slices.Collect(maps.Values(tr.ledger.fires))
}

// judge ends the schedules, waits for all runs and compares the records.
func (tr *trial) judge(limit time.Duration) {
	tr.t.Helper()
	require.NoError(tr.t, tr.load.err)
	fires := tr.endSchedules()
	ids := tr.load.ids()
	for _, f := range fires {
		if f.Run != nil {
			ids = append(ids, *f.Run)
		}
	}
	tr.awaitEnds(ids, limit)
	record := history.Record{Accepted: tr.load.accepted, Executions: tr.recorder.all(), Runs: tr.allRuns(), Fires: fires, Every: time.Second}
	problems := record.Check()
	tr.report(record)
	require.Empty(tr.t, problems[:min(len(problems), 20)], "%d problems", len(problems))
	tr.eventually(func() bool {
		return tr.text(`SELECT (SELECT count(*) FROM parcels) + (SELECT count(*) FROM ready) || ' left'`) == "0 left"
	}, "parcels or ready runs are left over though all runs have ended")
	recoveries := history.Recoveries(record.Executions, tr.losses)
	require.NotEmpty(tr.t, recoveries, "no fault has interrupted a step")
	require.Less(tr.t, history.Percentile(recoveries, 0.99), recovery)
}

// report prints what was tested.
func (tr *trial) report(r history.Record) {
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
	took := history.Recoveries(r.Executions, tr.losses)
	fmt.Printf("runs: %d accepted, %d in all %v, %d lost a worker; steps executed: %d; due times: %v\n",
		len(r.Accepted), len(r.Runs), states, lossy, len(r.Executions), outcomes)
	for _, f := range faults() {
		fmt.Printf("fault: %3d x %s\n", tr.counts[f.name], f.name)
	}
	fmt.Printf("kill -9 to running again: %d steps, p50 %v, p90 %v, p99 %v, most %v\n", len(took),
		history.Percentile(took, 0.5), history.Percentile(took, 0.9), history.Percentile(took, 0.99), history.Percentile(took, 1))
}

// TestFaultsShort lets each fault happen once under a stream of runs.
func TestFaultsShort(t *testing.T) {
	tr := newTrial(t, 1)
	stop := make(chan struct{})
	var streams sync.WaitGroup
	for range 3 {
		streams.Go(func() { tr.load.stream(t.Context(), stop, 8, 100*time.Millisecond) })
	}
	streams.Go(func() { tr.load.cancels(t.Context(), stop, 700*time.Millisecond) })
	end := sync.OnceFunc(func() { close(stop); streams.Wait() })
	defer end()
	for _, f := range faults() {
		pace(t.Context(), 1500*time.Millisecond)
		tr.strike(f)
	}
	end()
	tr.judge(patience)
}

// TestFaultsLong is for `make faults`. CATENA_TEST_RUNS, CATENA_TEST_FAULT_COUNT
// and CATENA_TEST_SEED change what it does.
func TestFaultsLong(t *testing.T) {
	if os.Getenv("CATENA_TEST_FAULTS") != "long" {
		t.Skip("`make faults` runs it")
	}
	runs, number := setting(t, "CATENA_TEST_RUNS", 100_000), setting(t, "CATENA_TEST_FAULT_COUNT", 48)
	seed := setting(t, "CATENA_TEST_SEED", uint64(time.Now().UnixNano()%1_000_000))
	fmt.Printf("%d runs, %d faults, seed %d (CATENA_TEST_SEED=%d does the same faults again)\n", runs, number, seed, seed)
	began := time.Now()
	tr := newTrial(t, seed)
	stop, shares := make(chan struct{}), make(chan int) // a fault waits for the share before it, so that faults and load end together
	var streams sync.WaitGroup
	streams.Go(func() { tr.load.shares(t.Context(), shares) })
	streams.Go(func() { tr.load.cancels(t.Context(), stop, 500*time.Millisecond) })
	end := sync.OnceFunc(func() { close(stop); close(shares); streams.Wait() })
	defer end()
	for i, all := 0, faults(); i < int(number); i++ {
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
