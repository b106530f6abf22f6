package api

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
)

// Finished tells which of ids have ended.
type Finished interface {
	Finished(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]task.State, error)
}

// PollerConfig sets the pace and the limits of a Poller. Zero values mean the
// defaults.
type PollerConfig struct {
	Interval time.Duration // between two looks; 0: 20ms
	Crowded  time.Duration // the same with more than 5,000 ids; 0: 100ms
	MaxIDs   int           // waited for at once; 0: 200,000
	MaxCalls int           // of Wait at once; 0: 10,000
}

// crowd is the number of ids from which on a Poller looks less often.
const crowd = 5000

func (c PollerConfig) withDefaults() PollerConfig {
	if c.Interval <= 0 {
		c.Interval = 20 * time.Millisecond
	}
	if c.Crowded <= 0 {
		c.Crowded = 100 * time.Millisecond
	}
	if c.MaxIDs <= 0 {
		c.MaxIDs = 200_000
	}
	if c.MaxCalls <= 0 {
		c.MaxCalls = 10_000
	}
	return c
}

// Poller is a Waiter that looks for all waiting callers together: one call of
// Finished for all their ids, once per interval. Its goroutine lives only
// while somebody waits. It is safe for concurrent use.
type Poller struct {
	finished Finished
	config   PollerConfig
	wake     chan struct{} // holds at most one

	mu      sync.Mutex
	waiting map[uuid.UUID][]*vigil
	calls   int
	stop    context.CancelFunc // of the goroutine; nil when it does not run
	closed  bool
	running sync.WaitGroup
}

// vigil is one call of Wait. Its fields are guarded by Poller.mu until over is
// closed.
type vigil struct {
	left  int // ids that have not ended
	ended map[uuid.UUID]task.State
	err   error
	over  chan struct{}
}

// NewPoller returns a Poller over finished.
func NewPoller(finished Finished, c PollerConfig) *Poller {
	return &Poller{
		finished: finished, config: c.withDefaults(),
		wake: make(chan struct{}, 1), waiting: make(map[uuid.UUID][]*vigil),
	}
}

// Wait blocks until all of ids have ended, ctx is done, Finished fails or the
// Poller is closed, and returns the states of those that have ended. That ctx
// is done is not an error.
func (p *Poller) Wait(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]task.State, error) {
	if len(ids) == 0 {
		return map[uuid.UUID]task.State{}, nil
	}
	first := context.WithoutCancel(ctx) // a wait of no time asks once all the same
	limited, cancel := context.WithTimeout(first, lookTimeout)
	defer cancel()
	ended, err := p.finished.Finished(limited, ids)
	if err != nil {
		return nil, err
	}
	if ended == nil {
		ended = make(map[uuid.UUID]task.State)
	}
	pending := missing(ids, ended)
	if len(pending) == 0 || ctx.Err() != nil {
		return ended, nil
	}
	v := &vigil{left: len(pending), ended: ended, over: make(chan struct{})}
	if err := p.enter(v, pending); err != nil {
		return nil, err
	}
	select {
	case <-v.over:
	case <-ctx.Done():
	}
	p.leave(v, pending)
	return v.ended, v.err
}

// Notify says that the runs of ids have probably ended. If somebody waits for
// one of them, the Poller looks at once. It does not block.
func (p *Poller) Notify(ids []uuid.UUID) {
	p.mu.Lock()
	wanted := slices.ContainsFunc(ids, func(id uuid.UUID) bool { return len(p.waiting[id]) > 0 })
	p.mu.Unlock()
	if !wanted {
		return
	}
	select {
	case p.wake <- struct{}{}:
	default: // it is about to look already
	}
}

// Close ends every wait with task.CodeUnavailable, refuses new ones and
// returns when the goroutine has ended. Closing again does nothing.
func (p *Poller) Close() {
	p.mu.Lock()
	p.closed = true
	p.endAll(stopping())
	if p.stop != nil {
		p.stop()
	}
	p.mu.Unlock()
	p.running.Wait()
}

func stopping() error {
	return task.Errorf(task.CodeUnavailable, "the server is stopping").Fix("try again in a moment")
}

// enter registers v for ids and starts the goroutine for the first.
func (p *Poller) enter(v *vigil, ids []uuid.UUID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return stopping()
	}
	if p.calls >= p.config.MaxCalls || len(p.waiting)+len(ids) > p.config.MaxIDs {
		return task.Errorf(task.CodeUnavailable, "too many are waiting for runs already").Fix("try again in a moment, or ask for less at once")
	}
	for _, id := range ids {
		p.waiting[id] = append(p.waiting[id], v)
	}
	p.calls++
	if p.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		p.stop = cancel
		p.running.Go(func() { p.poll(ctx) })
	}
	return nil
}

// leave removes v and stops the goroutine after the last.
func (p *Poller) leave(v *vigil, ids []uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		others := slices.DeleteFunc(p.waiting[id], func(other *vigil) bool { return other == v })
		if len(others) == 0 {
			delete(p.waiting, id)
			continue
		}
		p.waiting[id] = others
	}
	p.calls--
	if p.calls == 0 && p.stop != nil {
		p.stop()
		p.stop = nil
	}
}

// lookTimeout ends a call of Finished that hangs, so that those who wait hear of it.
const lookTimeout = 10 * time.Second

func (p *Poller) poll(ctx context.Context) {
	timer := time.NewTimer(p.config.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		timer.Reset(p.look(ctx))
	}
}

// look asks once for all ids, tells those whose runs have ended, and returns
// the time until the next look.
func (p *Poller) look(ctx context.Context) time.Duration {
	p.mu.Lock()
	ids := slices.Collect(maps.Keys(p.waiting))
	p.mu.Unlock()
	if len(ids) == 0 {
		return p.config.Interval
	}
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	ended, err := p.finished.Finished(limited, ids)

	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		return p.config.Interval // those who wait now have a goroutine of their own
	}
	if err != nil {
		p.endAll(err)
	}
	for id, state := range ended {
		for _, v := range p.waiting[id] {
			v.end(id, state)
		}
		delete(p.waiting, id)
	}
	if len(ids) > crowd {
		return p.config.Crowded
	}
	return p.config.Interval
}

// endAll ends every vigil with err. The caller holds p.mu.
func (p *Poller) endAll(err error) {
	for _, vigils := range p.waiting {
		for _, v := range vigils {
			if v.err == nil && v.left > 0 {
				v.err, v.left = err, 0
				close(v.over)
			}
		}
	}
	clear(p.waiting)
}

// end records that a run has ended. The caller holds Poller.mu.
func (v *vigil) end(id uuid.UUID, state task.State) {
	if v.left == 0 {
		return
	}
	v.ended[id] = state
	v.left--
	if v.left == 0 {
		close(v.over)
	}
}

// missing returns the ids, each once, that ended does not hold.
func missing(ids []uuid.UUID, ended map[uuid.UUID]task.State) []uuid.UUID {
	pending := make([]uuid.UUID, 0, len(ids))
	seen := make(map[uuid.UUID]bool, len(ids))
	for _, id := range ids {
		if _, done := ended[id]; !done && !seen[id] {
			seen[id] = true
			pending = append(pending, id)
		}
	}
	return pending
}
