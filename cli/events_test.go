package cli_test

import (
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

func TestEventsAndApprovals(t *testing.T) {
	t.Parallel()
	expires := time.Now().Add(time.Hour)
	waiting := sampleRun()
	waiting.State, waiting.Reason = task.StateWaiting, ""
	waiting.Wait = &task.Waiting{Kind: task.WaitEvent, Path: "1", Name: "paid", Key: "7"}
	s := shellOn(t, map[string]http.HandlerFunc{
		"POST /api/v1/events":            answer(201, client.SentEvent{Event: task.Event{ID: 3, Name: "paid", ExpiresAt: expires}}),
		"GET /api/v1/events":             answer(200, []task.Event{{ID: 3, Name: "paid", Key: "7", SentBy: "shop", Data: []byte(`{"sum":4}`)}}),
		"GET /api/v1/runs":               answer(200, []task.Run{waiting}),
		"POST /api/v1/runs/{id}/approve": answer(200, waiting),
	})
	got := s.run("event", "send", "paid", "--key", "7", "--data", `{"sum":4}`)
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "no run waits for it now; it is kept until ")
	require.Contains(t, got.out, " for runs that began before it")
	file := filepath.Join(t.TempDir(), "data.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"sum":4}`), 0o600))
	require.Equal(t, 0, s.run("event", "send", "paid", "--data", "@"+file).code)
	require.Contains(t, s.run("event", "send", "paid", "--json").out, `"reached":0`)
	for _, args := range [][]string{
		{"event", "send"}, {"event", "send", "paid", "--data", "paid"}, {"event", "send", "paid", "--data", "@no/such"}, {"event", "list", "--limit", "0"},
		{"runs", "approve", "x"}, {"runs", "list", "--waiting-for", "godot"},
	} {
		require.Equal(t, 2, s.run(args...).code, args)
	}
	require.Contains(t, s.run("event", "list").out, `3   paid  7    `)
	require.Contains(t, s.run("runs", "list", "--waiting-for", "event").out, "waits for event paid with key 7")
	require.Contains(t, s.run("runs", "approve", waiting.ID.String(), "--reject").out, "is rejected: the step that waited fails")
}

func TestTheTreeOfARun(t *testing.T) {
	t.Parallel()
	root, index := uuid.MustParse("0190aaaa-0000-7000-8000-000000000001"), 4
	child := uuid.MustParse("0190aaaa-0000-7000-8000-000000000002")
	other := sampleRun()
	other.ID, other.Parent, other.ParentPath, other.State, other.Reason = child, &root, "2", task.StateSucceeded, ""
	s := shellOn(t, map[string]http.HandlerFunc{
		"GET /api/v1/runs/{id}/tree": answer(200, task.RunNode{ID: root, Task: "fan", State: task.StateWaiting, More: 7,
			Counts:   map[task.State]int{task.StateFailed: 1, task.StateRunning: 7},
			Children: []task.RunNode{{ID: child, Task: "fan", Path: "2", Index: &index, State: task.StateFailed, Reason: "no"}}}),
		"GET /api/v1/runs": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("parent") == root.String() && r.URL.Query().Get("before") == "" {
				answer(200, []task.Run{other})(w, r)
				return
			}
			answer(200, []task.Run{})(w, r)
		},
	})
	require.Equal(t, root.String()+"  fan  waiting\nchildren: 7 running, 1 failed\n├─ "+child.String()+"  fan  item 2[4]  failed: no\n└─ and 7 more; see them with --all\n",
		s.run("runs", "tree", root.String()).out)
	require.Equal(t, root.String()+"  fan  waiting\nchildren: 1 succeeded\n└─ "+child.String()+"  hello/fail  item 2  succeeded\n",
		s.run("runs", "tree", root.String(), "--all").out)
}
