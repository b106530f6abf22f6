package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/task"
)

// visitors ask the shared server for its status page without a pause, half of
// them with a new connection each time.
type visitors struct {
	all    sync.WaitGroup
	stop   chan struct{}
	asked  atomic.Int64
	failed chan error
}

func visit(t *testing.T, address string, n int) *visitors {
	t.Helper()
	v := &visitors{stop: make(chan struct{}), failed: make(chan error, n)}
	for i := range n {
		transport := &http.Transport{DisableKeepAlives: i%2 == 0, MaxIdleConnsPerHost: 1}
		t.Cleanup(transport.CloseIdleConnections)
		c := &http.Client{Transport: transport, Timeout: 20 * time.Second}
		v.all.Go(func() {
			for {
				select {
				case <-v.stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				if err := v.ask(c, "http://"+address+"/status"); err != nil {
					v.failed <- err
					return
				}
			}
		})
	}
	return v
}

func (v *visitors) ask(c *http.Client, url string) error {
	res, err := c.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the status page answers %s", res.Status)
	}
	v.asked.Add(1)
	return nil
}

func (v *visitors) leave() (asked int64) {
	close(v.stop)
	v.all.Wait()
	close(v.failed)
	return v.asked.Load()
}

// TestAMasterIsReplacedInPlace has a master hand its listeners to a new process
// of itself, again and again, under runs and requests.
func TestAMasterIsReplacedInPlace(t *testing.T) {
	c := newCluster(t, "worker.slots=16")
	m := c.startMaster(2)
	c.awaitWorkers(2)
	c.push()
	text, err := os.ReadFile("testdata/schedules.yaml")
	require.NoError(t, err)
	c.apply(scheduleLine.ReplaceAllString(string(text), ""))
	l, stop := newLoad(c, 8), make(chan struct{})
	var streams sync.WaitGroup
	streams.Go(func() { l.stream(t.Context(), stop, 16, 100*time.Millisecond) })
	guests := visit(t, m.http, 8)
	t.Cleanup(func() { _ = syscall.Kill(m.successor(t, 2), syscall.SIGTERM) })
	pid := m.child.PID()
	for turn := range 2 {
		require.NoError(t, syscall.Kill(pid, syscall.SIGUSR2))
		old := pid
		c.eventually(func() bool { return len(m.log.find(`"handed over"`)) == turn+1 }, "the master does not hand over")
		pid = m.successor(t, turn+1)
		c.eventually(func() bool { return !exists(old) }, "the master before does not end")
		c.awaitWorkers(2)
	}
	close(stop)
	streams.Wait()
	asked := guests.leave()
	for err := range guests.failed {
		require.NoError(t, err, "a request failed")
	}
	require.NoError(t, l.err)
	c.awaitEnds(l.ids(), patience)
	record := history.Record{Accepted: l.accepted, Executions: c.recorder.all(), Runs: c.allRuns(), Every: time.Second}
	require.Empty(t, record.Check())
	t.Logf("%d requests answered and %d runs done over two upgrades in place", asked, len(l.accepted))
}

// successor is the process id that the n-th hand-over names.
func (m *node) successor(t *testing.T, n int) int {
	t.Helper()
	said := m.log.find(`"handed over"`)
	if len(said) < n {
		return m.child.PID()
	}
	return said[n-1].Successor
}

// TestAHandOverThatFailsChangesNothing replaces the program by one that cannot start.
func TestAHandOverThatFailsChangesNothing(t *testing.T) {
	c := newCluster(t)
	c.path = filepath.Join(t.TempDir(), "catena")
	require.NoError(t, os.Symlink(binary(t), c.path))
	m := c.startMaster(1)
	c.awaitWorkers(1)
	require.NoError(t, os.Remove(c.path))
	require.NoError(t, os.WriteFile(c.path, []byte("#!/bin/sh\nexit 7\n"), 0o700))
	require.NoError(t, syscall.Kill(m.child.PID(), syscall.SIGUSR2))
	c.eventually(func() bool { return len(m.log.find("this one goes on")) == 1 }, "the failure is not told")
	require.Contains(t, m.log.find("this one goes on")[0].text, "exit status 7")
	require.True(t, exists(m.child.PID()))
	res, err := http.Get("http://" + m.http + "/status")
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)
}

// TestPlannedRestartsFailNothing has workers replaced after a number of runs,
// under runs and requests: no request fails, no run is lost, doubled or burnt.
func TestPlannedRestartsFailNothing(t *testing.T) {
	restarts := 4
	if os.Getenv("CATENA_TEST_FAULTS") == "long" {
		restarts = 100
	}
	c := newCluster(t, "worker.maxRuns=150", "worker.slots=16")
	m := c.startMaster(2)
	c.awaitWorkers(2)
	c.push()
	text, err := os.ReadFile("testdata/schedules.yaml")
	require.NoError(t, err)
	c.apply(scheduleLine.ReplaceAllString(string(text), ""))
	l, stop := newLoad(c, 7), make(chan struct{})
	var streams sync.WaitGroup
	for range 3 {
		streams.Go(func() { l.stream(t.Context(), stop, 16, 100*time.Millisecond) })
	}
	guests := visit(t, m.http, 16)
	began := time.Now()
	c.within(time.Duration(restarts)*10*time.Second+patience, func() bool {
		return len(m.log.find(`"worker is replaced"`)) >= restarts || len(guests.failed) > 0
	}, "the workers are not replaced")
	close(stop)
	streams.Wait()
	asked := guests.leave()
	for err := range guests.failed {
		require.NoError(t, err, "a request failed")
	}
	require.NoError(t, l.err)
	c.awaitEnds(l.ids(), patience)
	runs := c.allRuns()
	record := history.Record{Accepted: l.accepted, Executions: c.recorder.all(), Runs: runs, Every: time.Second}
	require.Empty(t, record.Check())
	for _, run := range runs {
		require.Zero(t, run.Losses, "run %s", run.ID)
		require.Equal(t, task.StateSucceeded, run.State)
	}
	t.Logf("%d replacements in %v, %d requests answered, %d runs done, none failed", len(m.log.find(`"worker is replaced"`)),
		time.Since(began).Round(time.Second), asked, len(runs))
}
