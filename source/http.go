package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// caller asks endpoints. It follows no redirect, uses no proxy of the
// environment and reaches no address at which only this machine's own
// network answers.
type caller struct {
	client *http.Client
	lookup func(name string) (string, bool) // of the environment
}

func newCaller(lookup func(string) (string, bool)) *caller {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: refuseLinkLocal}
	return &caller{lookup: lookup, client: &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, MaxIdleConns: 100, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (c *caller) close() { c.client.CloseIdleConnections() }

// refuseLinkLocal keeps requests from the addresses where clouds answer with the
// credentials of a machine, whatever name leads there.
func refuseLinkLocal(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if ip := to.Addr().Unmap(); ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || ip == awsIPv6 {
		return fmt.Errorf("%s is an address that sources may not reach", ip)
	}
	return nil
}

// awsIPv6 answers like 169.254.169.254 and is not link-local.
var awsIPv6 = netip.MustParseAddr("fd00:ec2::254")

// ask sends one request and returns the body of the answer.
func (c *caller) ask(ctx context.Context, s task.Source, r request) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	header, err := s.HTTP.Header(c.lookup)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Timeout))
	defer cancel()
	asked, err := http.NewRequestWithContext(ctx, s.HTTP.Method, s.HTTP.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	asked.Header = header
	asked.Header.Set("Content-Type", "application/json")
	asked.Header.Set("Accept", "application/json")
	if asked.Header.Get("User-Agent") == "" {
		asked.Header.Set("User-Agent", "catena")
	}
	answer, err := c.client.Do(asked)
	if err != nil {
		return nil, plainError(ctx, s, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, task.MaxSourceBody+1))
	switch {
	case len(text) > task.MaxSourceBody:
		return nil, fmt.Errorf("the answer is larger than %d bytes", task.MaxSourceBody)
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return nil, fmt.Errorf("the endpoint answered %s; redirects are not followed", answer.Status)
	case answer.StatusCode < 200 || answer.StatusCode >= 300:
		return nil, fmt.Errorf("the endpoint answered %s: %s", answer.Status, telemetry.Redact(excerpt(text)))
	case err != nil:
		return nil, plainError(ctx, s, err)
	}
	return text, nil
}

// plainError takes the URL out of an error, which the source has anyway.
func plainError(ctx context.Context, s task.Source, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the endpoint did not answer within %v", s.Timeout)
	}
	return fmt.Errorf("the endpoint cannot be asked: %w", err)
}
