package server_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// bind binds addresses as a master does and gives up its share at the end.
func bind(t *testing.T, addresses ...server.Address) *server.Bound {
	t.Helper()
	bound, err := server.Bind(addresses, nil)
	require.NoError(t, err)
	t.Cleanup(bound.Close)
	return bound
}

// serve has one more server accept from the shared listeners, as a worker does;
// stop drains it and returns its error.
func serve(t *testing.T, bound *server.Bound, cfg server.Config) (stop func() error) {
	t.Helper()
	var listeners []server.Listener
	for i, kind := range strings.Split(bound.Kinds(), ",") {
		l, err := net.FileListener(bound.Files()[i])
		require.NoError(t, err)
		if unix, ok := l.(*net.UnixListener); ok {
			unix.SetUnlinkOnClose(false)
		}
		listeners = append(listeners, server.Listener{Listener: l, Kind: kind})
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.New(cfg, quiet()).Serve(ctx, listeners) }()
	var result error
	stopped := false
	stop = func() error {
		if !stopped {
			cancel()
			result, stopped = <-ended, true
		}
		return result
	}
	t.Cleanup(func() { require.NoError(t, stop()) })
	return stop
}

func config(change func(*server.Config)) server.Config {
	cfg := server.DefaultConfig()
	cfg.Version, cfg.DrainGrace = "v<1>", 300*time.Millisecond
	if change != nil {
		change(&cfg)
	}
	return cfg
}

func start(t *testing.T, change func(*server.Config)) (base string) {
	t.Helper()
	bound := bind(t, server.Address{Kind: server.KindHTTP, Text: "127.0.0.1:0"})
	serve(t, bound, config(change))
	return "http://" + bound.Address(server.KindHTTP)
}

func client(t *testing.T) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t *testing.T, c *http.Client, url, accept string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", accept)
	res, err := c.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

func TestStatusPage(t *testing.T) {
	t.Parallel()
	base, c := start(t, nil), client(t)
	for _, path := range []string{"/status", "/izyproxystatus"} {
		res, body := get(t, c, base+path, "text/html")
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Equal(t, "<h1>OK, version=v&lt;1&gt;</h1>\n", body)

		_, body = get(t, c, base+path, "application/json")
		var s server.Status
		require.NoError(t, json.Unmarshal([]byte(body), &s))
		require.Equal(t, server.Status{Status: 200, Version: "v<1>", Host: strings.TrimPrefix(base, "http://"), URL: path, Subsystem: "server"}, s)
	}
	_, body := get(t, c, base+"/status?format=json", "")
	require.Contains(t, body, `"version":"v`)
	_, body = get(t, c, base+"/status?format=xml", "")
	require.Equal(t, "<h1>OK, version=v&lt;1&gt;</h1>\n", body)
	head, err := c.Head(base + "/status")
	require.NoError(t, err)
	require.NoError(t, head.Body.Close())
	require.Equal(t, "no-store", head.Header.Get("Cache-Control"))
	require.EqualValues(t, len(body), head.ContentLength)
	res, _ := get(t, c, base+"/elsewhere", "")
	require.Equal(t, http.StatusNotFound, res.StatusCode)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	base := start(t, func(c *server.Config) {
		c.MaxHeader, c.HeaderTimeout, c.ReadTimeout = 4<<10, 200*time.Millisecond, 300*time.Millisecond
	})
	address := strings.TrimPrefix(base, "http://")
	for name, c := range map[string]struct{ request, answer string }{
		"a large header":       {"GET /status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 16<<10) + "\r\n\r\n", "431 "},
		"no request":           {"nonsense\r\n\r\n", "400 "},
		"a header that stalls": {"GET /status HTTP/1.1\r\nHost: x\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", address)
			require.NoError(t, err)
			defer conn.Close()
			_, err = conn.Write([]byte(c.request))
			require.NoError(t, err)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
			answer, err := io.ReadAll(conn) // ends because the server closes, not by the deadline
			if err != nil {
				require.ErrorContains(t, err, "reset")
			}
			require.Contains(t, string(answer), c.answer)
		})
	}
}

func TestTooManyConnectionsWait(t *testing.T) {
	t.Parallel()
	base := start(t, func(c *server.Config) { c.MaxConns = 1 })
	first, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	require.NoError(t, err)
	_, err = first.Write([]byte("GET /status HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.NoError(t, err)
	one := make([]byte, 1)
	_, err = first.Read(one) // it has its place now
	require.NoError(t, err)
	answered := make(chan int, 1)
	c := client(t)
	go func() {
		res, err := c.Get(base + "/status")
		if err != nil {
			answered <- 0
			return
		}
		_ = res.Body.Close()
		answered <- res.StatusCode
	}()
	select {
	case <-answered:
		t.Fatal("the second connection was served beside the first")
	case <-time.After(200 * time.Millisecond):
	}
	require.NoError(t, first.Close())
	require.Equal(t, http.StatusOK, <-answered)
}
