package master

import (
	"context"
	"fmt"
	"time"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/task"
)

// obey hands orders to the processes that they are for. An order that cannot be
// carried out yet is given again at the next beat.
func (s *supervisor) obey(orders []task.WorkerOrder) {
	for _, o := range orders {
		s.mu.Lock()
		p := s.processes[o.Epoch]
		s.mu.Unlock()
		if p == nil {
			continue // it ends or began just now
		}
		if had := p.order.Swap(&o); had == nil || had.Kind != o.Kind {
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
	}
}

// ordered is what an order asks for.
func (p *process) ordered() (kind task.OrderKind, why healthcheck.Reason) {
	o := p.order.Load()
	if o == nil {
		return "", healthcheck.Reason{}
	}
	return o.Kind, healthcheck.Reason{Cause: healthcheck.CauseAsked, Text: fmt.Sprintf("%s asked by %s", o.Kind, o.AskedBy)}
}

// advance tells how far the order to p has come.
func (p *process) advance(state task.OrderState, detail string) {
	if p.order.Load() == nil || p.advanced == nil {
		return
	}
	if state == task.OrderFailed {
		p.order.Store(nil)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := p.advanced(ctx, p.session(), state, detail); err != nil {
		p.log.WithError(err).Warn("cannot note how far an order has come")
	}
}

func (p *process) session() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

// holdoff spaces the attempts to replace a worker whose replacements do not
// come up.
type holdoff struct {
	wait  time.Duration
	until time.Time
}

const (
	holdoffFirst = time.Second
	holdoffMost  = time.Minute
)

func (h *holdoff) over(now time.Time) bool { return !now.Before(h.until) }

func (h *holdoff) failed(now time.Time) {
	h.wait = min(max(2*h.wait, holdoffFirst), holdoffMost)
	h.until = now.Add(h.wait)
}
