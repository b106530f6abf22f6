package check

import (
	"slices"
	"strings"
	"time"

	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

// stream is the starts that the due times of a schedule within the horizon ask
// for (they differ by its jitter), in whole seconds from its beginning: either written out, or period seconds apart.
type stream struct {
	first, period int32
	n             int
	times         []int32 // when period is 0
	gap           int32   // the shortest distance of two; 0: there are not two
}

func (s *stream) at(i int) int32 {
	if s.period > 0 {
		return s.first + int32(i)*s.period
	}
	return s.times[i]
}

// cacheTimes bounds the due times that are kept for further schedules of the
// same text: 64 MB.
const cacheTimes = 16 << 20

// streams makes the stream of each different schedule once, as far as memory
// allows: thousands of schedules have the same text.
type streams struct {
	from    time.Time
	seconds int32
	known   map[string]*stream
	kept    int
}

// of returns the due times of a schedule.
func (c *streams) of(s *planned) *stream {
	if known := c.known[s.key]; known != nil {
		return known
	}
	made := c.make(s)
	if c.kept += len(made.times); c.kept <= cacheTimes {
		c.known[s.key] = made
	}
	return made
}

func (c *streams) make(s *planned) *stream {
	out := &stream{}
	first, ok := c.next(s.spec, c.from.Add(-time.Microsecond))
	if !ok {
		return out
	}
	if regular(s.Schedule) {
		second, ok := c.next(s.spec, first)
		out.first, out.n = c.second(first), 1
		if ok {
			out.period = int32(second.Sub(first) / time.Second)
			out.gap = out.period
			out.n += int((c.seconds - 1 - out.first) / out.period)
		} else {
			out.times = []int32{out.first}
		}
		return out
	}
	for at := first; ok; at, ok = c.next(s.spec, at) {
		second := min(c.second(s.spec.StartAt(at)), c.seconds-1)
		if n := len(out.times); n > 0 {
			if gap := max(second-out.times[n-1], 1); out.gap == 0 || gap < out.gap {
				out.gap = gap
			}
		}
		out.times = append(out.times, second)
	}
	if s.Jitter > 0 { // a large one changes the order
		slices.Sort(out.times)
		out.gap = 1
	}
	out.n = len(out.times)
	return out
}

func (c *streams) second(at time.Time) int32 { return int32(at.Sub(c.from) / time.Second) }

// next is Spec.Next within the horizon.
func (c *streams) next(spec scheduler.Spec, after time.Time) (time.Time, bool) {
	at, ok := spec.Next(after)
	return at, ok && at.Before(c.from.Add(time.Duration(c.seconds)*time.Second))
}

// regular reports whether all starts are the same distance apart.
func regular(s task.Schedule) bool {
	every := s.Every > 0 || strings.HasPrefix(strings.TrimSpace(s.Cron), "@every")
	return every && len(s.Exclude) == 0 && s.End == nil && s.Jitter == 0
}
