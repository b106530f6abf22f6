package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/cli"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// now is the time in all tests.
func now() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

// result is what one command left behind.
type result struct {
	code int
	out  string
	err  string
}

// shell runs commands against one server in a folder of its own.
type shell struct {
	t       *testing.T
	program cli.Program
	in      string
	ctx     context.Context
}

func newShell(t *testing.T, environ ...string) *shell {
	t.Helper()
	return &shell{t: t, ctx: t.Context(), program: cli.Program{Version: "v1.2.3", Environ: environ, Dir: t.TempDir(), Now: now}}
}

// shellOn gives the shell a server that answers by the given routes.
func shellOn(t *testing.T, routes map[string]http.HandlerFunc) *shell {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, handler := range routes {
		mux.HandleFunc(pattern, handler)
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return newShell(t, "CATENA_SERVER="+server.URL, "CATENA_TOKEN=secret")
}

func (s *shell) run(args ...string) result {
	s.t.Helper()
	var out, err bytes.Buffer
	code := s.program.Run(s.ctx, args, strings.NewReader(s.in), &out, &err)
	return result{code, out.String(), err.String()}
}

// answer replies with a value as JSON.
func answer(status int, v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
}

// refuse replies with an error of the API.
func refuse(status int, code task.Code, message, remedy string) http.HandlerFunc {
	return answer(status, map[string]any{"error": map[string]any{"code": code, "message": message, "remedy": remedy}})
}

func TestUsageErrorsExit2(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"nonsense":                          `unknown command "nonsense"; the commands are `,
		"taks":                              `unknown command "taks"; did you mean "catena task"?`,
		"runs lst":                          `unknown command "lst"; did you mean "catena runs list"?`,
		"task":                              "name a command of catena task: apply, backfill, delete, list",
		"task show":                         "NAME is missing\nusage: catena task show NAME",
		"task show a b":                     `unexpected argument "b"`,
		"task list --colour":                "unknown flag: --colour",
		"task apply":                        "-f is missing",
		"task run x --param y":              `--param "y" has no value`,
		"task run x --at soon":              `--at "soon" is no time`,
		"task run x --timeout 1s":           "--timeout needs --wait",
		"task run x --batch b":              "--batch needs --from",
		"task run x --from f --param a=1":   "--from gives the params",
		"runs show 17":                      `"17" is no run id`,
		"runs list --state runing":          `unknown state "runing"; did you mean "running"?`,
		"runs list --since yesterday":       `--since "yesterday" is no time`,
		"runs list --limit 0":               "--limit 0 is too small",
		"pkg push":                          "DIR is missing",
		"pkg delete x":                      "--yes",
		"pkg push d --max-size lots":        "not a size",
		"token create":                      `--role "" is no role; use admin, operator, viewer`,
		"token create --role root":          `--role "root" is no role`,
		"token create --role admin --ttl x": `--ttl "x" is no duration`,
		"dev --workers -1":                  "--workers -1 is negative",
		"dev --examples no/such":            "--examples no/such is no folder",
		"migrate sideways":                  `unknown command "sideways"`,
		"task list --server ftp://x":        "not the address of a server",
		"help nonsense":                     `unknown command "nonsense"`,
		"help task shwo":                    `unknown command "shwo"; did you mean "catena task show"?`,
		"version extra":                     `unexpected argument "extra"`,
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			got := newShell(t).run(strings.Fields(line)...)
			require.Equal(t, 2, got.code, got.err)
			require.Contains(t, got.err, want)
			require.Contains(t, got.err, "usage: catena")
			require.Empty(t, got.out)

			asJSON := newShell(t).run(append(strings.Fields(line), "--json")...)
			require.Equal(t, 2, asJSON.code)
			var body struct {
				Error struct{ Code, Message, Remedy string }
			}
			require.NoError(t, json.Unmarshal([]byte(asJSON.err), &body), asJSON.err)
			require.Equal(t, "invalid", body.Error.Code)
			require.NotEmpty(t, body.Error.Message)
		})
	}
}

func TestExitCodesFollowTheCodeOfTheError(t *testing.T) {
	t.Parallel()
	for code, want := range map[task.Code]struct{ status, exit int }{
		task.CodeInvalid:      {400, 1},
		task.CodeNotFound:     {404, 1},
		task.CodeConflict:     {409, 1},
		task.CodeTooLarge:     {413, 1},
		task.CodeInternal:     {500, 1},
		task.CodeUnauthorized: {401, 4},
		task.CodeForbidden:    {403, 4},
	} {
		t.Run(string(code), func(t *testing.T) {
			t.Parallel()
			s := shellOn(t, map[string]http.HandlerFunc{"/": refuse(want.status, code, "it is so", "do that")})
			got := s.run("task", "list")
			require.Equal(t, want.exit, got.code)
			require.Equal(t, "error: it is so\n  fix: do that\n", got.err)

			got = s.run("task", "list", "--json")
			require.Equal(t, want.exit, got.code)
			require.JSONEq(t, `{"error":{"code":"`+string(code)+`","message":"it is so","remedy":"do that"}}`, got.err)
		})
	}
}

func TestNoServerExits3(t *testing.T) {
	t.Parallel()
	got := newShell(t, "CATENA_SERVER=http://127.0.0.1:1").run("task", "list")
	require.Equal(t, 3, got.code)
	require.Contains(t, got.err, "127.0.0.1:1")
	require.Contains(t, got.err, "catena dev")
}

func TestFlagsWinOverVariables(t *testing.T) {
	t.Parallel()
	var authorization string
	s := shellOn(t, map[string]http.HandlerFunc{"GET /api/v1/tasks": func(w http.ResponseWriter, r *http.Request) {
		authorization = r.Header.Get("Authorization")
		answer(200, []any{})(w, r)
	}})
	require.Equal(t, 0, s.run("task", "list").code)
	require.Equal(t, "Bearer secret", authorization)
	require.Equal(t, 0, s.run("task", "list", "--token", "other").code)
	require.Equal(t, "Bearer other", authorization)
	require.Equal(t, 3, s.run("task", "list", "--server", "http://127.0.0.1:1").code)
}

// writeDev leaves a dev.json in the folder of s.
func writeDev(t *testing.T, s *shell, admin string, pid int) {
	t.Helper()
	data := filepath.Join(s.program.Dir, cli.DevData)
	require.NoError(t, os.MkdirAll(data, 0o700))
	text, err := json.Marshal(cli.DevFile{Admin: admin, HTTP: "http://h", Token: "dev-token", PID: pid})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(data, cli.DevFileName), text, 0o600))
}

func TestARunningDevIsFound(t *testing.T) {
	t.Parallel()
	var authorization string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization = r.Header.Get("Authorization")
		answer(200, []any{})(w, r)
	}))
	defer server.Close()

	s := newShell(t)
	writeDev(t, s, server.URL, os.Getpid())
	got := s.run("task", "list", "--json")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, "Bearer dev-token", authorization)
	require.Equal(t, "[]\n", got.out)

	s.program.Environ = []string{"CATENA_SERVER=" + server.URL, "CATENA_TOKEN=mine"}
	require.Equal(t, 0, s.run("task", "list").code)
	require.Equal(t, "Bearer mine", authorization, "variables win over dev.json")
}

func TestADevIsFoundFromAFolderBelowIt(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(answer(200, []any{}))
	defer server.Close()
	s := newShell(t)
	writeDev(t, s, server.URL, os.Getpid())
	top := s.program.Dir
	s.program.Dir = filepath.Join(top, "packages", "hello")
	require.NoError(t, os.MkdirAll(s.program.Dir, 0o755))
	got := s.run("task", "list", "--json")
	require.Equal(t, 0, got.code, got.err)

	nearer := *s
	nearer.program.Dir = filepath.Join(top, "packages")
	writeDev(t, &nearer, "http://127.0.0.1:1", os.Getpid())
	require.Equal(t, 3, s.run("task", "list").code, "the nearest counts")
	writeDev(t, &nearer, "http://127.0.0.1:1", 1<<22+1)
	require.Equal(t, 0, s.run("task", "list").code, "one that has ended does not")
}

func TestNoServerSaysWhereItLooked(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	// Whatever listens at the default address of this machine, the message is the same.
	got := s.run("task", "list")
	require.Contains(t, []int{3, 4}, got.code, got.err)
	require.Contains(t, got.err, "no server is named, no catena dev runs in "+s.program.Dir+" or a folder above it")
	for _, remedy := range []string{"--server", "CATENA_SERVER", "the folder where catena dev runs"} {
		require.Contains(t, got.err, remedy)
	}
	named := s.run("task", "list", "--server", "http://127.0.0.1:1")
	require.Equal(t, 3, named.code)
	require.NotContains(t, named.err, "no server is named")
}

func TestADeadDevIsNotUsed(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	writeDev(t, s, "http://127.0.0.1:9", 1<<22+1) // beyond the largest pid
	var out, errOut bytes.Buffer
	s.program.Run(s.ctx, []string{"task", "list"}, nil, &out, &errOut)
	require.NotContains(t, errOut.String(), "127.0.0.1:9:")
	require.NotContains(t, errOut.String(), "http://127.0.0.1:9 ")
}

// TestATokenNeverGoesToAServerItIsNotMeantFor: with a token of one's own, the
// address in a dev.json, which anybody may have put there, is not used.
func TestATokenNeverGoesToAServerItIsNotMeantFor(t *testing.T) {
	t.Parallel()
	called := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	defer server.Close()
	s := newShell(t, "CATENA_TOKEN=mine")
	writeDev(t, s, server.URL, os.Getpid())
	s.run("task", "list")
	require.False(t, called)
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	got := s.run()
	require.Equal(t, 0, got.code)
	require.Contains(t, got.out, "catena dev")
	require.Contains(t, s.run("help", "task", "run").out, "catena task run NAME [flags]")
	for _, args := range [][]string{{"version"}, {"--version"}} {
		got := s.run(args...)
		require.Equal(t, result{0, "v1.2.3\n", ""}, got)
	}
	require.JSONEq(t, `{"version":"v1.2.3"}`, s.run("version", "--json").out)
}

// TestEveryCommandOfTheContractHasHelp walks the commands by name.
func TestEveryCommandOfTheContractHasHelp(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"dev", "master", "worker", "pkg push", "pkg list", "pkg show", "pkg files", "pkg history", "pkg diff", "pkg pull", "pkg promote",
		"pkg rollback", "pkg delete", "task apply", "task list", "task show", "task run", "task pause", "task resume", "task backfill", "task delete",
		"backfill list", "backfill show", "backfill cancel", "calendar apply", "calendar list", "calendar show", "calendar delete",
		"runs list", "runs show", "runs logs", "runs cancel", "runs retry", "runs approve", "runs tree", "event send", "event list", "fires list", "workers list", "token create", "token list",
		"token revoke", "doctor", "migrate up", "migrate down", "migrate status", "config print", "config validate", "config schema",
		"completion bash", "version",
	} {
		got := newShell(t).run(append(strings.Fields(line), "--help")...)
		require.Equal(t, 0, got.code, line)
		require.Contains(t, got.out, "catena "+line, line)
		require.Contains(t, got.out, "Usage:", line)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	s := shellOn(t, map[string]http.HandlerFunc{
		"GET /api/v1/tasks":    answer(200, []task.Task{{Definition: task.Definition{Name: "hello/wait", Description: "waits"}}}),
		"GET /api/v1/runs":     answer(200, []task.Run{sampleRun()}),
		"GET /api/v1/packages": answer(200, []task.PackageVersion{{Name: "hello"}}),
		"GET /api/v1/packages/hello/versions": answer(200, []task.PackageVersion{
			{Name: "hello", Digest: "sha256:" + strings.Repeat("ab", 32), Channels: []string{"live", "stage"}},
			{Name: "hello", Digest: "sha256:" + strings.Repeat("cd", 32)}}),
		"GET /api/v1/packages/hello/releases":         answer(200, []task.Release{{Channel: "stage"}, {Channel: "live"}, {Channel: "stage"}}),
		"GET /api/v1/tasks/hello":                     answer(200, task.Task{Definition: task.Definition{Name: "hello", Params: json.RawMessage(`{"who":"world"}`)}}),
		"GET /api/v1/runs/" + sampleRun().ID.String(): answer(200, sampleRun()),
	})
	digest := pkgstore.Short("sha256:" + strings.Repeat("cd", 32))
	for line, want := range map[string]string{
		"task show":         "hello/wait\twaits",
		"task run":          "hello/wait\twaits",
		"runs show":         sampleRun().ID.String() + "\thello/fail failed",
		"pkg show":          "hello",
		"runs list --task":  "hello/wait",
		"runs list --state": "quarantined",
		"runs":              "logs\tPrint the log of a run",

		"pkg promote":                  "hello",
		"pkg promote hello":            digest,
		"pkg show hello":               "stage\t",
		"pkg diff hello live":          digest,
		"pkg delete hello":             digest,
		"pkg rollback":                 "hello",
		"pkg rollback hello --channel": "live\nstage\n:4",
		"pkg pull hello --version":     "live\t",
		"token create --role":          "admin\noperator\nviewer\n:4",
		"fires list --task":            "hello/wait",
		"task run hello --param":       "who=\tnow \"world\"\n:6", // neither a space nor files follow
		"task run --param":             ":4",
		"runs retry --from":            ":4",
		"runs retry x --from":          ":4",
		"runs retry " + sampleRun().ID.String() + " --from": sampleRun().Steps[0].Path + "\t",
	} {
		got := s.run(append(append([]string{"__complete"}, strings.Fields(line)...), "")...)
		require.Equal(t, 0, got.code, line)
		require.Contains(t, got.out, want, line)
	}
	require.Contains(t, s.run("completion", "zsh").out, "#compdef catena")
	without := newShell(t, "CATENA_SERVER=http://127.0.0.1:1").run("__complete", "task", "show", "")
	require.Equal(t, 0, without.code, "no server must not break the shell")
}

func TestProcessesGetTheirOptions(t *testing.T) {
	t.Parallel()
	var dev cli.DevOptions
	var master configs.Config
	var options cli.ProcessOptions
	s := newShell(t, "CATENA_POSTGRES_URL=postgres://u@h/d", "CATENA_REDIS_URL=redis://h")
	s.program.Processes = cli.Processes{
		Dev: func(_ context.Context, o cli.DevOptions) error { dev = o; return nil },
		Master: func(_ context.Context, c configs.Config, o cli.ProcessOptions) error {
			master, options = c, o
			return nil
		},
	}
	got := s.run("dev", "--data", "d", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0", "--workers", "3", "--json")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, "d", dev.Data)
	require.Equal(t, "127.0.0.1:0", dev.Admin)
	require.Equal(t, 3, dev.Config.Master.Workers)
	require.True(t, dev.JSON)
	require.Equal(t, "postgres://u@h/d", dev.Config.Postgres.URL)

	require.Equal(t, 0, s.run("dev").code)
	require.Equal(t, cli.DevData, dev.Data)
	require.Equal(t, 2, dev.Workers)
	require.Equal(t, "127.0.0.1:20081", dev.Admin)

	got = s.run("master", "--config", "../configs/master.yaml", "--set", "worker.slots=7")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, 7, master.Worker.Slots)
	require.Equal(t, "postgres://u@h/d", master.Postgres.URL)
	require.Equal(t, "v1.2.3", options.Version)
}

func TestASupervisedWorkerReadsItsConfigurationFromStandardInput(t *testing.T) {
	t.Parallel()
	want := configs.Default()
	want.Postgres.URL, want.Redis.URL, want.Worker.Slots = "postgres://u:hunter2@h/d", "redis://h", 9
	text, err := want.YAML()
	require.NoError(t, err)
	s := newShell(t, "CATENA_WORKER_SLOTS=3")
	s.in = string(text)
	var got configs.Config
	var options cli.ProcessOptions
	s.program.Processes.Worker = func(_ context.Context, c configs.Config, o cli.ProcessOptions) error { got, options = c, o; return nil }
	require.Equal(t, 0, s.run("worker", "--supervised-by", "m1", "--shared-listeners", "http,unix").code)
	require.Equal(t, want, got)
	require.Equal(t, "m1", options.Supervisor)
	require.Equal(t, "http,unix", options.Listeners)
	require.NotContains(t, s.run("worker", "--help").out, "supervised-by")
	s.in = "worker: {slots: 0}"
	require.Equal(t, 1, s.run("worker", "--supervised-by", "m1").code)
}

func TestDoctorLive(t *testing.T) {
	t.Parallel()
	status := http.StatusOK
	s := shellOn(t, map[string]http.HandlerFunc{"GET /livez": func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			status = http.StatusTeapot
		}
		w.WriteHeader(status)
	}})
	require.Equal(t, result{0, "live\n", ""}, s.run("doctor", "--live"))
	status = http.StatusServiceUnavailable
	require.Equal(t, 1, s.run("doctor", "--live").code)
	require.Equal(t, 3, s.run("doctor", "--live", "--server", "http://127.0.0.1:1").code)
}

func TestAProcessNeedsItsServers(t *testing.T) {
	t.Parallel()
	got := newShell(t).run("master")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "CATENA_POSTGRES_URL")
	require.Contains(t, got.err, "CATENA_REDIS_URL")
	got = newShell(t).run("worker", "--config", "no.yaml")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "no.yaml")
}

func TestAnUnreachableDatabaseExits3AndHidesItsPassword(t *testing.T) {
	t.Parallel()
	s := newShell(t, "CATENA_POSTGRES_URL=postgres://u:hunter2@h/d")
	s.program.Processes.Migrate = func(_ context.Context, c configs.Config, o cli.MigrateOptions) (cli.MigrateResult, error) {
		require.Equal(t, cli.MigrateUp, o.Action)
		return cli.MigrateResult{}, task.Errorf(task.CodeUnavailable, "cannot reach %s", c.Postgres.URL)
	}
	got := s.run("migrate", "up")
	require.Equal(t, 3, got.code)
	require.Equal(t, "error: cannot reach postgres://u:***@h/d\n", got.err)
}

func TestMigrateStatus(t *testing.T) {
	t.Parallel()
	s := newShell(t, "CATENA_POSTGRES_URL=postgres://u@h/d")
	at := now().Add(-time.Hour)
	s.program.Processes.Migrate = func(context.Context, configs.Config, cli.MigrateOptions) (cli.MigrateResult, error) {
		return cli.MigrateResult{Version: 1, Newest: 2, MinCompatible: 1, Migrations: []cli.Migration{
			{Version: 1, Name: "init", Applied: true, AppliedAt: &at}, {Version: 2, Name: "more"},
		}}, nil
	}
	golden(t, "migrate_status", s.run("migrate", "status"))
}

func TestConfigCommands(t *testing.T) {
	t.Parallel()
	s := newShell(t, "CATENA_POSTGRES_URL=postgres://u:hunter2@h/d")
	got := s.run("config", "print", "--set", "worker.slots=7")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "postgres://u:***@h/d")
	require.Contains(t, got.out, "slots: 7")
	var tree map[string]map[string]any
	require.NoError(t, json.Unmarshal([]byte(s.run("config", "print", "--json").out), &tree))
	require.Equal(t, "512MiB", tree["worker"]["maxMemory"])

	got = s.run("config", "validate", "--set", "worker.slot=7", "--set", "log.level=loud")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "fix: did you mean worker.slots?")
	require.Contains(t, got.err, "log.level")
	got = s.run("config", "validate", "--set", "worker.slot=7", "--set", "log.level=loud", "--json")
	var body struct{ Errors []map[string]string }
	require.NoError(t, json.Unmarshal([]byte(got.err), &body))
	require.Len(t, body.Errors, 2)

	got = s.run("config", "validate", "--config", "../configs/worker.yaml")
	require.Equal(t, result{0, "../configs/worker.yaml is valid\n", ""}, got)
	require.True(t, json.Valid([]byte(s.run("config", "schema").out)))
	require.Equal(t, configs.Markdown(), s.run("config", "docs").out)
}

func TestFirstTokenGoesToTheDatabase(t *testing.T) {
	t.Parallel()
	var role, name string
	var ttl time.Duration
	s := newShell(t, "CATENA_POSTGRES_URL=postgres://u@h/d")
	s.program.Processes.CreateToken = func(_ context.Context, _ configs.Config, r, n string, d time.Duration) (string, error) {
		role, name, ttl = r, n, d
		return "ctn_secret", nil
	}
	require.Equal(t, result{0, "ctn_secret\n", ""}, s.run("token", "create", "--role", "admin", "--ttl", "90d"))
	require.Equal(t, "admin", role)
	require.Equal(t, "admin-20261122-120000", name)
	require.Equal(t, 90*24*time.Hour, ttl)
	require.JSONEq(t, `{"token":"ctn_secret"}`, s.run("token", "create", "--role", "viewer", "--name", "ci", "--json").out)
	require.Equal(t, "ci", name)
}

func TestLaterTokensGoThroughTheServer(t *testing.T) {
	t.Parallel()
	var body map[string]any
	s := shellOn(t, map[string]http.HandlerFunc{"POST /api/v1/tokens": func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&body)
		answer(201, map[string]string{"id": "t1", "token": "ctn_x"})(w, r)
	}})
	s.program.Environ = append(s.program.Environ, "CATENA_POSTGRES_URL=postgres://u@h/d")
	require.Equal(t, result{0, "ctn_x\n", ""}, s.run("token", "create", "--role", "operator", "--name", "ci"))
	require.Equal(t, "operator", body["role"])
	require.Equal(t, "ci", body["name"])
}

func TestMigrateDownAsksFirst(t *testing.T) {
	t.Parallel()
	s := newShell(t, "CATENA_POSTGRES_URL=postgres://nobody@127.0.0.1:1/none")
	got := s.run("migrate", "down")
	require.Equal(t, 2, got.code)
	require.Contains(t, got.err, "repeat it with --yes")
}
