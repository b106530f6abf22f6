package cli_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func TestBackfillCommands(t *testing.T) {
	t.Parallel()
	var seen []string
	hour := now().Add(-2 * time.Hour)
	b := task.Backfill{ID: 7, Task: "a/b", Schedule: 3, From: hour, To: now(), Overlap: task.OverlapBufferAll, State: task.BackfillRunning,
		Total: 120, Started: 5, Ended: 4, Failed: 1, CreatedAt: *ago(time.Minute)}
	failed := b
	failed.State, failed.FinishedAt = task.BackfillDone, ago(time.Second)
	record := func(answer http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			text, _ := io.ReadAll(r.Body)
			seen = append(seen, r.Method+" "+r.URL.EscapedPath()+" "+string(text))
			answer(w, r)
		}
	}
	s := shellOn(t, map[string]http.HandlerFunc{
		"POST /api/v1/tasks/{name}/backfills":          record(answer(200, client.BackfillResult{Backfill: b, First: hour, Last: hour.Add(time.Hour)})),
		"GET /api/v1/backfills":                        answer(200, []task.Backfill{b}),
		"GET /api/v1/backfills/7":                      answer(200, failed),
		"POST /api/v1/backfills/7/cancel":              record(answer(200, b)),
		"POST /api/v1/tasks/{name}/schedules/3/pause":  record(answer(200, task.Task{Definition: task.Definition{Name: "a/b"}})),
		"POST /api/v1/tasks/{name}/schedules/3/resume": record(answer(200, task.Task{Definition: task.Definition{Name: "a/b"}})),
	})
	got := s.run("task", "backfill", "a/b", "--from", "2h", "--to", "2026-11-22T12:00:00Z", "--overlap", "allow-all", "--schedule", "3")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, "backfill 7 has 120 due times of schedule 3, from 2026-11-22T10:00:00Z to 2026-11-22T11:00:00Z; follow it with catena backfill show 7\n", got.out)
	require.JSONEq(t, `{"schedule":3,"from":"2026-11-22T10:00:00Z","to":"2026-11-22T12:00:00Z","overlap":"allow-all"}`, seen[0][len("POST /api/v1/tasks/a%2Fb/backfills "):])
	require.Contains(t, s.run("task", "backfill", "a/b", "--from", "2h", "--to", "1h", "--dry-run").out, "a backfill would have 120 due times")
	require.Contains(t, s.run("task", "backfill", "a/b", "--from", "2h", "--to", "1h", "--json").out, `"total":120`)

	got = s.run("task", "backfill", "a/b", "--from", "2h", "--to", "1h", "--wait")
	require.Equal(t, 1, got.code, "a run of it failed")
	require.Contains(t, got.out, "failed     1")
	require.Contains(t, s.run("backfill", "list").out, "7   a/b   running  2026-11-22T10:00:00Z  2026-11-22T12:00:00Z  4/120, 1 failed  60s")
	require.Contains(t, s.run("backfill", "show", "7").out, "state      done")
	require.Contains(t, s.run("backfill", "cancel", "7", "--reason", "why").out, "backfill 7 is cancelled after 5 runs")
	require.Equal(t, `POST /api/v1/backfills/7/cancel {"reason":"why"}`, seen[len(seen)-1])

	require.Contains(t, s.run("task", "pause", "a/b", "--schedule", "3", "--note", "why").out, "schedule 3 of a/b is paused")
	require.Equal(t, `POST /api/v1/tasks/a%2Fb/schedules/3/pause {"note":"why"}`, seen[len(seen)-1])
	require.Contains(t, s.run("task", "resume", "a/b", "--schedule", "3").out, "schedule 3 of a/b is resumed")

	for _, line := range [][]string{
		{"task", "backfill", "a/b"}, {"task", "backfill", "a/b", "--from", "soon", "--to", "1h"}, {"task", "backfill", "a/b", "--from", "2h", "--to", "later"},
		{"task", "backfill", "a/b", "--from", "2h", "--to", "1h", "--timeout", "1s"}, {"backfill", "show", "x"}, {"fires", "list", "--outcome", "lost"},
	} {
		require.Equal(t, 2, s.run(line...).code, line)
	}
}
