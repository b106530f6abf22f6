package task

import "time"

// WorkerState is where a worker process stands.
type WorkerState string

// The states of a worker.
const (
	WorkerActive   WorkerState = "active"   // claims and runs
	WorkerDraining WorkerState = "draining" // finishes what it has, claims nothing
	WorkerStopped  WorkerState = "stopped"  // ended as asked
	WorkerLost     WorkerState = "lost"     // died or fell silent; its runs were taken back
)

// Worker is one worker process. A restarted process is a new worker.
type Worker struct {
	ID        string      `json:"id"`
	Epoch     int64       `json:"epoch"` // issued by the database, never reused
	Host      string      `json:"host"`
	PID       int         `json:"pid"`
	Version   string      `json:"version"`
	Master    string      `json:"master,omitempty"` // who supervises it; "" when started alone
	Slot      *int        `json:"slot,omitempty"`   // which of its master's places it fills
	State     WorkerState `json:"state"`
	Reason    string      `json:"reason,omitempty"` // why it stopped or was lost
	Queues    []string    `json:"queues"`
	Tags      []string    `json:"tags,omitempty"`
	Slots     int         `json:"slots"`   // runs at once
	Running   int         `json:"running"` // runs now
	RSS       int64       `json:"rss"`     // bytes
	CPU       float64     `json:"cpu"`     // share of one core; 1.5: one and a half cores
	Age       Duration    `json:"age"`
	StartedAt time.Time   `json:"started_at"`
	BeatAt    time.Time   `json:"beat_at"`
	// ClockOffset is how many milliseconds the clock of its host is ahead of the database's.
	ClockOffset *float64 `json:"clock_offset_ms,omitempty"`
}
