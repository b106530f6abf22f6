package healthcheck_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/healthcheck"
)

func ask(t *testing.T, h http.Handler, method, path string) (status int, text, kind string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String(), w.Header().Get("Content-Type")
}

func fixed(code int) healthcheck.InstanceProvider {
	return healthcheck.InstanceFunc(func(string) int { return code })
}

func TestLiveness(t *testing.T) {
	t.Parallel()
	l := healthcheck.NewLiveness(0)
	expect := func(path string, status int, text string) {
		t.Helper()
		gotStatus, got, kind := ask(t, l, http.MethodGet, path)
		require.Equal(t, status, gotStatus, path)
		require.Equal(t, text, got, path)
		require.Equal(t, "text/plain; charset=utf-8", kind)
	}
	expect("/api/v1/liveness", 200, "ok")
	l.RegisterInstance(healthcheck.Instance{ID: "a", Liveness: fixed(200)})
	l.RegisterService("a", "1", healthcheck.Service{Type: "catena.worker", Realm: "global", Version: 3})
	l.RegisterInstance(healthcheck.Instance{ID: "b", ClientID: "123-456-789", Liveness: fixed(503)})
	l.RegisterService("b", "1", healthcheck.Service{Type: "shop", Realm: "eu", Version: 1})
	l.RegisterService("b", "2", healthcheck.Service{Type: "stock", Realm: "eu", Version: 2})
	l.RegisterService("nobody", "1", healthcheck.Service{})
	expect("/api/v1/liveness", 500, "error")
	expect("/api/v1/instances/a/liveness", 200, "ok")
	expect("/api/v1/instances/b/liveness", 500, "error")
	for _, path := range []string{"/", "/api/v1/instances/c/liveness", "/api/v1/instances//liveness", "/api/v1/instances/a", "/api/v1/instances/a/b/liveness", "/api/v1/livenes"} {
		expect(path, 404, "404 Not Found")
	}
	status, text, _ := ask(t, l, http.MethodPost, "/api/v1/liveness")
	require.Equal(t, 404, status)
	require.Equal(t, "404 Not Found", text)

	status, text, kind := ask(t, l, http.MethodGet, "/api/v1/instances")
	require.Equal(t, 200, status)
	require.Equal(t, "application/json", kind)
	require.JSONEq(t, `{
		"a": {"clientId": "N/A", "livenessCode": 200, "serviceType": "catena.worker", "serviceRealm": "global", "serviceVersion": 3},
		"b": {"clientId": "123-456-789", "livenessCode": 503, "serviceType": "shop", "serviceRealm": "eu", "serviceVersion": 1, "services": {
			"1": {"serviceType": "shop", "serviceRealm": "eu", "serviceVersion": 1}, "2": {"serviceType": "stock", "serviceRealm": "eu", "serviceVersion": 2}}}
	}`, text)

	l.SetAggregate(healthcheck.AggregateFunc(func(codes []int) int { return codes[0] }))
	expect("/api/v1/liveness", 200, "ok")
	l.SetAggregate(nil)
	l.UnregisterService("b", "2")
	_, text, _ = ask(t, l, http.MethodGet, "/api/v1/instances")
	require.NotContains(t, text, "stock")
	l.UnregisterInstance("b")
	expect("/api/v1/liveness", 200, "ok")
	expect("/api/v1/instances/b/liveness", 404, "404 Not Found")
}

// Providers that fail in any way count as unhealthy, and one that hangs holds up nobody for long.
func TestLivenessOfBrokenProviders(t *testing.T) {
	t.Parallel()
	for name, provider := range map[string]healthcheck.InstanceProvider{
		"error":    func(context.Context, string) (int, error) { return 200, errors.New("no idea") },
		"panic":    func(context.Context, string) (int, error) { panic("oh") },
		"no code":  fixed(0),
		"nonsense": fixed(7000),
		"hangs":    func(ctx context.Context, _ string) (int, error) { <-ctx.Done(); return 200, nil },
		"deaf":     func(context.Context, string) (int, error) { time.Sleep(time.Hour); return 200, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := healthcheck.NewLiveness(time.Second)
				l.RegisterInstance(healthcheck.Instance{ID: "a", Liveness: provider})
				began := time.Now()
				status, text, _ := ask(t, l, http.MethodGet, "/api/v1/liveness")
				require.Equal(t, 500, status)
				require.Equal(t, "error", text)
				status, _, _ = ask(t, l, http.MethodGet, "/api/v1/instances/a/liveness")
				require.Equal(t, 500, status)
				_, text, _ = ask(t, l, http.MethodGet, "/api/v1/instances")
				var infos map[string]struct{ LivenessCode int }
				require.NoError(t, json.Unmarshal([]byte(text), &infos))
				require.Equal(t, 500, infos["a"].LivenessCode)
				require.LessOrEqual(t, time.Since(began), 5*time.Second)
				time.Sleep(2 * time.Hour) // until the deaf one has returned
			})
		})
	}
	l := healthcheck.NewLiveness(time.Second)
	for _, aggregate := range []healthcheck.AggregateProvider{
		func(context.Context, []int) (int, error) { return 200, errors.New("no idea") },
		func(context.Context, []int) (int, error) { panic("oh") },
		func(ctx context.Context, _ []int) (int, error) { <-ctx.Done(); return 200, ctx.Err() },
	} {
		l.SetAggregate(aggregate)
		status, _, _ := ask(t, l, http.MethodGet, "/api/v1/liveness")
		require.Equal(t, 500, status)
	}
}

func TestLivenessOnAListenerOfItsOwn(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := healthcheck.NewListeningLiveness(listener, 0)
	require.NoError(t, l.Start(t.Context()))
	require.Error(t, l.Start(t.Context()), "once only")
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get("http://" + l.Addr().String() + "/api/v1/liveness")
	require.NoError(t, err)
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, "ok", string(text))
	require.NoError(t, l.Stop(t.Context()))
	_, err = net.Dial("tcp", l.Addr().String())
	require.Error(t, err)

	unused, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, healthcheck.NewListeningLiveness(unused, 0).Stop(t.Context()))
}

func TestClock(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	var c healthcheck.Clock
	_, _, known := c.Offset()
	require.False(t, known)
	// add takes a round trip in which the answer was given after the first part of it.
	add := func(ahead, there, back time.Duration) {
		at = at.Add(time.Second)
		c.Add(at, at.Add(there+back), at.Add(there-ahead))
	}
	expect := func(offset, within time.Duration) {
		t.Helper()
		got, bound, known := c.Offset()
		require.True(t, known)
		require.Equal(t, within, bound)
		require.Equal(t, offset, got)
	}
	turned := func(far, news bool) {
		t.Helper()
		gotFar, gotNews := c.Turned()
		require.Equal(t, far, gotFar)
		require.Equal(t, news, gotNews)
	}
	turned(false, false)
	add(3*time.Second, 10*time.Millisecond, 10*time.Millisecond)
	expect(3*time.Second, 10*time.Millisecond)
	turned(true, true)
	turned(true, false)
	add(3*time.Second, 30*time.Millisecond, time.Millisecond) // slow, and wrong by 14.5 ms
	expect(3*time.Second, 10*time.Millisecond)
	add(3*time.Second, time.Millisecond, time.Millisecond)
	expect(3*time.Second, time.Millisecond)
	add(-2*time.Second, 5*time.Millisecond, 5*time.Millisecond) // somebody set a clock
	expect(-2*time.Second, 5*time.Millisecond)
	for range 16 {
		add(-2*time.Second-5*time.Millisecond, 6*time.Millisecond, 6*time.Millisecond) // it drifts
	}
	expect(-2*time.Second-5*time.Millisecond, 6*time.Millisecond)
	turned(true, false)
	add(0, 3*time.Second, 3*time.Second) // says little
	turned(true, false)
	add(time.Millisecond, 0, 0)
	turned(false, true)
}
