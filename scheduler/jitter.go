package scheduler

import (
	"hash/fnv"
	"math/bits"
	"time"

	"github.com/catena-run/catena/task"
)

// Jitter returns how long after the given due time its run starts: from zero to less
// than the schedule's jitter, always the same for one schedule and due time,
// spread evenly over schedules and due times.
func (s Spec) Jitter(due time.Time) time.Duration {
	if s.jitter <= 0 {
		return 0
	}
	x := mixed(s.seed ^ mixed(uint64(due.UnixMicro())))
	delay, _ := bits.Mul64(x, uint64(s.jitter))
	return time.Duration(delay).Truncate(time.Microsecond) // what Postgres keeps
}

// StartAt returns when the run of a due time starts.
func (s Spec) StartAt(due time.Time) time.Time { return due.Add(s.Jitter(due)) }

// seedOf identifies a schedule: by its row, or as long as it has none by its task.
func seedOf(s task.Schedule) uint64 {
	if s.ID != 0 {
		return mixed(uint64(s.ID))
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.Task))
	return h.Sum64()
}

// mixed is the finisher of splitmix64: every bit of x changes half of the others.
func mixed(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// steady reports whether the due times of s can be counted by arithmetic.
func (s Spec) steady() bool { return s.every > 0 && len(s.exclude) == 0 && s.end.IsZero() }
