package task

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// Run is one execution of a task, over all of its attempts.
type Run struct {
	ID              uuid.UUID         `json:"id"` // UUID v7 of the database clock
	Task            string            `json:"task"`
	Revision        int64             `json:"revision"`
	State           State             `json:"state"`
	Attempt         int               `json:"attempt"` // 1 for the first
	Losses          int               `json:"losses"`  // how often its worker was lost under it
	Reason          string            `json:"reason,omitempty"`
	Outcome         *Outcome          `json:"outcome"`
	Params          json.RawMessage   `json:"params,omitempty"`
	Queue           string            `json:"queue"`
	Priority        int               `json:"priority"`
	Schedule        *int64            `json:"schedule,omitempty"`
	PackageVersion  string            `json:"package_version,omitempty"` // name@digest of the first package it called
	Packages        map[string]string `json:"packages,omitempty"`        // name to digest, of every package it called
	Worker          string            `json:"worker,omitempty"`
	CancelRequested bool              `json:"cancel_requested,omitempty"`
	CreatedAt       time.Time         `json:"created_at"`
	AvailableAt     *time.Time        `json:"available_at,omitempty"` // not before
	StartedAt       *time.Time        `json:"started_at"`
	FinishedAt      *time.Time        `json:"finished_at"`
	DueAt           *time.Time        `json:"due_at"` // the due time that fired it
	Parent          *uuid.UUID        `json:"parent,omitempty"`
	ParentPath      string            `json:"parent_path,omitempty"` // the item of the parent's chain that started it
	Backfill        *int64            `json:"backfill,omitempty"`
	CancelAskedAt   *time.Time        `json:"cancel_requested_at,omitempty"`
	InterruptedAt   *time.Time        `json:"interrupted_at,omitempty"` // its code was stopped, the grace being over
	KilledAt        *time.Time        `json:"killed_at,omitempty"`      // its worker process was killed, the code having gone on
	RetriedAt       *time.Time        `json:"retried_at,omitempty"`     // last, by hand
	RetriedBy       string            `json:"retried_by,omitempty"`
	TraceID         string            `json:"trace_id,omitempty"` // of the trace that it belongs to, when that is sampled
	Wait            *Waiting          `json:"wait,omitempty"`     // what it waits for, while it is waiting
	Steps           []Step            `json:"steps"`
}

// Step is the committed outcome of one top-level item of a chain.
type Step struct {
	Path       string          `json:"path"`      // the item's index, or its name
	Iteration  int             `json:"iteration"` // rises with each replay of the chain
	Name       string          `json:"name,omitempty"`
	Attempt    int             `json:"attempt"`
	Outcome    *Outcome        `json:"outcome"`
	Vars       json.RawMessage `json:"vars,omitempty"` // the chain's variables after it
	StartedAt  time.Time       `json:"started_at"`
	FinishedAt time.Time       `json:"finished_at"`
}

// LogLine is one line of a run's log. Seq orders the lines of a run and says
// where a follower goes on.
type LogLine struct {
	Seq     int64     `json:"seq"`
	At      time.Time `json:"at"`
	Level   string    `json:"level"` // debug info warn error
	Step    string    `json:"step,omitempty"`
	Message string    `json:"message"`
	TraceID string    `json:"trace_id,omitempty"` // of the run
}

// Frame is one place in a call stack of an outcome.
type Frame struct {
	Module string `json:"module,omitempty"` // pkg:module, or the task
	Item   string `json:"item,omitempty"`   // the item as its author wrote it, shortened
	Index  string `json:"index,omitempty"`  // the item's path in its chain
	Source string `json:"source,omitempty"` // file:line:column in the author's file
}

// Outcome is what an item, a step or a run ends with. Fields other than the
// named ones survive in Extra.
type Outcome struct {
	Success   bool
	Reason    string
	Data      json.RawMessage // nil when absent
	CallStack []Frame         // innermost first; set when Success is false
	Extra     map[string]json.RawMessage
}

// Succeed returns a good outcome with the given data, which may be nil.
func Succeed(data json.RawMessage) Outcome { return Outcome{Success: true, Data: data} }

// Fail returns a failing outcome.
func Fail(reason string) Outcome { return Outcome{Reason: reason} }

// MarshalJSON writes one flat object: success, reason, data, call_stack and
// the extra fields. It is on the hot path of every run, so the fields are
// appended by hand and only the rare ones are marshalled by reflection.
func (o Outcome) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 64+len(o.Data))
	b = append(b, `{"success":`...)
	b = strconv.AppendBool(b, o.Success)
	add := func(name string, value any) error {
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		b = append(append(b, ','), quoted(name)...)
		b = append(append(b, ':'), text...)
		return nil
	}
	if o.Reason != "" {
		if err := add("reason", o.Reason); err != nil {
			return nil, err
		}
	}
	if o.Data != nil {
		if !json.Valid(o.Data) {
			return nil, Errorf(CodeInvalid, "the data of an outcome are not JSON")
		}
		b = append(append(b, `,"data":`...), o.Data...)
	}
	if len(o.CallStack) > 0 {
		if err := add("call_stack", o.CallStack); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Extra)) {
		if err := add(name, o.Extra[name]); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func quoted(name string) []byte {
	text, _ := json.Marshal(name) // a string marshals
	return text
}

// UnmarshalJSON reads an object; success must be true for a good outcome.
func (o *Outcome) UnmarshalJSON(data []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return Errorf(CodeInvalid, "an outcome must be an object: %s", PlainJSON(err))
	}
	*o = Outcome{}
	for _, known := range []struct {
		name string
		into any
	}{{"success", &o.Success}, {"reason", &o.Reason}, {"call_stack", &o.CallStack}} {
		raw, there := fields[known.name]
		if !there {
			continue
		}
		if err := json.Unmarshal(raw, known.into); err != nil {
			return Errorf(CodeInvalid, "outcome.%s: %s", known.name, PlainJSON(err))
		}
		delete(fields, known.name)
	}
	if raw, there := fields["data"]; there {
		o.Data = raw
		delete(fields, "data")
	}
	if len(fields) > 0 {
		o.Extra = fields
	}
	return nil
}

func indexed(field string, index int) string { return field + "[" + strconv.Itoa(index) + "]" }
