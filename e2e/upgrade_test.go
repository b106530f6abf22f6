package e2e

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
)

// TestUpgradeAndBack upgrades a master of the previous version in place to this
// one and back again, under runs and requests, while workers of both versions
// stand beside it. The schema is this version's throughout. `make upgrade` builds
// the previous version: the one before the newest migration.
func TestUpgradeAndBack(t *testing.T) {
	previous := os.Getenv("CATENA_TEST_PREVIOUS")
	if previous == "" {
		t.Skip("needs the program of the previous version in CATENA_TEST_PREVIOUS; `make upgrade` builds it")
	}
	c := newCluster(t, "worker.slots=16")
	c.path = filepath.Join(t.TempDir(), "catena")
	c.install(previous)
	m := c.startMaster(2)
	startAs(t, previous, "a worker of the previous version", c.env, c.args("worker")...)
	c.startWorker()
	c.awaitWorkers(4)
	c.push()
	text, err := os.ReadFile("testdata/schedules.yaml")
	require.NoError(t, err)
	c.apply(string(text))

	l, stop := newLoad(c, 9), make(chan struct{})
	var streams sync.WaitGroup
	streams.Go(func() { l.stream(t.Context(), stop, 16, 100*time.Millisecond) })
	streams.Go(func() { l.cancels(t.Context(), stop, 400*time.Millisecond) })
	guests := visitRate(t, m.http, 400)
	for _, path := range []string{binary(t), previous} {
		l.grow(200)
		c.install(path)
		c.upgrade(m)
		c.awaitWorkers(4)
	}
	l.grow(200)
	close(stop)
	streams.Wait()
	guests.leave()
	require.NoError(t, l.err)
	fires := newLedger(3, "faults/tick", "faults/tock").end(c, patience, func() { c.apply(scheduleLine.ReplaceAllString(string(text), "")) })
	c.awaitEnds(l.ids(), patience)
	record := history.Record{Accepted: l.accepted, Executions: c.recorder.all(), Runs: c.allRuns(), Fires: fires, Every: time.Second,
		Sources: sources(), Failures: guests.failed()}
	require.Empty(t, record.Check())
	t.Logf("%s; %d runs done over an upgrade in place and the way back", guests.summary(), len(l.accepted))
}

// install puts a program where the master's is, as an installer does: beside it, then renamed.
func (c *cluster) install(program string) {
	c.t.Helper()
	beside := c.path + ".new"
	require.NoError(c.t, os.Symlink(program, beside))
	require.NoError(c.t, os.Rename(beside, c.path))
}

// grow waits until n more runs were accepted.
func (l *load) grow(n int) {
	l.c.t.Helper()
	n += len(l.ids())
	l.c.eventually(func() bool { return len(l.ids()) >= n }, "no more runs are accepted")
}
