package dispatch

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// A submission that gets the turn may find the group full before it comes to
// itself, while the one before it has not woken up to use its own turn.
func TestTheTurnMayComeBackToItsOwner(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Config{URL: servertest.PostgresURL(t)})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.EnsurePartitions(t.Context()))
	_, err = s.ApplyTasks(t.Context(), []task.Definition{{Name: "demo", Chain: json.RawMessage(`["nop"]`)}}, false)
	require.NoError(t, err)
	d := New(s, nil, logrus.New())

	asleep := &submission{turn: make(chan struct{}, 1), done: make(chan struct{}), runs: make([]store.NewRun, maxGroup)}
	for i := range asleep.runs {
		asleep.runs[i].Task = "demo"
	}
	asleep.turn <- struct{}{}
	d.waiting, d.flushing = []*submission{asleep}, maxFlushing
	answer := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	go func() {
		_, err := d.Submit(ctx, []Request{{Task: "demo"}})
		answer <- err
	}()
	require.Eventually(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.waiting) == 2
	}, 10*time.Second, time.Millisecond)
	d.passTurn()
	require.NoError(t, <-answer)
	require.NoError(t, d.leave(ctx, asleep))
	d.mu.Lock()
	defer d.mu.Unlock()
	require.Zero(t, d.flushing, "every turn has ended")
	require.Empty(t, d.waiting)
}
