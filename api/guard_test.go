package api_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/catena-run/catena/api"
	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
	"github.com/stretchr/testify/require"
)

func TestTokensAndRoles(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	_, unknown, _ := auth.NewToken()
	for _, token := range []string{"", "nonsense", unknown} {
		status, header, _ := f.exchange(http.MethodGet, "/api/v1/tasks", token, "")
		require.Equal(t, http.StatusUnauthorized, status)
		require.Contains(t, header.Get("WWW-Authenticate"), "Bearer")
		_, e := f.refused(http.MethodGet, "/api/v1/tasks", token, "")
		require.Equal(t, task.CodeUnauthorized, e.Code)
		require.Contains(t, e.Remedy, "catena token create")
	}
	for _, c := range []struct {
		role         auth.Role
		method, path string
		want         int
	}{
		{auth.Viewer, http.MethodGet, "/tasks", 200},
		{auth.Viewer, http.MethodGet, "/doctor", 200},
		{auth.Viewer, http.MethodPost, "/tasks/demo/pause", 403},
		{auth.Viewer, http.MethodPost, "/tasks/demo/runs", 403},
		{auth.Viewer, http.MethodPost, "/packages", 403},
		{auth.Operator, http.MethodPost, "/tasks/demo/pause", 200},
		{auth.Operator, http.MethodGet, "/tokens", 403},
		{auth.Operator, http.MethodPost, "/tokens", 403},
		{auth.Admin, http.MethodGet, "/tokens", 200},
	} {
		status, text := f.ask(c.method, "/api/v1"+c.path, f.tokens[c.role], "")
		require.Equal(t, c.want, status, "%s %s %s: %s", c.role, c.method, c.path, text)
		if status == http.StatusForbidden {
			require.Contains(t, text, `"code":"forbidden"`)
		}
	}
}

func TestTokenLife(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	made, err := f.CreateToken(ctx, client.TokenRequest{Name: "ci", Role: "viewer", TTL: task.Duration(time.Hour)})
	require.NoError(t, err)
	c, err := client.New(client.Config{Server: f.server.URL, Token: made.Token})
	require.NoError(t, err)
	_, err = c.Tasks(ctx)
	require.NoError(t, err)

	status, text := f.ask(http.MethodGet, "/api/v1/tokens", f.tokens[auth.Admin], "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, text, made.ID)
	require.NotContains(t, text, made.Token)
	require.NotContains(t, strings.ToLower(text), "hash")

	require.NoError(t, f.RevokeToken(ctx, made.ID))
	require.Eventually(t, func() bool {
		_, err := c.Tasks(ctx)
		return task.CodeOf(err) == task.CodeUnauthorized
	}, 2*time.Second, 20*time.Millisecond)
	require.Equal(t, task.CodeNotFound, task.CodeOf(f.RevokeToken(ctx, "nobody")))
	_, err = f.CreateToken(ctx, client.TokenRequest{Name: "x", Role: "root"})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	_, err = f.CreateToken(ctx, client.TokenRequest{Name: "", Role: "viewer"})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
}

func TestAuditTellsEveryChangeAndNoSecret(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	ctx := t.Context()
	operator := f.as(auth.Operator)
	_, err := operator.PauseTask(ctx, "demo", "holidays")
	require.NoError(t, err)
	_, err = operator.ResumeTask(ctx, "demo")
	require.NoError(t, err)
	run, err := operator.StartRun(ctx, "demo", client.RunRequest{Params: json.RawMessage(`{"password":"hunter2"}`)})
	require.NoError(t, err)
	_, err = operator.CancelRun(ctx, run.ID, "oops")
	require.NoError(t, err)
	_, err = operator.Run(ctx, run.ID)
	require.NoError(t, err)
	_, err = operator.PauseTask(ctx, "nobody", "")
	require.Error(t, err)
	made, err := f.CreateToken(ctx, client.TokenRequest{Name: "ci", Role: "viewer"})
	require.NoError(t, err)
	require.NoError(t, operator.DeleteTask(ctx, "demo"))

	rows, details := f.audited()
	require.Equal(t, []string{
		"the-operator pause-task demo",
		"the-operator resume-task demo",
		"the-operator start-run demo",
		"the-operator cancel-run " + run.ID.String(),
		"the-admin create-token " + made.ID,
		"the-operator delete-task demo",
	}, rows)
	require.Contains(t, details, "holidays")
	require.Contains(t, details, run.ID.String())
	for _, secret := range []string{made.Token, "hunter2"} {
		require.NotContains(t, details, secret)
		require.NotContains(t, f.log.String(), secret)
	}
	for _, secret := range f.tokens {
		require.NotContains(t, f.log.String(), secret)
	}
	require.Contains(t, f.log.String(), "API request", "the access log is written")
}

func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	const starts, applies, tokens = "/api/v1/tasks/demo/runs", "/api/v1/tasks/apply", "/api/v1/tokens"
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               task.Code
		where, message     string
	}{
		"unknown field":    {"POST", starts, `{"parms":{}}`, 400, task.CodeInvalid, "parms", "unexpected property"},
		"nested field":     {"POST", applies, `{"files":[{"name":"a","content":"","mode":1}]}`, 400, task.CodeInvalid, "files[0].mode", "unexpected property"},
		"wrong type":       {"POST", starts, `{"key":7}`, 400, task.CodeInvalid, "key", "expected string"},
		"missing field":    {"POST", tokens, `{"name":"x"}`, 400, task.CodeInvalid, "", "role"},
		"wrong choice":     {"POST", tokens, `{"name":"x","role":"root"}`, 400, task.CodeInvalid, "role", "admin"},
		"not JSON":         {"POST", starts, `{"key":`, 400, task.CodeInvalid, "", ""},
		"not an object":    {"POST", starts, `[]`, 400, task.CodeInvalid, "", "object"},
		"no body":          {"POST", applies, ``, 400, task.CodeInvalid, "", "body is required"},
		"a bad time":       {"POST", starts, `{"at":"tomorrow"}`, 400, task.CodeInvalid, "at", ""},
		"a bad span":       {"POST", "/api/v1/runs/wait", `{"ids":["018f0000-0000-7000-8000-000000000000"],"timeout":"5"}`, 400, task.CodeInvalid, "", "duration"},
		"unknown query":    {"GET", "/api/v1/runs?stat=failed", ``, 400, task.CodeInvalid, "stat", "unknown query"},
		"a bad number":     {"GET", "/api/v1/runs?limit=ten", ``, 400, task.CodeInvalid, "limit", "integer"},
		"unknown task":     {"GET", "/api/v1/tasks/nobody", ``, 404, task.CodeNotFound, "", "nobody"},
		"unknown call":     {"GET", "/api/v1/task", ``, 404, task.CodeNotFound, "", "GET /api/v1/task"},
		"unknown method":   {"PUT", "/api/v1/tasks", ``, 404, task.CodeNotFound, "", "PUT"},
		"other media type": {"POST", starts, `key: a`, 400, task.CodeInvalid, "", ""},
	} {
		header := []string{"Content-Type", "application/json"}
		if name == "other media type" {
			header[1] = "application/yaml"
		}
		status, e := f.refused(c.method, c.path, f.tokens[auth.Admin], c.body, header...)
		require.Equal(t, c.status, status, "%s: %+v", name, e)
		require.Equal(t, c.code, e.Code, name)
		require.Equal(t, c.where, e.Where, "%s: %+v", name, e)
		require.Contains(t, e.Message, c.message, name)
		require.NotEmpty(t, e.Remedy, "%s: %+v", name, e)
	}
}

func TestSecondsFindingsAreNamedToo(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, e := f.refused(http.MethodPost, "/api/v1/tokens", f.tokens[auth.Admin], `{"role":"root","a":1,"b":1,"c":1,"d":1,"e":1,"f":1}`)
	require.Contains(t, e.Message, "name")
	require.Contains(t, e.Message, "role: ")
	require.Contains(t, e.Message, "more")
}

// endless is a body without end that counts what is taken from it.
type endless struct{ read atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.read.Add(int64(len(p)))
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestHugeBodyIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	const huge = 100 << 20
	for name, c := range map[string]struct {
		path, kind string
		announced  bool
		limit      int64
	}{
		"JSON, announced":    {"/api/v1/tasks/demo/runs", "application/json", true, 1 << 20},
		"JSON, chunked":      {"/api/v1/tasks/demo/runs", "application/json", false, 1 << 20},
		"batch, chunked":     {"/api/v1/tasks/demo/runs/batch", "application/json", false, 16 << 20},
		"package, announced": {"/api/v1/packages", "application/x-tar", true, 40 << 20},
		"package, chunked":   {"/api/v1/packages", "application/x-tar", false, 40 << 20},
	} {
		body := &endless{}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.server.URL+c.path, io.LimitReader(body, huge))
		require.NoError(t, err)
		if c.announced {
			request.ContentLength = huge
		}
		request.Header.Set("Content-Type", c.kind)
		request.Header.Set("Authorization", "Bearer "+f.tokens[auth.Admin])
		began := time.Now()
		response, err := f.server.Client().Do(request)
		require.NoError(t, err, name)
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err, name)
		require.NoError(t, response.Body.Close())
		require.Less(t, time.Since(began), time.Minute, "%s: it was read to its end", name)
		require.Less(t, body.read.Load(), c.limit+(16<<20), "%s: what the sockets hold comes on top of what was read", name)
		if name == "package, chunked" && response.StatusCode == http.StatusBadRequest {
			continue // blanks are no tar, which shows before the size does
		}
		require.Equal(t, http.StatusRequestEntityTooLarge, response.StatusCode, "%s: %s", name, text)
		require.Contains(t, string(text), `"code":"too_large"`, name)
	}
}

// TestHugeBodyIsNotRead speaks the protocol by hand, so that no client hides
// how much the server took: it announces 100 MB and sends nothing.
func TestHugeBodyIsNotRead(t *testing.T) {
	t.Parallel()
	f := start(t)
	conn, err := net.Dial("tcp", f.server.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
	_, err = io.WriteString(conn, "POST /api/v1/tasks/demo/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+f.tokens[auth.Admin]+
		"\r\nContent-Type: application/json\r\nContent-Length: 104857600\r\n\r\n")
	require.NoError(t, err)
	answer := make([]byte, 12)
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 413", string(answer))
}

func TestInternalErrorsStayInside(t *testing.T) {
	t.Parallel()
	for name, doctor := range map[string]func(context.Context) []api.Check{
		"panic": func(context.Context) []api.Check { panic("the secret of postgres://u:p@h") },
	} {
		f := start(t, func(d *api.Deps, _ *api.Config) { d.Doctor = doctor })
		status, header, text := f.exchange(http.MethodGet, "/api/v1/doctor", f.tokens[auth.Viewer], "")
		require.Equal(t, http.StatusInternalServerError, status, name)
		require.NotContains(t, text, "secret")
		var answer client.ErrorBody
		require.NoError(t, json.Unmarshal([]byte(text), &answer))
		require.Equal(t, task.CodeInternal, answer.Error.Code)
		require.NotEmpty(t, header.Get("X-Request-Id"))
		require.Contains(t, answer.Error.Remedy, header.Get("X-Request-Id"))
		require.Contains(t, f.log.String(), header.Get("X-Request-Id"))
		require.Contains(t, f.log.String(), "the secret of", "the log has the details")
		_, err := f.Tasks(t.Context())
		require.NoError(t, err, "the server goes on")
	}
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, err := f.Tasks(t.Context())
	require.NoError(t, err) // the token is known for the next second
	f.store.Close()
	status, e := f.refused(http.MethodGet, "/api/v1/tasks", f.tokens[auth.Admin], "")
	require.Equal(t, http.StatusServiceUnavailable, status, "%+v", e)
	require.Equal(t, task.CodeUnavailable, e.Code)
}

func TestSlowHandlerEnds(t *testing.T) {
	t.Parallel()
	f := start(t, func(d *api.Deps, c *api.Config) {
		c.Timeout = 20 * time.Millisecond
		d.Tasks = hangingTasks{d.Tasks}
	})
	status, e := f.refused(http.MethodGet, "/api/v1/tasks", f.tokens[auth.Viewer], "")
	require.Equal(t, http.StatusGatewayTimeout, status)
	require.Equal(t, task.CodeTimeout, e.Code)
}

// hangingTasks lists tasks only once its caller has given up.
type hangingTasks struct{ catalogue }

type catalogue api.Tasks // under a name that is not that of its method

func (hangingTasks) Tasks(ctx context.Context) ([]task.Task, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestPathsWithoutToken(t *testing.T) {
	t.Parallel()
	f := start(t)
	for path, want := range map[string]int{"/livez": 200, "/metrics": 200, "/readyz": 404, "/api/openapi.json": 200, "/nothing": 404} {
		status, text := f.ask(http.MethodGet, path, "", "")
		require.Equal(t, want, status, "%s: %s", path, text)
	}
}

func TestNewRefusesMissingParts(t *testing.T) {
	t.Parallel()
	_, err := api.New(api.Deps{}, api.Config{})
	require.ErrorContains(t, err, "Tasks")
	var deps api.Deps
	start(t, func(d *api.Deps, _ *api.Config) { deps = *d })
	_, err = api.New(deps, api.Config{MaxBody: -1})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	require.ErrorContains(t, err, "maxBody")
}

func TestLists(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, path := range []string{"/tasks", "/runs", "/fires?since=1d", "/workers", "/workers?all=true", "/packages", "/sources"} {
		status, text := f.ask(http.MethodGet, "/api/v1"+path, f.tokens[auth.Viewer], "")
		require.Equal(t, http.StatusOK, status, "%s: %s", path, text)
		require.Equal(t, "[]", strings.TrimSpace(text), path)
	}
	stats, err := f.as(auth.Viewer).Stats(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, stats.Tables)
	require.NotNil(t, stats.Ready)
	result, err := f.Doctor(t.Context())
	require.NoError(t, err)
	require.Equal(t, []client.Check{{Name: "postgres", OK: true, Detail: "16.1"}}, result.Checks)
}
