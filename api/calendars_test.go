package api_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
	"github.com/stretchr/testify/require"
)

const holidays = `calendar: holidays/fr
days: ["2030-12-24/2030-12-26", "--07-14"]
ical: more.ics
---
name: report
chain: [["nop"]]
schedule:
  - calendar: {times: ["08:00"], weekdays: [mon-fri]}
    timezone: Europe/Paris
    exclude: [holidays/fr]
    jitter: 10m
  - {every: 1h, offset: 5m, start: "2030-01-01T00:00:00Z", end: "2030-01-01T03:00:00Z"}
`

const moreHolidays = "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nDTSTART;VALUE=DATE:20300501\r\nSUMMARY:Labour Day\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"

func TestCalendars(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	apply := func(dry bool, sent ...client.File) map[string]client.Change {
		t.Helper()
		result, err := f.ApplyTasks(ctx, client.ApplyRequest{Files: sent, DryRun: dry})
		require.NoError(t, err)
		changes := map[string]client.Change{}
		for _, r := range result.Results {
			changes[r.Kind+" "+r.Name] = r.Change
		}
		return changes
	}
	file, ical := client.File{Name: "tasks/a.yaml", Content: holidays}, client.File{Name: "tasks/more.ics", Content: moreHolidays}
	created := map[string]client.Change{"calendar holidays/fr": client.Created, " report": client.Created}
	require.Equal(t, created, apply(true, file, ical))
	list, err := f.Calendars(ctx)
	require.NoError(t, err)
	require.Empty(t, list)
	require.Equal(t, created, apply(false, file, ical))
	require.Equal(t, map[string]client.Change{"calendar holidays/fr": client.Unchanged, " report": client.Unchanged}, apply(false, file, ical))
	calendar, err := f.Calendar(ctx, "holidays/fr")
	require.NoError(t, err)
	require.Equal(t, []string{"2030-12-24/2030-12-26", "--07-14", "2030-05-01"}, calendar.Days)
	require.Equal(t, 1, calendar.Schedules)

	found, err := f.Task(ctx, "report")
	require.NoError(t, err)
	require.Equal(t, &task.Calendar{Times: []string{"08:00"}, Weekdays: []string{"mon-fri"}}, found.Schedule[0].Calendar)
	require.Equal(t, []string{"holidays/fr"}, found.Schedule[0].Exclude)
	require.Equal(t, task.Duration(10*time.Minute), found.Schedule[0].Jitter)
	require.Equal(t, task.Duration(5*time.Minute), found.Schedule[1].Offset)
	require.Equal(t, "2030-01-01T03:00:00Z", found.Schedule[1].End.UTC().Format(time.RFC3339))
	require.Equal(t, task.DefaultCatchUp, *found.Schedule[1].CatchUp)

	due, err := f.Due(ctx, "report", 5)
	require.NoError(t, err)
	require.Len(t, due, 2)
	require.Len(t, due[0].Due, 5)
	require.Equal(t, "at 08:00 on Monday-Friday (Europe/Paris), except holidays/fr, up to 10m later", due[0].Text)
	for _, d := range due[0].Due {
		delay := d.StartsAt.Sub(d.DueAt)
		require.True(t, delay >= 0 && delay < 10*time.Minute)
	}
	require.Len(t, due[1].Due, 3, "it ends")
	require.Equal(t, "2030-01-01T00:05:00Z", due[1].Due[0].DueAt.Format(time.RFC3339))
	status, text := f.ask(http.MethodGet, "/api/v1/tasks/report/due?count=2&after=2030-12-23T12:00:00Z", f.tokens[auth.Viewer], "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, text, `"due_at":"2030-12-27T07:00:00Z"`)
	status, _ = f.ask(http.MethodGet, "/api/v1/tasks/report/due?count=1001", f.tokens[auth.Viewer], "")
	require.Equal(t, http.StatusBadRequest, status)
	_, err = f.Due(ctx, "none", 5)
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))

	err = f.DeleteCalendar(ctx, "holidays/fr", false)
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	require.ErrorContains(t, err, "report")
	require.NoError(t, f.DeleteCalendar(ctx, "holidays/fr", true))
	due, err = f.Due(ctx, "report", 5)
	require.NoError(t, err)
	require.Contains(t, due[0].Invalid, "no calendar holidays/fr")
	require.Empty(t, due[0].Due)
	require.Len(t, due[1].Due, 3)
	require.Equal(t, task.CodeNotFound, task.CodeOf(f.DeleteCalendar(ctx, "holidays/fr", true)))
	_, err = f.Calendar(ctx, "holidays/fr")
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
}

func TestPutCalendar(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	put, err := f.PutCalendar(ctx, "a/b", client.CalendarRequest{Days: []string{"--12-25"}, ICal: moreHolidays})
	require.NoError(t, err)
	require.Equal(t, []string{"--12-25", "2030-05-01"}, put.Days)
	put, err = f.PutCalendar(ctx, "a/b", client.CalendarRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{}, put.Days)
	for name, bad := range map[string]struct {
		name    string
		request client.CalendarRequest
		where   string
	}{
		"name":  {"A B", client.CalendarRequest{}, "name"},
		"day":   {"a", client.CalendarRequest{Days: []string{"--12-25", "Christmas"}}, "days[1]"},
		"ical":  {"a", client.CalendarRequest{ICal: "hello"}, "ical"},
		"event": {"a", client.CalendarRequest{ICal: "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nDTSTART:soon\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"}, "ical"},
	} {
		_, err := f.PutCalendar(ctx, bad.name, bad.request)
		var e *task.Error
		require.ErrorAs(t, err, &e, name)
		require.Equal(t, task.CodeInvalid, e.Code, name)
		require.Equal(t, bad.where, e.Where, name)
	}
	_, err = f.as(auth.Viewer).PutCalendar(ctx, "a/b", client.CalendarRequest{})
	require.Equal(t, task.CodeForbidden, task.CodeOf(err))
	require.Equal(t, task.CodeForbidden, task.CodeOf(f.as(auth.Viewer).DeleteCalendar(ctx, "a/b", false)))
	_, err = f.as(auth.Viewer).Calendars(ctx)
	require.NoError(t, err)
	_, err = f.ApplyCalendars(ctx, client.ApplyRequest{Files: []client.File{{Name: "a.yaml", Content: holidays}, {Name: "more.ics", Content: moreHolidays}}})
	require.ErrorContains(t, err, "hold a task too: report")
	result, err := f.ApplyCalendars(ctx, client.ApplyRequest{Files: []client.File{{Name: "a.yaml", Content: "calendar: c\ndays: []\n"}}})
	require.NoError(t, err)
	require.Equal(t, client.Created, result.Results[0].Change)
}
