package e2e

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// command runs a command of the CLI against a master and decodes what it prints.
func command[T any](c *cluster, m *node, args ...string) (answer T) {
	c.t.Helper()
	c.env = append(c.env[:3:3], "CATENA_SERVER="+m.admin, "CATENA_TOKEN="+c.token)
	out := c.run(binary(c.t), append(args, "--json")...)
	require.NoError(c.t, json.Unmarshal(out, &answer), string(out))
	return answer
}

// TestWorkersObeyOrders restarts and drains workers by the command line, under
// runs, and lets one crash and one hang.
func TestWorkersObeyOrders(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "worker.drainTimeout=20s", "server.drainGrace=100ms")
	m := c.startMaster(2)
	alone := c.startWorker()
	c.awaitWorkers(3)
	c.push()
	runs := []task.Run{}
	for range 12 {
		runs = append(runs, c.start("faults/steps", `{"ms": 300}`))
	}
	before := c.live()

	restarted := command[client.RestartResult](c, m, "workers", "restart", "--all")
	require.Len(t, restarted.Orders, 2)
	require.Len(t, restarted.Alone, 1)
	for _, o := range restarted.Orders {
		require.Equal(t, task.OrderDone, o.State)
		require.NotEmpty(t, o.Successor)
		// The reason is completed when the process is gone, which may be a moment after its end.
		c.eventually(func() bool {
			before := command[task.WorkerDetail](c, m, "workers", "show", o.Successor).Restarts[0]
			return before.ID == o.Worker && strings.Contains(before.Reason, "restart asked by admin") // the token's name
		}, "worker %s does not tell why it was restarted", o.Successor)
	}
	for _, r := range runs {
		run := c.result(r)
		require.Equal(t, task.StateSucceeded, run.State, run.Reason)
		require.Zero(t, run.Losses, "a run was lost by a planned restart")
	}
	for _, w := range before {
		require.Equal(t, w.ID == restarted.Alone[0], exists(w.PID))
	}

	drained := command[task.WorkerOrder](c, m, "workers", "restart", restarted.Alone[0])
	require.Equal(t, task.OrderDrain, drained.Kind, "nobody starts another in its place")
	require.Equal(t, task.OrderDone, drained.State)
	require.Zero(t, alone.ended(t, patience))

	crashed, hung := c.live()[0], c.live()[1]
	killed := time.Now()
	require.NoError(t, syscall.Kill(crashed.PID, syscall.SIGKILL))
	took := c.successorOf(crashed).StartedAt.Sub(killed)
	require.Less(t, took, 3*time.Second, "1 s where the machine has nothing else to do")
	stopped := time.Now()
	require.NoError(t, syscall.Kill(hung.PID, syscall.SIGSTOP))
	c.within(5*time.Second, func() bool { return !exists(hung.PID) }, "a worker that hangs is not killed")
	t.Logf("a crashed worker was replaced after %v, a hung one killed after %v", took.Round(time.Millisecond), time.Since(stopped).Round(time.Millisecond))

	masters := command[[]task.Master](c, m, "masters", "list")
	require.Len(t, masters, 1)
	require.True(t, masters[0].Leads)
	require.Equal(t, m.child.PID(), masters[0].PID)
	require.Len(t, masters[0].Slots, 2)
	require.Empty(t, masters[0].Warnings)
}

// successorOf waits for the worker that fills the slot of another.
func (c *cluster) successorOf(old task.Worker) (next task.Worker) {
	c.t.Helper()
	c.eventually(func() bool {
		for _, w := range c.live() {
			if w.Master == old.Master && *w.Slot == *old.Slot && w.Epoch > old.Epoch {
				next = w
				return true
			}
		}
		return false
	}, "worker %s has no successor", old.ID)
	return next
}

// TestMemoryBombs has package code take the memory of its worker in one
// operation. The worker dies, not the machine; the run is named and
// quarantined; its neighbour goes on unburnt.
func TestMemoryBombs(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "worker.maxMemory=400MiB", "script.heapLimit=300MiB", "worker.killGrace=2m") // a slow machine takes seconds to touch so much
	c.path = plain(t)
	m := c.startMaster(1)
	c.awaitWorkers(1)
	c.push()
	c.apply(`name: bomb/touched
chain: [{call: "faults:work?gulp", with: {recorder: RECORDER, step: 0, megabytes: 1500, touch: true}}]
---
name: bomb/asked
chain: [{call: "faults:work?gulp", with: {recorder: RECORDER, step: 0, megabytes: 8000, touch: false}}]
`)
	for _, tt := range []struct{ task, why string }{
		{"bomb/touched", "of memory, the limit is 400.0 MiB"},
		{"bomb/asked", "asked the kernel for more memory than it may have (RLIMIT_DATA), the limit is 400.0 MiB"},
	} {
		neighbour := c.start("faults/steps", `{"ms": 400}`)
		c.executing(neighbour, 0, 1)
		run := c.result(c.start(tt.task, `{}`))
		require.Equal(t, task.StateQuarantined, run.State, run.Reason)
		require.Contains(t, run.Reason, "quarantined: it has cost 3 workers, the last because of its memory: ")
		require.Contains(t, run.Reason, tt.why)
		require.Equal(t, 1, run.Attempt)
		neighbour = c.result(neighbour)
		require.Equal(t, task.StateSucceeded, neighbour.State, neighbour.Reason)
		require.Equal(t, 1, neighbour.Attempt)
	}
	require.NotEmpty(t, m.log.find("made its worker take too much memory"))
	ends := strings.Count(c.text(`SELECT string_agg(reason, E'\n') FROM workers WHERE killed`), "memory")
	require.GreaterOrEqual(t, ends, 3)
}
