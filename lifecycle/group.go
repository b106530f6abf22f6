// Package lifecycle holds the contract that everything which runs follows: how
// it starts, how it stops, and in which order a process takes itself apart.
//
// A Child is a process that cannot outlive this one. The package reads no
// signals and never ends the program: whoever calls Close decides what an error means.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// GroupConfig bounds how long a Group waits while it closes.
type GroupConfig struct {
	// Each is the longest one cleanup may take; 0: 10 s.
	Each time.Duration
	// Grace is what a cleanup gets when the context of Close is over already; 0: 500 ms.
	Grace time.Duration
}

// Validate refuses negative times.
func (c GroupConfig) Validate() error {
	if c.Each < 0 || c.Grace < 0 {
		return fmt.Errorf("a group's times must not be negative: each %s, grace %s", c.Each, c.Grace)
	}
	return nil
}

// Group remembers how to take apart what a process has opened. Register each
// thing right after opening it; Close goes through them in reverse order. A
// Group may be used from several goroutines.
type Group struct {
	cfg GroupConfig

	mu       sync.Mutex
	cleanups []cleanup
	closed   bool
	done     chan struct{}
	err      error // of Close; read after done is closed
}

type cleanup struct {
	name string
	stop func(context.Context) error
}

// NewGroup returns an empty group; times that are not positive get their defaults.
func NewGroup(cfg GroupConfig) *Group {
	if cfg.Each <= 0 {
		cfg.Each = 10 * time.Second
	}
	if cfg.Grace <= 0 {
		cfg.Grace = 500 * time.Millisecond
	}
	return &Group{cfg: cfg, done: make(chan struct{})}
}

// ErrClosed is returned for what comes after Close has begun.
var ErrClosed = errors.New("the group is closed")

// Add registers a cleanup. When the group is closing already, stop runs at once,
// so that nothing opened late is left open, and Add returns ErrClosed, joined
// with stop's error.
func (g *Group) Add(name string, stop func(context.Context) error) error {
	g.mu.Lock()
	if !g.closed {
		g.cleanups = append(g.cleanups, cleanup{name, stop})
		g.mu.Unlock()
		return nil
	}
	g.mu.Unlock()
	return errors.Join(ErrClosed, g.run(context.Background(), cleanup{name, stop}))
}

// Start starts r and registers its Stop.
func (g *Group) Start(ctx context.Context, name string, r Runner) error {
	if err := r.Start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return g.Add(name, r.Stop)
}

// Close runs the cleanups, the last registered first, each to its end before the
// next, and returns what went wrong in all of them. One that overruns its time is
// reported and left behind. Later and concurrent calls wait for the first and
// return the same error, or ctx's when that ends before.
func (g *Group) Close(ctx context.Context) error {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	list := g.cleanups
	g.cleanups = nil
	g.mu.Unlock()
	if !first {
		select {
		case <-g.done:
			return g.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer close(g.done)
	var errs []error
	for i := len(list) - 1; i >= 0; i-- {
		errs = append(errs, g.run(ctx, list[i]))
	}
	g.err = errors.Join(errs...)
	return g.err
}

// run gives one cleanup its time. A cleanup that panics has failed; the others
// still run.
func (g *Group) run(ctx context.Context, c cleanup) error {
	limit := g.cfg.Each
	if ctx.Err() != nil {
		ctx, limit = context.WithoutCancel(ctx), g.cfg.Grace
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				result <- fmt.Errorf("panic: %v", p)
			}
		}()
		result <- c.stop(ctx)
	}()
	begin := time.Now()
	select {
	case err := <-result:
		return named(c.name, err)
	case <-ctx.Done():
	}
	// A cleanup that heeds ctx needs a moment to return its own error.
	select {
	case err := <-result:
		return named(c.name, err)
	case <-time.After(g.cfg.Grace):
		return fmt.Errorf("stop %s: not done after %s, left behind", c.name, time.Since(begin).Round(time.Millisecond))
	}
}

func named(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("stop %s: %w", name, err)
}
