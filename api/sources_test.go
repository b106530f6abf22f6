package api_test

import (
	"net/http"
	"testing"

	"github.com/catena-run/catena/api"
	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/stretchr/testify/require"
)

const dueInvoices = `source: billing/due
http:
  url: http://127.0.0.1:9/work
  headers: {Authorization: "Bearer ${env.SOURCE_TOKEN}"}
every: 5s
task: billing/close
---
source: inbox
call: inbox:source?work
loop: false
---
name: billing/note
chain: [["nop"]]
`

func TestSources(t *testing.T) {
	t.Parallel()
	f := start(t, func(d *api.Deps, _ *api.Config) {
		d.Variable = func(name string) (string, bool) { return "", name == "SOURCE_SET" }
	})
	ctx := t.Context()
	request := client.ApplyRequest{Files: []client.File{{Name: "a.yaml", Content: dueInvoices}}}
	request.DryRun = true
	result, err := f.as(auth.Viewer).ApplyTasks(ctx, request)
	require.NoError(t, err)
	require.Len(t, result.Results, 3)
	require.Empty(t, must(f.Sources(ctx)))
	request.DryRun = false
	result, err = f.ApplyTasks(ctx, request)
	require.NoError(t, err)
	warnings := map[string]string{}
	for _, r := range result.Results {
		require.Equal(t, client.Created, r.Change)
		for _, w := range r.Warnings {
			warnings[r.Kind+" "+r.Name] += w.Where + " " + w.Message
		}
	}
	require.Equal(t, map[string]string{"source billing/due": "a.yaml:6:7 there is no task billing/closea.yaml:4:28 the environment of the master that was asked has no variable SOURCE_TOKEN", "source inbox": "a.yaml:9:7 there is no package inbox"}, warnings)
	result, err = f.ApplyTasks(ctx, request)
	require.NoError(t, err)
	for _, r := range result.Results {
		require.Equal(t, client.Unchanged, r.Change, r.Name)
	}

	viewer := f.as(auth.Viewer)
	one, err := viewer.Source(ctx, "billing/due")
	require.NoError(t, err)
	require.Equal(t, "Bearer ${env.SOURCE_TOKEN}", one.HTTP.Headers["Authorization"])
	require.Equal(t, task.SourceReady, one.Status)
	require.Len(t, must(viewer.Sources(ctx)), 2)

	lease, won, err := f.store.Campaign(ctx, "test")
	require.NoError(t, err)
	require.True(t, won)
	turns, err := f.store.DueSources(ctx, store.DueFilter{Limit: 100})
	require.NoError(t, err)
	for _, turn := range turns {
		_, err = f.store.AcceptItems(ctx, lease.Term, turn, store.SourceAnswer{Items: []store.NewItem{{Key: "a", Task: "billing/note"}, {Key: "b", Task: "nobody"}}})
		require.NoError(t, err)
	}
	items, err := viewer.SourceItems(ctx, "inbox", client.SourceItemFilter{})
	require.NoError(t, err)
	require.Len(t, items, 2)
	items, err = viewer.SourceItems(ctx, "inbox", client.SourceItemFilter{States: []task.SourceItemState{task.ItemRefused, task.ItemEnded}, Limit: 5})
	require.NoError(t, err)
	require.Len(t, items, 1)
	require.Equal(t, "b", items[0].Key)
	require.Nil(t, items[0].Run)
	status, _ := f.refused(http.MethodGet, "/api/v1/sources/inbox/items?state=lost", f.tokens[auth.Viewer], "")
	require.Equal(t, http.StatusBadRequest, status)

	for name, change := range map[string]func(*client.Client) error{
		"pause":  func(c *client.Client) error { _, err := c.PauseSource(ctx, "inbox", "why"); return err },
		"resume": func(c *client.Client) error { _, err := c.ResumeSource(ctx, "inbox"); return err },
		"poll":   func(c *client.Client) error { _, err := c.PollSource(ctx, "billing/due"); return err },
		"delete": func(c *client.Client) error { return c.DeleteSource(ctx, "billing/due", true) },
	} {
		require.Equal(t, task.CodeForbidden, task.CodeOf(change(viewer)), name)
	}
	operator := f.as(auth.Operator)
	one, err = operator.PauseSource(ctx, "inbox", "why")
	require.NoError(t, err)
	require.Equal(t, task.SourcePaused, one.Status)
	_, err = operator.PollSource(ctx, "inbox")
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	_, err = operator.ResumeSource(ctx, "inbox")
	require.NoError(t, err)
	_, err = operator.PollSource(ctx, "inbox")
	require.NoError(t, err)
	require.Equal(t, task.CodeConflict, task.CodeOf(operator.DeleteSource(ctx, "inbox", false)))
	require.NoError(t, operator.DeleteSource(ctx, "inbox", true))
	require.Equal(t, task.CodeNotFound, task.CodeOf(operator.DeleteSource(ctx, "inbox", true)))
	rows, _ := f.audited()
	require.Contains(t, rows, "the-operator pause-source inbox")
	require.Contains(t, rows, "the-operator delete-source inbox")
}

func TestSourcesThatAreRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	_, err := f.ApplyTasks(ctx, client.ApplyRequest{Files: []client.File{
		{Name: "a.yaml", Content: "source: a\ncall: p:m?f\n"}, {Name: "b.yaml", Content: "source: a\ncall: p:m?g\n"}}})
	require.ErrorContains(t, err, "source a is defined twice, the first time at a.yaml:1")
	_, err = f.ApplyCalendars(ctx, client.ApplyRequest{Files: []client.File{{Name: "a.yaml", Content: "source: a\ncall: p:m?f\n"}}})
	require.ErrorContains(t, err, "catena task apply")
	_, err = f.ApplyTasks(ctx, client.ApplyRequest{Files: []client.File{{Name: "a.yaml", Content: "name: source-poll/a\nchain: [[nop]]\n"}}})
	require.ErrorContains(t, err, "kept for the runs of a source")
	require.Empty(t, must(f.Sources(ctx)))
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
