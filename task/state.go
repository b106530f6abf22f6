package task

// State is where a run stands. The legal changes are those of CanBecome; they
// are drawn in docs/architecture.md.
type State string

// The states of a run.
const (
	StateQueued      State = "queued"      // accepted, not yet in a parcel, or waiting for its retry
	StateDispatched  State = "dispatched"  // in a parcel; once the parcel is claimed it is possibly running
	StateRunning     State = "running"     // seen to run for longer than a moment
	StateWaiting     State = "waiting"     // parked: waits for an event, an approval or a long delay
	StateSucceeded   State = "succeeded"   // ended well
	StateFailed      State = "failed"      // ended with a failing outcome and no retry left
	StateCancelled   State = "cancelled"   // ended because somebody asked for it
	StateTimedOut    State = "timed_out"   // ended at its time limit and no retry left
	StateQuarantined State = "quarantined" // kept from running because it kept killing its worker
)

// States lists every state, in the order of a run's life.
var States = [...]State{
	StateQueued, StateDispatched, StateRunning, StateWaiting,
	StateSucceeded, StateFailed, StateCancelled, StateTimedOut, StateQuarantined,
}

// Valid reports whether s is one of the States.
func (s State) Valid() bool {
	for _, known := range States {
		if s == known {
			return true
		}
	}
	return false
}

// Terminal reports whether a run in state s has ended.
func (s State) Terminal() bool {
	switch s {
	case StateSucceeded, StateFailed, StateCancelled, StateTimedOut, StateQuarantined:
		return true
	}
	return false
}

// CanBecome reports whether a run may go from s to next. A terminal state is
// left only by `runs retry`, which puts the run back to queued.
func (s State) CanBecome(next State) bool {
	switch s {
	case StateQueued:
		return next == StateDispatched || next == StateCancelled
	case StateDispatched:
		return next != StateDispatched
	case StateRunning:
		return next != StateRunning && next != StateDispatched
	case StateWaiting:
		return next == StateQueued || next == StateCancelled || next == StateTimedOut
	default:
		return s.Terminal() && s != StateSucceeded && next == StateQueued
	}
}
