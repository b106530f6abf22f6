package cli_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/check"
	"github.com/catena-run/catena/cli"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/task"
)

// write makes files below a folder of the test.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return dir
}

func TestCheckWithoutACluster(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"tasks/a.yaml":                `name: a` + "\nchain: [{call: \"shop:order?place\"}, {log: \"${steps.b}\"}]\nschedule: [{cron: \"0 6 * * *\"}, {cron: \"* * * * *\", overlap: allow-all}]\n",
		"tasks/b.yaml":                "name: b\nchain: [{task: c}]\n---\nname: c\nchain: [{task: b}]\n",
		"tasks/bad.yaml":              "name: bad\nchain: [{log: \"${x}\"}, {delay: soon}]\nqueue: \"A B\"\n",
		"packages/shop/catena.yaml":   "name: shop\nexports: [\"order?place\"]\npermissions: {http: [pay.example]}\n",
		"packages/shop/order.ts":      "export const place = () => 1\n",
		"packages/broken/catena.yaml": "name: broken\nexports: [\"x?y\"]\n",
		"packages/broken/x.ts":        "import {z} from \"./nothing\"; export const y = z\n",
	})
	got := newShell(t).run("check", "-f", dir+"/tasks", "--packages", dir+"/packages", "--until", "2026-12-01T00:00:00Z")
	require.Equal(t, 1, got.code, got.err)
	require.Empty(t, got.err)
	for _, want := range []string{
		"shop", "http pay.example",
		"simulated 2026-11-22T12:00:00Z to 2026-12-01T00:00:00Z (8.5 days, 2 schedules)",
		"due times                12248: 12248 started", "most running at once     2, first at 2026-11-23T06:00:00Z",
		"default  2             0.17     64     0.3 %", "10s (assumed)",
		"warning: " + dir + "/tasks/a.yaml:2:46: item 1: ${steps.b} is read",
		"error: " + dir + "/tasks/b.yaml:2:8: these tasks start each other for ever: b -> c -> b",
		"bad.yaml:2:18: item 0", "bad.yaml:2:32: item 1", "bad.yaml:3:8: queue: \"A B\" cannot name a queue",
		`error: package broken: x.ts:1:17: there is no file for "./nothing"`,
		"3 tasks in 3 files checked: 5 problems, 1 warning\n",
	} {
		require.Contains(t, got.out, want, got.out)
	}

	asJSON := newShell(t).run("check", "-f", dir+"/tasks", "--packages", dir+"/packages/shop", "--json")
	require.Equal(t, 1, asJSON.code)
	var out struct {
		Valid         bool
		Configuration map[string]any
		Findings      []task.Finding
		Forecast      check.Forecast
	}
	require.NoError(t, json.Unmarshal([]byte(asJSON.out), &out), asJSON.out)
	require.False(t, out.Valid)
	require.Len(t, out.Findings, 5)
	require.Contains(t, out.Configuration, "worker")
	require.EqualValues(t, 30+43200, out.Forecast.Total.Fires)

	good := newShell(t).run("checkconfig", "-f", dir+"/tasks/a.yaml")
	require.Equal(t, 0, good.code, good.out)
}

func TestCheckShowsTheConfigurationWithoutSecrets(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"c.yaml": "postgres: {url: \"postgres://u:hunter2@h/d\"}\nmaster: {leader: false, workers: 0}\n", "bad.yaml": "worker: {slots: 0, slotz: 1}\n"})
	got := newShell(t).run("check", "--config", dir+"/c.yaml")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "postgres://u:***@h/d")
	require.NotContains(t, got.out, "hunter2")
	require.Contains(t, got.out, "warning: master.leader: a master that neither may lead nor has workers")
	require.Contains(t, got.out, "warning: redis.url: no Redis is given")
	bad := newShell(t).run("check", "--config", dir+"/bad.yaml")
	require.Equal(t, 1, bad.code)
	require.Contains(t, bad.out, "unknown key worker.slotz")
	require.Contains(t, bad.out, "worker.slots: 0 is too small")
	require.Contains(t, bad.out, "2 problems")
}

func TestCheckAgainstAServer(t *testing.T) {
	t.Parallel()
	routes := map[string]http.HandlerFunc{
		"GET /api/v1/doctor": answer(200, map[string]any{"checks": []map[string]any{{"name": "postgres", "ok": true, "detail": "version 16"}, {"name": "redis", "ok": false, "detail": "it is away"}}}),
		"GET /api/v1/tasks": answer(200, []map[string]any{{"name": "stored", "chain": []any{map[string]any{"call": "shop:order?lace"}},
			"schedule": []map[string]any{{"cron": "* * * * *"}}}}),
		"GET /api/v1/calendars":     answer(200, []any{}),
		"GET /api/v1/costs":         answer(200, []map[string]any{{"task": "stored", "micros": 90_000_000}}),
		"GET /api/v1/workers":       answer(200, []map[string]any{{"id": "w", "state": "active", "queues": []string{"default"}, "slots": 1}}),
		"GET /api/v1/packages":      answer(200, []map[string]any{{"name": "shop"}}),
		"GET /api/v1/packages/shop": answer(200, map[string]any{"name": "shop", "digest": "sha256:1", "manifest": map[string]any{"name": "shop", "exports": []string{"order?place"}}}),
	}
	got := shellOn(t, routes).run("check", "--connect", "--until", "+1d")
	require.Equal(t, 1, got.code, got.err)
	for _, want := range []string{"connected to http://127.0.0.1", "FAIL  redis", "module order of package shop exports no function lace", "did you mean order?place?",
		"1440: 720 started, 720 skipped", "1m30s"} {
		require.Contains(t, got.out, want)
	}
	require.NotContains(t, got.out, "assumed")

	away := newShell(t, "CATENA_SERVER=http://127.0.0.1:1").run("check", "--connect")
	require.Equal(t, 3, away.code, away.err)
	routes["GET /api/v1/doctor"] = answer(200, map[string]any{"checks": []map[string]any{{"name": "postgres", "ok": false, "detail": "it is away"}}})
	require.Equal(t, 3, shellOn(t, routes).run("check", "--connect").code)
}

func TestCheckPrefersTheDatabaseThatTheConfigurationNames(t *testing.T) {
	t.Parallel()
	s := newShell(t, "CATENA_POSTGRES_URL=postgres://u:hunter2@h/d")
	var asked configs.Config
	s.program.Processes = cli.Processes{Cluster: func(_ context.Context, c configs.Config, _ io.Writer) (check.Cluster, func(), error) {
		asked = c
		return nil, nil, task.Errorf(task.CodeUnavailable, "it is away")
	}}
	got := s.run("check", "--connect")
	require.Equal(t, 3, got.code)
	require.Equal(t, "postgres://u:hunter2@h/d", asked.Postgres.URL)
	require.NotContains(t, got.err+got.out, "hunter2")
	require.Equal(t, 3, s.run("check", "--connect", "--server", "http://127.0.0.1:1").code, "a named server goes first")
}

func TestReadonlyCommands(t *testing.T) {
	t.Parallel()
	s := shellOn(t, map[string]http.HandlerFunc{
		"POST /api/v1/tasks/good/runs/readonly": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			answer(200, map[string]any{"task": "good", "state": "succeeded", "outcome": map[string]any{"success": true, "data": json.RawMessage(body)},
				"would_do": []map[string]any{{"step": "0", "kind": "http", "what": "POST http://x"}}, "log": []map[string]any{{"level": "info", "message": "hello"}},
				"steps": []map[string]any{{"path": "0", "outcome": map[string]any{"success": true}}}, "took": "3ms"})(w, r)
		},
		"POST /api/v1/tasks/bad/runs/readonly": answer(200, map[string]any{"task": "bad", "state": "failed", "outcome": map[string]any{"success": false, "reason": "no luck"}, "took": "1ms"}),
	})
	good := s.run("task", "run", "good", "--readonly", "--param", "n=1")
	require.Equal(t, 0, good.code, good.err)
	for _, want := range []string{"succeeded (readonly: nothing was done)", `{"params":{"n":1}}`, "http      POST http://x", "hello"} {
		require.Contains(t, good.out, want)
	}
	bad := s.run("task", "run", "bad", "--readonly", "--json")
	require.Equal(t, 1, bad.code)
	require.Contains(t, bad.out, `"reason":"no luck"`)

	var options cli.ProcessOptions
	m := newShell(t, "CATENA_POSTGRES_URL=postgres://u@h/d")
	m.program.Processes = cli.Processes{Observe: func(_ context.Context, _ configs.Config, o cli.ProcessOptions) error { options = o; return nil }}
	require.Equal(t, 0, m.run("master", "--readonly", "--json").code)
	require.True(t, options.JSON)
	child := newShell(t)
	child.in = "{}"
	child.program.Processes = cli.Processes{ReadonlyRun: func(_ context.Context, in io.Reader, out, _ io.Writer) error {
		_, err := io.Copy(out, in)
		return err
	}}
	require.Equal(t, "{}", child.run("worker", "--readonly-run").out)
}

func TestBadChecksExit2(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"check --until soon":                        `--until "soon" is no time`,
		"check --until 2020-01-01T00:00:00Z":        "has passed",
		"check --until +1000d":                      "longer than 100 days",
		"check --duration 0s":                       "--duration 0s is no duration",
		"check extra":                               `unexpected argument "extra"`,
		"task run x --readonly --wait":              "--readonly makes no run",
		"task run x --readonly --at +1m":            "--readonly makes no run",
		"master --readonly --workers 3":             "unknown flag: --workers",
		"check -f " + strings.Repeat("x", 3) + " y": `unexpected argument "y"`,
	} {
		got := newShell(t).run(strings.Fields(line)...)
		require.Equal(t, 2, got.code, "%s: %s", line, got.err)
		require.Contains(t, got.err, want)
	}
	missing := newShell(t).run("check", "-f", "no/such")
	require.Equal(t, 1, missing.code)
	none := newShell(t).run("check", "--packages", t.TempDir())
	require.Equal(t, 1, none.code)
	require.Contains(t, none.err, "no package is in the folder")
}
