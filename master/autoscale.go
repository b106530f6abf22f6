package master

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/store"
)

// Scaling lets the number of a master's workers follow the work that waits.
type Scaling struct {
	Most      int           // workers at most; not more than Supervision.Workers: the number is fixed
	UpAfter   time.Duration // how long work waits before one more worker is started; default 2s
	DownAfter time.Duration // how long a worker is not needed before it is stopped; default 1m
}

const (
	scaleEvery    = time.Second
	scaleCooldown = 5 * time.Second // between two steps: a new worker must show what it does for the wait
	spareShare    = 0.7             // of the remaining workers' slots may be in use when one is stopped
)

// load is what a decision looks at.
type load struct {
	waited  time.Duration // the oldest work that nobody has claimed
	limited bool          // runs wait at limits, perhaps only for room
	running int           // runs in this master's workers
	slots   int           // of one worker
}

// scaler decides how many workers there should be. It is pure but for what it
// remembers of the times before.
type scaler struct {
	cfg     Scaling
	least   int
	changed time.Time // the last step
	needed  time.Time // when the last worker was needed last
	full    time.Time // since when every slot has been in use while runs wait at limits
}

// step returns the number of workers to have, which is current or one away from it.
func (s *scaler) step(l load, current int, now time.Time) int {
	if !l.limited || l.running < l.slots*current {
		s.full = time.Time{}
	} else if s.full.IsZero() {
		s.full = now
	} else {
		l.waited = max(l.waited, now.Sub(s.full)) // admission lets in what finds room: the rest waits for it
	}
	spare := float64(l.slots*(current-1)) * spareShare
	if s.needed.IsZero() || l.waited > 0 || float64(l.running) > spare {
		s.needed = now
	}
	switch {
	case now.Sub(s.changed) < scaleCooldown:
		return current
	case l.waited >= s.cfg.UpAfter && current < s.cfg.Most:
		current++
	case now.Sub(s.needed) >= s.cfg.DownAfter && current > s.least:
		current--
	default:
		return current
	}
	s.changed, s.needed = now, now
	return current
}

// autoscale asks the store each second what waits, and sets the supervisor's
// number of workers.
func (m *Master) autoscale(ctx context.Context) {
	cfg := m.cfg.Scaling
	if cfg.UpAfter == 0 {
		cfg.UpAfter = 2 * time.Second
	}
	if cfg.DownAfter == 0 {
		cfg.DownAfter = time.Minute
	}
	s := scaler{cfg: cfg, least: m.cfg.Supervision.Workers}
	ticker := time.NewTicker(scaleEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		b, err := m.deps.Store.Backlog(ctx, store.BacklogFilter{Queues: m.cfg.Queues, Tags: m.cfg.Tags, Master: m.cfg.Name})
		if err != nil {
			continue // the store's other callers say so
		}
		current := m.supervisor.size()
		next := s.step(load{waited: b.Waited, limited: b.Limited, running: b.Running, slots: m.cfg.Slots}, current, time.Now())
		if next == current {
			continue
		}
		m.deps.Log.WithFields(logrus.Fields{"from": current, "to": next, "waited": b.Waited.Round(time.Millisecond).String()}).Info("the number of workers changes")
		m.supervisor.resize(next)
	}
}
