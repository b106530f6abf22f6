package cli_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func TestApplySendsICalendarFiles(t *testing.T) {
	t.Parallel()
	var sent client.ApplyRequest
	receive := func(w http.ResponseWriter, r *http.Request) {
		sent = client.ApplyRequest{}
		_ = json.NewDecoder(r.Body).Decode(&sent)
		answer(200, client.ApplyResult{Results: []client.Applied{{Kind: "calendar", Name: "a", Change: client.Created}, {Name: "t", Change: client.Unchanged}}})(w, r)
	}
	s := shellOn(t, map[string]http.HandlerFunc{"POST /api/v1/tasks/apply": receive, "POST /api/v1/calendars/apply": receive})
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	require.NoError(t, os.WriteFile(file, []byte("calendar: a\nical: sub/h.ics\n"), 0o600))
	for _, command := range []string{"task", "calendar"} {
		got := s.run(command, "apply", "-f", file)
		require.Equal(t, 1, got.code)
		require.Contains(t, got.err, file+":2:7: ical: open")
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sub", "h.ics"), []byte("BEGIN:VCALENDAR"), 0o600))
	for _, args := range [][]string{{"task", "apply", "-f", file}, {"calendar", "apply", "-f", dir}} {
		got := s.run(args...)
		require.Equal(t, 0, got.code, got.err)
		require.Equal(t, "calendar a  created\nt           unchanged\n", got.out)
		require.Len(t, sent.Files, 2)
		require.Equal(t, "BEGIN:VCALENDAR", sent.Files[1].Content)
		require.True(t, strings.HasSuffix(sent.Files[1].Name, "sub/h.ics"))
	}
	require.Equal(t, 2, s.run("calendar", "apply").code)
}

func TestCalendarCommands(t *testing.T) {
	t.Parallel()
	days := task.NamedCalendar{Name: "holidays/fr", Days: []string{"--12-25", "2026-05-01"}, Schedules: 3}
	s := shellOn(t, map[string]http.HandlerFunc{
		"GET /api/v1/calendars":        answer(200, []task.NamedCalendar{days}),
		"GET /api/v1/calendars/{name}": answer(200, days),
		"DELETE /api/v1/calendars/{name}": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("force") != "true" {
				refuse(409, task.CodeConflict, "3 schedules exclude it", "use --force")(w, r)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		},
	})
	require.Contains(t, s.run("calendar", "list").out, "holidays/fr  2        3")
	require.Contains(t, s.run("calendar", "show", "holidays/fr").out, "3 schedules\n--12-25\n2026-05-01\n")
	require.Contains(t, s.run("calendar", "list", "--json").out, `[{"name":"holidays/fr"`)
	require.Contains(t, s.run("__complete", "calendar", "show", "").out, "holidays/fr")
	got := s.run("calendar", "delete", "holidays/fr")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "--force")
	require.Equal(t, 0, s.run("calendar", "delete", "holidays/fr", "--force").code)
}

func TestTaskShowsItsDueTimes(t *testing.T) {
	t.Parallel()
	shown := task.Task{Definition: task.Definition{Name: "t", Chain: json.RawMessage(`["nop"]`), Schedule: []task.Schedule{
		{ID: 1, Calendar: &task.Calendar{Times: []string{"08:00"}, Weekdays: []string{"mon-fri"}, Days: []int{1, -1}}, Timezone: "Europe/Paris", Exclude: []string{"a"}, DST: task.DSTTwice},
		{ID: 2, Every: task.Duration(time.Hour), Offset: task.Duration(time.Minute), Invalid: "no calendar a"},
	}}}
	at := time.Date(2030, 7, 1, 6, 0, 0, 0, time.UTC)
	asked := ""
	s := shellOn(t, map[string]http.HandlerFunc{
		"GET /api/v1/tasks":     answer(200, []task.Task{shown}),
		"GET /api/v1/tasks/{t}": answer(200, shown),
		"GET /api/v1/tasks/{t}/due": func(w http.ResponseWriter, r *http.Request) {
			asked = r.URL.Query().Get("count")
			answer(200, []client.ScheduleDue{
				{Schedule: 1, Text: "at 08:00 on Monday-Friday", Due: []client.DueTime{{DueAt: at, StartsAt: at.Add(90 * time.Second)}, {DueAt: at.AddDate(0, 0, 1), StartsAt: at.AddDate(0, 0, 1)}}},
				{Schedule: 2, Text: "every 1h plus 1m", Due: []client.DueTime{}},
			})(w, r)
		},
	})
	got := s.run("task", "show", "t", "--next", "2")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, "2", asked)
	for _, want := range []string{"at 08:00 on Monday-Friday", "Mon 2030-07-01 08:00:00 +02:00", ", starts 1m30s later", "Tue 2030-07-02 08:00:00 +02:00", "twice", "every 1h plus 1m", "no calendar a", "invalid"} {
		require.Contains(t, got.out, want)
	}
	require.Contains(t, s.run("task", "show", "t", "--json").out, `"due":[{"schedule":1`)
	require.Equal(t, "5", asked)
	require.NotContains(t, s.run("task", "show", "t", "--next", "0").out, "2030")
	require.Equal(t, 2, s.run("task", "show", "t", "--next", "-1").code)
	require.Contains(t, s.run("task", "list").out, "mon-fri days 1,-1 at 08:00 Europe/Paris except a; every 1h + 1m")
}
