package cli_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing them")

// golden compares all that a command left behind with testdata/NAME.txt.
func golden(t *testing.T, name string, got result) {
	t.Helper()
	text := fmt.Sprintf("exit %d\n-- stdout --\n%s-- stderr --\n%s", got.code, got.out, got.err)
	file := filepath.Join("testdata", name+".txt")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), text)
}

func ago(d time.Duration) *time.Time {
	t := now().Add(-d)
	return &t
}

func sampleRun() task.Run {
	failure := task.Outcome{Reason: "nobody called ghost", CallStack: []task.Frame{
		{Module: "hello:greet", Item: "call: hello:greet?fail", Index: "1", Source: "greet.ts:6:9"}, {Module: "hello/fail", Index: "1"},
	}}
	greeting := task.Succeed([]byte(`{"text":"hello"}`))
	return task.Run{
		ID: uuid.MustParse("0190aaaa-0000-7000-8000-000000000001"), Task: "hello/fail", Revision: 3, State: task.StateFailed, Attempt: 2, Losses: 1,
		Reason: "nobody called ghost", Outcome: &failure, Params: []byte(`{"name":"ghost"}`), Queue: "default", Priority: 5,
		Packages: map[string]string{"hello": "sha256:0123456789abcdef"}, Worker: "w1",
		CreatedAt: *ago(90 * time.Second), StartedAt: ago(89 * time.Second), FinishedAt: ago(88*time.Second + 500*time.Millisecond),
		Steps: []task.Step{
			{Path: "0", Name: "greeting", Attempt: 1, Outcome: &greeting, StartedAt: *ago(89 * time.Second), FinishedAt: *ago(88*time.Second + 990*time.Millisecond)},
			{Path: "1", Attempt: 2, Outcome: &failure, StartedAt: *ago(88*time.Second + 900*time.Millisecond), FinishedAt: *ago(88*time.Second + 500*time.Millisecond)},
		},
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	id := sampleRun().ID
	other := sampleRun()
	other.ID, other.Task, other.State, other.Reason = uuid.MustParse("0190aaaa-0000-7000-8000-000000000002"), "hello/a-longer-name", task.StateRunning, ""
	other.FinishedAt, other.CreatedAt = nil, *ago(50 * time.Hour)
	hostile := sampleRun()
	hostile.Reason = "first\nsecond\x1b[31m"
	s := shellOn(t, map[string]http.HandlerFunc{
		"GET /api/v1/tasks": answer(200, []task.Task{
			{Definition: task.Definition{Name: "hello/every-second", Schedule: []task.Schedule{{Cron: "* * * * * *", Timezone: "Europe/Paris", NextDue: ago(-time.Second)}}}, UpdatedAt: *ago(time.Hour)},
			{Definition: task.Definition{Name: "hello/wait", Description: "waits"}, Paused: true, UpdatedAt: *ago(72 * time.Hour)},
		}),
		"GET /api/v1/tasks/{name}/due": answer(200, []client.ScheduleDue{
			{Schedule: 0, Text: "at 05:00 on day 1 of the month (UTC)", Due: []client.DueTime{{DueAt: *ago(-time.Hour), StartsAt: *ago(-time.Hour)}, {DueAt: *ago(-2 * time.Hour), StartsAt: *ago(-121 * time.Minute)}}},
		}),
		"GET /api/v1/tasks/{name}": answer(200, task.Task{
			Definition: task.Definition{Name: "hello/wait", Chain: []byte(`[{"call":"hello:greet?wait","with":{"ms":1}},["delay",1]]`),
				Schedule: []task.Schedule{{Cron: "0 5 1 * *", NextDue: ago(-time.Hour)}}},
			Revision: 4, UpdatedAt: *ago(time.Hour),
		}),
		"GET /api/v1/runs":      answer(200, []task.Run{sampleRun(), other, hostile}),
		"GET /api/v1/runs/{id}": answer(200, sampleRun()),
		"GET /api/v1/fires": answer(200, []task.Fire{
			{Task: "hello/every-second", DueAt: *ago(time.Second), LastDueAt: *ago(time.Second), Count: 1, Outcome: task.FireStarted, Run: &id},
			{Task: "hello/every-second", DueAt: *ago(time.Minute), LastDueAt: *ago(2 * time.Second), Count: 58, Outcome: task.FireMissed, Reason: "no leader"},
		}),
		"GET /api/v1/workers": answer(200, []task.Worker{
			{ID: "w1", Host: "alpha", PID: 4711, State: task.WorkerActive, Running: 3, Slots: 32, RSS: 48 << 20, Age: task.Duration(5 * time.Minute), Queues: []string{"*"}, Version: "v1"},
		}),
		"GET /api/v1/admin/stats": answer(200, task.Stats{
			Tables: []task.TableStats{
				{Table: "runs", Partitions: 38, Rows: 10_000_000, DeadRows: 12, Size: 5 << 30, Indexes: 1 << 30, Oldest: ago(720 * time.Hour), Newest: ago(0), VacuumedAt: ago(time.Hour)},
				{Table: "tasks", Rows: 3, Size: 16384, Indexes: 8192},
			},
			Ready:   []task.LaneDepth{{Lane: "default", Count: 7}, {Lane: "default", State: "later", Count: 2}},
			Parcels: []task.LaneDepth{{Lane: "default+gpu", State: "claimed", Count: 4}},
		}),
		"GET /api/v1/doctor": answer(200, client.DoctorResult{Checks: []client.Check{
			{Name: "postgres", OK: true, Detail: "16.4"}, {Name: "redis", Detail: "maxmemory-policy is allkeys-lru", Remedy: "set it to noeviction"},
		}}),
		"GET /api/v1/packages": answer(200, []task.PackageVersion{
			{Name: "hello", Digest: "sha256:0123456789abcdef", Description: "the smallest", Size: 1536, Files: 2, PushedBy: "dev", CreatedAt: *ago(3 * time.Hour)},
		}),
		"GET /api/v1/packages/{name}/releases": answer(200, []task.Release{
			{ID: 7, Package: "hello", Channel: "live", Digest: "sha256:0123456789abcdef", Action: "push", By: "dev", At: *ago(time.Minute)},
		}),
		"GET /api/v1/packages/{name}/files": answer(200, []client.PackageFile{{Path: "catena.yaml", Size: 120, Digest: "sha256:fedcba9876543210"}}),
		"GET /api/v1/packages/{name}/versions": answer(200, []task.PackageVersion{
			{Name: "hello", Digest: "sha256:0123456789abcdef", Channels: []string{"live"}, Size: 1536, CreatedAt: *ago(3 * time.Hour)},
		}),
		"GET /api/v1/packages/{name}": answer(200, map[string]any{
			"name": "hello", "digest": "sha256:0123456789abcdef", "channels": []string{"live"}, "size": 1536, "files": 2, "created_at": now(),
			"manifest": map[string]any{"name": "hello", "exports": []string{"greet?greet"}, "permissions": map[string]any{"http": []string{"example.org"}}},
		}),
		"GET /api/v1/tokens": answer(200, []client.Token{
			{ID: "t1", Name: "ci", Role: "operator", CreatedAt: ago(time.Hour), ExpiresAt: ago(-72 * time.Hour)},
			{ID: "t2", Name: "old", Role: "admin", CreatedAt: ago(time.Hour), RevokedAt: ago(time.Minute)},
		}),
	})
	for name, args := range map[string][]string{
		"task_list":    {"task", "list"},
		"task_show":    {"task", "show", "hello/wait"},
		"runs_list":    {"runs", "list"},
		"runs_show":    {"runs", "show", id.String()},
		"fires_list":   {"fires", "list", "--task", "hello/every-second"},
		"workers_list": {"workers", "list"},
		"pkg_list":     {"pkg", "list"},
		"pkg_show":     {"pkg", "show", "hello"},
		"pkg_history":  {"pkg", "history", "hello"},
		"pkg_files":    {"pkg", "files", "hello"},
		"token_list":   {"token", "list"},
		"admin_stats":  {"admin", "stats"},
	} {
		golden(t, name, s.run(args...))
	}
	got := s.run("doctor")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.out, "FAIL  redis     maxmemory-policy is allkeys-lru; fix: set it to noeviction")
	require.Contains(t, got.out, "ok    postgres  16.4")
}

func TestEmptyLists(t *testing.T) {
	t.Parallel()
	s := shellOn(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("null")) }})
	for _, line := range [][]string{{"task", "list"}, {"runs", "list"}, {"fires", "list"}, {"workers", "list"}, {"pkg", "list"}, {"token", "list"}} {
		got := s.run(append(line, "--json")...)
		require.Equal(t, result{0, "[]\n", ""}, got, line)
		got = s.run(line...)
		require.Equal(t, 0, got.code)
		require.Empty(t, got.out, line)
		require.Contains(t, got.err, "no ", line)
	}
}

func TestListingRunsAsksPageByPage(t *testing.T) {
	t.Parallel()
	all := make([]task.Run, 1500)
	for i := range all {
		all[i] = task.Run{ID: uuid.UUID{0, 1, byte((1500 - i) >> 8), byte(1500 - i)}, State: task.StateSucceeded}
	}
	var query []string
	s := shellOn(t, map[string]http.HandlerFunc{"GET /api/v1/runs": func(w http.ResponseWriter, r *http.Request) {
		query = append(query, r.URL.Query().Get("limit"))
		rest := all
		for i, run := range all {
			if run.ID.String() == r.URL.Query().Get("before") {
				rest = all[i+1:]
			}
		}
		answer(200, rest[:min(len(rest), 1000)])(w, r)
	}})
	got := s.run("runs", "list", "--limit", "1200")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, []string{"1000", "200"}, query[:2])
}

func TestSinceIsSentAsATime(t *testing.T) {
	t.Parallel()
	var since string
	s := shellOn(t, map[string]http.HandlerFunc{"GET /api/v1/runs": func(w http.ResponseWriter, r *http.Request) {
		since = r.URL.Query().Get("since")
		answer(200, []task.Run{})(w, r)
	}})
	for text, want := range map[string]string{
		"2h": "2026-11-22T10:00:00Z", "7d": "2026-11-15T12:00:00Z", "2026-11-01": "2026-11-01T00:00:00Z", "2026-11-01T02:00:00+02:00": "2026-11-01T00:00:00Z",
	} {
		require.Equal(t, 0, s.run("runs", "list", "--since", text).code)
		require.Equal(t, want, since, text)
	}
}
