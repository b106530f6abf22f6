package check

import "github.com/catena-run/catena/task"

// Flow counts what becomes of due times.
type Flow struct {
	Fires     int64 `json:"fires"`               // due times
	Started   int64 `json:"started"`             // runs that start, at once or later
	Skipped   int64 `json:"skipped,omitempty"`   // by the overlap policy
	Buffered  int64 `json:"buffered,omitempty"`  // started later, after the run before them
	Overruns  int64 `json:"overruns,omitempty"`  // skipped because the buffer of buffer-all was full
	Cancelled int64 `json:"cancelled,omitempty"` // runs ended by cancel-other, terminate-other or cancel-running
	Rejected  int64 `json:"rejected,omitempty"`  // by reject-new
	Delayed   int64 `json:"delayed,omitempty"`   // runs that waited for a rate or concurrency limit
	Waiting   int64 `json:"waiting,omitempty"`   // runs that have not started at the end
	LongestMS int64 `json:"longest_wait_ms,omitempty"`
}

func (f *Flow) add(o Flow) {
	f.Fires += o.Fires
	f.Started += o.Started
	f.Skipped += o.Skipped
	f.Buffered += o.Buffered
	f.Overruns += o.Overruns
	f.Cancelled += o.Cancelled
	f.Rejected += o.Rejected
	f.Delayed += o.Delayed
	f.Waiting += o.Waiting
	f.LongestMS = max(f.LongestMS, o.LongestMS)
}

// timeline adds up the starts and the running runs of each second.
type timeline struct {
	starts  []int32
	running []int32 // changes of the number of running runs
	weight  int32   // how many schedules behave alike
	busy    int64   // seconds of work
}

func (t *timeline) run(start, end int32) {
	t.starts[start] += t.weight
	t.running[start] += t.weight
	t.end(start, end)
}

func (t *timeline) end(start, end int32) {
	end = min(end, int32(len(t.starts)))
	t.running[end] -= t.weight
	t.busy += int64(end-start) * int64(t.weight)
}

// all runs every due time of s. This is where most of the time goes, so it
// has loops without a branch.
func (t *timeline) all(s *stream, lasts int32) {
	horizon := int32(len(t.starts))
	whole := s.n // runs that end within the horizon
	for whole > 0 && s.at(whole-1)+lasts > horizon {
		whole--
		t.busy += int64(horizon-s.at(whole)) * int64(t.weight)
	}
	t.running[horizon] -= int32(s.n-whole) * t.weight
	t.busy += int64(whole) * int64(lasts) * int64(t.weight)
	if s.period > 0 {
		last := s.at(s.n - 1)
		for at := s.first; at <= last; at += s.period {
			t.starts[at] += t.weight
			t.running[at] += t.weight
		}
		for at, end := s.first+lasts, s.at(whole-1)+lasts; whole > 0 && at <= end; at += s.period {
			t.running[at] -= t.weight
		}
		return
	}
	for i, at := range s.times {
		t.starts[at] += t.weight
		t.running[at] += t.weight
		if i < whole {
			t.running[at+lasts] -= t.weight
		}
	}
}

// single plays one schedule whose task has no limits. lasts is how long a run
// takes, in seconds.
func single(s *stream, overlap task.Overlap, buffer int, lasts int32, t *timeline) (f Flow) {
	f.Fires = int64(s.n)
	switch {
	case overlap == task.OverlapAllowAll, s.gap == 0, s.gap >= lasts: // no due time finds a run under way
		t.all(s, lasts)
		f.Started = f.Fires
	case overlap == task.OverlapCancelOther, overlap == task.OverlapTerminateOther:
		cancelling(s, lasts, t, &f)
	case overlap == task.OverlapBufferOne, overlap == task.OverlapBufferAll:
		buffering(s, overlap, buffer, lasts, t, &f)
	default:
		skipping(s, lasts, t, &f)
	}
	return f
}

func skipping(s *stream, lasts int32, t *timeline, f *Flow) {
	free := int32(0)
	for i := range s.n {
		at := s.at(i)
		if at < free {
			f.Skipped++
			continue
		}
		free = at + lasts
		t.run(at, free)
		f.Started++
	}
}

// cancelling has one run follow the other without a gap while they cancel each
// other: together they run from begun on.
func cancelling(s *stream, lasts int32, t *timeline, f *Flow) {
	under, begun := false, int32(0)
	for i := range s.n {
		at := s.at(i)
		if !under {
			begun = at
			t.running[at] += t.weight
		}
		t.starts[at] += t.weight
		if under = i+1 < s.n && s.at(i+1) < at+lasts; under {
			f.Cancelled++
		} else {
			t.end(begun, at+lasts)
		}
	}
	f.Started = f.Fires
}

func buffering(s *stream, overlap task.Overlap, buffer int, lasts int32, t *timeline, f *Flow) {
	if overlap == task.OverlapBufferOne {
		buffer = 1
	}
	horizon := int32(len(t.starts))
	waiting := newBacklog(buffer)
	free := int32(0)
	release := func(until int32) { // starts what waits, one after the other
		for waiting.n > 0 && free <= until && free < horizon {
			f.LongestMS = max(f.LongestMS, int64(free-waiting.take())*1000)
			t.run(free, free+lasts)
			f.Started++
			free += lasts
		}
	}
	for i := range s.n {
		at := s.at(i)
		release(at)
		switch {
		case at >= free:
			free = at + lasts
			t.run(at, free)
			f.Started++
		case waiting.put(at):
			f.Buffered++
		case overlap == task.OverlapBufferAll:
			f.Overruns++
		default:
			f.Skipped++
		}
	}
	release(horizon)
	f.Waiting = int64(waiting.n)
}

// backlog is a bounded queue of due times.
type backlog struct {
	ring    []int32
	head, n int
}

func newBacklog(size int) *backlog { return &backlog{ring: make([]int32, max(size, 1))} }

func (b *backlog) put(at int32) bool {
	if b.n == len(b.ring) {
		return false
	}
	b.ring[(b.head+b.n)%len(b.ring)] = at
	b.n++
	return true
}

func (b *backlog) take() int32 {
	at := b.ring[b.head]
	b.head = (b.head + 1) % len(b.ring)
	b.n--
	return at
}
