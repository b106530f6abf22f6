package cli_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/task"
)

func TestSourceCommands(t *testing.T) {
	t.Parallel()
	next, polled, loop := now().Add(5*time.Second), now().Add(-time.Minute), true
	run := uuid.MustParse("01a2034a-b9b0-7000-80ec-e7a8eb2edba3")
	due := task.Source{
		SourceDefinition: task.SourceDefinition{Name: "billing/due", Description: "invoices", HTTP: &task.SourceHTTP{URL: "https://b.internal/work", Method: "POST",
			Headers: map[string]string{"Authorization": "Bearer ${env.SOURCE_TOKEN}"}}, Every: task.Duration(10 * time.Second), Loop: &loop, Limit: 100,
			Timeout: task.Duration(30 * time.Second), Queue: "default", Task: "billing/close", Params: json.RawMessage(`{}`), Runtime: "eu-1"},
		Status: task.SourceFailing, NextPollAt: &next, PolledAt: &polled, Error: "the endpoint answered 500", Running: 3, Ended: 1, Refused: 1, Listed: 7,
	}
	once := false
	inbox := task.Source{SourceDefinition: task.SourceDefinition{Name: "inbox", Call: "inbox:source?work", Loop: &once}, Status: task.SourceDone}
	items := []task.SourceItem{
		{Source: "billing/due", Key: "inv-1", Attempt: 2, State: task.ItemEnded, Result: task.StateFailed, Task: "billing/close", Run: &run, StartedAt: polled, Error: "no answer"},
		{Source: "billing/due", Key: "inv-2", Attempt: 1, State: task.ItemRefused, Task: "billing/clsoe", Reason: "there is no task", StartedAt: polled},
	}
	s := shellOn(t, map[string]http.HandlerFunc{
		"GET /api/v1/sources":                answer(200, []task.Source{due, inbox}),
		"GET /api/v1/sources/{name}":         answer(200, due),
		"GET /api/v1/sources/{name}/items":   answer(200, items),
		"POST /api/v1/sources/{name}/pause":  answer(200, due),
		"POST /api/v1/sources/{name}/resume": answer(200, due),
		"POST /api/v1/sources/{name}/poll":   refuse(409, task.CodeConflict, "source billing/due is paused", "catena source resume billing/due"),
		"DELETE /api/v1/sources/{name}": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("force") != "true" {
				refuse(409, task.CodeConflict, "4 items", "use --force")(w, r)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		},
	})
	require.Equal(t, `NAME         STATUS   ASKS                     NEXT   POLLED  RUNNING  UNRECORDED  PROBLEM
billing/due  failing  https://b.internal/work  in 5s  60s     3        2           the endpoint answered 500
inbox        done     inbox:source?work                       0        0
`, s.run("source", "list").out)
	shown := s.run("source", "show", "billing/due")
	require.Equal(t, 0, shown.code, shown.err)
	for _, want := range []string{"failing", "POST https://b.internal/work", "every 10s after the last poll, at most 100 items within 30s", "3 running, 1 ended and 1 refused",
		"inv-1  2        ended    failed  billing/close  " + run.String() + "  60s      no answer", "there is no task"} {
		require.Contains(t, shown.out, want)
	}
	var asJSON struct {
		Name  string
		Items []task.SourceItem
	}
	require.NoError(t, json.Unmarshal([]byte(s.run("source", "show", "billing/due", "--json").out), &asJSON))
	require.Equal(t, "billing/due", asJSON.Name)
	require.Len(t, asJSON.Items, 2)

	// What --document prints is a document of a task file again.
	read, err := chain.ParseFile("again.json", []byte(s.run("source", "show", "billing/due", "--document").out))
	require.NoError(t, err)
	require.Equal(t, due.SourceDefinition, read.Sources[0].Definition)

	require.Equal(t, "billing/due is paused; go on with catena source resume billing/due\n", s.run("source", "pause", "billing/due", "--note", "x").out)
	require.Equal(t, "billing/due is resumed\n", s.run("source", "resume", "billing/due").out)
	require.Contains(t, s.run("source", "poll", "billing/due").err, "catena source resume")
	require.Equal(t, 1, s.run("source", "delete", "billing/due").code)
	require.Equal(t, "billing/due is deleted\n", s.run("source", "delete", "billing/due", "--force").out)
	require.Contains(t, s.run("source", "show", "x", "--state", "runing").err, "did you mean running?")
	require.Equal(t, 2, s.run("source", "show", "x", "--limit", "0").code)
	require.Contains(t, s.run("__complete", "source", "show", "").out, "billing/due\tinvoices")
	require.Contains(t, s.run("__complete", "source", "show", "x", "--state", "").out, "refused")
}

func TestCheckReadsSources(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.in = "source: a\ncall: p:m?f\n---\nsource: b\nhttp: {url: \"ftp://x\"}\n---\nsource: c\ncall: p:m?f\ntask: nobody\n"
	got := s.run("check", "-f", "-")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.out, "error: stdin:5:13: http.url: the source's url is not the URL of an endpoint")
	require.Contains(t, got.out, "warning: stdin:9:7: there is no task nobody")
	require.Contains(t, got.out, "0 tasks and 2 sources in 1 file checked: 1 problem, 1 warning")
}
