package task

import (
	"time"

	"github.com/google/uuid"
)

// OrderKind is what somebody wants of a worker.
type OrderKind string

// The orders.
const (
	OrderRestart OrderKind = "restart" // its master starts a replacement first, then has it drain
	OrderDrain   OrderKind = "drain"   // it takes no new work, finishes and ends
)

// OrderState is how far an order has come.
type OrderState string

// The states of an order.
const (
	OrderAsked     OrderState = "asked"     // nobody has taken it yet, or it waits for its turn
	OrderReplacing OrderState = "replacing" // a replacement is starting
	OrderDraining  OrderState = "draining"  // the worker finishes what it has
	OrderDone      OrderState = "done"      // the worker has ended
	OrderFailed    OrderState = "failed"    // the worker goes on
)

// WorkerOrder is an order to one worker.
type WorkerOrder struct {
	Worker    string     `json:"worker"`
	Epoch     int64      `json:"epoch"`
	Kind      OrderKind  `json:"kind"`
	State     OrderState `json:"state"`
	Detail    string     `json:"detail,omitempty"` // why it failed, or what else there is to know
	Successor string     `json:"successor,omitempty"`
	AskedBy   string     `json:"asked_by"`
	AskedAt   time.Time  `json:"asked_at"`
	ChangedAt time.Time  `json:"changed_at"`
	Earlier   bool       `json:"earlier,omitempty" db:"-"` // it stood already when it was asked for now
}

// WorkerDetail is a worker with what it does and where it comes from.
type WorkerDetail struct {
	Worker
	Runs     []WorkerRun  `json:"runs" nullable:"false"`     // in hand
	Restarts []WorkerEnd  `json:"restarts" nullable:"false"` // those before it in its slot, newest first
	Order    *WorkerOrder `json:"order,omitempty"`
}

// WorkerRun is a run that a worker has in hand.
type WorkerRun struct {
	ID        uuid.UUID  `json:"id"`
	Task      string     `json:"task"`
	State     State      `json:"state"` // dispatched: it has begun a moment ago, or waits for a slot
	StartedAt *time.Time `json:"started_at,omitempty"`
	StepAt    *time.Time `json:"step_at,omitempty"` // when its last step was committed
	Step      string     `json:"step,omitempty"`
}

// WorkerEnd is how a worker came to its end.
type WorkerEnd struct {
	ID      string      `json:"id"`
	State   WorkerState `json:"state"`
	Reason  string      `json:"reason"`
	Lived   Duration    `json:"lived"`
	EndedAt *time.Time  `json:"ended_at,omitempty"`
}

// MasterState is where a master stands.
type MasterState string

// The states of a master.
const (
	MasterActive  MasterState = "active"
	MasterSilent  MasterState = "silent"  // it has given no sign of life for some seconds
	MasterStopped MasterState = "stopped" // it ended in order
)

// Master is one master process.
type Master struct {
	Name      string      `json:"name"`
	Host      string      `json:"host"`
	PID       int         `json:"pid"`
	Version   string      `json:"version"`
	Admin     string      `json:"admin"` // address of its API
	State     MasterState `json:"state"`
	Leads     bool        `json:"leads"`
	Workers   int         `json:"workers"` // that live
	Slots     []Slot      `json:"slots" nullable:"false"`
	Age       Duration    `json:"age"`
	StartedAt time.Time   `json:"started_at"`
	BeatAt    time.Time   `json:"beat_at"`
	// ClockOffset is how many milliseconds the clock of its host is ahead of the database's.
	ClockOffset *float64 `json:"clock_offset_ms,omitempty"`
	// Warnings are of settings that this master has and the leader, or the oldest
	// master, has not.
	Warnings []string `json:"warnings" nullable:"false"`

	Settings map[string]string `json:"-"` // that masters of one cluster should have in common
}

// SlotState is what a master does with one of its places for workers.
type SlotState string

// The states of a slot.
const (
	SlotStarting  SlotState = "starting"   // its worker has not begun its work yet
	SlotWorking   SlotState = "working"    // its worker works
	SlotDraining  SlotState = "draining"   // its worker drains and has no successor yet
	SlotWaiting   SlotState = "waiting"    // the next worker starts in a moment
	SlotCrashLoop SlotState = "crash-loop" // its workers died soon after their start, again and again: the next one waits
)

// Slot is a master's place for one worker.
type Slot struct {
	Slot      int       `json:"slot"`
	State     SlotState `json:"state"`
	PID       int       `json:"pid,omitempty"`
	Starts    int       `json:"starts"`  // of workers, since the master began
	Crashes   int       `json:"crashes"` // quick deaths in a row
	Last      string    `json:"last,omitempty"`
	NextStart Duration  `json:"next_start_in,omitempty"`
}
