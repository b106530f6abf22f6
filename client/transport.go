package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

const (
	maxAnswer  = 256 << 20 // bytes of a JSON answer
	maxRefusal = 1 << 20   // bytes of an error answer
	firstPause = 100 * time.Millisecond
)

// call is one call of the API.
type call struct {
	method string
	path   string // below /api/v1, escaped
	query  url.Values
	body   any       // sent as JSON
	raw    io.Reader // sent as a tar, instead of body
	into   any       // where the JSON answer goes
	copyTo io.Writer // where a raw answer goes, instead of into
	status *int      // where the status goes

	again   bool          // may be tried again
	wait    time.Duration // what the server was asked to wait
	timeout time.Duration // of an attempt; 0: Config.Timeout
}

// get asks for a T and may be tried again.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var answer T
	err := c.do(ctx, call{method: http.MethodGet, path: path, query: query, into: &answer, again: true})
	return answer, err
}

// post sends body, asks for a T and is tried once.
func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	var answer T
	err := c.do(ctx, call{method: http.MethodPost, path: path, body: body, into: &answer})
	return answer, err
}

// do makes the call, again after a growing pause where that is allowed and the
// server could not be reached.
func (c *Client) do(ctx context.Context, o call) error {
	var body []byte
	if o.body != nil {
		var err error
		if body, err = json.Marshal(o.body); err != nil {
			return task.Errorf(task.CodeInvalid, "the request is not JSON: %w", err)
		}
	}
	bounded, deadline := c.config.GiveUp > 0 && o.wait == 0 && o.timeout == 0, time.Now().Add(c.config.GiveUp)
	wait := firstPause
	for attempt := 0; ; attempt++ {
		if bounded {
			o.timeout = min(c.config.Timeout, time.Until(deadline))
		}
		err := c.attempt(ctx, o, body)
		if !o.again || attempt >= c.config.Retries || task.CodeOf(err) != task.CodeUnavailable || bounded && time.Until(deadline) <= wait {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait *= 3
	}
}

func (c *Client) attempt(ctx context.Context, o call, body []byte) error {
	if o.timeout == 0 {
		o.timeout = c.config.Timeout
	}
	limited, cancel := context.WithTimeout(ctx, o.timeout+o.wait)
	defer cancel()
	request, err := c.request(limited, o, body)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.unreachable(ctx, o, err)
	}
	defer response.Body.Close()
	if o.status != nil {
		*o.status = response.StatusCode
	}
	if response.StatusCode >= 300 {
		return refusal(response)
	}
	return c.read(ctx, o, response.Body)
}

func (c *Client) request(ctx context.Context, o call, body []byte) (*http.Request, error) {
	address := c.base + "/api/v1" + o.path
	if len(o.query) > 0 {
		address += "?" + o.query.Encode()
	}
	content, kind := o.raw, "application/x-tar"
	if content == nil && body != nil {
		content, kind = bytes.NewReader(body), "application/json"
	}
	request, err := http.NewRequestWithContext(ctx, o.method, address, content)
	if err != nil {
		return nil, task.Errorf(task.CodeInvalid, "cannot ask %s: %w", c.base, err)
	}
	if content != nil {
		request.Header.Set("Content-Type", kind)
	}
	if o.raw != nil {
		request.Header.Set("Expect", "100-continue") // so that a refusal comes before the upload
	}
	if c.config.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.config.Token)
	}
	request.Header.Set("User-Agent", c.config.UserAgent)
	if c.config.TraceParent != "" {
		request.Header.Set("traceparent", c.config.TraceParent)
		if c.config.TraceState != "" {
			request.Header.Set("tracestate", c.config.TraceState)
		}
	}
	return request, nil
}

func (c *Client) read(ctx context.Context, o call, body io.Reader) error {
	switch {
	case o.copyTo != nil:
		if _, err := io.Copy(o.copyTo, body); err != nil {
			return c.unreachable(ctx, o, err)
		}
		return nil
	case o.into == nil:
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return c.unreachable(ctx, o, err)
	}
	if err := json.Unmarshal(data, o.into); err != nil {
		return task.Errorf(task.CodeInternal, "the answer is not what Catena sends: %w", err).At(c.base).
			Fix("check that the address is that of a Catena server of this version")
	}
	return nil
}

// unreachable turns the error of a connection into a coded one. ctx is the
// caller's own, without the time limit of the attempt.
func (c *Client) unreachable(ctx context.Context, o call, err error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the address stands in Where already
	}
	var dial *net.OpError
	if unconnected := errors.As(err, &dial) && dial.Op == "dial"; !unconnected && errors.Is(err, context.DeadlineExceeded) {
		return task.Errorf(task.CodeUnavailable, "the server did not answer within %s: %w", task.DurationText((o.timeout + o.wait).Round(time.Millisecond)), err).At(c.base).
			Fix("check the server with catena doctor, or try again")
	}
	return task.Errorf(task.CodeUnavailable, "cannot reach the server: %w", err).At(c.base).
		Fix("is catena running? start it with catena dev, or name the server with --server / CATENA_SERVER")
}

// ended returns the coded error of a context that is done.
func ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return task.Errorf(task.CodeTimeout, "gave up waiting for the server: %w", context.Cause(ctx))
	}
	return task.Errorf(task.CodeCancelled, "stopped: %w", context.Cause(ctx))
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ended(ctx)
	case <-timer.C:
		return nil
	}
}

// refusal reads the error answer of the server, or, where something else
// answered (a proxy, another program), tells by the status.
func refusal(response *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
	var body ErrorBody
	if json.Unmarshal(data, &body) == nil && body.Error.Code != "" {
		e := body.Error
		return &task.Error{Code: e.Code, Message: e.Message, Where: e.Where, Remedy: e.Remedy}
	}
	text := strings.TrimSpace(string(data))
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return task.Errorf(codeOf(response.StatusCode), "the server answered %s %q", response.Status, text).
		At(response.Request.URL.Redacted()).Fix("check that the address is that of a Catena server")
}

func codeOf(status int) task.Code {
	switch status {
	case http.StatusBadRequest:
		return task.CodeInvalid
	case http.StatusUnauthorized:
		return task.CodeUnauthorized
	case http.StatusForbidden:
		return task.CodeForbidden
	case http.StatusNotFound:
		return task.CodeNotFound
	case http.StatusRequestEntityTooLarge:
		return task.CodeTooLarge
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return task.CodeUnavailable
	case http.StatusGatewayTimeout:
		return task.CodeTimeout
	}
	return task.CodeInternal
}
