package worker

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Progress is what a worker tells a supervisor that asks whether its parts work.
type Progress struct {
	Running int           // runs in hand
	Late    time.Duration // how long ago the time limit of LateRun was over; 0: no run is late
	LateRun uuid.UUID
}

// Progress takes the locks that runs need, so that an answer says that they move.
func (w *Worker) Progress() (p Progress) {
	s := w.current.Load()
	if s == nil {
		return p
	}
	s.backlog.mu.Lock()
	s.backlog.mu.Unlock() //nolint:staticcheck // that it can be had is the answer
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Running = len(s.live)
	if !s.gate.open() {
		return p // runs may wait for the database
	}
	for id, j := range s.live {
		limit := j.limitAt.Load()
		if limit == nil || j.over.Load() {
			continue // it waits to begin, or for its end to be written
		}
		if late := time.Since(*limit); late > p.Late {
			p.Late, p.LateRun = late, id
		}
	}
	return p
}

// obeyDrain ends the worker as somebody asked.
func (s *session) obeyDrain(ctx context.Context, by string) {
	s.mu.Lock()
	told := s.leftFor != ""
	s.leftFor = by
	s.mu.Unlock()
	if told {
		return
	}
	s.log.WithField("by", by).Warn("this worker was asked to drain")
	if err := s.deps.Store.AdvanceOrder(ctx, s.epoch, task.OrderDraining, ""); err != nil {
		s.log.WithError(err).Debug("cannot note that the order is taken")
	}
	s.deps.Leave(by)
	s.quit()
}

// farewell is the reason of an end in order.
func (s *session) farewell() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leftFor != "" {
		return "drain asked by " + s.leftFor
	}
	return store.StoppedAsAsked
}
