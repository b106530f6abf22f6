package task

import "time"

// Backfill makes runs of the past due times of a schedule, on request. They
// stand beside the ledger, which says what the schedule did itself.
type Backfill struct {
	ID         int64         `json:"id"`
	Task       string        `json:"task"`
	Schedule   int64         `json:"schedule"`
	From       time.Time     `json:"from"` // of due times, included
	To         time.Time     `json:"to"`   // of due times, not included
	Overlap    Overlap       `json:"overlap"`
	State      BackfillState `json:"state"`
	NextDue    *time.Time    `json:"next_due,omitempty"` // the next due time to make a run of; absent: all are made
	Total      int64         `json:"total"`              // due times
	Started    int64         `json:"started"`            // runs made
	Skipped    int64         `json:"skipped"`            // due times that the overlap policy left out
	Ended      int64         `json:"ended"`              // runs that have ended, counted in their order
	Failed     int64         `json:"failed"`             // of those, without success
	Reason     string        `json:"reason,omitempty"`   // why it was cancelled
	CreatedBy  string        `json:"created_by,omitempty"`
	CreatedAt  time.Time     `json:"created_at"`
	FinishedAt *time.Time    `json:"finished_at,omitempty"`
}

// BackfillState says where a backfill stands.
type BackfillState string

// The states of a backfill.
const (
	BackfillRunning   BackfillState = "running"   // it makes runs, or waits for their end
	BackfillDone      BackfillState = "done"      // its runs have ended
	BackfillCancelled BackfillState = "cancelled" // it makes no more runs; those made go on
)

// BackfillOverlaps lists the overlap policies that a backfill may have.
var BackfillOverlaps = [...]Overlap{OverlapSkip, OverlapBufferAll, OverlapAllowAll}

// MaxBackfill is the most due times of one backfill.
const MaxBackfill = 1_000_000
