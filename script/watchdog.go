package script

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/task"
)

const (
	watchPeriod = 50 * time.Millisecond  // between two looks at the heap
	collectGap  = 250 * time.Millisecond // least time between two collections it asks for
	victimGrace = 2 * time.Second        // for a stopped call to end before the next one is stopped
	busyGrace   = 10 * time.Second       // the same while it executes: what cannot be interrupted may be what takes the memory
)

// watchdog knows the calls under way and stops one when the heap of the
// process passes its limit. Its goroutine runs only while calls do.
//
// Go does not tell which goroutine allocated what, so it stops the call that
// has been executing the longest without a pause: a call that allocates for
// ever executes for ever, while its neighbours wait or end.
type watchdog struct {
	limit int64 // bytes; negative: the heap is not watched
	log   logrus.FieldLogger

	mu      sync.Mutex
	calls   map[*invocation]struct{}
	running bool
	closed  bool
	done    sync.WaitGroup
	quit    chan struct{}

	sample    []metrics.Sample // of the goroutine
	collected time.Time
	victim    *invocation
}

func newWatchdog(limit int64, log logrus.FieldLogger) *watchdog {
	return &watchdog{
		limit: limit, log: log, calls: map[*invocation]struct{}{}, quit: make(chan struct{}),
		sample: []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}},
	}
}

func (w *watchdog) add(inv *invocation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[inv] = struct{}{}
	if w.running || w.closed || w.limit < 0 {
		return
	}
	w.running = true
	w.done.Add(1)
	go w.watch()
}

func (w *watchdog) remove(inv *invocation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.calls, inv)
}

func (w *watchdog) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.calls)
}

func (w *watchdog) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.quit)
	}
	w.mu.Unlock()
	w.done.Wait()
}

// watch looks at the heap until there is no call left or the engine is closed.
func (w *watchdog) watch() {
	defer w.done.Done()
	tick := time.NewTicker(watchPeriod)
	defer tick.Stop()
	for {
		select {
		case <-w.quit:
			return
		case now := <-tick.C:
			if w.rest() {
				return
			}
			w.runOnce(now)
		}
	}
}

// rest reports that no call is under way, in which case the goroutine ends.
func (w *watchdog) rest() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = len(w.calls) > 0
	return !w.running
}

// runOnce stops a call when what the process holds passes the limit. The
// figure includes garbage, so the collector is asked before anybody is blamed.
func (w *watchdog) runOnce(now time.Time) {
	if w.heap() <= w.limit || w.waitsForVictim(now) || now.Sub(w.collected) < collectGap {
		return
	}
	runtime.GC()
	w.collected = time.Now()
	if w.heap() <= w.limit {
		return
	}
	if w.victim = w.suspect(); w.victim == nil {
		return
	}
	w.log.WithField("call", w.victim.call.ref().String()).WithField("run", w.victim.call.Context.RunID).
		Warnf("stopped a call: the heap passed %s", formatSize(w.limit))
	w.victim.halt(&stop{
		code:   task.CodeTooLarge,
		reason: "memory limit: the process passed " + formatSize(w.limit) + " while this call ran",
	})
}

func (w *watchdog) heap() int64 {
	metrics.Read(w.sample)
	return int64(w.sample[0].Value.Uint64())
}

// waitsForVictim reports that the call stopped last has not ended yet and may
// still hold what made the heap large.
func (w *watchdog) waitsForVictim(now time.Time) bool {
	if w.victim == nil {
		return false
	}
	w.mu.Lock()
	_, there := w.calls[w.victim]
	w.mu.Unlock()
	grace := victimGrace
	if w.victim.busySince.Load() != 0 {
		grace = busyGrace
	}
	if there && now.Sub(w.victim.stop.Load().at) < grace {
		return true
	}
	w.victim = nil
	return false
}

// suspect returns the call that has been executing the longest, or, when all
// of them wait, the oldest. Calls already stopped do not count.
func (w *watchdog) suspect() *invocation {
	w.mu.Lock()
	defer w.mu.Unlock()
	var busy, oldest *invocation
	for inv := range w.calls {
		if inv.stop.Load() != nil {
			continue
		}
		if oldest == nil || inv.started.Before(oldest.started) {
			oldest = inv
		}
		since := inv.busySince.Load()
		if since != 0 && (busy == nil || since < busy.busySince.Load()) {
			busy = inv
		}
	}
	if busy != nil {
		return busy
	}
	return oldest
}

// overdue returns the calls that were told to stop longer ago than grace.
func (w *watchdog) overdue(grace time.Duration) []Overdue {
	w.mu.Lock()
	defer w.mu.Unlock()
	var late []Overdue
	for inv := range w.calls {
		if s := inv.stop.Load(); s != nil && time.Since(s.at) > grace {
			late = append(late, Overdue{Ref: inv.call.ref(), RunID: inv.call.Context.RunID, By: time.Since(s.at)})
		}
	}
	return late
}
