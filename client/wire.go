package client

import (
	"encoding/json"
	"time"

	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
)

// Limits that the server keeps.
const (
	MaxBatch = 1000             // runs in one StartRuns, ids in one wait
	MaxWait  = 60 * time.Second // longest wait of one request
)

// File is the name and the text of a task file.
type File struct {
	Name    string `json:"name" doc:"Names the file in errors; a file that ends in .ics is iCalendar, for calendars to name" maxLength:"1000"`
	Content string `json:"content" doc:"Text of a task file: documents separated by ---"`
}

// ApplyRequest asks to create or change every task of its files, all or none.
type ApplyRequest struct {
	Files  []File `json:"files" doc:"Task files" nullable:"false" minItems:"1" maxItems:"10000"`
	DryRun bool   `json:"dry_run,omitempty" doc:"Check everything and write nothing"`
}

// Change says what an apply did, or would do, to a task.
type Change string

// The changes.
const (
	Created   Change = "created"
	Updated   Change = "updated"
	Unchanged Change = "unchanged"
)

// Applied is what became of one task, calendar or source.
type Applied struct {
	Kind     string         `json:"kind,omitempty" enum:"calendar,source" doc:"Absent: a task"`
	Name     string         `json:"name"`
	Change   Change         `json:"change" enum:"created,updated,unchanged"`
	Warnings []task.Finding `json:"warnings,omitempty" doc:"What is likely a mistake, such as a function that is not there" nullable:"false"`
}

// ApplyResult lists the change of every task of an apply.
type ApplyResult struct {
	Results []Applied `json:"results" nullable:"false"`
}

// CalendarRequest is the content of a calendar.
type CalendarRequest struct {
	Days []string `json:"days,omitempty" doc:"2026-12-25, 2026-12-24/2026-12-26, --12-25 (every year)" maxItems:"20000"`
	ICal string   `json:"ical,omitempty" doc:"Text of an iCalendar file, whose events add their days"`
}

// ScheduleDue tells when a schedule is due next.
type ScheduleDue struct {
	Schedule int64     `json:"schedule"`
	Text     string    `json:"text" doc:"The schedule in words"`
	Paused   bool      `json:"paused" doc:"It, or its task, is paused: these due times start nothing"`
	Invalid  string    `json:"invalid,omitempty" doc:"Why it is never due"`
	Due      []DueTime `json:"due" nullable:"false"`
}

// DueTime is one due time and, where the schedule has a jitter, when its run starts.
type DueTime struct {
	DueAt    time.Time `json:"due_at"`
	StartsAt time.Time `json:"starts_at"`
}

// RunRequest asks for a run of a task.
type RunRequest struct {
	Params json.RawMessage `json:"params,omitempty" doc:"A JSON object; its keys override those of the task"`
	At     *time.Time      `json:"at,omitempty" doc:"Not before this time; absent: now"`
	Key    string          `json:"key,omitempty" doc:"Idempotency key: one run per task and key" maxLength:"200"`
}

// ReadonlyRequest asks what a run of a task would do.
type ReadonlyRequest struct {
	Params json.RawMessage `json:"params,omitempty" doc:"A JSON object; its keys override those of the task"`
}

// Started is the answer to a RunRequest.
type Started struct {
	task.Run
	Duplicate bool `json:"-"` // the key had made this run before
}

// BatchRequest asks for up to MaxBatch runs of a task, accepted in one commit.
type BatchRequest struct {
	Runs []RunRequest `json:"runs" doc:"The runs" nullable:"false" minItems:"1" maxItems:"1000"`
}

// BatchResult lists the runs of a batch in its order. Duplicates counts those
// that their keys had made before.
type BatchResult struct {
	IDs        []uuid.UUID `json:"ids" nullable:"false"`
	Duplicates int         `json:"duplicates"`
}

// RunFilter selects runs. Zero values select all.
type RunFilter struct {
	Task   string
	States []task.State
	Since  string    // an RFC 3339 time, or a span before now such as "2h"
	Limit  int       // 0: the server's default, 100
	Before uuid.UUID // older than this run, for paging

	WaitingFor task.WaitKind // waiting for such a thing
	Parents    []uuid.UUID   // children of one of these runs, of 100 at most
}

// FireFilter selects fires. Zero values select all.
type FireFilter struct {
	Task    string
	Outcome task.FireOutcome
	Since   string // an RFC 3339 time, or a span before now such as "2h"
	Limit   int    // 0: the server's default, 100; at most 10,000
	// Before: only fires that follow this one in the list, such as the last one of the page before.
	Before *task.Fire
}

// WaitRequest asks which of up to MaxBatch runs have ended; the answer comes
// when all have, or after Timeout.
type WaitRequest struct {
	IDs     []uuid.UUID   `json:"ids" doc:"Runs to wait for" nullable:"false" minItems:"1" maxItems:"1000"`
	Timeout task.Duration `json:"timeout,omitempty" doc:"Longest wait, at most 60s; absent: do not wait"`
}

// Ended names a run that has ended and its state.
type Ended struct {
	ID    uuid.UUID  `json:"id"`
	State task.State `json:"state"`
}

// WaitResult lists the runs that have ended and counts the others.
type WaitResult struct {
	Done    []Ended `json:"done" nullable:"false"`
	Pending int     `json:"pending"`
}

// PushResult says what a push made.
type PushResult struct {
	Name    string `json:"name"`
	Digest  string `json:"digest"`
	Version string `json:"version" doc:"The first digits of the digest"`
	Created bool   `json:"created" doc:"False when this content was there before"`
	Channel string `json:"channel"`
	Release int64  `json:"release" doc:"Number of the release that moved the channel"`
}

// Package is a version with its manifest.
type Package struct {
	task.PackageVersion
	Manifest json.RawMessage `json:"manifest"`
}

// PackageFile is one file of a version.
type PackageFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
}

// PackageSelector selects a version by Digest, else by Channel. Both empty:
// the channel live.
type PackageSelector struct {
	Channel string
	Digest  string
}

// TokenRequest asks for a new token.
type TokenRequest struct {
	Name string        `json:"name" doc:"Who or what uses the token; the audit log shows it" minLength:"1" maxLength:"200"`
	Role string        `json:"role" doc:"What the token may do" enum:"admin,operator,viewer"`
	TTL  task.Duration `json:"ttl,omitempty" doc:"How long it is valid; absent: until revoked"`
}

// NewToken is a token just made. The server shows Token this once.
type NewToken struct {
	ID    string `json:"id"`
	Token string `json:"token" doc:"The secret; it is shown only once"`
}

// Token is what may be known of a token later.
type Token struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Role      string     `json:"role"`
	CreatedAt *time.Time `json:"created_at,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
}

// Check is one finding of Doctor.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// DoctorResult is what the server found out about itself.
type DoctorResult struct {
	Checks []Check `json:"checks" nullable:"false"`
}

// ErrorBody is the one shape of an error answer.
type ErrorBody struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail is the error in an ErrorBody.
type ErrorDetail struct {
	Code    task.Code `json:"code" doc:"Kind of error" enum:"invalid,unauthorized,forbidden,not_found,conflict,too_large,timeout,cancelled,unavailable,internal"`
	Message string    `json:"message" doc:"What is wrong"`
	Where   string    `json:"where,omitempty" doc:"Place: a field's path, or file:line:column"`
	Remedy  string    `json:"remedy,omitempty" doc:"What to do next"`
}

// NoteRequest pauses a task.
type NoteRequest struct {
	Note string `json:"note,omitempty" doc:"Why" maxLength:"1000"`
}

// CancelRequest cancels a run.
type CancelRequest struct {
	Reason string `json:"reason,omitempty" doc:"Why" maxLength:"1000"`
	Now    bool   `json:"now,omitempty" doc:"Interrupt its code without a grace"`
}

// RetryRequest retries an ended run.
type RetryRequest struct {
	From string `json:"from,omitempty" doc:"Step to begin at; absent: the one that failed. Outcomes of earlier steps are reused" maxLength:"1000"`
}

// EventRequest sends an event.
type EventRequest struct {
	Name string          `json:"name" doc:"What has happened" minLength:"1" maxLength:"200"`
	Key  string          `json:"key,omitempty" doc:"What it happened to; runs wait for a name and a key" maxLength:"200"`
	Data json.RawMessage `json:"data,omitempty" doc:"Any JSON; it becomes the data of the waiting step's outcome"`
}

// SentEvent is an event that was sent. Reached counts the runs that waited for
// it; until ExpiresAt runs that began before it may still take it.
type SentEvent struct {
	task.Event
	Reached int `json:"reached"`
}

// EventFilter selects events. Zero values select all.
type EventFilter struct {
	Name   string
	Key    string
	Before int64 // sent before this one, for paging
	Limit  int   // 0: the server's default, 100
}

// ApprovalRequest decides an approval that a run waits for.
type ApprovalRequest struct {
	Reject  bool   `json:"reject,omitempty" doc:"The run's step fails"`
	Comment string `json:"comment,omitempty" doc:"Why" maxLength:"1000"`
}

// PromoteRequest points a channel at a version.
type PromoteRequest struct {
	Digest  string `json:"digest" doc:"The version, or the channel to take it from" minLength:"1" maxLength:"200"`
	Channel string `json:"channel,omitempty" doc:"The channel to move; absent: live" maxLength:"60"`
}

// RollbackRequest points a channel at the version it had before.
type RollbackRequest struct {
	Channel string `json:"channel,omitempty" doc:"The channel to move; absent: live" maxLength:"60"`
}
