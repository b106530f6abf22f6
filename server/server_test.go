package server_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) (base string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	log := logrus.New()
	log.SetOutput(io.Discard)
	go func() { ended <- server.New("v<1>", log).Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		http.DefaultClient.CloseIdleConnections()
	})
	return "http://" + listener.Addr().String()
}

func get(t *testing.T, url, accept string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", accept)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

func TestStatusPage(t *testing.T) {
	base := start(t)
	res, body := get(t, base+"/status", "text/html")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "<h1>OK, version=v&lt;1&gt;</h1>\n", body)

	_, body = get(t, base+"/status", "application/json")
	var s server.Status
	require.NoError(t, json.Unmarshal([]byte(body), &s))
	require.Equal(t, 200, s.Status)
	require.Equal(t, "v<1>", s.Version)

	res, _ = get(t, base+"/elsewhere", "text/html")
	require.Equal(t, http.StatusNotFound, res.StatusCode)
}
