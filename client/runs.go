package client

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
)

// StartRun accepts one run of a task and returns once it is durable. Without a
// key it makes one at random, so that trying again never doubles the run.
func (c *Client) StartRun(ctx context.Context, taskName string, request RunRequest) (Started, error) {
	if request.Key == "" {
		request.Key = randomKey()
	}
	var started Started
	var status int
	err := c.do(ctx, call{
		method: http.MethodPost, path: taskPath(taskName) + "/runs",
		body: request, into: &started.Run, status: &status, again: true,
	})
	started.Duplicate = status == http.StatusOK
	return started, err
}

// StartRuns accepts up to MaxBatch runs of a task in one durable commit. Runs
// without a key get one at random, so that trying again never doubles a run.
func (c *Client) StartRuns(ctx context.Context, taskName string, requests []RunRequest) (BatchResult, error) {
	keyed := make([]RunRequest, len(requests))
	for i, request := range requests {
		if request.Key == "" {
			request.Key = randomKey()
		}
		keyed[i] = request
	}
	var result BatchResult
	err := c.do(ctx, call{
		method: http.MethodPost, path: taskPath(taskName) + "/runs/batch",
		body: BatchRequest{Runs: keyed}, into: &result, again: true,
	})
	return result, err
}

// Runs returns the selected runs, newest first.
func (c *Client) Runs(ctx context.Context, filter RunFilter) ([]task.Run, error) {
	query := url.Values{}
	setString(query, "task", filter.Task)
	setString(query, "since", filter.Since)
	setInt(query, "limit", int64(filter.Limit))
	states := make([]string, len(filter.States))
	for i, state := range filter.States {
		states[i] = string(state)
	}
	setString(query, "state", strings.Join(states, ","))
	setString(query, "waiting_for", string(filter.WaitingFor))
	parents := make([]string, len(filter.Parents))
	for i, id := range filter.Parents {
		parents[i] = id.String()
	}
	setString(query, "parent", strings.Join(parents, ","))
	if filter.Before != uuid.Nil {
		query.Set("before", filter.Before.String())
	}
	return get[[]task.Run](ctx, c, "/runs", query)
}

// Run returns a run as it is now.
func (c *Client) Run(ctx context.Context, id uuid.UUID) (task.Run, error) {
	return c.run(ctx, id, 0)
}

// Why says what a run waits for, or what became of it.
func (c *Client) Why(ctx context.Context, id uuid.UUID) (task.Why, error) {
	return get[task.Why](ctx, c, runPath(id)+"/why", nil)
}

func (c *Client) run(ctx context.Context, id uuid.UUID, wait time.Duration) (task.Run, error) {
	query := url.Values{}
	if wait > 0 {
		query.Set("wait", wait.String())
	}
	var run task.Run
	err := c.do(ctx, call{method: http.MethodGet, path: runPath(id), query: query, into: &run, again: true, wait: wait})
	return run, err
}

// Logs returns up to limit lines of a run's log that follow the line after;
// after 0 begins at the first, limit 0 leaves it to the server.
func (c *Client) Logs(ctx context.Context, id uuid.UUID, after int64, limit int) ([]task.LogLine, error) {
	query := url.Values{}
	setInt(query, "after", after)
	setInt(query, "limit", int64(limit))
	return get[[]task.LogLine](ctx, c, runPath(id)+"/logs", query)
}

// CancelRun asks a run to end. One that runs ends a little later.
func (c *Client) CancelRun(ctx context.Context, id uuid.UUID, reason string) (task.Run, error) {
	return post[task.Run](ctx, c, runPath(id)+"/cancel", CancelRequest{Reason: reason})
}

// CancelRunNow asks a run to end and leaves its code no grace to end by itself.
func (c *Client) CancelRunNow(ctx context.Context, id uuid.UUID, reason string) (task.Run, error) {
	return post[task.Run](ctx, c, runPath(id)+"/cancel", CancelRequest{Reason: reason, Now: true})
}

// RetryRun puts an ended run back to work, from the named step on ("": the one
// that failed). The outcomes of earlier steps are reused.
func (c *Client) RetryRun(ctx context.Context, id uuid.UUID, from string) (task.Run, error) {
	return post[task.Run](ctx, c, runPath(id)+"/retry", RetryRequest{From: from})
}

// Fires returns the selected fires, newest first.
func (c *Client) Fires(ctx context.Context, filter FireFilter) ([]task.Fire, error) {
	query := url.Values{}
	setString(query, "task", filter.Task)
	setString(query, "outcome", string(filter.Outcome))
	setString(query, "since", filter.Since)
	setInt(query, "limit", int64(filter.Limit))
	if last := filter.Before; last != nil {
		query.Set("before", last.DueAt.UTC().Format(time.RFC3339Nano)+","+strconv.FormatInt(last.Schedule, 10))
	}
	return get[[]task.Fire](ctx, c, "/fires", query)
}

func runPath(id uuid.UUID) string { return "/runs/" + id.String() }

// randomKey returns 26 characters of 128 random bits or more.
func randomKey() string { return rand.Text() }

func setString(query url.Values, name, value string) {
	if value != "" {
		query.Set(name, value)
	}
}

func setInt(query url.Values, name string, value int64) {
	if value != 0 {
		query.Set(name, strconv.FormatInt(value, 10))
	}
}

// ReadonlyRun executes the chain of a task on the server without doing what it
// would do outside of itself. Nothing is written, and no run is made. It blocks
// until the chain has ended, a minute at most.
func (c *Client) ReadonlyRun(ctx context.Context, name string, request ReadonlyRequest) (task.ReadonlyRun, error) {
	var result task.ReadonlyRun
	err := c.do(ctx, call{
		method: http.MethodPost, path: taskPath(name) + "/runs/readonly", body: request, into: &result,
		again: true, wait: task.MaxReadonly,
	})
	return result, err
}
