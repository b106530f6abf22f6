package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/server"
)

// Two servers accept from one queue and replace each other again and again
// while clients ask, some with a new connection each time and some with
// connections that they keep: none is refused or cut off.
func TestReplacingServersFailsNoRequest(t *testing.T) {
	t.Parallel()
	bound := bind(t, server.Address{Kind: server.KindHTTP, Text: "127.0.0.1:0"})
	url := "http://" + bound.Address(server.KindHTTP) + "/status"
	stop := serve(t, bound, config(nil))

	done, asked := make(chan struct{}), atomic.Int64{}
	failed := make(chan error, 16)
	var clients sync.WaitGroup
	for i := range 16 {
		transport := &http.Transport{DisableKeepAlives: i%2 == 0, MaxIdleConnsPerHost: 1}
		t.Cleanup(transport.CloseIdleConnections)
		c := &http.Client{Transport: transport}
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				res, err := c.Get(url)
				if err != nil {
					failed <- err
					return
				}
				_, err = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if err != nil {
					failed <- err
					return
				}
				asked.Add(1)
			}
		})
	}
	for range 8 {
		next := serve(t, bound, config(nil)) // the replacement first
		before := asked.Load()
		require.Eventually(t, func() bool { return asked.Load() > before+50 || len(failed) > 0 }, 20*time.Second, time.Millisecond)
		require.NoError(t, stop())
		stop = next
	}
	close(done)
	clients.Wait()
	require.Empty(t, failed, "a request failed")
	require.Greater(t, asked.Load(), int64(400))
}

// lateListener hands a connection over only when it is closed, as one that a
// process has accepted just before it drains.
type lateListener struct {
	net.Listener
	accepted, closed chan struct{}
	once             sync.Once
}

func (l *lateListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		close(l.accepted)
	}
	<-l.closed
	return conn, err
}

func (l *lateListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

func TestAConnectionAcceptedAtTheDrainIsAnswered(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, drain := context.WithCancel(t.Context())
	defer drain()
	late := &lateListener{Listener: inner, accepted: make(chan struct{}), closed: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		done <- server.New(config(nil), quiet()).Serve(ctx, []server.Listener{{Listener: late, Kind: server.KindHTTP}})
	}()
	conn, err := net.Dial("tcp", inner.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	<-late.accepted
	drain()
	_, err = io.WriteString(conn, "GET /status HTTP/1.1\r\nHost: a\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.True(t, res.Close)
	require.NoError(t, conn.Close())
	require.NoError(t, <-done)
}

// A server with all the connections that it may have drains like any other.
func TestAFullServerDrains(t *testing.T) {
	t.Parallel()
	bound := bind(t, server.Address{Kind: server.KindHTTP, Text: "127.0.0.1:0"})
	stop := serve(t, bound, config(func(c *server.Config) {
		c.MaxConns, c.DrainGrace, c.DrainTimeout = 1, 100*time.Millisecond, 200*time.Millisecond
	}))
	conn, err := net.Dial("tcp", bound.Address(server.KindHTTP))
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /status HTTP/1.1\r\nHost: a\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.NoError(t, stop())
}

func TestAnIdleConnectionGetsItsLastAnswer(t *testing.T) {
	t.Parallel()
	bound := bind(t, server.Address{Kind: server.KindHTTP, Text: "127.0.0.1:0"})
	stop := serve(t, bound, config(func(c *server.Config) { c.DrainGrace = time.Minute }))
	conn, err := net.Dial("tcp", bound.Address(server.KindHTTP))
	require.NoError(t, err)
	defer conn.Close()
	reader := bufio.NewReader(conn)
	ask := func() *http.Response {
		_, err := conn.Write([]byte("GET /status HTTP/1.1\r\nHost: x\r\n\r\n"))
		require.NoError(t, err)
		res, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		return res
	}
	require.False(t, ask().Close)
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	require.Eventually(t, func() bool { return ask().Close }, 10*time.Second, 20*time.Millisecond, "a draining server says that it closes")
	require.NoError(t, <-ended, "the drain ends with the last connection, long before its grace")
}

func TestHTTP2IsToldToGoAway(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t, t.TempDir(), "one", time.Now().Add(time.Hour))
	bound := bind(t, server.Address{Kind: server.KindHTTPS, Text: "127.0.0.1:0"})
	stop := serve(t, bound, config(func(c *server.Config) { c.Certificate, c.Key, c.DrainGrace = certificate, key, time.Minute }))
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	conn, err := transport.NewClientConn(t.Context(), "https", bound.Address(server.KindHTTPS))
	require.NoError(t, err)
	defer conn.Close()
	ask := func() {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://x/status", nil)
		require.NoError(t, err)
		res, err := conn.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, 2, res.ProtoMajor)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
	}
	ask()
	require.True(t, conn.Available() > 0)
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	require.Eventually(t, func() bool {
		if conn.Available() > 0 {
			ask()
		}
		return conn.Available() == 0
	}, 10*time.Second, 20*time.Millisecond)
	require.NoError(t, <-ended)
}

func TestACertificateIsReloaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certificate, key := newCertificate(t, dir, "one", time.Now().Add(time.Hour))
	bound := bind(t, server.Address{Kind: server.KindHTTPS, Text: "127.0.0.1:0"})
	serve(t, bound, config(func(c *server.Config) { c.Certificate, c.Key = certificate, key }))
	name := func() string {
		conn, err := tls.Dial("tcp", bound.Address(server.KindHTTPS), &tls.Config{InsecureSkipVerify: true})
		require.NoError(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	require.Equal(t, "one", name())
	newCertificate(t, dir, "expired", time.Now().Add(-time.Minute)) // is not taken
	require.Never(t, func() bool { return name() != "one" }, 1500*time.Millisecond, 100*time.Millisecond)
	newCertificate(t, dir, "two", time.Now().Add(time.Hour))
	require.Eventually(t, func() bool { return name() == "two" }, 10*time.Second, 50*time.Millisecond)
}

func TestBadCertificatesAreRefused(t *testing.T) {
	t.Parallel()
	good, key := newCertificate(t, t.TempDir(), "good", time.Now().Add(time.Hour))
	expired, expiredKey := newCertificate(t, t.TempDir(), "expired", time.Now().Add(-time.Hour))
	require.NoError(t, server.CheckCertificate(good, key))
	for message, files := range map[string][2]string{
		"has no certificate": {"", ""},
		"no such file":       {filepath.Join(t.TempDir(), "none.pem"), key},
		"private key":        {good, expiredKey},
		"has expired on":     {expired, expiredKey},
	} {
		err := server.CheckCertificate(files[0], files[1])
		require.ErrorContains(t, err, message)
		require.ErrorContains(t, err, "server.certificate")
	}
}

// Whatever is wrong with the certificate, the listeners without TLS are served.
func TestABadCertificateTakesOnlyTLSDown(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t, t.TempDir(), "expired", time.Now().Add(-time.Minute))
	for name, files := range map[string][2]string{"expired": {certificate, key}, "missing": {"none.pem", "none.pem"}} {
		bound := bind(t, server.Address{Kind: server.KindHTTPS, Text: "127.0.0.1:0"}, server.Address{Kind: server.KindHTTP, Text: "127.0.0.1:0"})
		serve(t, bound, config(func(c *server.Config) { c.Certificate, c.Key = files[0], files[1] }))
		res, _ := get(t, client(t), "http://"+bound.Address(server.KindHTTP)+"/status", "")
		require.Equal(t, http.StatusOK, res.StatusCode, name)
	}
}

// What was handed over serves only where the configuration still names it.
func TestAHandedOverListenerFitsItsAddress(t *testing.T) {
	t.Parallel()
	before, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer before.Close()
	address := before.Addr().String()
	for text, same := range map[string]bool{address: true, "127.0.0.1:0": true, "localhost:0": true, "127.0.0.2:0": false} {
		file, err := server.FileOf(before)
		require.NoError(t, err)
		listener, err := server.Listen(server.Address{Kind: server.KindHTTP, Text: text}, file)
		require.NoError(t, err, text)
		require.Equal(t, same, listener.Addr().String() == address, text)
		require.NoError(t, listener.Close())
	}
}

func TestBinding(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "catena.sock")
	unix := server.Address{Kind: server.KindUnix, Text: path, Key: "server.unix"}
	bound := bind(t, unix, server.Address{Kind: server.KindHTTP, Text: "127.0.0.1:0"})
	require.Equal(t, "unix,http", bound.Kinds())
	serve(t, bound, config(nil))
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	res, _ := get(t, &http.Client{Transport: transport}, "http://socket/status", "")
	require.Equal(t, http.StatusOK, res.StatusCode)

	_, err := server.Bind([]server.Address{{Kind: server.KindHTTP, Text: bound.Address(server.KindHTTP), Key: "server.http"}}, nil)
	require.ErrorContains(t, err, "server.http")
	require.ErrorContains(t, err, "is in use")
	require.ErrorContains(t, err, "server.test, process ", "it names the process")
	_, err = server.Bind([]server.Address{unix}, nil)
	require.ErrorContains(t, err, "is in use")
	_, err = server.Bind([]server.Address{{Kind: server.KindHTTP, Text: "nowhere:1:2", Key: "server.http"}}, nil)
	require.ErrorContains(t, err, "cannot listen on nowhere:1:2")
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "catena.sock")
	left, err := net.Listen("unix", path)
	require.NoError(t, err)
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, left.Close()) // as after a kill -9
	bind(t, server.Address{Kind: server.KindUnix, Text: path})
}
