package api_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/catena-run/catena/api"
	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// ledger is a set of ended runs that counts the questions about it.
type ledger struct {
	mu    sync.Mutex
	ended map[uuid.UUID]task.State
	asked []int // number of ids of each question
	err   error
}

func (l *ledger) Finished(_ context.Context, ids []uuid.UUID) (map[uuid.UUID]task.State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, len(ids))
	found := map[uuid.UUID]task.State{}
	for _, id := range ids {
		if state, ok := l.ended[id]; ok {
			found[id] = state
		}
	}
	return found, l.err
}

func (l *ledger) end(ids ...uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended == nil {
		l.ended = map[uuid.UUID]task.State{}
	}
	for _, id := range ids {
		l.ended[id] = task.StateSucceeded
	}
}

func (l *ledger) questions() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]int(nil), l.asked...)
}

func newIDs(n int) []uuid.UUID {
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = uuid.New()
	}
	return ids
}

func TestPollerAsksOnceForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		p := api.NewPoller(l, api.PollerConfig{})
		ids := newIDs(10)
		var waits sync.WaitGroup
		for i := range ids {
			waits.Go(func() {
				ended, err := p.Wait(t.Context(), []uuid.UUID{ids[i], ids[0]})
				if err != nil || len(ended) == 0 {
					t.Errorf("ended %v, error %v", ended, err)
				}
			})
		}
		synctest.Wait()
		require.Len(t, l.questions(), 10, "each asks once for its own at the start")
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		later := l.questions()[10:]
		require.Equal(t, []int{10, 10, 10, 10, 10}, later, "then one question each 20 ms holds every id once")
		l.end(ids...)
		waits.Wait()
		count := len(l.questions())
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, l.questions(), count, "nobody waits, nobody asks")
		p.Close()
	})
}

func TestPollerSlowsDownInACrowd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		p := api.NewPoller(l, api.PollerConfig{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ended, err := p.Wait(ctx, newIDs(5001))
		require.NoError(t, err)
		require.Empty(t, ended)
		require.InDelta(t, 11, len(l.questions()), 1)
		p.Close()
	})
}

func TestPollerNotify(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		p := api.NewPoller(l, api.PollerConfig{Interval: time.Hour})
		ids := newIDs(2)
		began := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := p.Wait(t.Context(), ids)
			done <- err
		}()
		synctest.Wait()
		p.Notify(newIDs(3))
		synctest.Wait()
		require.Len(t, l.questions(), 1, "others concern nobody")
		l.end(ids...)
		p.Notify(ids[:1])
		require.NoError(t, <-done)
		require.Zero(t, time.Since(began))
		p.Close()
	})
}

func TestPollerGivesWhatItHas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		p := api.NewPoller(l, api.PollerConfig{})
		ids := newIDs(3)
		l.end(ids[0])
		over, cancel := context.WithCancel(t.Context())
		cancel()
		ended, err := p.Wait(over, ids)
		require.NoError(t, err)
		require.Len(t, ended, 1, "a wait of no time asks once")

		time.AfterFunc(50*time.Millisecond, func() { l.end(ids[1]) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ended, err = p.Wait(ctx, append(ids, ids...))
		require.NoError(t, err)
		require.Len(t, ended, 2)
		ended, err = p.Wait(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, ended)
		p.Close()
	})
}

func TestPollerFailsItsWaiters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		p := api.NewPoller(l, api.PollerConfig{})
		failure := errors.New("the database is away")
		time.AfterFunc(50*time.Millisecond, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.err = failure
		})
		_, err := p.Wait(t.Context(), newIDs(2))
		require.ErrorIs(t, err, failure)
		_, err = p.Wait(t.Context(), newIDs(2))
		require.ErrorIs(t, err, failure)
		p.Close()
	})
}

func TestPollerIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := api.NewPoller(&ledger{}, api.PollerConfig{MaxCalls: 2, MaxIDs: 10})
		_, err := p.Wait(t.Context(), newIDs(11))
		require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
		ctx, cancel := context.WithCancel(t.Context())
		var waits sync.WaitGroup
		for range 2 {
			waits.Go(func() { _, _ = p.Wait(ctx, newIDs(1)) })
		}
		synctest.Wait()
		_, err = p.Wait(t.Context(), newIDs(1))
		require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
		cancel()
		waits.Wait()
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err = p.Wait(short, newIDs(1))
		require.NoError(t, err, "there is room again")
		p.Close()
	})
}

func TestPollerClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := api.NewPoller(&ledger{}, api.PollerConfig{})
		done := make(chan error, 1)
		go func() {
			_, err := p.Wait(t.Context(), newIDs(1))
			done <- err
		}()
		synctest.Wait()
		p.Close()
		require.Equal(t, task.CodeUnavailable, task.CodeOf(<-done))
		p.Close()
		_, err := p.Wait(t.Context(), newIDs(1))
		require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	})
}
