package client

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/catena-run/catena/task"
)

// BackfillRequest asks for runs of the past due times of a schedule, From
// included, To not.
type BackfillRequest struct {
	Schedule int64        `json:"schedule,omitempty" doc:"Id of the schedule; absent: the only one of the task"`
	From     time.Time    `json:"from" doc:"First instant of the span"`
	To       time.Time    `json:"to" doc:"Its end, not included and not in the future"`
	Overlap  task.Overlap `json:"overlap,omitempty" doc:"What becomes of a due time while the run before it has not ended; absent: buffer-all, one run after the other" enum:"skip,buffer-all,allow-all"`
	DryRun   bool         `json:"dry_run,omitempty" doc:"Only say what there is to do"`
}

// BackfillResult is a backfill that was made, or, of a dry run, would be.
type BackfillResult struct {
	task.Backfill
	First  time.Time `json:"first" doc:"The first due time"`
	Last   time.Time `json:"last" doc:"The last due time"`
	DryRun bool      `json:"dry_run"`
}

// PauseSchedule keeps one schedule of a task from making runs and says why.
func (c *Client) PauseSchedule(ctx context.Context, taskName string, schedule int64, note string) (task.Task, error) {
	return post[task.Task](ctx, c, schedulePath(taskName, schedule)+"/pause", NoteRequest{Note: note})
}

// ResumeSchedule ends the pause of a schedule.
func (c *Client) ResumeSchedule(ctx context.Context, taskName string, schedule int64) (task.Task, error) {
	return post[task.Task](ctx, c, schedulePath(taskName, schedule)+"/resume", nil)
}

// Backfill has runs made of past due times of a task. The leader does it, a
// bounded number at a time.
func (c *Client) Backfill(ctx context.Context, taskName string, request BackfillRequest) (BackfillResult, error) {
	return post[BackfillResult](ctx, c, taskPath(taskName)+"/backfills", request)
}

// Backfills lists backfills, newest first, of one task where taskName is not "".
func (c *Client) Backfills(ctx context.Context, taskName string) ([]task.Backfill, error) {
	query := url.Values{}
	setString(query, "task", taskName)
	return get[[]task.Backfill](ctx, c, "/backfills", query)
}

// BackfillByID returns a backfill with its progress.
func (c *Client) BackfillByID(ctx context.Context, id int64) (task.Backfill, error) {
	return get[task.Backfill](ctx, c, backfillPath(id), nil)
}

// CancelBackfill ends the making of runs; those made go on.
func (c *Client) CancelBackfill(ctx context.Context, id int64, reason string) (task.Backfill, error) {
	return post[task.Backfill](ctx, c, backfillPath(id)+"/cancel", CancelRequest{Reason: reason})
}

func schedulePath(taskName string, schedule int64) string {
	return taskPath(taskName) + "/schedules/" + strconv.FormatInt(schedule, 10)
}

func backfillPath(id int64) string { return "/backfills/" + strconv.FormatInt(id, 10) }
