package client

import (
	"context"
	"net/url"

	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
)

// SendEvent gives an event to the runs that wait for it and keeps it for those
// that began before it. It is sent once: trying again sends another.
func (c *Client) SendEvent(ctx context.Context, request EventRequest) (SentEvent, error) {
	return post[SentEvent](ctx, c, "/events", request)
}

// Events returns the selected events that are kept, newest first.
func (c *Client) Events(ctx context.Context, filter EventFilter) ([]task.Event, error) {
	query := url.Values{}
	setString(query, "name", filter.Name)
	setString(query, "key", filter.Key)
	setInt(query, "before", filter.Before)
	setInt(query, "limit", int64(filter.Limit))
	return get[[]task.Event](ctx, c, "/events", query)
}

// ApproveRun decides an approval that a run waits for. The token's role must be
// at least the one that the run asks for.
func (c *Client) ApproveRun(ctx context.Context, id uuid.UUID, request ApprovalRequest) (task.Run, error) {
	return post[task.Run](ctx, c, runPath(id)+"/approve", request)
}

// RunTree returns a run with its children and theirs. Of many children it shows
// the counts and the first few; Runs with a Parent lists them all.
func (c *Client) RunTree(ctx context.Context, id uuid.UUID) (task.RunNode, error) {
	return get[task.RunNode](ctx, c, runPath(id)+"/tree", nil)
}
