package task

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Overlap says what happens to a due time while an earlier run of the same
// schedule has not ended.
type Overlap string

// The overlap policies.
const (
	OverlapSkip           Overlap = "skip"            // the due time is recorded as skipped
	OverlapBufferOne      Overlap = "buffer-one"      // one run waits for the end of the earlier one; further due times are skipped
	OverlapBufferAll      Overlap = "buffer-all"      // runs wait for one another in order, up to Schedule.Buffer
	OverlapCancelOther    Overlap = "cancel-other"    // the earlier run is cancelled and may end in order; the new one starts after it
	OverlapTerminateOther Overlap = "terminate-other" // the earlier run is cancelled without a grace; the new one starts after it
	OverlapAllowAll       Overlap = "allow-all"       // the run starts beside the earlier one
)

// Overlaps lists the policies.
var Overlaps = [...]Overlap{OverlapSkip, OverlapBufferOne, OverlapBufferAll, OverlapCancelOther, OverlapTerminateOther, OverlapAllowAll}

// DST says what becomes of wall-clock readings that a change of the clock
// skips or repeats.
type DST string

// The rules.
const (
	DSTAuto  DST = "auto"  // once for expressions that name fixed hours, time that passes for others
	DSTSkip  DST = "skip"  // skipped readings do not fire; repeated ones fire at their first occurrence
	DSTOnce  DST = "once"  // skipped readings fire once, at the end of the gap; repeated ones at their first occurrence
	DSTTwice DST = "twice" // skipped readings fire once, at the end of the gap; repeated ones at both occurrences
)

// Defaults of a schedule.
const (
	DefaultCatchUp = Duration(time.Hour)
	DefaultBuffer  = 100

	MaxBuffer         = 10_000
	MaxPauseOnFailure = 1_000_000
)

// Schedule says when a task runs. Exactly one of Cron, At, Every and Calendar
// is set.
type Schedule struct {
	ID             int64      `json:"id,omitempty"`
	Task           string     `json:"task,omitempty"`
	Cron           string     `json:"cron,omitempty"`             // 5 or 6 fields, or @every, @hourly, ...
	At             *time.Time `json:"at,omitempty"`               // one-shot
	Every          Duration   `json:"every,omitempty"`            // interval, aligned to the Unix epoch plus Offset
	Offset         Duration   `json:"offset,omitempty"`           // of Every; less than it
	Calendar       *Calendar  `json:"calendar,omitempty"`         // days and times of day
	Timezone       string     `json:"timezone,omitempty"`         // IANA name; "": UTC
	DST            DST        `json:"dst,omitempty"`              // "": auto
	Start          *time.Time `json:"start,omitempty"`            // no due time before
	End            *time.Time `json:"end,omitempty"`              // no due time from then on
	Exclude        []string   `json:"exclude,omitempty"`          // names of calendars whose days have no due time
	Jitter         Duration   `json:"jitter,omitempty"`           // a run starts up to this much after its due time, always the same for one due time
	Overlap        Overlap    `json:"overlap,omitempty"`          // "": skip
	Buffer         int        `json:"buffer,omitempty"`           // runs that buffer-all lets wait; 0: DefaultBuffer
	CatchUp        *Duration  `json:"catch_up,omitempty"`         // a due time noticed later than this is missed; nil: DefaultCatchUp, 0: none is caught up
	PauseOnFailure int        `json:"pause_on_failure,omitempty"` // failed runs in a row after which it pauses; 0: never
	Paused         bool       `json:"paused,omitempty"`
	Note           string     `json:"note,omitempty"`    // why it is paused
	Invalid        string     `json:"invalid,omitempty"` // why it never fires; "" when it does
	NextDue        *time.Time `json:"next_due,omitempty"`
}

// Calendar is a schedule by days and times of day in the schedule's time zone.
// An empty list of days does not restrict; every restriction must hold.
type Calendar struct {
	Times    []string `json:"times"`              // "08:00" or "08:00:30"
	Weekdays []string `json:"weekdays,omitempty"` // "mon" to "sun", ranges as "mon-fri"
	Days     []int    `json:"days,omitempty"`     // 1 to 31; -1 is the last day of the month, -2 the one before it
	Months   []string `json:"months,omitempty"`   // "jan" to "dec", ranges as "mar-oct"
}

// NamedCalendar is a named set of days, such as public holidays, which schedules
// exclude.
type NamedCalendar struct {
	Name      string    `json:"name"`
	Days      []string  `json:"days"` // "2026-12-25", "2026-12-24/2026-12-26", "--12-25" (every year)
	Invalid   string    `json:"invalid,omitempty"`
	Schedules int       `json:"schedules"` // that exclude it
	UpdatedAt time.Time `json:"updated_at"`
}

// validate checks what can be said without reading the spec, which the
// scheduler does.
func (s Schedule) validate(index int) error {
	where := indexed("schedule", index)
	specs := 0
	for _, given := range []bool{s.Cron != "", s.At != nil, s.Every != 0, s.Calendar != nil} {
		if given {
			specs++
		}
	}
	switch {
	case specs == 0:
		return Errorf(CodeInvalid, "schedule says no time").At(where).Fix("give it cron, every, calendar or at")
	case specs > 1:
		return Errorf(CodeInvalid, "schedule has more than one of cron, every, calendar and at").At(where).Fix("write a schedule for each")
	case s.Overlap != "" && !slices.Contains(Overlaps[:], s.Overlap):
		return Errorf(CodeInvalid, "unknown overlap policy %q", s.Overlap).At(where+".overlap").Fix("use one of %v", Overlaps)
	case s.Buffer < 0 || s.Buffer > MaxBuffer:
		return Errorf(CodeInvalid, "a buffer of %d runs is out of range", s.Buffer).At(where+".buffer").Fix("use 1 to %d", MaxBuffer)
	case s.Buffer > 0 && s.Buffer != DefaultBuffer && s.Overlap != OverlapBufferAll:
		return Errorf(CodeInvalid, "buffer says how many runs wait with overlap: buffer-all, which this schedule has not").At(where + ".buffer").
			Fix("leave it out, or write overlap: buffer-all")
	case s.CatchUp != nil && *s.CatchUp < 0:
		return Errorf(CodeInvalid, "a catch-up window of %s is negative", s.CatchUp).At(where + ".catch_up").Fix("use 0s to catch nothing up")
	case s.PauseOnFailure < 0 || s.PauseOnFailure > MaxPauseOnFailure:
		return Errorf(CodeInvalid, "pause_on_failure %d is out of range", s.PauseOnFailure).At(where+".pause_on_failure").
			Fix("use the number of failed runs in a row, at most %d; 0: never", MaxPauseOnFailure)
	case s.Note != "" && !s.Paused:
		return Errorf(CodeInvalid, "note says why a schedule is paused, which this one is not").At(where + ".note").Fix("leave it out, or write paused: true")
	}
	return nil
}

// FireOutcome says what became of a due time.
type FireOutcome string

// The outcomes of a due time.
const (
	FireStarted  FireOutcome = "started"   // a run was made
	FireCaughtUp FireOutcome = "caught_up" // a run was made after a downtime, within the catch-up window
	FireBuffered FireOutcome = "buffered"  // a run was made that waits for the end of an earlier one
	FireSkipped  FireOutcome = "skipped"   // the overlap policy said no
	FireMissed   FireOutcome = "missed"    // nobody was there to start it in time
	FirePaused   FireOutcome = "paused"    // the task or schedule was paused
)

// FireOutcomes lists the outcomes.
var FireOutcomes = [...]FireOutcome{FireStarted, FireCaughtUp, FireBuffered, FireSkipped, FireMissed, FirePaused}

// HasRun reports whether a due time of this outcome has a run.
func (o FireOutcome) HasRun() bool {
	return o == FireStarted || o == FireCaughtUp || o == FireBuffered
}

// Fire covers one due time of a schedule, or, where no run was made, a range
// of them: Count due times from DueAt to LastDueAt, both included.
type Fire struct {
	Schedule  int64       `json:"schedule"`
	Task      string      `json:"task"`
	DueAt     time.Time   `json:"due_at"`
	LastDueAt time.Time   `json:"last_due_at"`
	Count     int64       `json:"count"`
	Outcome   FireOutcome `json:"outcome"`
	Reason    string      `json:"reason,omitempty"`
	Run       *uuid.UUID  `json:"run"`
	FiredAt   time.Time   `json:"fired_at"`
}
