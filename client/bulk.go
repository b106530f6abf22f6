package client

import (
	"context"

	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
)

// BulkFilter selects the runs of a bulk change, of which at least one of Task,
// States and Since must be given.
type BulkFilter struct {
	Task   string       `json:"task,omitempty" doc:"Only runs of this task" maxLength:"200"`
	States []task.State `json:"states,omitempty" doc:"Only runs in one of these states; absent: every state that can be cancelled, or failed and timed_out for a retry" maxItems:"20"`
	Since  string       `json:"since,omitempty" doc:"Only runs made since: an RFC 3339 time, or a span before now such as 2h or 7d" maxLength:"100"`
	Before *uuid.UUID   `json:"before,omitempty" doc:"Go on below this run: the next of the answer before"`
	// Expected guards against a filter that means more than its author thought.
	Expected *int `json:"expected,omitempty" doc:"How many runs were counted; when the count is more than a tenth off, nothing is done. Looked at without before" minimum:"0"`
	DryRun   bool `json:"dry_run,omitempty" doc:"Only count"`
}

// BulkCancel cancels the selected runs that have not ended.
type BulkCancel struct {
	BulkFilter
	Reason string `json:"reason,omitempty" doc:"Why" maxLength:"1000"`
	Now    bool   `json:"now,omitempty" doc:"Interrupt code without a grace"`
}

// BulkRetry retries the selected runs that ended without success.
type BulkRetry struct {
	BulkFilter
}

// BulkResult is how far one request of a bulk change came. Runs are taken from
// the newest to the oldest.
type BulkResult struct {
	Matched int         `json:"matched"`
	Done    int         `json:"done"`
	Skipped int         `json:"skipped" doc:"Had changed when their turn came"`
	Failed  int         `json:"failed"`
	Next    *uuid.UUID  `json:"next,omitempty" doc:"Ask again with before set to this; absent at the end"`
	Faults  []BulkFault `json:"faults,omitempty" doc:"Some of the failed ones"`
}

// BulkFault is a run that could not be changed.
type BulkFault struct {
	Run    uuid.UUID `json:"run"`
	Reason string    `json:"reason"`
}

// CancelRuns cancels runs for about a second. Ask again with Before set to the
// answer's Next until there is none; a request that failed may be repeated.
func (c *Client) CancelRuns(ctx context.Context, request BulkCancel) (BulkResult, error) {
	return post[BulkResult](ctx, c, "/runs/cancel", request)
}

// RetryRuns retries runs, likewise.
func (c *Client) RetryRuns(ctx context.Context, request BulkRetry) (BulkResult, error) {
	return post[BulkResult](ctx, c, "/runs/retry", request)
}

// Add adds up the answers of several requests.
func (r *BulkResult) Add(more BulkResult) {
	r.Matched, r.Done, r.Skipped, r.Failed = r.Matched+more.Matched, r.Done+more.Done, r.Skipped+more.Skipped, r.Failed+more.Failed
	r.Next, r.Faults = more.Next, append(r.Faults, more.Faults...)
}
