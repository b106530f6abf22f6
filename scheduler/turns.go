package scheduler

import (
	"context"
	"time"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// OpenBuffered opens runs that wait for the end of an earlier one of their
// schedule. A look that took long, since many wait, is followed by a rest, so that the
// duty takes a tenth of a connection at most.
func (s *Scheduler) OpenBuffered(ctx context.Context, term int64) (more bool, err error) {
	began := time.Now()
	s.mu.Lock()
	rest := began.Before(s.rest)
	s.mu.Unlock()
	if rest {
		return false, nil
	}
	opened, err := s.store.OpenBuffered(ctx, term)
	s.mu.Lock()
	defer s.mu.Unlock()
	if opened == 0 {
		s.rest = time.Now().Add(10 * time.Since(began))
	}
	return opened > 0, err
}

// CatchUp makes up for due times that passed while nobody was there, at the
// configured rate: however many there are, what is due now does not wait for them.
func (s *Scheduler) CatchUp(ctx context.Context, term int64) (more bool, err error) {
	behind, err := s.store.Behind(ctx)
	if err != nil || !behind {
		return false, err
	}
	runs := s.allowance(time.Now())
	if runs == 0 {
		return false, nil
	}
	fired, err := s.store.CatchUp(ctx, term, runs, func(due store.Due, now time.Time, runs int) store.Decision {
		in, err := s.toDecide(due)
		if err != nil {
			fire := skipped(due, err.Error())
			fire.LastDueAt = due.Until
			return store.Decision{Fires: []task.Fire{fire}, Invalid: err.Error()}
		}
		return decided(in.Spec, CatchUp(in, now, due.Until, runs))
	})
	s.mu.Lock()
	s.budget -= float64(fired.Runs)
	s.mu.Unlock()
	s.announce(ctx, fired)
	return fired.Taken > 0 && fired.Runs < runs, err
}

// allowance is how many runs may be caught up now: what the rate gave since the
// last look, at most that of a second.
func (s *Scheduler) allowance(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	rate := float64(s.config.CatchUpRate)
	if s.filled.IsZero() {
		s.filled = now
		s.budget = 1
	}
	s.budget = min(s.budget+rate*now.Sub(s.filled).Seconds(), max(rate, 1))
	s.filled = now
	return int(s.budget)
}
