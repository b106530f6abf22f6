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
	"slices"
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
	if ip := to.Addr().WithZone("").Unmap(); forbidden(ip) {
		return fmt.Errorf("%s is an address that sources may not reach", ip)
	}
	return nil
}

var (
	// cloudAddresses answer like 169.254.169.254 and are not link-local.
	cloudAddresses = []netip.Prefix{
		netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::254/128"), netip.MustParsePrefix("100.100.100.200/32"),
		netip.MustParsePrefix("192.0.0.192/32"), netip.MustParsePrefix("168.63.129.16/32"),
	}
	// translated addresses lead to the IPv4 address in their last four bytes.
	translated = netip.MustParsePrefix("64:ff9b::/96")
)

func forbidden(ip netip.Addr) bool {
	if translated.Contains(ip) {
		all := ip.As16()
		ip = netip.AddrFrom4([4]byte(all[12:]))
	}
	return ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() ||
		slices.ContainsFunc(cloudAddresses, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// ask sends one request and returns the body of the answer, and the values of the
// environment that it sent: an endpoint may send them back.
func (c *caller) ask(ctx context.Context, s task.Source, r request) (text []byte, sent secrets, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, nil, err
	}
	header, err := s.HTTP.Header(func(name string) (string, bool) {
		value, there := c.lookup(name)
		sent.add(value)
		return value, there
	})
	if err != nil {
		return nil, sent, err
	}
	text, err = c.send(ctx, s, header, body, sent)
	return text, sent, err
}

func (c *caller) send(ctx context.Context, s task.Source, header http.Header, body []byte, sent secrets) ([]byte, error) {
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
		return nil, fmt.Errorf("the endpoint answered %s: %s", answer.Status, telemetry.Redact(excerpt([]byte(sent.hide(string(text))))))
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
