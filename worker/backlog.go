package worker

import (
	"sync"
	"time"
)

// backlog holds the claimed runs that have no slot yet. Slots take from its
// front; what lies too long is taken out again and released.
type backlog struct {
	mu     sync.Mutex
	some   *sync.Cond
	jobs   []*job
	idle   int // slots waiting for a job
	micros float64
	closed bool
}

// fast is the mean duration below which a worker claims ahead of free slots.
const fast = 5 * time.Millisecond

func newBacklog() *backlog {
	b := &backlog{}
	b.some = sync.NewCond(&b.mu)
	return b
}

func (b *backlog) push(jobs []*job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.jobs = append(b.jobs, jobs...)
	b.some.Broadcast()
}

// pop waits for a job; nil means that the backlog was closed.
func (b *backlog) pop() *job {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle++
	for len(b.jobs) == 0 && !b.closed {
		b.some.Wait()
	}
	b.idle--
	if len(b.jobs) == 0 {
		return nil
	}
	j := b.jobs[0]
	b.jobs[0] = nil
	b.jobs = b.jobs[1:]
	return j
}

// finished folds the duration of a run into the local moving average.
func (b *backlog) finished(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.micros += (float64(d.Microseconds()) - b.micros) * 0.05
}

// room reports whether to claim another parcel now: when a slot is free, or
// when runs are so short that the backlog will be empty in a moment.
func (b *backlog) room() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	if b.idle > len(b.jobs) {
		return true
	}
	limit := float64(fast.Microseconds())
	return b.micros < limit && float64(len(b.jobs))*b.micros < limit
}

// stale takes out the jobs that have waited since before the given time.
func (b *backlog) stale(before time.Time) []*job {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for n < len(b.jobs) && b.jobs[n].claimedAt.Before(before) {
		n++
	}
	old := b.jobs[:n:n]
	b.jobs = b.jobs[n:]
	return old
}

// close takes out all jobs and lets the slots go.
func (b *backlog) close() []*job {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	rest := b.jobs
	b.jobs = nil
	b.some.Broadcast()
	return rest
}
