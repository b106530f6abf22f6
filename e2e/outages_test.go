package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

const away = 10 * time.Second // how long a server is missing

// TestOutagesAtStart starts processes while a server is missing.
func TestOutagesAtStart(t *testing.T) {
	t.Parallel()
	t.Run("without Postgres nothing starts", func(t *testing.T) {
		t.Parallel()
		env := []string{fmt.Sprintf("CATENA_POSTGRES_URL=postgres://catena@%s/catena", closedAddress(t)), "CATENA_REDIS_URL=redis://" + closedAddress(t)}
		for _, command := range []string{"master", "worker"} {
			p := start(t, "a "+command, env, command, "--set", "master.admin=127.0.0.1:0", "--set", "server.http=127.0.0.1:0")
			require.Equal(t, 3, p.ended(t, 10*time.Second))
			require.True(t, strings.HasPrefix(p.log.tail(20), "error: "), p.log.tail(20))
			require.NotEmpty(t, p.log.find("connection refused"), "it does not say what is wrong:\n%s", p.log.tail(20))
			require.NotEmpty(t, p.log.find("fix: check that Postgres runs and postgres.url is right"), "it names no remedy:\n%s", p.log.tail(20))
		}
	})
	t.Run("without Redis runs wait", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t)
		c.stopRedis()
		m := c.startMaster(1)
		require.NotEmpty(t, m.log.find("the queue cannot be reached"), m.log.tail(20))
		c.awaitWorkers(1)
		c.push()
		run := c.start("faults/short", `{}`)
		pace(t.Context(), 2*time.Second)
		require.False(t, c.get(run).State.Terminal())
		c.startRedis()
		run = c.result(run)
		require.Equal(t, task.StateSucceeded, run.State, run.Reason)
		require.Equal(t, 1, c.recorder.count(run.ID, 0))
	})
}

func closedAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// TestOutagesLater takes a server away from a working cluster. Nobody is lost
// by that and nothing runs twice.
func TestOutagesLater(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startMaster(1)
	c.startMaster(0)
	c.startWorker()
	c.awaitWorkers(2)
	c.push()

	runs := c.startMany(8)
	c.stopRedis()
	for range 5 { // accepted all the same
		runs = append(runs, c.startMany(2)...)
		pace(t.Context(), away/5)
	}
	c.startRedis()
	c.endedWell(runs)

	runs = c.startMany(8)
	twice := c.start("faults/twice", `{"ms": 6000}`)
	c.executing(runs[0], 0, 1)
	c.executing(twice, 0, 1)
	c.stopPostgres()
	back := time.Now().Add(away)
	for time.Now().Before(back) {
		for _, m := range c.masters {
			_, err := m.client.Run(t.Context(), runs[0].ID)
			require.Equal(t, task.CodeUnavailable, task.CodeOf(err), "%v", err)
			_, err = m.client.StartRun(t.Context(), "faults/short", client.RunRequest{})
			require.Equal(t, task.CodeUnavailable, task.CodeOf(err), "%v", err)
		}
		pace(t.Context(), time.Second)
	}
	require.Zero(t, c.recorder.count(twice.ID, 1), "a worker without an acknowledged heartbeat called out")
	c.startPostgres()
	require.Equal(t, task.StateSucceeded, c.result(twice).State)
	require.Equal(t, 1, c.recorder.count(twice.ID, 1))
	runs = append(runs, c.startMany(2)...)
	c.endedWell(runs)
	require.Equal(t, "0", c.text(`SELECT count(*)::text FROM workers WHERE state = 'lost'`))
	require.Len(t, c.live(), 2)
}

// startMany starts runs of four steps.
func (c *cluster) startMany(n int) (runs []task.Run) {
	c.t.Helper()
	for range n {
		runs = append(runs, c.start("faults/steps", `{"ms": 400}`))
	}
	return runs
}

func (c *cluster) get(run task.Run) task.Run {
	c.t.Helper()
	return must(c, func(ctx context.Context, api *client.Client) (task.Run, error) { return api.Run(ctx, run.ID) })
}

// endedWell wants each run to succeed with every step executed once.
func (c *cluster) endedWell(runs []task.Run) {
	c.t.Helper()
	for _, run := range runs {
		run = c.result(run)
		require.Equal(c.t, task.StateSucceeded, run.State, run.Reason)
		require.Equal(c.t, 1, run.Attempt)
		require.Zero(c.t, run.Losses)
		for step := range 4 {
			require.Equal(c.t, 1, c.recorder.count(run.ID, step), "step %d of run %s", step, run.ID)
		}
	}
}
