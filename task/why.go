package task

import (
	"time"

	"github.com/google/uuid"
)

// Why says in one sentence what a run waits for, or what became of it.
type Why struct {
	Run      uuid.UUID   `json:"run"`
	State    State       `json:"state"`
	Waits    Wait        `json:"waits_for,omitempty"` // "": for nothing
	Sentence string      `json:"sentence"`
	Place    int         `json:"place,omitempty"`    // in its line: 1 is next
	Until    *time.Time  `json:"until,omitempty"`    // when it goes on at the earliest, where that is known
	Estimate *Duration   `json:"estimate,omitempty"` // about how long it still waits, by the expected lengths of the runs before it
	Holders  []uuid.UUID `json:"holders,omitempty"`  // of the places that it waits for: the first ten
}

// Wait is what a run waits for.
type Wait string

// What runs wait for.
const (
	WaitPause       Wait = "pause"       // the end of its task's pause
	WaitTime        Wait = "time"        // its time, or that of its retry
	WaitWorker      Wait = "worker"      // a worker that serves its queue and has its tags
	WaitRate        Wait = "rate"        // a token of the rate limit
	WaitConcurrency Wait = "concurrency" // a place of the concurrency limit
	WaitBuffer      Wait = "buffer"      // the end of an earlier run of its schedule
	WaitRoom        Wait = "room"        // its turn in the lane
	WaitStep        Wait = "step"        // an event, an approval, a delay or children: an item of its chain
)
