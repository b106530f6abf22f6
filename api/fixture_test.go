package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"

	"github.com/catena-run/catena/api"
	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, servertest.LeakOptions()...) }

// fixture is the API over real parts, on a database of its own.
type fixture struct {
	*client.Client // with the role admin
	t              *testing.T
	store          *store.Store
	server         *httptest.Server
	log            *record
	tokens         map[auth.Role]string
}

// record keeps what is logged.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// tokenBook gives the authenticator the tokens of the store.
type tokenBook struct{ *store.Store }

func (b tokenBook) TokenByHash(ctx context.Context, hash []byte) (auth.Token, error) {
	t, err := b.Store.TokenByHash(ctx, hash)
	return auth.Token{
		ID: t.ID, Name: t.Name, Role: auth.Role(t.Role), CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, RevokedAt: t.RevokedAt,
	}, err
}

func start(t *testing.T, changes ...func(*api.Deps, *api.Config)) *fixture {
	t.Helper()
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{URL: servertest.PostgresURL(t), Keys: dispatch.NewKeys()})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.EnsurePartitions(ctx))

	f := &fixture{t: t, store: s, log: &record{}, tokens: map[auth.Role]string{}}
	log := logrus.New()
	log.SetOutput(f.log)
	log.SetLevel(logrus.DebugLevel)
	q, err := queue.Open(queue.Config{URL: servertest.Redis(t), Namespace: servertest.RedisNamespace(t)}, log)
	require.NoError(t, err)
	t.Cleanup(func() { _ = q.Close() })
	poller := api.NewPoller(s, api.PollerConfig{})
	t.Cleanup(poller.Close)
	known, err := auth.New(tokenBook{s}, auth.Config{})
	require.NoError(t, err)

	deps := api.Deps{
		Tasks: s, Calendars: s, Sources: s, Runs: s, Waits: s, Records: s, Fleet: s, Backfills: s, Backfiller: scheduler.NewBackfills(s), Submitter: dispatch.New(s, q, log), Waiter: poller,
		Packages: pkgstore.New(s.Pool(), pkgstore.Config{}), Tokens: s, Authenticator: known, Audit: s,
		Doctor:  func(context.Context) []api.Check { return []api.Check{{Name: "postgres", OK: true, Detail: "16.1"}} },
		Live:    http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }),
		Metrics: promhttp.HandlerFor(prometheus.NewRegistry(), promhttp.HandlerOpts{}),
		Log:     log,
	}
	var config api.Config
	for _, change := range changes {
		change(&deps, &config)
	}
	handler, err := api.New(deps, config)
	require.NoError(t, err)
	f.server = httptest.NewServer(handler)
	t.Cleanup(f.server.Close)
	for _, role := range []auth.Role{auth.Admin, auth.Operator, auth.Viewer} {
		id, secret, hash := auth.NewToken()
		require.NoError(t, s.CreateToken(ctx, store.Token{ID: id, Hash: hash, Name: "the-" + string(role), Role: string(role)}))
		f.tokens[role] = secret
	}
	f.Client = f.as(auth.Admin)
	return f
}

// as returns a client with the token of role.
func (f *fixture) as(role auth.Role) *client.Client {
	f.t.Helper()
	c, err := client.New(client.Config{Server: f.server.URL, Token: f.tokens[role], HTTPClient: f.server.Client()})
	require.NoError(f.t, err)
	return c
}

// apply makes tasks of the given names, which do nothing.
func (f *fixture) apply(names ...string) {
	f.t.Helper()
	for _, name := range names {
		_, err := f.store.ApplyTasks(f.t.Context(), []task.Definition{{Name: name, Chain: json.RawMessage(`[["nop"]]`)}}, false)
		require.NoError(f.t, err)
	}
}

// ask sends a request as it is and returns the status and the body.
func (f *fixture) ask(method, path, token, body string, header ...string) (int, string) {
	f.t.Helper()
	status, _, text := f.exchange(method, path, token, body, header...)
	return status, text
}

func (f *fixture) exchange(method, path, token, body string, header ...string) (int, http.Header, string) {
	f.t.Helper()
	request, err := http.NewRequestWithContext(f.t.Context(), method, f.server.URL+path, bytes.NewBufferString(body))
	require.NoError(f.t, err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := f.server.Client().Do(request)
	require.NoError(f.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(f.t, err)
	return response.StatusCode, response.Header, string(text)
}

// refused sends a request and returns the error it is answered with.
func (f *fixture) refused(method, path, token, body string, header ...string) (int, client.ErrorDetail) {
	f.t.Helper()
	status, text := f.ask(method, path, token, body, header...)
	var answer client.ErrorBody
	decoder := json.NewDecoder(bytes.NewBufferString(text))
	decoder.DisallowUnknownFields()
	require.NoError(f.t, decoder.Decode(&answer), text)
	require.NotEmpty(f.t, answer.Error.Code, text)
	require.NotEmpty(f.t, answer.Error.Message, text)
	return status, answer.Error
}

// audited returns "actor action target" of every row of the audit table.
func (f *fixture) audited() (rows []string, details string) {
	f.t.Helper()
	found, err := f.store.Pool().Query(f.t.Context(), `SELECT actor || ' ' || action || ' ' || target, coalesce(detail::text, '') FROM audit ORDER BY id`)
	require.NoError(f.t, err)
	defer found.Close()
	for found.Next() {
		var row, detail string
		require.NoError(f.t, found.Scan(&row, &detail))
		rows = append(rows, row)
		details += detail + "\n"
	}
	return rows, details
}

var update = os.Getenv("CATENA_UPDATE_GOLDEN") != ""
