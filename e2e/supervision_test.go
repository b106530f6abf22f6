package e2e

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/task"
)

// TestWorkerIsReplaced makes a supervised worker worth replacing.
func TestWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	t.Run("for its memory", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, "worker.maxMemory=200MiB", "script.heapLimit=190MiB", "worker.drainTimeout=2m")
		m := c.startMaster(1)
		c.awaitWorkers(1)
		old := c.live()[0]
		c.push()
		c.apply("name: hold\nchain: [{call: \"faults:work?hold\", with: {megabytes: 150, ms: 3000}}]\n")
		run := c.result(c.start("hold", `{}`))
		require.Equal(t, task.StateSucceeded, run.State, run.Reason) // it was drained, not killed
		require.Zero(t, run.Losses)
		c.replaced(m, old, "of memory, the limit is 200.0 MiB")
	})
	t.Run("for its age", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, "worker.ttl=10s", "worker.drainTimeout=5s", "server.drainGrace=1s")
		m := c.startMaster(1)
		c.awaitWorkers(1)
		old := c.live()[0]
		c.push()
		c.replaced(m, old, "old, its limit is")
		run := c.result(c.start("faults/short", `{}`))
		require.Equal(t, task.StateSucceeded, run.State, run.Reason)
		require.Equal(t, "stopped", c.text(`SELECT state FROM workers WHERE epoch = $1`, old.Epoch))
	})
	t.Run("when it hangs", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t)
		m := c.startMaster(1)
		c.awaitWorkers(1)
		old := c.live()[0]
		c.push()
		run := c.start("faults/steps", `{"ms": 500}`)
		c.executing(run, 1, 1)
		require.NoError(t, syscall.Kill(old.PID, syscall.SIGSTOP))
		c.replaced(m, old, "no sign of life for")
		run = c.result(run)
		require.Equal(t, task.StateSucceeded, run.State, run.Reason)
		require.Equal(t, 1, run.Attempt)
		require.Equal(t, 1, run.Losses)
		require.Equal(t, 1, c.recorder.count(run.ID, 0), "a committed step ran again")
	})
}

// TestWorkersFollowTheWork lets work wait and has the master add workers, and
// take them away when it is done.
func TestWorkersFollowTheWork(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "worker.slots=2", "master.maxWorkers=3", "master.scaleUpAfter=500ms", "master.scaleDownAfter=3s")
	c.startMaster(1)
	c.awaitWorkers(1)
	c.push()
	text, err := os.ReadFile("testdata/schedules.yaml")
	require.NoError(t, err)
	c.apply(scheduleLine.ReplaceAllString(string(text), ""))
	l := newLoad(c, 9)
	l.submit(t.Context(), kind{task: "faults/short", params: `{"ms": 1000}`, attempt: 1, marks: 1}, 60)
	c.awaitWorkers(3)
	c.awaitEnds(l.ids(), patience)
	c.eventually(func() bool { return len(c.live()) == 1 }, "the workers stay though there is nothing to do")
	record := history.Record{Accepted: l.accepted, Executions: c.recorder.all(), Runs: c.allRuns(), Every: time.Second}
	require.Empty(t, record.Check())
	require.Equal(t, "0", c.text(`SELECT sum(losses)::text FROM runs`))
}

// replaced waits until another worker is there, the old process is gone and
// the master has said why.
func (c *cluster) replaced(m *node, old task.Worker, reason string) {
	c.t.Helper()
	c.eventually(func() bool {
		list := c.live()
		return len(list) == 1 && list[0].Epoch != old.Epoch && list[0].PID != old.PID
	}, "worker %d is not replaced", old.PID)
	c.eventually(func() bool { return !exists(old.PID) }, "process %d stays", old.PID) // it drained beside its successor
	said := append(m.log.find(`"worker is replaced"`), m.log.find(`"worker is killed"`)...)
	require.Len(c.t, said, 1, m.log.tail(40))
	require.Contains(c.t, said[0].Reason, reason)
}

// TestNoOrphans kills a master with -9: its workers die with it, also one that
// is suspended, and their runs go on elsewhere.
func TestNoOrphans(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	dying := c.startMaster(2)
	c.awaitWorkers(2)
	c.push()
	run := c.start("faults/steps", `{"ms": 700}`)
	c.executing(run, 0, 1)
	pids := []int{}
	for _, w := range c.live() {
		pids = append(pids, w.PID)
	}
	require.NoError(t, syscall.Kill(pids[0], syscall.SIGSTOP))
	c.startMaster(1)
	killed := time.Now()
	dying.kill()
	c.masters = c.masters[1:]
	c.within(5*time.Second, func() bool { return !exists(pids[0]) && !exists(pids[1]) }, "workers %v outlive their master", pids)
	run = c.result(run)
	require.Equal(t, task.StateSucceeded, run.State, run.Reason)
	require.Equal(t, 1, run.Attempt)
	require.Less(t, time.Since(killed), 15*time.Second)
}
