package task

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// WaitKind says what kind of thing a parked run waits for.
type WaitKind string

// The kinds of a wait.
const (
	WaitEvent    WaitKind = "event"
	WaitApproval WaitKind = "approval"
	WaitDelay    WaitKind = "delay"
	WaitChildren WaitKind = "children"
)

// WaitKinds lists every kind.
var WaitKinds = [...]WaitKind{WaitEvent, WaitApproval, WaitDelay, WaitChildren}

// Valid reports whether k is one of the WaitKinds.
func (k WaitKind) Valid() bool {
	for _, known := range WaitKinds {
		if k == known {
			return true
		}
	}
	return false
}

// Waiting is what a run waits for while no worker holds it.
type Waiting struct {
	Kind      WaitKind   `json:"kind"`
	Path      string     `json:"path"` // of the item; #2 follows where it is tried for the second time
	Iteration int        `json:"iteration"`
	Name      string     `json:"name,omitempty"`  // of the event, or the role that may approve
	Key       string     `json:"key,omitempty"`   // of the event
	Since     time.Time  `json:"since"`           // when it began
	Until     *time.Time `json:"until,omitempty"` // when it ends by itself
	Detail    WaitDetail `json:"detail,omitzero"`
}

// WaitDetail is what the end of a wait is made with.
type WaitDetail struct {
	Late     string     `json:"late,omitempty"`     // the reason of its failing outcome when the time is over; "": it succeeds then
	Group    string     `json:"group,omitempty"`    // of the children
	Run      *uuid.UUID `json:"run,omitempty"`      // the child, where there is one
	Children int        `json:"children,omitempty"` // that were spawned
	Max      int        `json:"max,omitempty"`      // bytes of the children's data that are kept
}

// Event is something that happened outside, and that runs may wait for.
type Event struct {
	ID        int64           `json:"id"`
	Name      string          `json:"name"`
	Key       string          `json:"key"`
	Data      json.RawMessage `json:"data,omitempty"`
	SentBy    string          `json:"sent_by,omitempty"`
	SentAt    time.Time       `json:"sent_at"`
	ExpiresAt time.Time       `json:"expires_at"` // until then runs that began before it may take it
}

// MaxEventName bounds the characters of an event's name, and of its key.
const MaxEventName = 200

// Roles of tokens, from the least, which only reads, to the most.
var Roles = [...]string{"viewer", "operator", "admin"}

// RoleRank returns the place of a role among Roles from 1 on, 0 for none.
func RoleRank(role string) int {
	for i, known := range Roles {
		if role == known {
			return i + 1
		}
	}
	return 0
}

// RunNode is a run in the tree of the runs that started each other.
type RunNode struct {
	ID         uuid.UUID     `json:"id"`
	Task       string        `json:"task"`
	State      State         `json:"state"`
	Path       string        `json:"path,omitempty"`  // the item of the parent's chain that started it
	Index      *int          `json:"index,omitempty"` // of the element that it runs
	Reason     string        `json:"reason,omitempty"`
	CreatedAt  time.Time     `json:"created_at"`
	FinishedAt *time.Time    `json:"finished_at,omitempty"`
	Counts     map[State]int `json:"counts,omitempty"` // all of its children, by their state
	Children   []RunNode     `json:"children,omitempty"`
	More       int           `json:"more,omitempty"` // children that are not shown here
}
