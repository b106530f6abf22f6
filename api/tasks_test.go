package api_test

import (
	"net/http"
	"testing"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
	"github.com/stretchr/testify/require"
)

const twoTasks = `name: billing/close-month
chain:
  - ["nop"]
schedule: [{cron: "0 5 1 * *", timezone: Europe/Paris, overlap: skip}]
timeout: 10m
---
name: billing/start
chain:
  - task: billing/close-month
`

func files(contents ...string) (list []client.File) {
	for i, content := range contents {
		list = append(list, client.File{Name: string(rune('a'+i)) + ".yaml", Content: content})
	}
	return list
}

func TestApplyIsIdempotent(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	apply := func(content string, dry bool) map[string]client.Change {
		result, err := f.ApplyTasks(ctx, client.ApplyRequest{Files: files(content), DryRun: dry})
		require.NoError(t, err)
		changes := map[string]client.Change{}
		for _, r := range result.Results {
			changes[r.Name] = r.Change
		}
		return changes
	}
	created := map[string]client.Change{"billing/close-month": client.Created, "billing/start": client.Created}
	require.Equal(t, created, apply(twoTasks, true))
	tasks, err := f.Tasks(ctx)
	require.NoError(t, err)
	require.Empty(t, tasks, "a dry run writes nothing")
	require.Equal(t, created, apply(twoTasks, false))
	require.Equal(t, map[string]client.Change{"billing/close-month": client.Unchanged, "billing/start": client.Unchanged}, apply(twoTasks, false))
	require.Equal(t, map[string]client.Change{"billing/start": client.Updated}, apply("name: billing/start\nchain: [[nop]]\n", false))

	found, err := f.Task(ctx, "billing/close-month")
	require.NoError(t, err)
	require.Equal(t, "10m0s", found.Timeout.String())
	require.Len(t, found.Schedule, 1)
	require.Equal(t, "Europe/Paris", found.Schedule[0].Timezone)

	paused, err := f.PauseTask(ctx, "billing/close-month", "holidays")
	require.NoError(t, err)
	require.True(t, paused.Paused)
	require.Equal(t, "holidays", paused.Note)
	resumed, err := f.ResumeTask(ctx, "billing/close-month")
	require.NoError(t, err)
	require.False(t, resumed.Paused)
	require.NoError(t, f.DeleteTask(ctx, "billing/close-month"))
	require.Equal(t, task.CodeNotFound, task.CodeOf(f.DeleteTask(ctx, "billing/close-month")))
	_, err = f.Task(ctx, "billing/close-month")
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
}

func TestApplyRefusesAllOrNothing(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	_, err := f.ApplyTasks(ctx, client.ApplyRequest{Files: files("name: old/a\nchain: [{task: old/b}]\n")})
	require.NoError(t, err, "a task that does not exist yet may be called")
	before, err := f.Tasks(ctx)
	require.NoError(t, err)
	const good = "name: good\nchain: [[nop]]\n"
	for name, c := range map[string]struct {
		files   []client.File
		where   string
		message string
	}{
		"malformed YAML":            {files(good, "name: [\n"), "b.yaml:", ""},
		"unknown field":             {files(good, "name: x\nchian: [[nop]]\n"), "b.yaml:2", "chian"},
		"unknown action":            {files(good, "name: x\nchain: [{coll: a:b}]\n"), "b.yaml:2", "coll"},
		"two tasks in one file":     {files(good + "---\n" + good), "a.yaml:", "good"},
		"two tasks in two files":    {files(good, good), "b.yaml:1", "a.yaml:1"},
		"cron that never fires":     {files(good, "name: x\nchain: [[nop]]\nschedule: [{cron: \"0 0 30 2 *\"}]\n"), "b.yaml:3:19", "schedule[0].cron: "},
		"each schedule":             {files("name: x\nchain: [[nop]]\nschedule: [{cron: nightly}, {cron: \"@daily\", timezone: Mars/Base}]\n"), "a.yaml:3:19", "a.yaml:3:56: schedule[1].timezone: "},
		"each name twice":           {files(good, good+"---\nname: x\nchain: [[nip]]\n"), "b.yaml:5:10", "b.yaml:1: task good is defined twice"},
		"unknown time zone":         {files(good, "name: x\nchain: [[nop]]\nschedule: [{cron: \"@daily\", timezone: Mars/Base}]\n"), "b.yaml:3:39", "schedule[0].timezone: "},
		"a cycle":                   {files(good, "name: x\nchain: [{task: y}]\n---\nname: y\nchain: [{task: x}]\n"), "b.yaml:2:16", "x -> y -> x"},
		"a task that starts itself": {files("name: x\nchain: [{task: x}]\n"), "a.yaml:2:16", "x -> x"},
		"a cycle over an old task":  {files(good, "name: old/b\nchain: [{task: old/a}]\n"), "b.yaml:2:16", "old/a -> old/b -> old/a"},
		"a raw time":                {files(good, "name: x\nchain: [[nop]]\nschedule:\n  - {at: tomorrow}\n"), "b.yaml:4:10", "tomorrow"},
		"an offset too long":        {files(good, "name: x\nchain: [[nop]]\nschedule:\n  - every: 60s\n    offset: 60s\n"), "b.yaml:5:13", "not shorter"},
		"a day that no month has":   {files(good, "name: x\nchain: [[nop]]\nschedule:\n  - calendar: {times: [\"08:00\"], days: [1, 31], months: [feb]}\n"), "b.yaml:4:44", "never fires"},
		"no such calendar":          {files(good, "name: x\nchain: [[nop]]\nschedule:\n  - cron: \"@daily\"\n    exclude: [gone]\n"), "b.yaml:5:15", "no calendar gone"},
		"exclusions leave nothing":  {files("calendar: c\ndays: [\"--01-01/--12-31\"]\n", "name: x\nchain: [[nop]]\nschedule: [{cron: \"@daily\", exclude: [c]}]\n"), "b.yaml:3:38", "never fires"},
		"a bad day":                 {files(good, "calendar: c\ndays: [2026-12-25, 2026-02-30]\n"), "b.yaml:2:20", "2026-02-30"},
		"a calendar twice":          {files("calendar: c\ndays: []\n", "calendar: c\ndays: []\n"), "b.yaml:1", "a.yaml:1"},
		"iCalendar was not sent":    {files(good, "calendar: c\nical: h.ics\n"), "b.yaml:2:7", "h.ics"},
		"no task":                   {files(""), "", "no task"},
		"a bad name":                {files("name: Big\nchain: [[nop]]\n"), "a.yaml:1", "Big"},
	} {
		for _, dry := range []bool{true, false} {
			_, err := f.ApplyTasks(ctx, client.ApplyRequest{Files: c.files, DryRun: dry})
			require.Equal(t, task.CodeInvalid, task.CodeOf(err), "%s: %v", name, err)
			var e *task.Error
			require.ErrorAs(t, err, &e)
			require.Contains(t, e.Where, c.where, "%s: %v", name, err)
			require.Contains(t, e.Message, c.message, "%s: %v", name, err)
		}
	}
	after, err := f.Tasks(ctx)
	require.NoError(t, err)
	require.Equal(t, before, after)
	_, err = f.ApplyTasks(ctx, client.ApplyRequest{Files: []client.File{}})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	rows, _ := f.audited()
	require.Len(t, rows, 1, "what is refused is not audited as done")
}

func TestAViewerMayTryAnApply(t *testing.T) {
	t.Parallel()
	f := start(t)
	viewer := f.as(auth.Viewer)
	request := client.ApplyRequest{Files: files("name: demo\nchain: [[nop]]\n"), DryRun: true}
	result, err := viewer.ApplyTasks(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, []client.Applied{{Name: "demo", Change: client.Created}}, result.Results)
	request.DryRun = false
	_, err = viewer.ApplyTasks(t.Context(), request)
	require.Equal(t, task.CodeForbidden, task.CodeOf(err))
	require.ErrorContains(t, err, "applying tasks needs the role operator; this token is a viewer")
	rows, _ := f.audited()
	require.Empty(t, rows, "nothing was changed")
	tasks, err := f.Tasks(t.Context())
	require.NoError(t, err)
	require.Empty(t, tasks)
}

func TestTaskNamesAreEscaped(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("a/b/c")
	found, err := f.Task(t.Context(), "a/b/c")
	require.NoError(t, err)
	require.Equal(t, "a/b/c", found.Name)
	for _, name := range []string{"../tasks", "a b", "%2e%2e", "ü", ".", ".."} {
		_, err := f.Task(t.Context(), name)
		require.Equal(t, task.CodeNotFound, task.CodeOf(err), "%q: %v", name, err)
	}
	status, _ := f.ask(http.MethodGet, "/api/v1/tasks/a%2Fb%2Fc", f.tokens[auth.Viewer], "")
	require.Equal(t, http.StatusOK, status)
}
