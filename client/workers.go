package client

import (
	"context"
	"net/url"

	"github.com/catena-run/catena/task"
)

// RestartRequest asks to restart every worker that a master supervises.
type RestartRequest struct {
	Host string `json:"host,omitempty" doc:"Only workers of this host" maxLength:"300"`
}

// RestartResult lists the orders that were given now. Alone are workers that were
// started without a master: nobody would start them again, so they go on.
type RestartResult struct {
	Orders []task.WorkerOrder `json:"orders" nullable:"false"`
	Alone  []string           `json:"alone" nullable:"false"`
}

// Worker returns a worker by its id or epoch.
func (c *Client) Worker(ctx context.Context, id string) (task.WorkerDetail, error) {
	return get[task.WorkerDetail](ctx, c, "/workers/"+escape(id), nil)
}

// RestartWorker has a worker's master start a replacement, and the worker drain
// once that works. It does not wait. A worker without a master drains.
func (c *Client) RestartWorker(ctx context.Context, id string) (task.WorkerOrder, error) {
	return post[task.WorkerOrder](ctx, c, "/workers/"+escape(id)+"/restart", nil)
}

// DrainWorker has a worker take no new work, finish and end. It does not wait.
func (c *Client) DrainWorker(ctx context.Context, id string) (task.WorkerOrder, error) {
	return post[task.WorkerOrder](ctx, c, "/workers/"+escape(id)+"/drain", nil)
}

// RestartWorkers has every master replace its workers, one after the other. It
// does not wait.
func (c *Client) RestartWorkers(ctx context.Context, request RestartRequest) (RestartResult, error) {
	return post[RestartResult](ctx, c, "/workers/restart", request)
}

// Masters returns the masters that live, or, with all, those of the last week.
func (c *Client) Masters(ctx context.Context, all bool) ([]task.Master, error) {
	query := url.Values{}
	if all {
		query.Set("all", "true")
	}
	return get[[]task.Master](ctx, c, "/masters", query)
}
