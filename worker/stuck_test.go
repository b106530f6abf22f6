package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/worker"
)

// envStuck tells this binary to be a worker; it holds stuckSettings.
const envStuck = "CATENA_TEST_STUCK"

type stuckSettings struct {
	Postgres, Redis, Namespace  string
	Script, Drain, Cancel, Kill time.Duration // 0: the default
}

// stuckExit is how the process ends when its worker returned an error.
const stuckExit = 42

// stuckProcess runs a worker until it ends by itself.
func stuckProcess() int {
	var s stuckSettings
	if err := json.Unmarshal([]byte(os.Getenv(envStuck)), &s); err != nil {
		return 1
	}
	ctx, log := context.Background(), logrus.New()
	rows, err := store.Open(ctx, store.Config{URL: s.Postgres})
	if err != nil {
		return 2
	}
	q, err := queue.Open(queue.Config{URL: s.Redis, Namespace: s.Namespace}, log)
	if err != nil {
		return 3
	}
	engine := script.New(script.Config{Timeout: s.Script}, log)
	w, err := worker.New(worker.Config{
		Slots: 4, DrainTimeout: s.Drain, CancelGrace: s.Cancel, KillGrace: s.Kill, Host: "test", Version: "test",
	}, worker.Deps{
		Store: rows, Queue: q, Packages: pkgstore.NewCache(pkgstore.New(rows.Pool(), pkgstore.Config{}), 1<<20), Scripts: engine,
		Dispatch: dispatch.New(rows, q, log), Log: log,
	})
	if err != nil {
		return 4
	}
	if err := w.Run(ctx); err != nil {
		engine.Close()
		_ = q.Close()
		rows.Close()
		return stuckExit
	}
	return 0
}

// process starts a worker in a process of its own; ended waits until it has
// ended by itself and returns its exit code.
func (c *cluster) process(s stuckSettings) (ended func() int) {
	c.t.Helper()
	s.Postgres, s.Redis, s.Namespace = c.url, c.redis, c.namespace
	settings, err := json.Marshal(s)
	require.NoError(c.t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envStuck+"="+string(settings))
	cmd.Stderr = c.log
	require.NoError(c.t, cmd.Start())
	over := make(chan error, 1)
	go func() { over <- cmd.Wait() }()
	c.t.Cleanup(func() { _ = cmd.Process.Kill() })
	require.Eventually(c.t, func() bool { return c.count(`SELECT count(*) FROM workers`) == 1 }, patience, 5*time.Millisecond)
	return func() int {
		select {
		case err = <-over:
		case <-time.After(time.Minute):
			require.FailNow(c.t, "the process did not end")
		}
		var exit *exec.ExitError
		require.True(c.t, errors.As(err, &exit), "%v", err)
		return exit.ExitCode()
	}
}

// A regular expression that backtracks for ever looks at no interrupt. Its run
// ends with the reason, the others are given back, and the process ends.
func TestACallThatIgnoresItsInterruptEndsTheProcess(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.push(`export function main() { return /^(?=a)(a+)+\1$/.test("a".repeat(60) + "b") }`, "", "m?main")
	c.apply("name: stuck\nchain: [{call: 'pkg:m?main'}]\n---\nname: neighbour\nchain: [{do: [{delay: 1h}]}]\n")
	ended := c.process(stuckSettings{Script: 300 * time.Millisecond, Drain: 300 * time.Millisecond, Kill: 2 * time.Second})
	neighbour := c.submit("neighbour")
	c.until(neighbour, task.StateRunning)
	stuck := c.submit("stuck")
	require.Equal(t, stuckExit, ended())

	run := c.get(stuck)
	require.Equal(t, task.StateFailed, run.State)
	require.Contains(t, run.Reason, "pkg:m?main did not stop when it was told to")
	run = c.get(neighbour)
	require.Contains(t, []task.State{task.StateQueued, task.StateDispatched}, run.State)
	require.Equal(t, 1, run.Attempt)
	require.Zero(t, run.Losses, "it was given back, not lost")
	require.Equal(t, 1, c.count(`SELECT count(*) FROM workers WHERE state = 'stopped' AND reason LIKE '%did not stop%'`))
}
