package lifecycle_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/lifecycle/lifecycletest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestServiceKeepsTheContract(t *testing.T) {
	t.Parallel()
	lifecycletest.Run(t, func(*testing.T) lifecycle.Runner { return lifecycle.NewService("waiter", untilDone) })
}

func TestServiceKeepsTheErrorOfItsOwnEnd(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	s := lifecycle.NewService("duty", func(context.Context) error { return broken })
	require.NoError(t, s.Start(t.Context()))
	<-s.Done()
	require.ErrorIs(t, s.Err(), broken)
	require.NoError(t, s.Stop(t.Context()))
}

func TestServiceStartsAgainAfterItsEnd(t *testing.T) {
	t.Parallel()
	s := lifecycle.NewService("duty", untilDone)
	for range 3 {
		require.NoError(t, s.Start(t.Context()))
		require.NoError(t, s.Stop(t.Context()))
		require.NoError(t, s.Err(), "being told to end is not an error")
	}
}

func TestServiceThatDoesNotEndIsNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := lifecycle.NewService("deaf", func(context.Context) error { <-release; return nil })
		require.NoError(t, s.Start(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := s.Stop(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "deaf")
		close(release)
		require.NoError(t, s.Stop(t.Context()))
	})
}

func TestGroupClosesInReverseOrder(t *testing.T) {
	t.Parallel()
	g := lifecycle.NewGroup(lifecycle.GroupConfig{})
	var order []string
	for _, name := range []string{"pool", "queue", "server"} {
		require.NoError(t, g.Add(name, func(context.Context) error { order = append(order, name); return nil }))
	}
	require.NoError(t, g.Close(t.Context()))
	require.NoError(t, g.Close(t.Context()))
	require.Equal(t, []string{"server", "queue", "pool"}, order)
}

func TestGroupReportsFailuresPanicsAndOverrunsAndGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := lifecycle.NewGroup(lifecycle.GroupConfig{Each: time.Second})
		release := make(chan struct{})
		closedLast := false
		require.NoError(t, g.Add("last", func(context.Context) error { closedLast = true; return nil }))
		require.NoError(t, g.Add("failing", func(context.Context) error { return errors.New("disk full") }))
		require.NoError(t, g.Add("panicking", func(context.Context) error { panic("oops") }))
		require.NoError(t, g.Add("hanging", func(context.Context) error { <-release; return nil }))
		require.NoError(t, g.Add("heeding", untilDone))
		err := g.Close(t.Context())
		require.ErrorContains(t, err, "stop failing: disk full")
		require.ErrorContains(t, err, "stop panicking: panic: oops")
		require.ErrorContains(t, err, "stop hanging: not done after 1.5s, left behind")
		require.ErrorContains(t, err, "stop heeding: context deadline exceeded")
		require.True(t, closedLast)
		close(release)
	})
}

func TestGroupGivesEachCleanupAMomentAfterTheDeadline(t *testing.T) {
	t.Parallel()
	g := lifecycle.NewGroup(lifecycle.GroupConfig{})
	require.NoError(t, g.Add("quick", func(ctx context.Context) error { return ctx.Err() }))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, g.Close(ctx))
}

func TestGroupCleansWhatComesTooLate(t *testing.T) {
	t.Parallel()
	g := lifecycle.NewGroup(lifecycle.GroupConfig{})
	require.NoError(t, g.Close(t.Context()))
	cleaned := false
	require.ErrorIs(t, g.Add("late", func(context.Context) error { cleaned = true; return nil }), lifecycle.ErrClosed)
	require.True(t, cleaned)
}

func TestGroupClosesOnceForSeveralCallers(t *testing.T) {
	t.Parallel()
	g := lifecycle.NewGroup(lifecycle.GroupConfig{})
	calls := 0
	require.NoError(t, g.Add("once", func(context.Context) error { calls++; return errors.New("no") }))
	var wg sync.WaitGroup
	errs := make([]error, 5)
	for i := range errs {
		wg.Go(func() { errs[i] = g.Close(context.Background()) })
	}
	wg.Wait()
	require.Equal(t, 1, calls)
	for _, err := range errs {
		require.EqualError(t, err, "stop once: no")
	}
}

func TestGroupStartsARunnerAndStopsIt(t *testing.T) {
	t.Parallel()
	g := lifecycle.NewGroup(lifecycle.GroupConfig{})
	s := lifecycle.NewService("duty", untilDone)
	require.NoError(t, g.Start(t.Context(), "duty", s))
	require.ErrorIs(t, g.Start(t.Context(), "duty", s), lifecycle.ErrRunning)
	require.NoError(t, g.Close(t.Context()))
	<-s.Done()
	require.Error(t, lifecycle.GroupConfig{Each: -1}.Validate())
	require.NoError(t, lifecycle.GroupConfig{}.Validate())
}
