package master_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/task"
)

// A worker is watched while its replacement comes up.
func TestAWorkerThatHangsWhileItIsReplacedIsKilled(t *testing.T) {
	t.Parallel()
	s := start(t, "first", func(cfg *master.Supervision) {
		cfg.ReadyWithin, cfg.Policy.HangAfter = time.Minute, time.Second
	})
	first := s.working()[0].PID
	s.order(task.OrderRestart, first)
	s.until("start", 2)
	require.NoError(t, syscall.Kill(first, syscall.SIGSTOP))
	d := s.dead(1)[0]
	require.EqualValues(t, first, d.epoch)
	require.Contains(t, d.reason, "no sign of life")
	require.False(t, d.planned)
	require.True(t, gone(first))
	require.False(t, gone(s.until("start", 2)[1].pid), "its replacement takes the slot")
}

// What is left of a replacement that did not come up holds up no health check.
func TestAReplacementThatDoesNotEndHoldsUpNothing(t *testing.T) {
	t.Parallel()
	s := start(t, "lonely", func(cfg *master.Supervision) {
		cfg.ReadyWithin, cfg.DrainTimeout, cfg.Policy.HangAfter = 2*time.Second, time.Minute, time.Second
	})
	var o orders
	o.follow(s)
	first := s.working()[0].PID
	s.order(task.OrderRestart, first)
	require.Eventually(t, func() bool { return len(o.states()) == 2 }, patience, 5*time.Millisecond)
	spare := s.until("term", 1)[0].pid
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	require.Contains(t, s.dead(1)[0].reason, "killed")
	require.False(t, gone(spare), "it is asked to end and does not")
	require.NoError(t, syscall.Kill(spare, syscall.SIGKILL))
}

// A rolling restart goes on to the next slot when the worker before has ended.
func TestOneWorkerAtATimeIsReplacedAndDrained(t *testing.T) {
	t.Parallel()
	s := start(t, "lingering", func(cfg *master.Supervision) { cfg.Workers = 2 })
	s.until("start", 2)
	slots := s.working()
	require.Len(t, slots, 2)
	for _, slot := range slots {
		s.order(task.OrderRestart, slot.PID)
	}
	s.until("end", 2)
	var names []string
	for _, e := range events(t, s.file)[2:] {
		names = append(names, e.name)
	}
	require.Equal(t, []string{"start", "term", "end", "start", "term", "end"}, names)
}
