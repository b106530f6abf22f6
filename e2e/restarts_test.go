package e2e

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/task"
)

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
	guests := visitRate(t, m.http, 400)
	for range 2 {
		c.upgrade(m)
		c.awaitWorkers(2)
	}
	close(stop)
	streams.Wait()
	guests.leave()
	require.Empty(t, guests.failed())
	require.NoError(t, l.err)
	c.awaitEnds(l.ids(), patience)
	record := history.Record{Accepted: l.accepted, Executions: c.recorder.all(), Runs: c.allRuns(), Every: time.Second}
	require.Empty(t, record.Check())
	t.Logf("%s; %d runs done over two upgrades in place", guests.summary(), len(l.accepted))
}

// upgrade has a master hand over to a new process of itself.
func (c *cluster) upgrade(m *node) {
	c.t.Helper()
	old, turns := m.pid(), len(m.log.find(`"handed over"`))
	require.NoError(c.t, syscall.Kill(old, syscall.SIGUSR2))
	c.eventually(func() bool { return len(m.log.find(`"handed over"`)) > turns }, "the master does not hand over")
	c.eventually(func() bool { return !exists(old) }, "the master before does not end")
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

// TestPlannedRestartsFailNothing has workers replaced for every reason there is,
// under runs and requests: no request fails, no run is lost, doubled or burnt.
func TestPlannedRestartsFailNothing(t *testing.T) {
	if os.Getenv("CATENA_TEST_FAULTS") == "long" {
		planned(t, restarts{number: int(setting(t, "CATENA_TEST_RESTARTS", 100)), requests: 2000, runs: 200, memory: true,
			settings: [2][]string{{"worker.maxRuns=800"}, {"worker.ttl=12s"}}})
		return
	}
	planned(t, restarts{number: 8, requests: 400, runs: 100, settings: [2][]string{{"worker.maxRuns=150"}, {"worker.ttl=12s"}}})
}

// restarts says how many, and what goes on meanwhile.
type restarts struct {
	number, requests, runs int         // requests and runs a second
	settings               [2][]string // of the two masters
	memory                 bool        // workers are also replaced for their memory
}

func planned(t *testing.T, r restarts) {
	c := newCluster(t, "worker.slots=16", "worker.drainTimeout=10s", "server.drainGrace=2s")
	if r.memory {
		c.settings = append(c.settings, "worker.maxMemory=300MiB", "script.heapLimit=290MiB")
	}
	var masters []*node
	for _, settings := range r.settings {
		masters = append(masters, c.startMaster(2, settings...))
	}
	c.awaitWorkers(4)
	c.push()
	text, err := os.ReadFile("testdata/schedules.yaml")
	require.NoError(t, err)
	c.apply(scheduleLine.ReplaceAllString(string(text), "") + "\n---\nname: hold\nchain: [{call: \"faults:work?hold\", with: {megabytes: 220, ms: 2500}}]\n")
	l, stop := newLoad(c, 7), make(chan struct{})
	var streams sync.WaitGroup
	streams.Go(func() { l.steady(t.Context(), stop, r.runs) })
	guests := []*visitors{visitRate(t, masters[0].http, r.requests/2), visitRate(t, masters[1].http, r.requests/2)}
	began, told, upgrades := time.Now(), 0, 0
	total := func() (n int) {
		for _, m := range masters {
			n += len(m.log.find(`"worker is replaced"`))
		}
		return n + told + upgrades
	}
	for turn := 0; total() < r.number && len(guests[0].failed())+len(guests[1].failed()) == 0; turn++ {
		m := masters[(turn+turn/8)%2]
		switch turn % 4 {
		case 0:
			c.replaceOne(m, func(w task.Worker) { require.NoError(t, syscall.Kill(w.PID, syscall.SIGTERM)) })
			told++
		case 1:
			c.replaceOne(m, func(w task.Worker) { c.cli("workers", "restart", w.ID) })
		case 2, 3:
			if turn%8 < 4 || !r.memory {
				c.upgrade(m)
				upgrades++
			} else {
				c.press(l, masters)
			}
		}
		pace(t.Context(), 2*time.Second)
	}
	close(stop)
	streams.Wait()
	took := time.Since(began)
	for _, g := range guests {
		g.leave()
		fmt.Println(g.summary())
		require.Empty(t, g.failed())
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
	reasons := map[string]int{"SIGTERM": told, "in place": upgrades}
	for _, m := range masters {
		for _, line := range m.log.find(`"worker is replaced"`) {
			for reason, text := range map[string]string{"maxRuns": "has executed", "ttl": " old, its limit", "memory": "of memory", "command": "asked by"} {
				if strings.Contains(line.Reason, text) {
					reasons[reason]++
				}
			}
		}
	}
	asked := guests[0].asked.Load() + guests[1].asked.Load()
	fmt.Printf("%d planned restarts %v in %v: %d requests answered (%.0f/s), %d runs done (%.0f/s), none failed, lost or doubled\n", total(), reasons,
		took.Round(time.Second), asked, float64(asked)/took.Seconds(), len(runs), float64(len(runs))/took.Seconds())
}

// press has a run take so much memory that its worker is replaced, and waits
// until that one drains: told to stop by somebody else too, it would stop at once.
func (c *cluster) press(l *load, masters []*node) {
	c.t.Helper()
	replaced := func() (pids []int) {
		for _, m := range masters {
			for _, line := range m.log.find(`"worker is replaced"`) {
				if strings.Contains(line.Reason, "of memory") {
					pids = append(pids, line.PID)
				}
			}
		}
		return pids
	}
	before := len(replaced())
	var asked time.Time
	c.eventually(func() bool {
		if time.Since(asked) > 8*time.Second { // its worker may have been about to be replaced for something else
			l.submit(c.t.Context(), kind{task: "hold", attempt: 1}, 1)
			asked = time.Now()
		}
		return len(replaced()) > before
	}, "no worker is replaced for its memory")
	c.eventually(func() bool {
		pids := replaced()
		return !slices.ContainsFunc(c.live(), func(w task.Worker) bool { return w.State == task.WorkerActive && slices.Contains(pids, w.PID) })
	}, "the worker with too much memory does not drain")
}

// replaceOne has a supervised worker told to end and waits for the one in its place.
func (c *cluster) replaceOne(m *node, tell func(task.Worker)) {
	c.t.Helper()
	var active []task.Worker
	ours := func() []task.Worker {
		return slices.DeleteFunc(c.live(), func(w task.Worker) bool {
			return w.State != task.WorkerActive || !strings.Contains(w.Master, fmt.Sprintf("-%d-", m.pid()))
		})
	}
	c.eventually(func() bool { active = ours(); return len(active) > 1 }, "the master has no two workers")
	newest := slices.MaxFunc(active, func(a, b task.Worker) int { return cmp.Compare(a.Epoch, b.Epoch) })
	tell(newest) // the older one may be about to be replaced anyway
	c.eventually(func() bool {
		return slices.ContainsFunc(ours(), func(w task.Worker) bool { return w.Epoch > newest.Epoch })
	}, "the worker that was told to end is not replaced")
}
