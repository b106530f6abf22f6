// Package peers runs the systems that Catena is compared with, as their own
// documents say to run them. It tunes them fairly and says how in their names.
package peers

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/catena-run/catena/bench"
)

// All returns every peer in the configurations that are compared.
func All(servers bench.Servers) []bench.Subject {
	return []bench.Subject{
		Asynq{Servers: servers, Processes: 1},
		Asynq{Servers: servers, Processes: 1, Poll: 10 * time.Millisecond},
		Asynq{Servers: servers, Processes: 4, Poll: 10 * time.Millisecond},
		River{Servers: servers},
		River{Servers: servers, Tuned: true},
	}
}

// counter closes done when it was told of n ends.
type counter struct {
	left atomic.Int64
	done chan struct{}
}

func newCounter(n int) *counter {
	c := &counter{done: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *counter) end() {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}

func (c *counter) wait(ctx context.Context) error {
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func rate(n int, since time.Time) float64 { return float64(n) / time.Since(since).Seconds() }

// sample calls trigger n times, waits for started each time and pauses for a
// random part of a second before the next, so that no poller's phase is met.
func sample(ctx context.Context, n int, started <-chan time.Time, trigger func() error) ([]time.Duration, error) {
	samples := make([]time.Duration, 0, n)
	for range n {
		if err := pause(ctx, rand.N(time.Second)); err != nil {
			return nil, err
		}
		at := time.Now()
		if err := trigger(); err != nil {
			return nil, err
		}
		select {
		case start := <-started:
			samples = append(samples, start.Sub(at))
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return samples, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
