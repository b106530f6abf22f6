package scheduler

import (
	"fmt"
	"time"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Config of a scheduler.
type Config struct {
	CatchUpRate int `koanf:"catchUpRate" yaml:"catchUpRate"` // runs a second that make up for missed time, in the whole cluster
}

// DefaultConfig catches up with 100 runs a second.
func DefaultConfig() Config { return Config{CatchUpRate: 100} }

// Validate checks the range.
func (c Config) Validate() error {
	if c.CatchUpRate < 1 || c.CatchUpRate > 100_000 {
		return invalid("scheduler.catchUpRate", "%d is out of range", c.CatchUpRate).Fix("use 1 to 100000")
	}
	return nil
}

// Bounds of one decision, so that its transaction stays short.
const (
	maxFires = 100     // due times with a run
	maxSteps = 100_000 // due times that are counted one by one
)

// Due is a schedule with a due time that has come.
type Due struct {
	Schedule      task.Schedule // ID, Task, Overlap, Buffer, CatchUp, PauseOnFailure, Paused and Note count here
	Spec          Spec          // Schedule, parsed
	TaskPaused    bool
	Note          string    // why the task is paused
	Invalid       string    // why the task cannot run
	Stale         bool      // its one time had passed when the schedule was made
	DueAt         time.Time // the oldest due time that nothing covers
	LastRunActive bool      // the run that the schedule made last has not ended
	Waiting       int       // its runs that wait for the end of an earlier one
	Failures      int       // its runs that failed in a row
}

// Decision covers due times from Due.DueAt on, each exactly once.
type Decision struct {
	// Fires are rows of the ledger, oldest first. Those of an outcome with a run cover
	// one due time each and need one.
	Fires []task.Fire
	// Late are due times for CatchUp, newer than missed ones and older than the others.
	Late *store.Late
	// Next is the first due time that neither covers; HasNext false: there is none
	// and the schedule is over.
	Next    time.Time
	HasNext bool
	// More says that Next has come as well: decide again, from Next.
	More bool
	// Cancel is set where earlier runs are to end for the new one.
	Cancel task.Overlap
	// Pause says why the schedule is to be paused; "": it is not.
	Pause string
}

// Decide says what becomes of the due times from in.DueAt to now, the time of
// the database:
//   - of a paused schedule or task, or an invalid task: one row, a range;
//   - older than the schedule's catch-up window: one row, a range, with outcome missed;
//   - noticed more than store.Punctual late: left to CatchUp;
//   - others: by the overlap policy, with ranges of those that get no run.
//
// The call is bounded: after 100 runs, or 100,000 due times counted one by one,
// it leaves the rest to the next (Decision.More).
func Decide(in Due, now time.Time) Decision {
	d := newDecider(in, now, now)
	if d.refused() {
		return d.decision()
	}
	missed := max(in.window(), store.Punctual)
	late := func(t time.Time) bool { return in.Stale || now.Sub(t) > missed }
	if d.hasNext && late(d.next) {
		d.cover(task.FireMissed, in.missedReason(), late)
		if d.hasNext && late(d.next) {
			return d.decision()
		}
	}
	d.leave(func(t time.Time) bool { return now.Sub(t) > store.Punctual })
	if d.hasNext && now.Sub(d.next) > store.Punctual {
		return d.decision()
	}
	d.fireEach(task.FireStarted, maxFires)
	return d.decision()
}

// CatchUp says what becomes of the due times from in.DueAt to until, which
// passed while nobody was there: as Decide, with the outcome caught_up, at most so many
// runs, and no run of a later due time ended for an earlier one.
func CatchUp(in Due, now, until time.Time, runs int) Decision {
	d := newDecider(in, now, until)
	if d.refused() {
		return d.decision()
	}
	d.late = true
	d.fireEach(task.FireCaughtUp, min(runs, maxFires))
	return d.decision()
}

func (in Due) window() time.Duration {
	if in.Schedule.CatchUp == nil {
		return time.Duration(task.DefaultCatchUp)
	}
	return time.Duration(*in.Schedule.CatchUp)
}

func (in Due) missedReason() string {
	switch window := in.window(); {
	case in.Stale:
		return "the time had passed when the schedule was made"
	case window <= store.Punctual:
		return "nobody was there to start it, and the schedule catches nothing up"
	default:
		return "nobody was there to start it within the catch-up window of " + window.String()
	}
}

// failing says why the schedule is to be paused for its failures, if it is.
func (in Due) failing() string {
	if n := in.Schedule.PauseOnFailure; n > 0 && in.Failures >= n && !in.Schedule.Paused {
		return fmt.Sprintf("its last %d runs failed (pause_on_failure: %d)", in.Failures, n)
	}
	return ""
}

func (in Due) pauseReason() string {
	because := func(text, note string) string {
		if note != "" {
			text += ": " + note
		}
		return text
	}
	switch {
	case in.TaskPaused:
		return because("the task is paused", in.Note)
	case in.Schedule.Paused:
		return because("the schedule is paused", in.Schedule.Note)
	}
	if note := in.failing(); note != "" {
		return because("the schedule is paused", note)
	}
	return ""
}

type decider struct {
	in      Due
	now     time.Time
	until   time.Time // the newest due time that may be covered is not after it
	late    bool      // it is a catch-up
	next    time.Time // the oldest due time not covered
	hasNext bool
	fires   []task.Fire
	left    *store.Late
	cancel  task.Overlap
	pause   string
}

func newDecider(in Due, now, until time.Time) *decider {
	return &decider{in: in, now: now, until: until, next: in.DueAt.UTC(), hasNext: true}
}

func (d *decider) decision() Decision {
	out := Decision{Fires: d.fires, HasNext: d.hasNext, Late: d.left, Cancel: d.cancel, Pause: d.pause}
	if d.hasNext {
		out.Next, out.More = d.next, d.due(d.next)
	}
	return out
}

func (d *decider) due(t time.Time) bool { return !t.After(d.until) }

// refused covers the due times of what is paused or cannot run.
func (d *decider) refused() bool {
	if reason := d.in.pauseReason(); reason != "" {
		if !d.late {
			d.pause = d.in.failing()
		}
		d.cover(task.FirePaused, reason, d.due)
		return true
	}
	if d.in.Invalid != "" {
		d.cover(task.FireSkipped, "the task is invalid: "+d.in.Invalid, d.due)
		return true
	}
	return false
}

// cover makes one row of the due times from next on for which within holds, as
// far as the bound allows. within holds up to some time and never after it.
func (d *decider) cover(outcome task.FireOutcome, reason string, within func(time.Time) bool) {
	if !d.hasNext || !within(d.next) {
		return
	}
	row := d.row(outcome)
	row.Reason = reason
	row.LastDueAt, row.Count = d.walk(within)
	d.fires = append(d.fires, row)
}

// leave makes what is late of the due times for which within holds.
func (d *decider) leave(within func(time.Time) bool) {
	if !d.hasNext || !within(d.next) {
		return
	}
	late := &store.Late{First: d.next}
	late.Last, late.Count = d.walk(within)
	d.left = late
}

// walk goes past the due times for which within holds, of which next is one,
// and returns the last and how many they are.
func (d *decider) walk(within func(time.Time) bool) (last time.Time, count int64) {
	last = d.next
	if d.in.Spec.steady() {
		count = d.leap(within)
		last = d.next
		d.advance()
	}
	for count < maxSteps && d.hasNext && within(d.next) {
		last = d.next
		count++
		d.advance()
	}
	return last, count
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

func (d *decider) row(outcome task.FireOutcome) task.Fire {
	return task.Fire{
		Schedule: d.in.Schedule.ID, Task: d.in.Schedule.Task, DueAt: d.next, LastDueAt: d.next,
		Count: 1, Outcome: outcome, FiredAt: d.now,
	}
}

// one covers the next due time, which gets a run.
func (d *decider) one(outcome task.FireOutcome) {
	d.fires = append(d.fires, d.row(outcome))
	d.advance()
}

// fireEach applies the overlap policy to the due times that have come.
func (d *decider) fireEach(start task.FireOutcome, runs int) {
	active, waiting, buffer := d.in.LastRunActive || d.in.Waiting > 0, d.in.Waiting, 0
	policy := d.in.Schedule.Overlap
	switch policy {
	case task.OverlapCancelOther, task.OverlapTerminateOther:
		d.fireNewest(start, active, runs)
		return
	case task.OverlapBufferOne:
		buffer = 1
	case task.OverlapBufferAll:
		buffer = d.in.Schedule.Buffer
		if buffer == 0 {
			buffer = task.DefaultBuffer
		}
	}
	for ; runs > 0 && d.hasNext && d.due(d.next); runs-- {
		switch {
		case !active || policy == task.OverlapAllowAll:
			d.one(start)
		case waiting < buffer:
			d.one(task.FireBuffered)
			waiting++
		default:
			d.cover(task.FireSkipped, overrun(policy, buffer), d.due)
			return
		}
		active = true
	}
}

func overrun(policy task.Overlap, buffer int) string {
	switch policy {
	case task.OverlapBufferOne:
		return "overlap policy buffer-one: a run waits already for the end of the one before"
	case task.OverlapBufferAll:
		return fmt.Sprintf("overlap policy buffer-all: %d runs wait already", buffer)
	}
	return "overlap policy skip: the run before it has not ended"
}

// fireNewest is for the policies by which a new run replaces the one before: of
// several due times that have come only the newest gets one.
func (d *decider) fireNewest(start task.FireOutcome, active bool, runs int) {
	if !d.hasNext || !d.due(d.next) {
		return
	}
	policy := d.in.Schedule.Overlap
	if d.late && active {
		d.cover(task.FireSkipped, fmt.Sprintf("overlap policy %s: a run of a later due time is under way", policy), d.due)
		return
	}
	newest, steps := d.next, 0
	for t, ok := d.in.Spec.Next(d.next); ok && d.due(t) && steps < maxSteps; t, ok = d.in.Spec.Next(t) {
		newest = t
		steps++
	}
	d.cover(task.FireSkipped, fmt.Sprintf("overlap policy %s: a later due time had come as well", policy), newest.After)
	switch {
	case !d.hasNext || d.next.After(newest) || runs == 0:
	case active:
		d.one(task.FireBuffered)
		d.cancel = policy
	default:
		d.one(start)
	}
}

func (d *decider) advance() { d.next, d.hasNext = d.in.Spec.Next(d.next) }
