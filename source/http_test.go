package source

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestAddressesThatSourcesMayNotReach(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"169.254.169.254:80", "[::ffff:169.254.169.254]:80", "[64:ff9b::a9fe:a9fe]:80", "[fe80::1%lo]:80", "[fd00:ec2::254]:80", "[fd00:ec2::23]:80", "[fd20:ce::254]:80",
		"100.100.100.200:80", "192.0.0.192:80", "168.63.129.16:80", "[64:ff9b::6464:64c8]:80", "0.0.0.0:80", "[::]:80", "224.0.0.1:80",
	} {
		require.ErrorContains(t, refuseLinkLocal("tcp", address, nil), "sources may not reach", address)
	}
	for _, address := range []string{"127.0.0.1:80", "10.0.0.1:80", "[::1]:80", "[fd00::1]:80", "[64:ff9b::a00:1]:80", "100.100.100.201:80"} {
		require.NoError(t, refuseLinkLocal("tcp", address, nil), address)
	}
}

func TestValuesOfTheEnvironmentAreInNoProblem(t *testing.T) {
	t.Parallel()
	const value = `pa"ss<word>0123456789`
	status := http.StatusOK
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(strings.Repeat("x", 110) + r.Header.Get("X-Api-Key")))
	}))
	t.Cleanup(endpoint.Close)
	c := newCaller(func(string) (string, bool) { return " " + value + "\n", true })
	t.Cleanup(c.close)
	s := work("t")
	s.HTTP = &task.SourceHTTP{URL: endpoint.URL, Method: http.MethodPost, Headers: map[string]string{"X-Api-Key": "${env.SOURCE_KEY}"}}
	s.Timeout = task.Duration(10 * time.Second)
	text, sent, err := c.ask(t.Context(), s, iterate(s))
	require.NoError(t, err)
	require.Contains(t, string(text), value)
	_, err = readIterate(s, text)
	require.ErrorContains(t, err, `pa"ss`, "the excerpt holds its beginning")
	require.NotContains(t, sent.hideError(err).Error(), `pa"s`)

	status = http.StatusForbidden
	_, _, err = c.ask(t.Context(), s, iterate(s))
	require.ErrorContains(t, err, "403 Forbidden: xxx")
	require.NotContains(t, err.Error(), `pa"s`)
	require.Equal(t, `*** and *** and ***...`, sent.hide(value+` and `+`pa\"ss\u003cword\u003e0123456789 and pa"ss...`))
	require.NoError(t, sent.hideError(nil))
}
