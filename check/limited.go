package check

import (
	"container/heap"
	"math"
	"time"

	"github.com/catena-run/catena/task"
)

// limited plays the schedules of one task that has a rate or a concurrency
// limit, which all of them share: event by event. Runs of one task last
// equally long, so they end in the order of their starts.
type limited struct {
	*timeline
	lasts    int32
	places   int // of the concurrency limit
	strategy task.Strategy
	tokens   int // of the rate
	window   int32

	due     dueHeap
	ready   fifo // admitted by overlap, waiting for the limits
	active  fifo // running
	running int
	used    []int32 // the last tokens starts, a ring
	uses    int
	flow    Flow
}

// lane is what one schedule has under way.
type lane struct {
	stream  *stream
	next    int
	overlap task.Overlap
	buffer  int
	open    int       // runs that have not ended, buffered ones not among them
	last    *simRun   // the newest of them
	waits   []*simRun // buffered
}

// simRun is one run of the simulation.
type simRun struct {
	lane  *lane
	due   int32
	start int32
	state runState
}

type runState uint8

const (
	runReady runState = iota
	runRunning
	runOver
)

func newLimited(schedules []*planned, c *streams, lasts int32, rate *task.Rate, places *task.Concurrency, t *timeline) *limited {
	l := &limited{timeline: t, lasts: lasts, places: math.MaxInt, strategy: task.StrategyQueueFairly}
	if places != nil && places.Limit > 0 {
		l.places, l.strategy = places.Limit, places.Strategy
	}
	if rate != nil && rate.Limit > 0 {
		l.tokens = rate.Limit
		l.window = seconds(time.Duration(rate.Per))
		l.used = make([]int32, l.tokens)
	}
	for _, s := range schedules {
		one := &lane{stream: c.of(s), overlap: s.overlap(), buffer: s.bufferSize()}
		l.flow.Fires += int64(one.stream.n)
		if one.overlap == task.OverlapBufferOne {
			one.buffer = 1
		}
		if one.stream.n > 0 {
			l.due = append(l.due, one)
		}
	}
	heap.Init(&l.due)
	return l
}

// play runs the clock to the end of the horizon.
func (l *limited) play() Flow {
	horizon := int32(len(l.starts))
	for now := l.nextEvent(-1); now < horizon; now = l.nextEvent(now) {
		l.endRuns(now)
		for len(l.due) > 0 && l.due[0].stream.at(l.due[0].next) <= now {
			one := l.due[0]
			l.fire(one, now)
			if one.next++; one.next == one.stream.n {
				heap.Pop(&l.due)
			} else {
				heap.Fix(&l.due, 0)
			}
		}
		l.admit(now)
	}
	for run := l.active.take(); run != nil; run = l.active.take() {
		if run.state == runRunning {
			l.end(run.start, horizon)
		}
	}
	l.flow.Waiting = int64(l.ready.len())
	return l.flow
}

// nextEvent is the next second in which something happens.
func (l *limited) nextEvent(now int32) int32 {
	next := int32(math.MaxInt32)
	if len(l.due) > 0 {
		next = l.due[0].stream.at(l.due[0].next)
	}
	if run := l.active.peek(); run != nil {
		next = min(next, run.start+l.lasts)
	}
	if l.ready.peek() != nil && l.running < l.places {
		next = min(next, max(l.tokenAt(), now+1))
	}
	return max(next, now+1)
}

// tokenAt is when the next token of the rate is there.
func (l *limited) tokenAt() int32 {
	if l.tokens == 0 || l.uses < l.tokens {
		return 0
	}
	return l.used[l.uses%l.tokens] + l.window
}

func (l *limited) endRuns(now int32) {
	for run := l.active.peek(); run != nil && run.start+l.lasts <= now; run = l.active.peek() {
		l.active.take()
		l.end(run.start, run.start+l.lasts)
		l.over(run, now)
	}
}

// over ends a run and lets the next buffered one of its schedule go.
func (l *limited) over(run *simRun, now int32) {
	if run.state == runRunning {
		l.running--
	}
	run.state = runOver
	one := run.lane
	if one.open--; one.open > 0 || len(one.waits) == 0 {
		return
	}
	next := one.waits[0]
	one.waits = one.waits[1:]
	l.offer(one, next, now)
}

func (l *limited) offer(one *lane, run *simRun, now int32) {
	one.open++
	one.last = run
	if l.strategy == task.StrategyRejectNew && l.running+l.ready.len() >= l.places {
		l.flow.Rejected++
		l.over(run, now)
		return
	}
	l.ready.put(run)
}

// fire decides about a due time by the overlap policy.
func (l *limited) fire(one *lane, now int32) {
	run := &simRun{lane: one, due: now}
	if one.open == 0 || one.overlap == task.OverlapAllowAll {
		l.offer(one, run, now)
		return
	}
	switch one.overlap {
	case task.OverlapBufferOne, task.OverlapBufferAll:
		switch {
		case len(one.waits) < one.buffer:
			one.waits = append(one.waits, run)
			l.flow.Buffered++
		case one.overlap == task.OverlapBufferAll:
			l.flow.Overruns++
		default:
			l.flow.Skipped++
		}
	case task.OverlapCancelOther, task.OverlapTerminateOther:
		l.cancel(one.last, now)
		l.offer(one, run, now)
	default:
		l.flow.Skipped++
	}
}

// cancel ends a run early.
func (l *limited) cancel(run *simRun, now int32) {
	l.flow.Cancelled++
	if run.state == runRunning {
		l.end(run.start, now)
		l.active.gone++
	} else {
		l.ready.gone++
	}
	l.over(run, now)
}

// admit starts what waits, as far as the limits allow.
func (l *limited) admit(now int32) {
	for run := l.ready.peek(); run != nil; run = l.ready.peek() {
		if l.tokenAt() > now {
			return
		}
		if l.running >= l.places {
			oldest := l.active.peek()
			if l.strategy != task.StrategyCancelRunning || oldest == nil {
				return
			}
			l.cancel(oldest, now)
		}
		l.start(l.ready.take(), now)
	}
}

func (l *limited) start(run *simRun, now int32) {
	run.state, run.start = runRunning, now
	l.starts[now] += l.weight
	l.timeline.running[now] += l.weight
	l.active.put(run)
	l.running++
	if l.tokens > 0 {
		l.used[l.uses%l.tokens] = now
		l.uses++
	}
	l.flow.Started++
	if wait := int64(now-run.due) * 1000; wait > 0 {
		l.flow.Delayed++
		l.flow.LongestMS = max(l.flow.LongestMS, wait)
	}
}

// fifo is a queue of runs; those that were cancelled are passed over.
type fifo struct {
	runs []*simRun
	head int
	gone int // cancelled ones that are still in it
}

func (q *fifo) put(run *simRun) { q.runs = append(q.runs, run) }

func (q *fifo) len() int { return len(q.runs) - q.head - q.gone }

func (q *fifo) peek() *simRun {
	for q.head < len(q.runs) && q.runs[q.head].state == runOver {
		q.drop()
		q.gone--
	}
	if q.head == len(q.runs) {
		return nil
	}
	return q.runs[q.head]
}

func (q *fifo) take() *simRun {
	run := q.peek()
	if run != nil {
		q.drop()
	}
	return run
}

// drop forgets the first, and the room of those before it now and then.
func (q *fifo) drop() {
	q.runs[q.head] = nil
	if q.head++; q.head >= 1024 && q.head*2 >= len(q.runs) {
		q.runs = append(q.runs[:0], q.runs[q.head:]...)
		q.head = 0
	}
}

// dueHeap orders the schedules by their next due time.
type dueHeap []*lane

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].stream.at(h[i].next) < h[j].stream.at(h[j].next) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(*lane)) }
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
