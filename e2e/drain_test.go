package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

const (
	drainTimeout = 3 * time.Second
	drainSlack   = 6 * time.Second // for the last commits and the end of the process
)

// TestDrain stops a worker and a master politely: short runs finish where
// they are, long ones go back and begin again elsewhere with their retry budget untouched.
func TestDrain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "worker.drainTimeout="+drainTimeout.String())
	c.startMaster(0)
	first := c.startWorker()
	c.awaitWorkers(1)
	c.push()

	drained := c.beginRuns()
	c.startWorker()
	c.awaitWorkers(2)
	first.signal(t, syscall.SIGTERM)
	require.Zero(t, first.ended(t, drainTimeout+drainSlack))
	c.judgeDrain(drained)

	// The same of a master with two workers, the rest of the cluster stopped meanwhile.
	c.workers[1].signal(t, syscall.SIGTERM)
	require.Zero(t, c.workers[1].ended(t, drainTimeout+drainSlack))
	second := c.startMaster(2)
	c.awaitWorkers(2)
	drained = c.beginRuns()
	pids := []int{}
	for _, w := range c.live() {
		pids = append(pids, w.PID)
	}
	c.startWorker()
	c.awaitWorkers(3)
	second.signal(t, syscall.SIGTERM)
	require.Zero(t, second.ended(t, drainTimeout+drainSlack))
	for _, pid := range pids {
		require.False(t, exists(pid), "worker %d outlives its master", pid)
	}
	c.masters = c.masters[:1]
	c.judgeDrain(drained)
	require.Equal(t, "0", c.text(`SELECT count(*)::text FROM workers WHERE state = 'lost'`))
}

// TestASecondSignalStopsAtOnce of a worker and of a master: the first says what
// is waited for. The run survives both.
func TestASecondSignalStopsAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startMaster(0)
	c.push()
	alone := c.startWorker()
	c.awaitWorkers(1)
	run := c.start("faults/short", `{"ms": 9000}`)
	c.executing(run, 0, 1)
	c.stopTwice(alone, "waiting for 1 run to end (up to 30s); press again to stop now")

	second := c.startMaster(1)
	c.executing(run, 0, 2)
	pid := 0
	c.eventually(func() bool {
		workers := c.live()
		if len(workers) == 1 {
			pid = workers[0].PID
		}
		return len(workers) == 1 && workers[0].Running == 1
	}, "the heartbeat tells of the run")
	c.stopTwice(second.program, "waiting for 1 run to end (up to 30s); press again to stop now")
	c.eventually(func() bool { return !exists(pid) }, "the worker %d ends with its master", pid)
	c.masters = c.masters[:1]

	c.startWorker()
	run = c.result(run)
	require.Equal(t, task.StateSucceeded, run.State, run.Reason)
	require.Equal(t, 1, run.Attempt, "no retry is burnt")
}

func (c *cluster) stopTwice(p *program, notice string) {
	c.t.Helper()
	p.signal(c.t, syscall.SIGTERM)
	c.eventually(func() bool { return len(p.log.find(notice)) == 1 }, "%s says %q", p.name, notice)
	require.True(c.t, p.alive(), "it drains")
	c.eventually(func() bool { // one that follows at once is taken for the same request
		_ = p.child.Signal(syscall.SIGTERM)
		return !p.alive()
	}, "%s does not stop", p.name)
	require.Equal(c.t, 128+int(syscall.SIGTERM), p.ended(c.t, 2*time.Second))
	require.NotEmpty(c.t, p.log.find("stopping now"))
}

// drainedRuns are on at the moment of the signal.
type drainedRuns struct{ short, long []task.Run }

func (c *cluster) beginRuns() (d drainedRuns) {
	c.t.Helper()
	for range 4 {
		d.short = append(d.short, c.start("faults/short", `{"ms": 1500}`))
		d.long = append(d.long, c.start("faults/short", `{"ms": 9000}`))
	}
	for _, run := range append(d.short, d.long...) {
		c.executing(run, 0, 1)
	}
	return d
}

func (c *cluster) judgeDrain(d drainedRuns) {
	c.t.Helper()
	check := func(runs []task.Run, times int) {
		for _, run := range runs {
			run = c.result(run)
			require.Equal(c.t, task.StateSucceeded, run.State, run.Reason)
			require.Equal(c.t, 1, run.Attempt)
			require.Zero(c.t, run.Losses)
			require.Equal(c.t, times, c.recorder.count(run.ID, 0))
		}
	}
	check(d.short, 1)
	check(d.long, 2)
}
