package cli_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/cli"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/task"
)

// orderAt is a worker whose order is in a state.
func orderAt(state task.OrderState, detail string) task.WorkerDetail {
	w := task.WorkerDetail{Worker: task.Worker{ID: "w1", Host: "h", State: task.WorkerActive, Running: 2}, Runs: []task.WorkerRun{}, Restarts: []task.WorkerEnd{}}
	o := task.WorkerOrder{Worker: "w1", Kind: task.OrderRestart, State: state, Detail: detail, AskedBy: "ann"}
	if state == task.OrderDone {
		o.Successor = "w2"
	}
	w.Order = &o
	return w
}

// inTurn answers with one value after the other, the last one again and again.
func inTurn(values ...any) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		answer(http.StatusOK, values[min(int(n.Add(1)), len(values))-1])(w, r)
	}
}

func TestRestartShowsHowItComesAlong(t *testing.T) {
	t.Parallel()
	routes := map[string]http.HandlerFunc{
		"POST /api/v1/workers/w1/restart": answer(http.StatusOK, orderAt(task.OrderAsked, "").Order),
		"GET /api/v1/workers/w1": inTurn(orderAt(task.OrderAsked, ""), orderAt(task.OrderReplacing, ""), orderAt(task.OrderDraining, ""),
			orderAt(task.OrderDone, "")),
	}
	got := shellOn(t, routes).run("workers", "restart", "w1")
	require.Zero(t, got.code, got.err)
	require.Equal(t, "worker w1 has ended; w2 works in its place\n", got.out)
	require.Equal(t, []string{"w1 was asked to restart", "w1 is being replaced: its replacement starts", "w1 drains: 2 runs to finish", "w1 has ended; w2 works in its place"},
		strings.Split(strings.TrimSpace(got.err), "\n"))

	got = shellOn(t, routes).run("workers", "restart", "w1", "--no-wait")
	require.Zero(t, got.code)
	require.Equal(t, "worker w1 was asked to restart\n", got.out)

	got = shellOn(t, map[string]http.HandlerFunc{
		"POST /api/v1/workers/restart": answer(http.StatusOK, client.RestartResult{Orders: []task.WorkerOrder{*orderAt(task.OrderAsked, "").Order}, Alone: []string{"w9"}}),
		"GET /api/v1/workers/w1":       inTurn(orderAt(task.OrderFailed, "its replacement did not begin its work within 20s; the worker goes on")),
	}).run("workers", "restart", "--all")
	require.Equal(t, 1, got.code, "one of them goes on")
	require.Contains(t, got.err, "error: w1: its replacement did not begin its work within 20s; the worker goes on")
	require.Contains(t, got.err, "worker w9 goes on: it was started without a master")
}

func TestDrainAWorkerThatIsGoneAtOnce(t *testing.T) {
	t.Parallel()
	order := orderAt(task.OrderAsked, "it was started alone").Order
	order.Kind = task.OrderDrain
	got := shellOn(t, map[string]http.HandlerFunc{
		"POST /api/v1/workers/w1/drain": answer(http.StatusOK, order),
		"GET /api/v1/workers/w1":        refuse(http.StatusNotFound, task.CodeNotFound, "there is no worker", ""),
	}).run("workers", "drain", "w1", "--json")
	require.Zero(t, got.code, got.err)
	var ended task.WorkerOrder
	require.NoError(t, json.Unmarshal([]byte(got.out), &ended))
	require.Equal(t, task.OrderDone, ended.State)
	require.Contains(t, got.err, "it was started alone")
}

func TestRestartBesideOtherOrders(t *testing.T) {
	t.Parallel()
	asked := now().Add(-12 * time.Second)
	earlier := task.WorkerOrder{Worker: "w1", Kind: task.OrderDrain, State: task.OrderDraining, AskedBy: "ann", AskedAt: asked, Earlier: true}
	same := task.WorkerOrder{Worker: "w2", Kind: task.OrderRestart, State: task.OrderAsked, AskedBy: "bob", AskedAt: asked, Earlier: true}
	routes := map[string]http.HandlerFunc{
		"POST /api/v1/workers/restart":    answer(http.StatusOK, client.RestartResult{Orders: []task.WorkerOrder{earlier, same}}),
		"POST /api/v1/workers/w2/restart": answer(http.StatusOK, same),
		"POST /api/v1/workers/w2/drain":   answer(http.StatusOK, same),
		"GET /api/v1/workers/{id}":        refuse(http.StatusNotFound, task.CodeNotFound, "there is no worker", ""),
	}
	got := shellOn(t, routes).run("workers", "restart", "--all")
	require.Zero(t, got.code, got.err)
	require.Equal(t, "2 workers were replaced\n", got.out)
	require.Contains(t, got.err, "w1 was already asked to drain, 12s ago by ann; it ends first, and its place is filled after that\n")
	require.Contains(t, got.err, "w2 was already asked to restart, 12s ago by bob\n")
	require.Equal(t, "2 workers will be replaced one after the other\n", shellOn(t, routes).run("workers", "restart", "--all", "--no-wait").out)
	require.Contains(t, shellOn(t, routes).run("workers", "restart", "w2").err, "w2 was already asked to restart, 12s ago by bob\n")
	require.Contains(t, shellOn(t, routes).run("workers", "drain", "w2").err, "bob; its replacement works first, then it drains\n")

	routes["POST /api/v1/workers/restart"] = answer(http.StatusOK, client.RestartResult{Orders: []task.WorkerOrder{same}})
	require.Equal(t, "1 worker was replaced\n", shellOn(t, routes).run("workers", "restart", "--all").out)
	require.Equal(t, "1 worker will be replaced\n", shellOn(t, routes).run("workers", "restart", "--all", "--no-wait").out)
}

func TestRestartOfNoWorker(t *testing.T) {
	t.Parallel()
	routes := map[string]http.HandlerFunc{
		"POST /api/v1/workers/restart": answer(http.StatusOK, client.RestartResult{Orders: []task.WorkerOrder{}, Alone: []string{}}),
		"GET /api/v1/workers":          answer(http.StatusOK, []task.Worker{{ID: "w1", Host: "host1"}, {ID: "w2", Host: "other"}}),
	}
	got := shellOn(t, routes).run("workers", "restart", "--all", "--host", "nohost")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "error: no master supervises a worker on the host nohost\n")
	require.Contains(t, got.err, "did you mean host1?")
	got = shellOn(t, routes).run("workers", "restart", "--all", "--host", "zzzzzzzzz")
	require.Contains(t, got.err, "the hosts with workers are host1, other")
	got = shellOn(t, routes).run("workers", "restart", "--all", "--host", "other")
	require.Contains(t, got.err, "error: no master supervises a worker on the host other\n  fix: see `catena workers list`")
	got = shellOn(t, routes).run("workers", "restart", "--all")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "error: no master supervises a worker\n")
}

func TestWorkersUsage(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"workers restart":            "name a worker, or give --all",
		"workers restart w --all":    "w and --all are two answers to which workers",
		"workers restart w --host h": "--host needs --all",
		"workers show":               "ID is missing",
		"workers drain":              "ID is missing",
		"start slvae":                `unknown mode "slvae"; did you mean "slave"?`,
		"start x":                    `unknown mode "x"; use master, standalone or slave`,
	} {
		got := newShell(t).run(strings.Fields(line)...)
		require.Equal(t, 2, got.code, line)
		require.Contains(t, got.err, want)
	}
}

func TestWorkersShow(t *testing.T) {
	t.Parallel()
	slot, ended, began := 3, now().Add(-time.Minute), now().Add(-3*time.Second)
	got := shellOn(t, map[string]http.HandlerFunc{"GET /api/v1/workers/w2": answer(http.StatusOK, task.WorkerDetail{
		Worker: task.Worker{ID: "w2", Host: "h", PID: 7, Version: "v1", Master: "m", Slot: &slot, State: task.WorkerActive, Queues: []string{"*"}, Slots: 32, Running: 1,
			RSS: 64 << 20, CPU: 0.25, Age: task.Duration(time.Hour), BeatAt: now()},
		Runs:     []task.WorkerRun{{ID: uuid.Nil, Task: "demo", State: task.StateRunning, StartedAt: &began, Step: "1", StepAt: &began}},
		Restarts: []task.WorkerEnd{{ID: "w1", State: task.WorkerStopped, Reason: "is 1h0m0s old, its limit is 12000h0m0s", Lived: task.Duration(time.Hour), EndedAt: &ended}},
	})}).run("workers", "show", "w2")
	require.Zero(t, got.code, got.err)
	for _, want := range []string{"slot", "3", "64.0 MiB", "25.0 % of a core", "1 of 32 slots for runs", "runs in hand", "demo", "before it in its slot", "is 1h old, its limit is 500d"} {
		require.Contains(t, got.out, want)
	}
}

func TestMastersAndCrashLoopsAreShown(t *testing.T) {
	t.Parallel()
	masters := []task.Master{{Name: "m1", Host: "h", PID: 4, State: task.MasterActive, Leads: true, Warnings: []string{}, Slots: []task.Slot{
		{Slot: 0, State: task.SlotWorking, PID: 9, Starts: 1}, {Slot: 1, State: task.SlotCrashLoop, Starts: 6, Last: "died: exit status 2 (panic: boom)", NextStart: task.Duration(8 * time.Second)},
	}}, {Name: "m2", State: task.MasterSilent, Slots: []task.Slot{}, Warnings: []string{"retention.runs is 12000h0m0s here and 2h30m0s on m1"}}}
	routes := map[string]http.HandlerFunc{"GET /api/v1/masters": answer(http.StatusOK, masters), "GET /api/v1/workers": answer(http.StatusOK, []task.Worker{})}
	got := shellOn(t, routes).run("masters", "list")
	require.Zero(t, got.code, got.err)
	for _, want := range []string{"active, leads", "silent", "crash loop, next start in 8s, last: died: exit status 2 (panic: boom)", "warning: m2: retention.runs is 500d here and 2h30m on m1"} {
		require.Contains(t, got.out, want)
	}
	got = shellOn(t, routes).run("workers", "list")
	require.Contains(t, got.err, "slot 1 of m1: crash loop, next start in 8s, last: died: exit status 2 (panic: boom)")
}

func TestStartModes(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{"": "master", "master": "master", "standalone": "master", "slave": "worker"} {
		started, cfg := "", configs.Config{}
		s := newShell(t, "CATENA_POSTGRES_URL=postgres://h/d", "CATENA_REDIS_URL=redis://h", "CATENA_MASTER_LEADER=false", "CATENA_MASTER_WORKERS=0")
		s.program.Processes = cli.Processes{
			Master: func(_ context.Context, c configs.Config, _ cli.ProcessOptions) error {
				started, cfg = "master", c
				return nil
			},
			Worker: func(_ context.Context, c configs.Config, _ cli.ProcessOptions) error {
				started, cfg = "worker", c
				return nil
			},
		}
		got := s.run(append([]string{"start"}, strings.Fields(mode)...)...)
		require.Zero(t, got.code, got.err)
		require.Equal(t, want, started)
		require.Equal(t, mode == "standalone", cfg.Master.Leader && cfg.Master.Workers == 1, mode)
	}
}

func TestFormerNamesAreNoticedOnce(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	got := s.run("config", "print", "--set", "cluster.slaveTTLSeconds=1000", "--set", "cluster.verbose.healthCheck=true")
	require.Zero(t, got.code, got.err)
	require.Contains(t, got.out, "ttl: 16m40s")
	require.Equal(t, 1, strings.Count(got.err, "\n"))
	require.Contains(t, got.err, "cluster.slaveTTLSeconds is worker.ttl, cluster.verbose.healthCheck is log.healthChecks")
	got = s.run("config", "validate", "--set", "cluster.slaveTTLSeconds=1000", "--set", "worker.ttl=1h")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "cluster.slaveTTLSeconds and worker.ttl (--set worker.ttl) are two names of one setting")
}
