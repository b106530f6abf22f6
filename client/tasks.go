package client

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/catena-run/catena/task"
)

// Tasks returns every task, by name.
func (c *Client) Tasks(ctx context.Context) ([]task.Task, error) {
	return get[[]task.Task](ctx, c, "/tasks", nil)
}

// Task returns the named task.
func (c *Client) Task(ctx context.Context, name string) (task.Task, error) {
	return get[task.Task](ctx, c, taskPath(name), nil)
}

// Costs returns how long the runs of tasks take, of those that have run.
func (c *Client) Costs(ctx context.Context) ([]task.Cost, error) {
	return get[[]task.Cost](ctx, c, "/costs", nil)
}

// ApplyTasks creates or changes the tasks of the request's files, all of them
// or, on any error, none. Applying the same files again changes nothing.
func (c *Client) ApplyTasks(ctx context.Context, request ApplyRequest) (ApplyResult, error) {
	return post[ApplyResult](ctx, c, "/tasks/apply", request)
}

// PauseTask keeps the task's schedules from making runs and says why.
func (c *Client) PauseTask(ctx context.Context, name, note string) (task.Task, error) {
	return post[task.Task](ctx, c, taskPath(name)+"/pause", NoteRequest{Note: note})
}

// ResumeTask ends a pause.
func (c *Client) ResumeTask(ctx context.Context, name string) (task.Task, error) {
	return post[task.Task](ctx, c, taskPath(name)+"/resume", nil)
}

// DeleteTask removes the task and its schedules. Its runs stay.
func (c *Client) DeleteTask(ctx context.Context, name string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: taskPath(name)})
}

func taskPath(name string) string { return "/tasks/" + escape(name) }

// escape makes name one segment of a path. The names "." and ".." would be
// read as steps in the tree of paths.
func escape(name string) string {
	if name == "." || name == ".." {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}
