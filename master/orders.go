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
		if p.takes(o) {
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
	}
}

// takes notes an order and reports whether it is news. One that failed was read
// before that was written, or could not be written: it is not carried out again.
func (p *process) takes(o task.WorkerOrder) (news bool) {
	p.mu.Lock()
	failed := p.failed
	if failed == nil || !failed.askedAt.Equal(o.AskedAt) {
		news = p.order == nil || p.order.Kind != o.Kind
		p.order = &o
		p.mu.Unlock()
		return news
	}
	again := failed.unwritten
	p.mu.Unlock()
	if again {
		p.writeFailure(failed)
	}
	return false
}

// failedOrder is the last order to a process that failed.
type failedOrder struct {
	askedAt   time.Time
	detail    string
	unwritten bool // the database was away
}

// ordered is what an order asks for.
func (p *process) ordered() (kind task.OrderKind, why healthcheck.Reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.order == nil {
		return "", healthcheck.Reason{}
	}
	return p.order.Kind, healthcheck.Reason{Cause: healthcheck.CauseAsked, Text: fmt.Sprintf("%s asked by %s", p.order.Kind, p.order.AskedBy)}
}

// advance tells how far the order to p has come.
func (p *process) advance(state task.OrderState, detail string) {
	p.mu.Lock()
	there := p.order != nil
	p.mu.Unlock()
	if there && p.advanced != nil {
		_ = p.write(state, detail)
	}
}

// fails gives up the order to p. It is written before it is forgotten, and
// remembered, since a beat may have read it before.
func (p *process) fails(detail string) {
	p.mu.Lock()
	o := p.order
	if o == nil {
		p.mu.Unlock()
		return
	}
	failed := &failedOrder{askedAt: o.AskedAt, detail: detail}
	p.failed = failed
	p.mu.Unlock()
	if p.advanced != nil {
		p.writeFailure(failed)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.order != nil && p.order.AskedAt.Equal(failed.askedAt) {
		p.order = nil
	}
}

func (p *process) writeFailure(failed *failedOrder) {
	err := p.write(task.OrderFailed, failed.detail)
	p.mu.Lock()
	defer p.mu.Unlock()
	failed.unwritten = err != nil
}

func (p *process) write(state task.OrderState, detail string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := p.advanced(ctx, p.session(), state, detail)
	if err != nil {
		p.log.WithError(err).Warn("cannot note how far an order has come")
	}
	return err
}

// repeats reports whether an order to p has failed before.
func (p *process) repeats() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed != nil
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
