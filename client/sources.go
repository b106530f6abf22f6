package client

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/catena-run/catena/task"
)

// Sources returns every source, by name.
func (c *Client) Sources(ctx context.Context) ([]task.Source, error) {
	return get[[]task.Source](ctx, c, "/sources", nil)
}

// Source returns the named source.
func (c *Client) Source(ctx context.Context, name string) (task.Source, error) {
	return get[task.Source](ctx, c, sourcePath(name), nil)
}

// SourceItemFilter selects items of a source. Zero values select all.
type SourceItemFilter struct {
	States []task.SourceItemState
	Limit  int // 0: the server's default, 100; at most 1,000
}

// SourceItems returns what a source has listed, open items first, the newest first.
func (c *Client) SourceItems(ctx context.Context, name string, filter SourceItemFilter) ([]task.SourceItem, error) {
	states := make([]string, len(filter.States))
	for i, state := range filter.States {
		states[i] = string(state)
	}
	query := url.Values{}
	setString(query, "state", strings.Join(states, ","))
	setInt(query, "limit", int64(filter.Limit))
	return get[[]task.SourceItem](ctx, c, sourcePath(name)+"/items", query)
}

// PauseSource keeps a source from being polled and says why. Outcomes are
// recorded with it all the same.
func (c *Client) PauseSource(ctx context.Context, name, note string) (task.Source, error) {
	return post[task.Source](ctx, c, sourcePath(name)+"/pause", NoteRequest{Note: note})
}

// ResumeSource ends a pause; the source is polled at once.
func (c *Client) ResumeSource(ctx context.Context, name string) (task.Source, error) {
	return post[task.Source](ctx, c, sourcePath(name)+"/resume", nil)
}

// PollSource has a source polled, and told of outcomes, at once.
func (c *Client) PollSource(ctx context.Context, name string) (task.Source, error) {
	return post[task.Source](ctx, c, sourcePath(name)+"/poll", nil)
}

// DeleteSource removes a source. One that has not been told of all outcomes is a
// conflict, unless force is set: the runs go on, and nobody is told.
func (c *Client) DeleteSource(ctx context.Context, name string, force bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	return c.do(ctx, call{method: http.MethodDelete, path: sourcePath(name), query: query})
}

func sourcePath(name string) string { return "/sources/" + escape(name) }
