package task

import (
	"encoding/json"
	"time"
)

// ReadonlyRun is what a run would do: its chain was executed, but nothing
// that it asked for outside of itself was done.
type ReadonlyRun struct {
	Task     string            `json:"task"`
	Revision int64             `json:"revision"`
	State    State             `json:"state"` // succeeded, failed, or timed_out
	Outcome  Outcome           `json:"outcome"`
	Steps    []Step            `json:"steps"`
	WouldDo  []Effect          `json:"would_do"`
	Log      []LogLine         `json:"log"`
	Packages map[string]string `json:"packages"` // name to digest, of every package it called
	Took     Duration          `json:"took"`
}

// Effect is something that a readonly run would have done.
type Effect struct {
	Step string `json:"step"` // path of the item
	Kind string `json:"kind"` // http, task, wait
	What string `json:"what"`
}

// ReadonlyJob is what the process that executes a readonly run is given. It
// reaches no database: it asks for packages and answers with the result.
type ReadonlyJob struct {
	Task       string          `json:"task"`
	Revision   int64           `json:"revision"`
	Chain      json.RawMessage `json:"chain"`
	Params     json.RawMessage `json:"params"` // merged
	Timeout    Duration        `json:"timeout"`
	Script     json.RawMessage `json:"script"`      // limits of package code
	LogLimit   int64           `json:"log_limit"`   // bytes
	MaxOutcome int             `json:"max_outcome"` // bytes of a step's outcome
}

// ReadonlyAsk is one message of that process: a package it needs, or the end.
type ReadonlyAsk struct {
	Package string       `json:"package,omitempty"`
	Result  *ReadonlyRun `json:"result,omitempty"`
}

// ReadonlyAnswer gives it the package, or says why there is none.
type ReadonlyAnswer struct {
	Version json.RawMessage `json:"version,omitempty"`
	Error   string          `json:"error,omitempty"`
}

// MaxReadonly bounds how long a readonly run may take.
const MaxReadonly = time.Minute
