package master_test

import (
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/task"
)

// orders keeps how orders came along.
type orders struct {
	mu   sync.Mutex
	seen []task.OrderState
	last string
}

func (o *orders) follow(s *supervised) {
	s.boss.OnOrder(func(_ int64, state task.OrderState, detail string) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.seen, o.last = append(o.seen, state), detail
	})
}

func (o *orders) states() []task.OrderState {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]task.OrderState{}, o.seen...)
}

func (s *supervised) order(kind task.OrderKind, pid int) {
	s.t.Helper()
	s.boss.Obey([]task.WorkerOrder{{Epoch: int64(pid), Kind: kind, AskedBy: "ann", State: task.OrderAsked}})
}

// working waits until each slot has a worker at work and returns the slots.
func (s *supervised) working() (slots []task.Slot) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		slots = s.boss.Slots()
		for _, slot := range slots {
			if slot.State != task.SlotWorking {
				return false
			}
		}
		return len(slots) > 0
	}, patience, 5*time.Millisecond)
	return slots
}

func TestARestartThatIsAskedForStartsTheSuccessorFirst(t *testing.T) {
	t.Parallel()
	s := start(t, "good", nil)
	var o orders
	o.follow(s)
	first := s.working()[0].PID
	s.order(task.OrderRestart, first)
	s.order(task.OrderRestart, first) // again, as at the next beat
	starts, terms := s.until("start", 2), s.until("term", 1)
	require.Equal(t, first, terms[0].pid)
	require.False(t, terms[0].at.Before(starts[1].at))
	d := s.dead(1)[0]
	require.True(t, d.planned)
	require.Equal(t, "restart asked by ann", d.reason)
	require.Equal(t, []task.OrderState{task.OrderReplacing, task.OrderDraining, task.OrderDone}, o.states())
	require.Equal(t, starts[1].pid, s.working()[0].PID)
	require.Equal(t, starts[1].pid, s.boss.Present(0))
	require.Equal(t, 2, s.working()[0].Starts)
}

func TestARestartWhoseReplacementDoesNotComeUpFails(t *testing.T) {
	t.Parallel()
	s := start(t, "first", func(cfg *master.Supervision) { cfg.ReadyWithin = 200 * time.Millisecond })
	var o orders
	o.follow(s)
	first := s.working()[0].PID
	s.order(task.OrderRestart, first)
	require.Eventually(t, func() bool { return len(o.states()) == 2 }, patience, 5*time.Millisecond)
	require.Equal(t, []task.OrderState{task.OrderReplacing, task.OrderFailed}, o.states())
	require.Equal(t, "its replacement did not begin its work within 200ms; the worker goes on", o.last)
	require.False(t, gone(first))
	require.Equal(t, first, s.working()[0].PID)
	require.Equal(t, first, s.boss.Present(0), "its figures are still shown")
}

// A beat may read an order just before its failure is written.
func TestAFailedOrderIsNotCarriedOutAgain(t *testing.T) {
	t.Parallel()
	s := start(t, "first", func(cfg *master.Supervision) { cfg.ReadyWithin = 50 * time.Millisecond })
	asked := time.Now()
	give := func(pid int) {
		s.boss.Obey([]task.WorkerOrder{{Epoch: int64(pid), Kind: task.OrderRestart, AskedBy: "ann", AskedAt: asked, State: task.OrderReplacing}})
	}
	var o orders
	var at []time.Time
	away := true
	first := s.working()[0].PID
	s.boss.OnOrderErr(func(_ int64, state task.OrderState, detail string) error {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.seen, o.last, at = append(o.seen, state), detail, append(at, time.Now())
		if state == task.OrderFailed && away {
			away = false
			go give(first) // as a beat that read it before
			return errors.New("the database is away")
		}
		return nil
	})
	give(first)
	failed := []task.OrderState{task.OrderReplacing, task.OrderFailed}
	require.Eventually(t, func() bool { return len(o.states()) >= 2 }, patience, time.Millisecond)
	require.Eventually(t, func() bool { give(first); return len(o.states()) == 3 }, patience, 5*time.Millisecond, "its failure is written when the database answers")
	failed = append(failed, task.OrderFailed)
	require.Never(t, func() bool { give(first); return len(o.states()) > 3 }, 200*time.Millisecond, 10*time.Millisecond)
	require.Equal(t, failed, o.states())
	require.Contains(t, o.last, "the worker goes on")

	asked = asked.Add(time.Second) // somebody asks again: it waits its time
	give(first)
	require.Eventually(t, func() bool { return len(o.states()) > 3 }, patience, time.Millisecond)
	o.mu.Lock()
	defer o.mu.Unlock()
	require.Equal(t, task.OrderReplacing, o.seen[3])
	require.Greater(t, at[3].Sub(at[1]), 900*time.Millisecond)
}

func TestADrainedWorkersSlotIsFilledAgain(t *testing.T) {
	t.Parallel()
	s := start(t, "good", nil)
	var o orders
	o.follow(s)
	first := s.working()[0].PID
	s.order(task.OrderDrain, first)
	starts := s.until("start", 2)
	require.True(t, gone(first), "the next one starts after it")
	require.NotEqual(t, first, starts[1].pid)
	require.Equal(t, []task.OrderState{task.OrderDraining, task.OrderDone}, o.states())
	d := s.dead(1)[0]
	require.True(t, d.planned)
	require.Equal(t, "drain asked by ann", d.reason)
	require.Zero(t, s.working()[0].Crashes, "that was no crash")
}

func TestACrashLoopIsShown(t *testing.T) {
	t.Parallel()
	for kind, why := range map[string]string{"crash": "died: exit status 3", "panic": "died: exit status 2 (panic: boom", "fails": "died: exit status 1 (no database at postgres://catena:***@db/catena)"} {
		s := start(t, kind, nil)
		var slot task.Slot
		require.Eventually(t, func() bool {
			for _, slot = range s.boss.Slots() {
			}
			return slot.State == task.SlotCrashLoop
		}, patience, time.Millisecond)
		require.GreaterOrEqual(t, slot.Crashes, 3)
		require.GreaterOrEqual(t, slot.Starts, 3)
		require.Contains(t, slot.Last, why)
		require.Positive(t, slot.NextStart)
		require.Contains(t, s.dead(1)[0].reason, why)
	}
}

// A worker that gives signs of life but answers no probe any more hangs.
func TestAWorkerThatLeavesProbesUnansweredIsKilled(t *testing.T) {
	t.Parallel()
	s := start(t, "probed", func(cfg *master.Supervision) { cfg.Policy.HangAfter = 200 * time.Millisecond })
	probes := s.until("probe", 3)
	d := s.dead(1)[0]
	require.Contains(t, d.reason, "no sign of life")
	require.True(t, gone(probes[0].pid))
	for _, e := range events(t, s.file) {
		require.NotEqual(t, "term", e.name)
	}
}

// It is noticed in less than three checks of a second.
func TestASuspendedWorkerIsNoticedInTime(t *testing.T) {
	t.Parallel()
	s := start(t, "prompt", func(cfg *master.Supervision) {
		cfg.CheckEvery, cfg.Policy.HangAfter = time.Second, 2800*time.Millisecond
	})
	first := s.working()[0].PID
	s.until("probe", 2)
	require.NoError(t, syscall.Kill(first, syscall.SIGSTOP))
	stopped := time.Now()
	s.until("start", 2)
	require.Less(t, time.Since(stopped), 6*time.Second, "3 s and what the machine does meanwhile")
	require.Contains(t, s.dead(1)[0].reason, "the limit is 2.8s")
}

func TestAWorkerWhoseRunIsLateIsKilled(t *testing.T) {
	t.Parallel()
	s := start(t, "late", func(cfg *master.Supervision) { cfg.Policy.LateAfter = 4 * time.Second })
	require.Equal(t, "its run r1 goes on 5s after its time limit", s.dead(1)[0].reason)
}

func TestAWorkerThatKillsItselfSaysWhy(t *testing.T) {
	t.Parallel()
	s := start(t, "greedy", nil)
	d := s.dead(1)[0]
	require.Equal(t, "uses 900.0 MiB of memory, the limit is 400.0 MiB", d.reason)
	require.False(t, d.planned)
}

// A worker that hangs while it drains has not ended as planned.
func TestADrainingWorkerThatHangsDidNotEndAsPlanned(t *testing.T) {
	t.Parallel()
	s := start(t, "stuck", func(cfg *master.Supervision) { cfg.DrainTimeout, cfg.Policy.HangAfter = time.Minute, time.Second })
	s.until("probe", 1)
	s.order(task.OrderRestart, s.working()[0].PID)
	d := s.dead(1)[0]
	require.False(t, d.planned)
	require.Contains(t, d.reason, "no sign of life")
}

// A worker that starts slowly says nothing for longer than it may later.
func TestAWorkerHasTimeToStart(t *testing.T) {
	t.Parallel()
	s := start(t, "silent", func(cfg *master.Supervision) { cfg.Policy.HangAfter = 100 * time.Millisecond })
	require.Equal(t, 1, s.working()[0].Starts)
	require.Len(t, s.until("start", 1), 1)
}

// A worker that ends in order but at once is no better than one that crashes.
func TestAWorkerThatQuitsAtOnceWaits(t *testing.T) {
	t.Parallel()
	s := start(t, "quits", nil)
	require.Eventually(t, func() bool {
		slots := s.boss.Slots()
		return len(slots) > 0 && slots[0].State == task.SlotCrashLoop && slots[0].Last == "ended by itself"
	}, patience, time.Millisecond)
}
