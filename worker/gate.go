package worker

import (
	"context"
	"sync"
	"time"
)

// beatPatience is how long after its last acknowledged heartbeat a worker goes
// on starting things. It is shorter than the ticks after which the cluster
// gives the worker up, so that a cut-off worker rests before its runs start elsewhere.
const beatPatience = 3 * time.Second

// gate keeps runs, steps and host calls from starting while the last
// acknowledged heartbeat is too old.
type gate struct {
	mu    sync.Mutex
	until time.Time
	moved chan struct{} // closed and replaced when until moves
}

func newGate() *gate {
	return &gate{until: time.Now().Add(beatPatience), moved: make(chan struct{})}
}

// beat moves the gate: sent is when the acknowledged heartbeat was sent.
func (g *gate) beat(sent time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = sent.Add(beatPatience)
	close(g.moved)
	g.moved = make(chan struct{})
}

// open reports whether the last acknowledged heartbeat is young enough.
func (g *gate) open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Now().Before(g.until)
}

// pass blocks while the gate is shut; it returns the cause when ctx ends first.
func (g *gate) pass(ctx context.Context) error {
	for {
		g.mu.Lock()
		open, moved := time.Now().Before(g.until), g.moved
		g.mu.Unlock()
		if open {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
