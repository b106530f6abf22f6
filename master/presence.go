package master

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

const presenceEvery = time.Second

// presence keeps the master's row, takes the orders to its workers and compares
// its settings with those of the other masters, until ctx ends.
func (m *Master) presence(ctx context.Context) {
	ticker := time.NewTicker(presenceEvery)
	defer ticker.Stop()
	warned, failing := "", false
	for {
		asking, cancel := context.WithTimeout(ctx, 3*time.Second)
		answer, err := m.deps.Store.BeatMaster(asking, m.self())
		cancel()
		if err != nil && !failing && ctx.Err() == nil {
			m.deps.Log.WithError(err).Warn("cannot write this master's row")
		}
		failing = err != nil
		if err == nil {
			m.supervisor.obey(answer.Orders)
			warned = m.compare(answer.Peers, warned)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *Master) self() task.Master {
	return task.Master{Name: m.cfg.Name, Host: m.cfg.Host, PID: m.cfg.PID, Version: m.cfg.Version, Admin: m.cfg.Admin,
		Settings: m.cfg.Settings, Slots: m.supervisor.slots(), ClockOffset: m.clockOffset()}
}

// clockOffset is in milliseconds, nil while it is not known.
func (m *Master) clockOffset() *float64 {
	offset, _, known := m.clock.Offset()
	if !known {
		return nil
	}
	return new(float64(offset.Microseconds()) / 1000)
}

// compare warns when the masters begin to differ, and says when they no longer do.
func (m *Master) compare(peers []task.Master, warned string) string {
	var found []string
	for _, p := range peers {
		found = append(found, store.Differences(m.cfg.Settings, p.Settings, p.Name)...)
	}
	slices.Sort(found)
	text := strings.Join(found, "; ")
	switch text {
	case warned:
	case "":
		m.deps.Log.Info("the masters of this cluster have the same settings now")
	default:
		m.deps.Log.WithField("differences", text).Warn("masters of this cluster have different settings; whichever leads goes by its own")
	}
	return text
}

// absent notes that this master ends in order.
func (m *Master) absent() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := m.deps.Store.EndMaster(ctx, m.cfg.Name); err != nil {
		m.deps.Log.WithError(err).Debug("cannot note the end of this master")
	}
}

// Slots tells what becomes of this master's places for workers.
func (m *Master) Slots() []task.Slot { return m.supervisor.slots() }
