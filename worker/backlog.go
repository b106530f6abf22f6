package worker

import (
	"math"
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
	mean   duration
	popped time.Time // when a slot took a job last
	closed bool
}

// fast is the mean duration below which a worker claims ahead of free slots.
const fast = 5 * time.Millisecond

// patience is how much longer a job may wait while slots take jobs.
const patience = 20

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
	b.popped = time.Now()
	b.jobs = b.jobs[1:]
	return j
}

// finished folds the duration of a run into the local moving average.
func (b *backlog) finished(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mean.add(d)
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
	return b.mean.micros < limit && float64(len(b.jobs))*b.mean.micros < limit
}

// size is the number of jobs that wait.
func (b *backlog) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.jobs)
}

// stale takes out the jobs that should go elsewhere: those that have waited for
// longer than stuck while no slot took any, and those that have waited much
// longer than that although slots are at work. One with a token of a rate limit
// is never kept for much longer: the limit counts when it was claimed.
func (b *backlog) stale(now time.Time, stuck time.Duration) (old []*job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	patient := stuck
	if now.Sub(b.popped) < stuck {
		patient *= patience
	}
	if len(b.jobs) == 0 || now.Sub(b.jobs[0].claimedAt) <= stuck {
		return nil
	}
	rest := b.jobs[:0:0]
	for _, j := range b.jobs {
		limit := patient
		if j.claimed.Rated {
			limit = stuck
		}
		if now.Sub(j.claimedAt) > limit {
			old = append(old, j)
		} else {
			rest = append(rest, j)
		}
	}
	b.jobs = rest
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

// duration is a moving geometric mean: a run that the machine kept waiting for
// a thousand times its own length moves it little, a task that has really
// become slower moves it within a few runs.
type duration struct{ micros float64 }

func (m *duration) add(d time.Duration) {
	sample := max(float64(d.Nanoseconds())/1000, 1)
	if m.micros == 0 {
		m.micros = sample
		return
	}
	m.micros *= math.Pow(sample/m.micros, 0.1)
}
