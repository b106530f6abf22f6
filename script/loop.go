package script

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"
)

// loop is the event loop of one call. Everything but the function returned by
// register belongs to the goroutine of the call. Only tasks run here; promise
// jobs are run by the machine at the end of each task.
type loop struct {
	pending    int // registered callbacks that have not run
	timers     timers
	byID       map[int64]*timer
	lastID     int64
	immediates []*immediate

	mu    sync.Mutex
	ready []func()
	news  []func()      // of nobody who waits; see post
	wake  chan struct{} // holds one token when ready may be filled
}

func newLoop() *loop { return &loop{wake: make(chan struct{}, 1)} }

// register announces work outside the loop and returns the function that hands
// its result back. That function may be called from any goroutine; only its
// first call counts.
func (l *loop) register() func(task func()) {
	l.pending++
	var used atomic.Bool
	return func(task func()) {
		if used.Swap(true) {
			return
		}
		l.mu.Lock()
		l.ready = append(l.ready, task)
		l.mu.Unlock()
		l.notify()
	}
}

// post adds a task for which no call waits: it keeps the loop from nothing. It
// may be called from any goroutine.
func (l *loop) post(task func()) {
	l.mu.Lock()
	l.news = append(l.news, task)
	l.mu.Unlock()
	l.notify()
}

// notify makes a waiting loop look around; it never blocks.
func (l *loop) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run runs tasks until done says so or nothing is left that could run, and
// reports which. Timers go first, then results from outside, then immediates.
func (l *loop) run(done func() bool) (finished bool) {
	for !done() {
		if !l.turn(done) && !done() {
			if l.idle() {
				return false
			}
			l.wait()
		}
	}
	return true
}

// turn runs what is ready now and reports whether anything was.
func (l *loop) turn(done func() bool) bool {
	ran := false
	for _, phase := range []func() func(){l.dueTimer, l.result, l.immediate} {
		for n := l.available(); n > 0; n-- {
			task := phase()
			if task == nil {
				break
			}
			ran = true
			if task(); done() {
				return true
			}
		}
	}
	return ran
}

// available bounds one phase, so that a task that keeps adding work to its own
// phase cannot starve the others.
func (l *loop) available() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(len(l.news)+len(l.ready), len(l.timers), len(l.immediates))
}

func (l *loop) result() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.news) > 0 {
		task := l.news[0]
		l.news = l.news[1:]
		return task
	}
	if len(l.ready) == 0 {
		return nil
	}
	task := l.ready[0]
	l.ready = l.ready[1:]
	l.pending--
	return task
}

func (l *loop) immediate() func() {
	for len(l.immediates) > 0 {
		next := l.immediates[0]
		l.immediates = l.immediates[1:]
		if !next.cleared {
			delete(l.byID, next.id)
			return next.task
		}
	}
	return nil
}

// idle reports that nothing is left which could ever run.
func (l *loop) idle() bool { return l.pending == 0 && len(l.timers) == 0 && len(l.immediates) == 0 }

// wait blocks until a result arrives, the next timer is due or notify is called.
func (l *loop) wait() {
	if len(l.timers) == 0 {
		<-l.wake
		return
	}
	clock := time.NewTimer(time.Until(l.timers[0].due))
	defer clock.Stop()
	select {
	case <-l.wake:
	case <-clock.C:
	}
}

// waitsFor says in words what the loop is waiting for.
func (l *loop) waitsFor() string {
	switch {
	case l.pending > 0 && len(l.timers) > 0:
		return plural(l.pending, "request") + " and " + plural(len(l.timers), "timer")
	case l.pending > 0:
		return plural(l.pending, "request")
	default:
		return plural(len(l.timers)+len(l.immediates), "timer")
	}
}

// immediate is a task of setImmediate.
type immediate struct {
	id      int64
	task    func()
	cleared bool
}

// timer is a task of setTimeout or, with an interval, of setInterval.
type timer struct {
	id       int64
	due      time.Time
	interval time.Duration // 0: once
	task     func()
	index    int // in the heap; -1 when not in it
	asked    *immediate
}

func (l *loop) newID() int64 {
	if l.byID == nil {
		l.byID = map[int64]*timer{}
	}
	l.lastID++
	return l.lastID
}

// after adds a timer and returns its id.
func (l *loop) after(delay time.Duration, repeat bool, task func()) int64 {
	t := &timer{id: l.newID(), due: time.Now().Add(delay), task: task}
	if repeat {
		t.interval = delay
	}
	l.byID[t.id] = t
	heap.Push(&l.timers, t)
	return t.id
}

// soon adds a task for the end of this turn of the loop and returns its id.
func (l *loop) soon(task func()) int64 {
	next := &immediate{id: l.newID(), task: task}
	l.byID[next.id] = &timer{id: next.id, index: -1, asked: next}
	l.immediates = append(l.immediates, next)
	return next.id
}

// clear forgets a timer or an immediate; unknown ids are ignored.
func (l *loop) clear(id int64) {
	t, ok := l.byID[id]
	if !ok {
		return
	}
	delete(l.byID, id)
	if t.asked != nil {
		t.asked.cleared = true
		return
	}
	t.interval = 0
	if t.index >= 0 {
		heap.Remove(&l.timers, t.index)
	}
}

// dueTimer takes the first timer whose time has come. An interval is put back
// after its task has run, so it never piles up behind a slow one.
func (l *loop) dueTimer() func() {
	if len(l.timers) == 0 || l.timers[0].due.After(time.Now()) {
		return nil
	}
	t := heap.Pop(&l.timers).(*timer)
	if t.interval == 0 {
		delete(l.byID, t.id)
		return t.task
	}
	return func() {
		t.task()
		if t.interval > 0 {
			t.due = time.Now().Add(t.interval)
			heap.Push(&l.timers, t)
		}
	}
}

// timers is a heap by due time; equal times keep the order of their ids.
type timers []*timer

func (t timers) Len() int { return len(t) }
func (t timers) Less(i, j int) bool {
	if t[i].due.Equal(t[j].due) {
		return t[i].id < t[j].id
	}
	return t[i].due.Before(t[j].due)
}
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}
func (t *timers) Push(x any) {
	added := x.(*timer)
	added.index = len(*t)
	*t = append(*t, added)
}
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = nil
	last.index = -1
	*t = old[:len(old)-1]
	return last
}
