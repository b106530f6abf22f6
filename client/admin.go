package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/catena-run/catena/task"
)

// Workers returns the live workers, or, with all, those that ended too.
func (c *Client) Workers(ctx context.Context, all bool) ([]task.Worker, error) {
	query := url.Values{}
	if all {
		query.Set("all", "true")
	}
	return get[[]task.Worker](ctx, c, "/workers", query)
}

// CreateToken makes a token. The answer holds the only copy of its secret.
func (c *Client) CreateToken(ctx context.Context, request TokenRequest) (NewToken, error) {
	return post[NewToken](ctx, c, "/tokens", request)
}

// Tokens returns every token without its secret.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return get[[]Token](ctx, c, "/tokens", nil)
}

// RevokeToken ends a token's validity within two seconds.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: "/tokens/" + escape(id)})
}

// Stats returns sizes and ages of the tables, and what waits.
func (c *Client) Stats(ctx context.Context) (task.Stats, error) {
	return get[task.Stats](ctx, c, "/admin/stats", nil)
}

// Doctor returns what the server found out about itself and its services.
func (c *Client) Doctor(ctx context.Context) (DoctorResult, error) {
	return get[DoctorResult](ctx, c, "/doctor", nil)
}
