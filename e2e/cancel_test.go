package e2e

import (
	"context"
	"encoding/json"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

const stubbornTasks = `name: obeys
chain: [{call: 'faults:work?stubborn', with: {recorder: RECORDER, how: obeys}}, {call: 'faults:work?step', with: {recorder: RECORDER, step: 1}}]
retry: {attempts: 3}
---
name: spins
chain: [{call: 'faults:work?stubborn', with: {recorder: RECORDER, how: spins}}, {call: 'faults:work?step', with: {recorder: RECORDER, step: 1}}]
retry: {attempts: 3}
---
name: hangs
chain: [{call: 'faults:work?stubborn', with: {recorder: RECORDER, how: hangs}}, {call: 'faults:work?step', with: {recorder: RECORDER, step: 1}}]
retry: {attempts: 3}
`

// TestCancelStages cancels runs of real processes and has their workers die at
// every stage.
func TestCancelStages(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "worker.cancelGrace=1500ms", "worker.killGrace=1500ms", "worker.drainTimeout=2m", "script.timeout=10m")
	c.startMaster(1)
	c.awaitWorkers(1)
	c.push()
	c.apply(stubbornTasks)

	run := c.cancelled("obeys")
	require.Nil(t, run.InterruptedAt)
	run = c.cancelled("spins")
	require.NotNil(t, run.InterruptedAt)
	require.Nil(t, run.KilledAt)
	run = c.cancelled("spins", "--now")
	require.NotNil(t, run.InterruptedAt)
	require.Less(t, run.InterruptedAt.Sub(*run.CancelAskedAt), 1500*time.Millisecond)

	// What cannot be interrupted takes its process along, and no neighbour.
	old := c.live()[0]
	neighbour := c.start("faults/steps", `{"ms": 2000}`)
	c.executing(neighbour, 0, 1)
	run = c.cancelled("hangs")
	require.NotNil(t, run.InterruptedAt)
	require.NotNil(t, run.KilledAt)
	neighbour = c.result(neighbour)
	require.Equal(t, task.StateSucceeded, neighbour.State, neighbour.Reason)
	require.Equal(t, 1, neighbour.Attempt)
	require.Zero(t, neighbour.Losses)
	c.eventually(func() bool {
		list := c.live()
		return len(list) == 1 && list[0].PID != old.PID && !exists(old.PID)
	}, "the worker process was not replaced")
	require.Equal(t, "stopped", c.text(`SELECT state FROM workers WHERE epoch = $1`, old.Epoch))
	require.Equal(t, task.StateSucceeded, c.result(c.start("faults/short", `{}`)).State)
	show := string(c.cli("runs", "show", run.ID.String()))
	for _, field := range []string{"cancel asked", "interrupted", "killed", "cancelled by"} {
		require.Contains(t, show, field)
	}
	logs := string(c.cli("runs", "logs", run.ID.String()))
	for _, line := range []string{"told to end: cancelled", "it is interrupted", "its worker process is replaced"} {
		require.Contains(t, logs, line)
	}
	require.Equal(t, "4", c.text(`SELECT count::text FROM cancel_stages WHERE stage = 'requested'`))
	require.Equal(t, "1", c.text(`SELECT count::text FROM cancel_stages WHERE stage = 'killed'`))
}

// TestCancelOutlivesWhoeverDies kills the worker, the leader or the database of
// a run that was asked to end.
func TestCancelOutlivesWhoeverDies(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		settings []string
		stage    string // a condition on the run
	}{
		"asked":       {[]string{"worker.cancelGrace=1h"}, `cancel_requested`},
		"interrupted": {[]string{"worker.cancelGrace=100ms", "worker.killGrace=1h"}, `interrupted_at IS NOT NULL`},
		"killed":      {[]string{"worker.cancelGrace=100ms", "worker.killGrace=100ms", "worker.drainTimeout=1h"}, `killed_at IS NOT NULL`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, append(tt.settings, "script.timeout=10m")...)
			m := c.startMaster(1)
			c.startMaster(0)
			c.awaitWorkers(1)
			c.push()
			c.apply(stubbornTasks)
			reached := func(run task.Run) {
				c.eventually(func() bool { return c.text(`SELECT 'yes' FROM runs WHERE id = $1 AND `+tt.stage, run.ID) == "yes" }, "%s not reached", name)
			}
			never := func(run task.Run) {
				ended := c.result(run)
				require.Equal(t, task.StateCancelled, ended.State, ended.Reason)
				require.Equal(t, task.StateSucceeded, c.result(c.start("faults/short", `{}`)).State) // workers work
				require.Equal(t, 1, c.recorder.count(run.ID, 0), "it started again")
				require.Zero(t, c.recorder.count(run.ID, 1))
				require.Equal(t, task.StateCancelled, c.result(run).State)
			}
			neighbour := c.start("faults/short", `{"ms": 6000}`) // what the worker drains for, once it is to be replaced
			c.executing(neighbour, 0, 1)
			run := c.ask("hangs")
			reached(run)
			c.stopPostgres()
			require.NoError(t, syscall.Kill(c.childOf(m), syscall.SIGKILL))
			c.startPostgres()
			never(run)
			neighbour = c.result(neighbour)
			require.Equal(t, task.StateSucceeded, neighbour.State, neighbour.Reason)
			require.Equal(t, 1, neighbour.Attempt)

			run = c.ask("hangs")
			reached(run)
			c.replaceMaster(m, 1)
			never(run)
		})
	}
}

// childOf is the process of the master's only worker.
func (c *cluster) childOf(m *node) int {
	c.t.Helper()
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(m.child.PID())).Output()
	require.NoError(c.t, err)
	fields := strings.Fields(string(out))
	require.Len(c.t, fields, 1)
	pid, err := strconv.Atoi(fields[0])
	require.NoError(c.t, err)
	return pid
}

// ask starts a run and asks to cancel it once its code is at work.
func (c *cluster) ask(name string, flags ...string) task.Run {
	c.t.Helper()
	run := c.start(name, `{}`)
	c.executing(run, 0, 1)
	c.cli(append([]string{"runs", "cancel", run.ID.String()}, flags...)...)
	return run
}

func (c *cluster) cancelled(name string, flags ...string) task.Run {
	c.t.Helper()
	run := c.result(c.ask(name, flags...))
	require.Equal(c.t, task.StateCancelled, run.State, run.Reason)
	require.NotNil(c.t, run.CancelAskedAt)
	require.Equal(c.t, 1, run.Attempt)
	require.Zero(c.t, c.recorder.count(run.ID, 1), "a step began after the cancellation")
	return run
}

// cli runs a command against a master.
func (c *cluster) cli(args ...string) []byte {
	c.t.Helper()
	c.mu.Lock()
	server := c.masters[0].admin
	c.mu.Unlock()
	return c.run(binary(c.t), append(args, "--server", server, "--token", c.token)...)
}

// TestBulkCancelByCommand counts, refuses without --yes, and cancels what the flags select.
func TestBulkCancelByCommand(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "worker.slots=2")
	c.startMaster(1)
	c.awaitWorkers(1)
	c.push()
	const many = 600
	must(c, func(ctx context.Context, api *client.Client) (client.BatchResult, error) {
		requests := make([]client.RunRequest, many)
		for i := range requests {
			requests[i] = client.RunRequest{Key: uuid.NewString(), Params: json.RawMessage(`{"ms": 60000}`)}
		}
		return api.StartRuns(ctx, "faults/short", requests)
	})
	cmd := exec.Command(binary(t), "runs", "cancel", "--task", "faults/short", "--server", c.masters[0].admin, "--token", c.token)
	text, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, 2, cmd.ProcessState.ExitCode(), string(text))
	require.Contains(t, string(text), "this would cancel 600 runs; add --yes to do it")
	var sum struct{ Matched, Done, Skipped, Failed int }
	require.NoError(t, json.Unmarshal(c.cli("runs", "cancel", "--task", "faults/short", "--now", "--yes", "--json"), &sum))
	require.Equal(t, many, sum.Matched)
	require.Equal(t, many, sum.Done)
	c.eventually(func() bool {
		return c.text(`SELECT count(*)::text FROM runs WHERE task = 'faults/short' AND state = 'cancelled'`) == "600"
	}, "the runs do not end")
	require.NoError(t, json.Unmarshal(c.cli("runs", "retry", "--task", "faults/short", "--state", "cancelled", "--since", "1h", "--yes", "--json"), &sum))
	require.Equal(t, many, sum.Done)
	require.NoError(t, json.Unmarshal(c.cli("runs", "cancel", "--state", "queued,dispatched,running", "--now", "--yes", "--json"), &sum))
	require.Equal(t, many, sum.Matched)
}
