package task

import (
	"time"

	"github.com/google/uuid"
)

// Overlap says what happens to a due time while an earlier run of the same
// schedule has not ended.
type Overlap string

// The overlap policies.
const (
	OverlapSkip     Overlap = "skip"      // the due time is recorded as skipped
	OverlapAllowAll Overlap = "allow-all" // the run starts beside the earlier one
)

// Schedule says when a task runs. Exactly one of Cron and At is set.
type Schedule struct {
	ID       int64      `json:"id,omitempty"`
	Task     string     `json:"task,omitempty"`
	Cron     string     `json:"cron,omitempty"`     // 5 or 6 fields, or @every, @hourly, ...
	At       *time.Time `json:"at,omitempty"`       // one-shot
	Timezone string     `json:"timezone,omitempty"` // IANA name; "": UTC
	Overlap  Overlap    `json:"overlap,omitempty"`  // "": skip
	Paused   bool       `json:"paused,omitempty"`
	Invalid  string     `json:"invalid,omitempty"` // why it never fires; "" when it does
	NextDue  *time.Time `json:"next_due,omitempty"`
}

func (s Schedule) validate(index int) error {
	where := indexed("schedule", index)
	switch {
	case s.Cron == "" && s.At == nil:
		return Errorf(CodeInvalid, "schedule says no time").At(where).Fix("give it cron or at")
	case s.Cron != "" && s.At != nil:
		return Errorf(CodeInvalid, "schedule has both cron and at").At(where).Fix("write two schedules")
	}
	switch s.Overlap {
	case "", OverlapSkip, OverlapAllowAll:
		return nil
	}
	return Errorf(CodeInvalid, "unknown overlap policy %q", s.Overlap).At(where+".overlap").
		Fix("use %s or %s", OverlapSkip, OverlapAllowAll)
}

// FireOutcome says what became of a due time.
type FireOutcome string

// The outcomes of a due time.
const (
	FireStarted FireOutcome = "started" // a run was made
	FireSkipped FireOutcome = "skipped" // the overlap policy said no
	FireMissed  FireOutcome = "missed"  // nobody was there to start it in time
	FirePaused  FireOutcome = "paused"  // the task or schedule was paused
)

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
