package check_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/catena-run/catena/check"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

// ledger plays one schedule with the scheduler's own decisions, a due time at
// a time, and runs that take equally long.
type ledger struct {
	schedule task.Schedule
	spec     scheduler.Spec
	lasts    time.Duration
	ends     []time.Time // of the runs under way
	waiting  int
	flow     check.Flow
}

// advance ends what has ended by now; the next waiting run starts then.
func (l *ledger) advance(now time.Time) {
	for len(l.ends) > 0 && !l.ends[0].After(now) {
		ended := l.ends[0]
		l.ends = l.ends[1:]
		if l.waiting > 0 && len(l.ends) == 0 {
			l.waiting--
			l.start(ended)
		}
	}
}

func (l *ledger) start(at time.Time) {
	l.ends = append(l.ends, at.Add(l.lasts))
	l.flow.Started++
}

func (l *ledger) due(at time.Time) {
	l.advance(at)
	l.flow.Fires++
	d := scheduler.Decide(scheduler.Due{
		Schedule: l.schedule, Spec: l.spec, DueAt: at, LastRunActive: len(l.ends) > 0, Waiting: l.waiting,
	}, at)
	switch f := d.Fires[0]; {
	case d.Cancel != "":
		l.flow.Cancelled++
		l.ends = nil
		l.start(at)
	case f.Outcome == task.FireStarted:
		l.start(at)
	case f.Outcome == task.FireBuffered:
		l.flow.Buffered++
		l.waiting++
	case l.schedule.Overlap == task.OverlapBufferAll:
		l.flow.Overruns++
	default:
		l.flow.Skipped++
	}
}

// TestTheSimulationDecidesAsTheScheduler: for any schedule, policy and duration
// the counts are those of the scheduler's own decisions.
func TestTheSimulationDecidesAsTheScheduler(t *testing.T) {
	t.Parallel()
	crons := []string{"*/7 * * * * *", "0,3,4,30 * * * * *", "* * * * *", "*/5 * * * *", "1,2 * * * *", "@every 1s", "@every 13s", "@every 90s"}
	rapid.Check(t, func(t *rapid.T) {
		schedule := task.Schedule{
			Cron:    rapid.SampledFrom(crons).Draw(t, "cron"),
			Overlap: rapid.SampledFrom(task.Overlaps[:]).Draw(t, "overlap"),
			Buffer:  rapid.IntRange(1, 5).Draw(t, "buffer"),
		}
		lasts := time.Duration(rapid.IntRange(1, 400).Draw(t, "seconds")) * time.Second
		from := midnight.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "from")) * time.Second)
		until := from.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "length")) * time.Second)
		one := scheduled("one", schedule)
		if rapid.Bool().Draw(t, "event by event") {
			one.Concurrency = &task.Concurrency{Limit: 1 << 30}
		}
		f, err := check.Simulate([]task.Task{one}, check.Clock{From: from, Until: until, Duration: lasts})
		require.NoError(t, err)

		spec, err := scheduler.Parse(schedule)
		require.NoError(t, err)
		l := &ledger{schedule: schedule, spec: spec, lasts: lasts}
		for at, ok := spec.Next(from.Add(-time.Microsecond)); ok && at.Before(until); at, ok = spec.Next(at) {
			l.due(at)
		}
		l.advance(until.Add(-time.Microsecond))
		got := f.Total
		got.LongestMS, got.Delayed, got.Waiting = 0, 0, 0
		require.Equal(t, l.flow, got)
		require.EqualValues(t, l.waiting, f.Total.Fires-got.Started-got.Skipped-got.Overruns)
	})
}
