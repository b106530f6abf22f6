package master_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/master"
)

const patience = 20 * time.Second

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func supervise(m *master.Master) {
	go m.Supervise(context.Background(), func(int64, bool, string) {})
}

// event is a line of a dummy.
type event struct {
	name string
	pid  int
	at   time.Time
}

// death is what the supervisor told of an ended process.
type death struct {
	epoch   int64
	planned bool
	reason  string
}

// supervised is a supervisor under test.
type supervised struct {
	t    *testing.T
	file string
	stop context.CancelFunc
	done chan struct{}
	boss *master.Master

	mu     sync.Mutex
	deaths []death
}

func start(t *testing.T, kind string, change func(*master.Supervision)) *supervised {
	t.Helper()
	s := &supervised{t: t, file: filepath.Join(t.TempDir(), "events"), done: make(chan struct{})}
	cfg := master.Supervision{
		Workers: 1, CheckEvery: 20 * time.Millisecond, DrainTimeout: 5 * time.Second,
		Command: func(int) *exec.Cmd { return command(kind, s.file) },
	}
	if change != nil {
		change(&cfg)
	}
	m := master.New(master.Config{Name: "test", Supervision: cfg}, master.Deps{Log: quiet()})
	s.boss = m
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() {
		defer close(s.done)
		m.Supervise(ctx, func(epoch int64, planned bool, reason string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.deaths = append(s.deaths, death{epoch, planned, reason})
		})
	}()
	t.Cleanup(func() { stop(); <-s.done })
	return s
}

func events(t *testing.T, file string) (list []event) {
	t.Helper()
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue // being written
		}
		pid, err := strconv.Atoi(f[1])
		require.NoError(t, err)
		ms, err := strconv.ParseInt(f[2], 10, 64)
		require.NoError(t, err)
		list = append(list, event{f[0], pid, time.UnixMilli(ms)})
	}
	return list
}

// until waits for n events of a name.
func (s *supervised) until(name string, n int) (found []event) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		found = nil
		for _, e := range events(s.t, s.file) {
			if e.name == name {
				found = append(found, e)
			}
		}
		return len(found) >= n
	}, patience, 5*time.Millisecond, "%s", name)
	return found
}

func (s *supervised) dead(n int) []death {
	s.t.Helper()
	require.Eventually(s.t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.deaths) >= n }, patience, 5*time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]death{}, s.deaths...)
}

func gone(pid int) bool { return syscall.Kill(pid, 0) != nil }

func TestACrashedWorkerIsRestartedWithGrowingDelay(t *testing.T) {
	t.Parallel()
	s := start(t, "crash", nil)
	starts := s.until("start", 5)
	for i := 2; i < 5; i++ {
		wait := starts[i].at.Sub(starts[i-1].at)
		require.GreaterOrEqual(t, wait, 50*time.Millisecond<<(i-1), "restart %d", i)
	}
	first := s.dead(1)[0]
	require.EqualValues(t, starts[0].pid, first.epoch)
	require.False(t, first.planned)
	require.Contains(t, first.reason, "exit status 3")
}

func TestAKilledWorkerIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, "good", nil)
	first := s.until("start", 1)[0]
	s.working()
	require.NoError(t, syscall.Kill(first.pid, syscall.SIGKILL))
	killed := time.Now()
	second := s.until("start", 2)[1]
	require.NotEqual(t, first.pid, second.pid)
	require.Less(t, second.at.Sub(killed), 3*time.Second)
	require.Contains(t, s.dead(1)[0].reason, "killed")
	require.False(t, s.dead(1)[0].planned)
}

func TestAHangingWorkerIsKilled(t *testing.T) {
	t.Parallel()
	s := start(t, "hang", func(cfg *master.Supervision) { cfg.Policy.HangAfter = 300 * time.Millisecond })
	starts := s.until("start", 2)
	require.True(t, gone(starts[0].pid))
	d := s.dead(1)[0]
	require.False(t, d.planned)
	require.Contains(t, d.reason, "no sign of life")
	require.Len(t, s.until("start", 2)[:2], 2)
	for _, e := range events(t, s.file) {
		require.NotEqual(t, "term", e.name, "who hangs is not asked")
	}
}

func TestAStoppedWorkerIsKilled(t *testing.T) {
	t.Parallel()
	s := start(t, "good", func(cfg *master.Supervision) { cfg.Policy.HangAfter = time.Second })
	first := s.working()[0].PID
	require.NoError(t, syscall.Kill(first, syscall.SIGSTOP))
	s.until("start", 2)
	require.True(t, gone(first))
}

func TestAWorkerThatTakesTooMuchMemoryIsDrained(t *testing.T) {
	t.Parallel()
	s := start(t, "hog", func(cfg *master.Supervision) { cfg.Policy.MaxMemory = 170 << 20 })
	terms, starts := s.until("term", 1), s.until("start", 2)
	require.Equal(t, starts[0].pid, terms[0].pid, "it is asked first")
	require.Contains(t, s.dead(1)[0].reason, "of memory, the limit is 170.0 MiB")
	require.False(t, s.dead(1)[0].planned, "a run that takes all memory counts as dangerous")
}

func TestAnOldWorkerIsReplacedByOneThatWorks(t *testing.T) {
	t.Parallel()
	s := start(t, "good", func(cfg *master.Supervision) { cfg.Policy = healthcheck.Policy{TTL: 4 * time.Second} })
	terms, starts := s.until("term", 1), s.until("start", 2)
	require.Equal(t, starts[0].pid, terms[0].pid)
	require.False(t, terms[0].at.Before(starts[1].at), "its successor works before it is asked to end")
	d := s.dead(1)[0]
	require.True(t, d.planned)
	require.Contains(t, d.reason, "old")
}

func TestAWorkerIsReplacedAfterItsRuns(t *testing.T) {
	t.Parallel()
	s := start(t, "good", func(cfg *master.Supervision) { cfg.Policy = healthcheck.Policy{MaxRuns: 10} })
	s.until("term", 2)
	d := s.dead(2)[0]
	require.True(t, d.planned)
	require.Contains(t, d.reason, "runs, the limit is 10")
}

// Two slots that come of age together are replaced one after the other.
func TestOneSlotAtATimeIsReplaced(t *testing.T) {
	t.Parallel()
	s := start(t, "slow", func(cfg *master.Supervision) { cfg.Workers, cfg.Policy = 2, healthcheck.Policy{MaxRuns: 10} })
	s.until("ready", 4)
	under := 0
	for _, e := range events(t, s.file)[2:] { // the two that begin together
		switch e.name {
		case "start":
			under++
		case "ready":
			under--
		}
		require.LessOrEqual(t, under, 2, "the first two, or one replacement")
	}
	starts, ready := s.until("start", 4), s.until("ready", 3)
	require.False(t, starts[3].at.Before(ready[2].at), "the second replacement waits for the first")
}

func TestAWorkerGoesOnWhenItsReplacementDoesNot(t *testing.T) {
	t.Parallel()
	s := start(t, "first", func(cfg *master.Supervision) {
		cfg.Policy, cfg.ReadyWithin = healthcheck.Policy{MaxRuns: 10}, 200*time.Millisecond
	})
	first := s.until("start", 1)[0]
	s.until("start", 3) // attempts that never report
	require.False(t, gone(first.pid))
	for _, e := range s.until("term", 1) {
		require.NotEqual(t, first.pid, e.pid)
	}
}

// It would not end by being asked.
func TestAWorkerThatTakesTwiceItsMemoryIsKilled(t *testing.T) {
	t.Parallel()
	s := start(t, "bomb", func(cfg *master.Supervision) { cfg.Policy.MaxMemory, cfg.KillAfter = 90<<20, time.Minute })
	pid := s.until("start", 1)[0].pid
	d := s.dead(1)[0]
	require.Eventually(t, func() bool { return gone(pid) }, patience, 5*time.Millisecond)
	require.False(t, d.planned)
	require.Contains(t, d.reason, "of memory, the limit is 90.0 MiB")
	s.until("start", 2)
}

func TestAllEndWithTheirMaster(t *testing.T) {
	t.Parallel()
	s := start(t, "good", func(cfg *master.Supervision) { cfg.Workers = 3 })
	starts := s.until("start", 3)
	s.stop()
	select {
	case <-s.done:
	case <-time.After(patience):
		require.FailNow(t, "the supervisor did not end")
	}
	for _, e := range starts {
		require.True(t, gone(e.pid))
	}
	require.Len(t, s.until("term", 3), 3)
	for _, d := range s.dead(3) {
		require.True(t, d.planned)
	}
}

func TestAStubbornWorkerIsKilledAfterItsTime(t *testing.T) {
	t.Parallel()
	s := start(t, "stubborn", func(cfg *master.Supervision) {
		cfg.DrainTimeout, cfg.KillAfter = 10*time.Millisecond, time.Second
	})
	pid := s.until("start", 1)[0].pid
	began := time.Now()
	s.stop()
	<-s.done
	require.True(t, gone(pid))
	require.Less(t, time.Since(began), 10*time.Second)
}

// kill -9 of the supervising process leaves no child behind.
func TestNoOrphans(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "events")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envBoss+"=1", envFile+"="+file)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return len(events(t, file)) > 0 }, patience, 5*time.Millisecond)
	child := events(t, file)[0].pid
	require.False(t, gone(child))
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool { return ended(child) }, 5*time.Second, 5*time.Millisecond)
}

// A master that was suspended does not take its worker's silence for a hang: the
// reports of the meantime are still in the pipe, or the worker slept too.
func TestASuspendedMasterKillsNobody(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "events")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envBoss+"=1", envFile+"="+file)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(t, func() bool { return len(events(t, file)) > 0 }, patience, 5*time.Millisecond)
	worker := events(t, file)[0].pid
	pause := func(pids ...int) {
		for _, pid := range pids {
			require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		}
		require.Never(t, func() bool { return gone(worker) }, 3*time.Second, 100*time.Millisecond) // longer than a worker may be silent
		for _, pid := range pids {
			require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
		}
		require.Never(t, func() bool { return ended(worker) || len(events(t, file)) > 1 }, time.Second, 20*time.Millisecond)
	}
	pause(cmd.Process.Pid)
	pause(cmd.Process.Pid, worker) // as a machine does that sleeps
}

// ended is gone, or a zombie that nobody has collected.
func ended(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return gone(pid)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.HasPrefix(rest, "Z")
}
