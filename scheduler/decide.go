package scheduler

import (
	"time"

	"github.com/catena-run/catena/task"
)

// Config bounds decisions.
type Config struct {
	MissedAfter time.Duration `koanf:"missedAfter" yaml:"missedAfter"` // a due time noticed later than this is missed
}

// DefaultConfig starts what is noticed within ten minutes.
func DefaultConfig() Config { return Config{MissedAfter: 10 * time.Minute} }

// Validate checks the range.
func (c Config) Validate() error {
	if c.MissedAfter < time.Second || c.MissedAfter > 24*time.Hour {
		return invalid("scheduler.missedAfter", "%v is out of range", c.MissedAfter).Fix("use 1s to 24h")
	}
	return nil
}

// Bounds of one decision, so that its transaction stays short.
const (
	maxFires = 100     // rows for due times that are not missed
	maxSteps = 100_000 // due times that are counted one by one
)

// Due is a schedule with a due time that has come.
type Due struct {
	Schedule      task.Schedule // ID, Task, Overlap and Paused count here
	Spec          Spec          // Schedule, parsed
	TaskPaused    bool
	Note          string    // why the task is paused
	DueAt         time.Time // the oldest due time that nothing covers
	LastRunActive bool      // the run that the schedule made last has not ended
}

// Decision covers due times from Due.DueAt on, each exactly once.
type Decision struct {
	// Fires are rows of the ledger, oldest first. Those with outcome started cover
	// one due time each and need a run.
	Fires []task.Fire
	// Next is the first due time that Fires do not cover; HasNext false: there is none
	// and the schedule is over.
	Next    time.Time
	HasNext bool
	// More says that Next has come as well: decide again, from Next.
	More bool
}

// Decide decides with the default configuration.
func Decide(in Due, now time.Time) Decision { return DefaultConfig().Decide(in, now) }

// Decide says what becomes of the due times from in.DueAt to now, the time of
// the database:
//   - of a paused schedule or task: one row, a range, with outcome paused;
//   - older than MissedAfter: one row, a range, with outcome missed;
//   - others: a row each, started or, by the overlap policy, skipped.
//
// The call is bounded: after 100 rows, or 100,000 due times counted one by one,
// it leaves the rest to the next (Decision.More).
func (c Config) Decide(in Due, now time.Time) Decision {
	d := decider{in: in, now: now, next: in.DueAt.UTC(), hasNext: true}
	if reason := in.pauseReason(); reason != "" {
		d.cover(task.FirePaused, reason, func(t time.Time) bool { return !t.After(now) })
		return d.decision()
	}
	late := func(t time.Time) bool { return now.Sub(t) > c.MissedAfter }
	if late(d.next) {
		noticed := now.Sub(d.next).Truncate(time.Second)
		d.cover(task.FireMissed, "nobody was there to start it: noticed "+noticed.String()+" late", late)
		if d.hasNext && late(d.next) {
			return d.decision()
		}
	}
	d.fireEach()
	return d.decision()
}

func (in Due) pauseReason() string {
	switch {
	case in.TaskPaused && in.Note != "":
		return "the task is paused: " + in.Note
	case in.TaskPaused:
		return "the task is paused"
	case in.Schedule.Paused:
		return "the schedule is paused"
	}
	return ""
}

type decider struct {
	in      Due
	now     time.Time
	next    time.Time // the oldest due time not covered
	hasNext bool
	fires   []task.Fire
}

func (d *decider) decision() Decision {
	out := Decision{Fires: d.fires, HasNext: d.hasNext}
	if d.hasNext {
		out.Next, out.More = d.next, !d.next.After(d.now)
	}
	return out
}

// cover makes one row of the due times from next on for which within holds, as
// far as the bound allows. within holds up to some time and never after it.
func (d *decider) cover(outcome task.FireOutcome, reason string, within func(time.Time) bool) {
	if !within(d.next) {
		return
	}
	row := task.Fire{
		Schedule: d.in.Schedule.ID, Task: d.in.Schedule.Task, DueAt: d.next, LastDueAt: d.next,
		Outcome: outcome, Reason: reason, FiredAt: d.now,
	}
	if d.in.Spec.steady() {
		row.Count = d.leap(within)
		row.LastDueAt = d.next
		d.advance()
	}
	for row.Count < maxSteps && d.hasNext && within(d.next) {
		row.LastDueAt = d.next
		row.Count++
		d.advance()
	}
	d.fires = append(d.fires, row)
}

// leap moves next, of an @every schedule, to the newest due time for which within
// holds, by arithmetic, and returns how many due times that covers, next included.
func (d *decider) leap(within func(time.Time) bool) int64 {
	period := d.in.Spec.every
	low, high := int64(0), int64(d.now.Sub(d.next)/period)+1 // within(low) holds, within(high) does not
	for high-low > 1 {
		if middle := low + (high-low)/2; within(d.next.Add(time.Duration(middle) * period)) {
			low = middle
		} else {
			high = middle
		}
	}
	d.next = d.next.Add(time.Duration(low) * period)
	return low + 1
}

// fireEach starts or skips each due time that has come.
func (d *decider) fireEach() {
	active := d.in.LastRunActive
	for n := 0; n < maxFires && d.hasNext && !d.next.After(d.now); n++ {
		row := task.Fire{
			Schedule: d.in.Schedule.ID, Task: d.in.Schedule.Task, DueAt: d.next, LastDueAt: d.next,
			Count: 1, Outcome: task.FireStarted, FiredAt: d.now,
		}
		if active && d.in.Schedule.Overlap != task.OverlapAllowAll {
			row.Outcome = task.FireSkipped
			row.Reason = "overlap policy skip: the run before it has not ended"
		}
		active = true
		d.fires = append(d.fires, row)
		d.advance()
	}
}

func (d *decider) advance() { d.next, d.hasNext = d.in.Spec.Next(d.next) }
