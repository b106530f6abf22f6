package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// runServer accepts runs by key, as the API does. A run whose params hold
// "fail" fails; after it has accepted acceptOnly batches it refuses.
type runServer struct {
	mu         sync.Mutex
	runs       map[string]uuid.UUID // by key
	params     map[uuid.UUID]string
	batches    int
	acceptOnly int
}

func newRunServer() *runServer {
	return &runServer{runs: map[string]uuid.UUID{}, params: map[uuid.UUID]string{}, acceptOnly: 1 << 30}
}

func (s *runServer) accept(r client.RunRequest) (uuid.UUID, bool) {
	if id, ok := s.runs[r.Key]; ok {
		return id, true
	}
	id := uuid.New()
	s.runs[r.Key] = id
	s.params[id] = string(r.Params)
	return id, false
}

func (s *runServer) run(id uuid.UUID) task.Run {
	run := task.Run{ID: id, Task: "t", State: task.StateSucceeded, Attempt: 1, Params: json.RawMessage(s.params[id]), Queue: "default"}
	if strings.Contains(s.params[id], "fail") {
		run.State, run.Reason = task.StateFailed, "it said so"
	}
	return run
}

func (s *runServer) routes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"POST /api/v1/tasks/t/runs":       s.one,
		"POST /api/v1/tasks/t/runs/batch": s.batch,
		"POST /api/v1/runs/wait":          s.wait,
		"GET /api/v1/runs/{id}": func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			answer(200, s.run(uuid.MustParse(r.PathValue("id"))))(w, r)
		},
	}
}

func (s *runServer) one(w http.ResponseWriter, r *http.Request) {
	var request client.RunRequest
	_ = json.NewDecoder(r.Body).Decode(&request)
	s.mu.Lock()
	defer s.mu.Unlock()
	id, duplicate := s.accept(request)
	run, status := s.run(id), 201
	run.State = task.StateQueued
	if duplicate {
		status = 200
	}
	answer(status, run)(w, r)
}

func (s *runServer) batch(w http.ResponseWriter, r *http.Request) {
	var request client.BatchRequest
	_ = json.NewDecoder(r.Body).Decode(&request)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.batches++; s.batches > s.acceptOnly {
		refuse(409, task.CodeConflict, "no more", "")(w, r)
		return
	}
	var result client.BatchResult
	for _, one := range request.Runs {
		id, duplicate := s.accept(one)
		result.IDs = append(result.IDs, id)
		if duplicate {
			result.Duplicates++
		}
	}
	answer(200, result)(w, r)
}

func (s *runServer) wait(w http.ResponseWriter, r *http.Request) {
	var request client.WaitRequest
	_ = json.NewDecoder(r.Body).Decode(&request)
	s.mu.Lock()
	defer s.mu.Unlock()
	result := client.WaitResult{Done: []client.Ended{}}
	for _, id := range request.IDs {
		result.Done = append(result.Done, client.Ended{ID: id, State: s.run(id).State})
	}
	answer(200, result)(w, r)
}

func TestRunParams(t *testing.T) {
	t.Parallel()
	server := newRunServer()
	s := shellOn(t, server.routes())
	file := filepath.Join(t.TempDir(), "params.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"a": 1, "b": "file"}`), 0o600))
	s.in = `{"a": "stdin"}`
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"json or text":    {[]string{"--param", "n=3", "--param", "s=world", "--param", "l=[1]", "--param", `q="3"`, "--param", "e=", "--param", "x=a=b"}, `{"n":3,"s":"world","l":[1],"q":"3","e":"","x":"a=b"}`},
		"file, overruled": {[]string{"--params", file, "--param", "b=2"}, `{"a":1,"b":2}`},
		"standard input":  {[]string{"--params", "-"}, `{"a":"stdin"}`},
	} {
		t.Run(name, func(t *testing.T) {
			got := s.run(append([]string{"task", "run", "t", "--json", "--wait"}, test.args...)...)
			require.Equal(t, 0, got.code, got.err)
			var run task.Run
			require.NoError(t, json.Unmarshal([]byte(got.out), &run))
			require.JSONEq(t, test.want, string(run.Params))
			require.Equal(t, task.StateSucceeded, run.State)
		})
	}
	require.NoError(t, os.WriteFile(file, []byte(`[1]`), 0o600))
	got := s.run("task", "run", "t", "--params", file)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, file+": params are no JSON object")
}

func TestRunAt(t *testing.T) {
	t.Parallel()
	var body client.RunRequest
	s := shellOn(t, map[string]http.HandlerFunc{"POST /api/v1/tasks/t/runs": func(w http.ResponseWriter, r *http.Request) {
		body = client.RunRequest{}
		_ = json.NewDecoder(r.Body).Decode(&body)
		answer(201, task.Run{ID: uuid.New(), State: task.StateQueued, Task: "t"})(w, r)
	}})
	got := s.run("task", "run", "t", "--at", "+10m", "--key", "k")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "of t is queued; follow it with catena runs logs -f")
	require.Equal(t, "2026-11-22T12:10:00Z", body.At.Format("2006-01-02T15:04:05Z07:00"))
	require.Equal(t, "k", body.Key)
	s.run("task", "run", "t", "--at", "2026-12-01T00:00:00Z")
	require.Equal(t, 12, int(body.At.Month()))
}

func TestAFailedRunExits1(t *testing.T) {
	t.Parallel()
	s := shellOn(t, newRunServer().routes())
	got := s.run("task", "run", "t", "--param", "do=fail", "--wait", "--json")
	require.Equal(t, 1, got.code)
	require.Empty(t, got.err)
	require.Contains(t, got.out, `"state":"failed"`)
	got = s.run("task", "run", "t", "--param", "do=fail", "--wait")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.out, "it said so")
	require.Equal(t, 0, s.run("task", "run", "t", "--param", "do=fail").code, "without --wait the start is what counts")
}

func TestInterruptedWaitSaysThatTheRunGoesOn(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	id := uuid.New()
	s := shellOn(t, map[string]http.HandlerFunc{
		"POST /api/v1/tasks/t/runs": answer(201, task.Run{ID: id, State: task.StateQueued}),
		"GET /api/v1/runs/{id}": func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		},
	})
	s.ctx = ctx
	got := s.run("task", "run", "t", "--wait")
	require.Equal(t, 130, got.code)
	require.Contains(t, got.err, "goes on")
	require.Contains(t, got.err, "catena runs cancel "+id.String())
}

func TestAMisspeltParamIsWarnedOf(t *testing.T) {
	t.Parallel()
	routes := newRunServer().routes()
	params := `{"month":"2026-11","dry":false}`
	routes["GET /api/v1/tasks/t"] = func(w http.ResponseWriter, r *http.Request) {
		answer(200, task.Task{Definition: task.Definition{Name: "t", Params: json.RawMessage(params)}})(w, r)
	}
	s := shellOn(t, routes)
	got := s.run("task", "run", "t", "--param", "mnoth=2026-12", "--param", "dry=true", "--param", "unlike=1")
	require.Equal(t, 0, got.code, "the chain may read it")
	require.Equal(t, "warning: task t names no param \"mnoth\"; did you mean month?\nwarning: task t names no param \"unlike\"; its params are dry, month\n", got.err)
	got = s.run("task", "run", "t", "--param", "mnoth=2026-12", "--json")
	require.Equal(t, 0, got.code)
	require.JSONEq(t, `{"note":"warning: task t names no param \"mnoth\"; did you mean month?"}`, got.err)
	require.True(t, json.Valid([]byte(got.out)))
	require.Empty(t, s.run("task", "run", "t", "--param", "month=2026-12").err)
	params = `{}`
	require.Empty(t, s.run("task", "run", "t", "--param", "mnoth=1").err, "a task that names none takes any")
}

func TestAnInvalidScheduleShowsInTheList(t *testing.T) {
	t.Parallel()
	s := shellOn(t, map[string]http.HandlerFunc{"GET /api/v1/tasks": answer(200, []task.Task{
		{Definition: task.Definition{Name: "good", Schedule: []task.Schedule{{Cron: "@daily"}}}},
		{Definition: task.Definition{Name: "bad", Schedule: []task.Schedule{{Cron: "@daily"}, {Cron: "0 0 30 2 *", Invalid: "it never fires"}}}},
	})})
	out := s.run("task", "list").out
	require.Regexp(t, `(?m)^good +ready +@daily`, out)
	require.Regexp(t, `(?m)^bad +invalid schedule +@daily; 0 0 30 2 \*`, out)
}

func TestWaitingEndsAtItsTimeout(t *testing.T) {
	t.Parallel()
	s := shellOn(t, map[string]http.HandlerFunc{
		"POST /api/v1/tasks/t/runs": answer(201, task.Run{ID: uuid.New(), State: task.StateQueued}),
		"GET /api/v1/runs/{id}":     func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	})
	got := s.run("task", "run", "t", "--wait", "--timeout", "20ms", "--json")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, `"code":"timeout"`)
	require.Contains(t, got.err, "goes on")
}

// jsonl writes n lines, of which those in fail make their run fail.
func jsonl(t *testing.T, n int, fail ...int) string {
	t.Helper()
	var text bytes.Buffer
	for i := 1; i <= n; i++ {
		word := "ok"
		for _, f := range fail {
			if f == i {
				word = "fail"
			}
		}
		fmt.Fprintf(&text, "{\"line\":%d,\"do\":%q}\n", i, word)
	}
	file := filepath.Join(t.TempDir(), "many.jsonl")
	require.NoError(t, os.WriteFile(file, text.Bytes(), 0o600))
	return file
}

type batchOutput struct {
	Batch                                string
	Count, Duplicates, Succeeded, Failed int
	Seconds                              *float64
}

func readBatch(t *testing.T, got result) batchOutput {
	t.Helper()
	var out batchOutput
	require.NoError(t, json.Unmarshal([]byte(got.out), &out), got.out+got.err)
	return out
}

func TestBatch(t *testing.T) {
	t.Parallel()
	server := newRunServer()
	s := shellOn(t, server.routes())
	got := s.run("task", "run", "t", "--from", jsonl(t, 1234), "--wait", "--json")
	require.Equal(t, 0, got.code, got.err)
	out := readBatch(t, got)
	require.Equal(t, 1234, out.Count)
	require.Equal(t, 1234, out.Succeeded)
	require.NotNil(t, out.Seconds)
	require.Equal(t, 3, server.batches)
	require.Len(t, server.runs, 1234)
	require.Contains(t, server.runs, out.Batch+":1")
	require.Contains(t, server.runs, out.Batch+":1234")
	require.Contains(t, got.err, "--batch "+out.Batch)

	got = s.run("task", "run", "t", "--from", jsonl(t, 10), "--json")
	require.Equal(t, 0, got.code)
	require.NotContains(t, got.out, "succeeded", "nothing was waited for")
	got = s.run("task", "run", "t", "--from", jsonl(t, 10, 3), "--wait")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.out, "9 succeeded, 1 failed")
}

func TestBatchFromStandardInputWithBlankLines(t *testing.T) {
	t.Parallel()
	server := newRunServer()
	s := shellOn(t, server.routes())
	s.in = "{}\n\n  \n{\"a\":1}" // no newline at the end
	got := s.run("task", "run", "t", "--from", "-", "--batch", "b1", "--json")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, 2, readBatch(t, got).Count)
	require.Contains(t, server.runs, "b1:1")
	require.Contains(t, server.runs, "b1:4", "keys follow the lines of the file")
}

func TestAnInterruptedBatchGoesOnWithoutDoubling(t *testing.T) {
	t.Parallel()
	server := newRunServer()
	server.acceptOnly = 2
	s := shellOn(t, server.routes())
	file := jsonl(t, 5000)
	got := s.run("task", "run", "t", "--from", file, "--batch", "b1", "--json")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "at least 1000 of 5000 runs are accepted")
	require.Contains(t, got.err, "catena task run t --from "+file+" --batch b1")
	for line := range strings.Lines(got.err) {
		require.True(t, json.Valid([]byte(line)), "with --json every line is JSON: %s", line)
	}
	require.Len(t, server.runs, 1000)

	server.acceptOnly = 1 << 30
	got = s.run("task", "run", "t", "--from", file, "--batch", "b1", "--wait", "--json")
	require.Equal(t, 0, got.code, got.err)
	out := readBatch(t, got)
	require.Equal(t, 5000, out.Count)
	require.Equal(t, 1000, out.Duplicates)
	require.Len(t, server.runs, 5000)
}

func TestABadLineStartsNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"no JSON":    {strings.Repeat("{}\n", 600) + "{\n", ":601: params are no JSON object"},
		"no object":  {"{}\n[1]\n", ":2: params are no JSON object"},
		"null":       {"null\n", ":1: params are no JSON object"},
		"two values": {"{} {}\n", ":1: params are no JSON object"},
		"too long":   {"{}\n{\"a\":\"" + strings.Repeat("x", 9<<20) + "\"}\n", ":2: the line is longer than 8 MiB"},
		"empty":      {"\n\n", "the file holds no line"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "bad.jsonl")
			require.NoError(t, os.WriteFile(file, []byte(test.text), 0o600))
			server := newRunServer()
			got := shellOn(t, server.routes()).run("task", "run", "t", "--from", file)
			require.Equal(t, 1, got.code)
			require.Contains(t, got.err, test.want)
			require.Contains(t, got.err, file)
			require.Zero(t, server.batches)
		})
	}
	got := newShell(t).run("task", "run", "t", "--from", "no/such.jsonl")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "no/such.jsonl")
}

func TestApplyReadsAFolder(t *testing.T) {
	t.Parallel()
	var body client.ApplyRequest
	s := shellOn(t, map[string]http.HandlerFunc{"POST /api/v1/tasks/apply": func(w http.ResponseWriter, r *http.Request) {
		body = client.ApplyRequest{}
		_ = json.NewDecoder(r.Body).Decode(&body)
		answer(200, client.ApplyResult{Results: []client.Applied{{Name: "a", Change: client.Created}, {Name: "bb", Change: client.Unchanged}}})(w, r)
	}})
	dir := t.TempDir()
	for path, text := range map[string]string{"b.yml": "b", "a.yaml": "a", "sub/c.json": "c", "notes.txt": "x", ".git/d.yaml": "x", ".hidden.yaml": "x"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600))
	}
	got := s.run("task", "apply", "-f", dir, "--dry-run")
	require.Equal(t, result{0, "a   created (dry run)\nbb  unchanged (dry run)\n", ""}, got)
	require.True(t, body.DryRun)
	var names []string
	for _, f := range body.Files {
		names = append(names, strings.TrimPrefix(f.Name, dir+"/")+"="+f.Content)
	}
	require.Equal(t, []string{"a.yaml=a", "b.yml=b", "sub/c.json=c"}, names)

	s.in = "from stdin"
	require.JSONEq(t, `{"results":[{"name":"a","change":"created"},{"name":"bb","change":"unchanged"}]}`, s.run("task", "apply", "-f", "-", "--json").out)
	require.Equal(t, []client.File{{Name: "stdin", Content: "from stdin"}}, body.Files)

	got = s.run("task", "apply", "-f", t.TempDir())
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "no task file is below the folder")
	require.Equal(t, 1, s.run("task", "apply", "-f", filepath.Join(dir, "nope.yaml")).code)
}

func TestTaskChanges(t *testing.T) {
	t.Parallel()
	var seen []string
	s := shellOn(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, r.Method+" "+r.URL.EscapedPath()+" "+string(body))
		answer(200, task.Task{Definition: task.Definition{Name: "a/b"}})(w, r)
	}})
	require.Contains(t, s.run("task", "pause", "a/b", "--note", "why").out, "a/b is paused")
	require.Contains(t, s.run("task", "resume", "a/b").out, "a/b is resumed")
	require.Contains(t, s.run("task", "delete", "a/b").out, "a/b is deleted")
	require.JSONEq(t, `{"name":"a/b","deleted":true}`, s.run("task", "delete", "a/b", "--json").out)
	require.Equal(t, `POST /api/v1/tasks/a%2Fb/pause {"note":"why"}`, seen[0])
	require.True(t, strings.HasPrefix(seen[1], "POST /api/v1/tasks/a%2Fb/resume"))
	require.True(t, strings.HasPrefix(seen[2], "DELETE /api/v1/tasks/a%2Fb"))
}

func TestLogs(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	s := shellOn(t, map[string]http.HandlerFunc{
		"GET /api/v1/runs/{id}": answer(200, task.Run{ID: id, State: task.StateSucceeded}),
		"GET /api/v1/runs/{id}/logs": func(w http.ResponseWriter, r *http.Request) {
			lines := map[string][]task.LogLine{
				"":  {{Seq: 1, At: now(), Level: "info", Step: "greeting", Message: "hello"}},
				"1": {{Seq: 5, At: now(), Level: "error", Message: "bad\x1b[2J"}},
			}[r.URL.Query().Get("after")]
			answer(200, list(lines))(w, r)
		},
	})
	want := "12:00:00.000 INFO  [greeting] hello\n12:00:00.000 ERROR bad?[2J\n"
	require.Equal(t, result{0, want, ""}, s.run("runs", "logs", id.String()))
	require.Equal(t, result{0, want, ""}, s.run("runs", "logs", "-f", id.String()))
	var lines []task.LogLine
	require.NoError(t, json.Unmarshal([]byte(s.run("runs", "logs", id.String(), "--json").out), &lines))
	require.Len(t, lines, 2)
	require.Equal(t, 2, strings.Count(s.run("runs", "logs", "-f", id.String(), "--json").out, `"seq":`))
}

func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
