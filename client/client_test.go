package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// serve returns a client of a server that answers with handler.
func serve(t *testing.T, handler http.HandlerFunc) *client.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return dial(t, client.Config{Server: server.URL, Token: "catena_a_b"})
}

func dial(t *testing.T, c client.Config) *client.Client {
	t.Helper()
	made, err := client.New(c)
	require.NoError(t, err)
	return made
}

func write(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

// hangUp closes the connection without an answer.
func hangUp(http.ResponseWriter) { panic(http.ErrAbortHandler) }

func TestNewRefusesBadConfig(t *testing.T) {
	t.Parallel()
	for _, server := range []string{"127.0.0.1:20081", "ftp://host", "http://", "http://h?x=1", "http://u:p@h", "http://h#f", "::"} {
		_, err := client.New(client.Config{Server: server})
		require.Equal(t, task.CodeInvalid, task.CodeOf(err), server)
		require.ErrorContains(t, err, "http://127.0.0.1:20081", "the error shows a good address")
	}
	_, err := client.New(client.Config{Token: "catena_a_b\n"})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	require.NotContains(t, err.Error(), "catena_a_b")
	require.Equal(t, "https://host/catena", dial(t, client.Config{Server: "https://host/catena/"}).Server())
}

func TestRequestCarriesWhatItShould(t *testing.T) {
	t.Parallel()
	var got *http.Request
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		write(w, 200, task.Task{Definition: task.Definition{Name: "billing/close"}})
	})
	found, err := c.Task(t.Context(), "billing/close")
	require.NoError(t, err)
	require.Equal(t, "billing/close", found.Name)
	require.Equal(t, "/api/v1/tasks/billing%2Fclose", got.URL.EscapedPath())
	require.Equal(t, "Bearer catena_a_b", got.Header.Get("Authorization"))
	require.Equal(t, "catena-client", got.Header.Get("User-Agent"))
}

func TestServerErrorKeepsItsFields(t *testing.T) {
	t.Parallel()
	want := client.ErrorDetail{Code: task.CodeConflict, Message: "it has ended", Where: "id", Remedy: "start another"}
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { write(w, 409, client.ErrorBody{Error: want}) })
	_, err := c.CancelRun(t.Context(), uuid.New(), "")
	var e *task.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, want, client.ErrorDetail{Code: e.Code, Message: e.Message, Where: e.Where, Remedy: e.Remedy})
}

func TestForeignAnswersGetACode(t *testing.T) {
	t.Parallel()
	for status, code := range map[int]task.Code{
		400: task.CodeInvalid, 401: task.CodeUnauthorized, 403: task.CodeForbidden, 404: task.CodeNotFound, 413: task.CodeTooLarge,
		418: task.CodeInternal, 500: task.CodeInternal, 502: task.CodeUnavailable, 503: task.CodeUnavailable, 504: task.CodeTimeout,
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>proxy</html>", status) })
		_, err := c.PauseTask(t.Context(), "demo", "")
		require.Equal(t, code, task.CodeOf(err), status)
		require.ErrorContains(t, err, "proxy")
	}
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") })
	_, err := c.Tasks(t.Context())
	require.Equal(t, task.CodeInternal, task.CodeOf(err))
	require.ErrorContains(t, err, "check that the address")
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	c := dial(t, client.Config{Server: "http://" + address, Retries: -1})
	_, err = c.Tasks(t.Context())
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	require.ErrorContains(t, err, "is catena running? start it with catena dev, or name the server with --server / CATENA_SERVER")
	require.Equal(t, 1, strings.Count(err.Error(), "http://"+address), "the address stands once in %q", err)
}

func TestServerThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	c := dial(t, client.Config{Server: server.URL, Timeout: 20 * time.Millisecond, Retries: -1})
	_, err := c.Tasks(t.Context())
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err), "its own time limit")

	began := time.Now()
	_, err = dial(t, client.Config{Server: server.URL, Timeout: 200 * time.Millisecond, GiveUp: 200 * time.Millisecond}).Tasks(t.Context())
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	require.ErrorContains(t, err, "the server did not answer within ")
	require.Less(t, time.Since(began), 600*time.Millisecond, "it is not tried again")

	patient := dial(t, client.Config{Server: server.URL})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = patient.Tasks(ctx)
	require.Equal(t, task.CodeTimeout, task.CodeOf(err), "the caller's time limit")
	require.ErrorIs(t, err, context.DeadlineExceeded)

	ctx, stop := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	time.AfterFunc(20*time.Millisecond, func() { stop(reason) })
	_, err = patient.WaitRun(ctx, uuid.New())
	require.Equal(t, task.CodeCancelled, task.CodeOf(err))
	require.ErrorIs(t, err, reason)
}

func TestStartIsTriedAgainUnderOneKey(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var keys []string
	id := uuid.New()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var request client.RunRequest
		_ = json.NewDecoder(r.Body).Decode(&request)
		mu.Lock()
		keys = append(keys, request.Key)
		n := len(keys)
		mu.Unlock()
		if n < 3 {
			hangUp(w)
		}
		write(w, 200, task.Run{ID: id})
	})
	started, err := c.StartRun(t.Context(), "demo", client.RunRequest{})
	require.NoError(t, err)
	require.Equal(t, id, started.ID)
	require.True(t, started.Duplicate, "200 means that the key had made it before")
	require.Len(t, keys, 3)
	require.GreaterOrEqual(t, len(keys[0]), 20)
	require.Equal(t, []string{keys[0], keys[0], keys[0]}, keys)
}

func TestBatchKeysAreFilledInACopy(t *testing.T) {
	t.Parallel()
	var got client.BatchRequest
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&got)
		write(w, 200, client.BatchResult{IDs: []uuid.UUID{uuid.New(), uuid.New()}, Duplicates: 1})
	})
	mine := []client.RunRequest{{Key: "line-1"}, {Params: json.RawMessage(`{"a":1}`)}}
	result, err := c.StartRuns(t.Context(), "demo", mine)
	require.NoError(t, err)
	require.Len(t, result.IDs, 2)
	require.Equal(t, "line-1", got.Runs[0].Key)
	require.NotEmpty(t, got.Runs[1].Key)
	require.Empty(t, mine[1].Key, "the caller's slice stays as it was")
}

func TestChangesAreTriedOnce(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		hangUp(w)
	})
	_, err := c.RetryRun(t.Context(), uuid.New(), "")
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	require.EqualValues(t, 1, calls.Load())
	_, err = c.Push(t.Context(), strings.NewReader("x"), "live")
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	require.EqualValues(t, 2, calls.Load())
}

func TestPushStreamsAndArchiveCopies(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, "tar of "+r.URL.Query().Get("digest"))
			return
		}
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Content-Type") != "application/x-tar" || r.URL.Query().Get("channel") != "beta" || string(body) != "tar" {
			write(w, 400, client.ErrorBody{Error: client.ErrorDetail{Code: task.CodeInvalid, Message: "wrong request"}})
			return
		}
		write(w, 200, client.PushResult{Name: "demo", Created: true})
	})
	result, err := c.Push(t.Context(), io.MultiReader(strings.NewReader("ta"), strings.NewReader("r")), "beta")
	require.NoError(t, err)
	require.True(t, result.Created)
	var archive bytes.Buffer
	require.NoError(t, c.PackageArchive(t.Context(), "demo", client.PackageSelector{Digest: "sha256:1"}, &archive))
	require.Equal(t, "tar of sha256:1", archive.String())
}

func TestWaitRunOutlivesAnAbsentServer(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	id := uuid.New()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch n := calls.Add(1); {
		case n <= 5: // more than the retries of one call
			hangUp(w)
		case n == 6:
			write(w, 200, task.Run{ID: id, State: task.StateRunning})
		default:
			write(w, 200, task.Run{ID: id, State: task.StateSucceeded})
		}
	})
	run, err := c.WaitRun(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, task.StateSucceeded, run.State)
}

func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { hangUp(w) }))
	t.Cleanup(server.Close)
	c := dial(t, client.Config{Server: server.URL, Retries: -1, Patience: time.Millisecond})
	_, err := c.WaitRun(t.Context(), uuid.New())
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
}

// TestWaitRunsAsksInWindows has more runs than fit into one request, of which
// the first thousand end last.
func TestWaitRunsAsksInWindows(t *testing.T) {
	t.Parallel()
	ids := make([]uuid.UUID, 2500)
	slow := make(map[uuid.UUID]bool)
	for i := range ids {
		ids[i] = uuid.New()
		slow[ids[i]] = i < client.MaxBatch
	}
	var told atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var request client.WaitRequest
		_ = json.NewDecoder(r.Body).Decode(&request)
		if len(request.IDs) > client.MaxBatch {
			write(w, 400, client.ErrorBody{Error: client.ErrorDetail{Code: task.CodeInvalid, Message: "too many"}})
			return
		}
		var result client.WaitResult
		for _, id := range request.IDs {
			if slow[id] && told.Load() < 1500 {
				result.Pending++
				continue
			}
			told.Add(1)
			result.Done = append(result.Done, client.Ended{ID: id, State: task.StateSucceeded})
		}
		write(w, 200, result)
	})
	last := 0
	states, err := c.WaitRuns(t.Context(), append(ids, ids[0]), func(done, total int) {
		require.Equal(t, 2500, total, "an id given twice counts once")
		require.Greater(t, done, last)
		last = done
	})
	require.NoError(t, err)
	require.Len(t, states, 2500)
	require.Equal(t, 2500, last)
}

func TestWaitRunsOfNone(t *testing.T) {
	t.Parallel()
	states, err := dial(t, client.Config{}).WaitRuns(t.Context(), nil, nil)
	require.NoError(t, err)
	require.Empty(t, states)
}

// TestFollowLogs ends the run between the last look at the log and the look
// at the run, after which lines must still be fetched.
func TestFollowLogs(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	lines := []task.LogLine{{Seq: 1, Message: "a"}, {Seq: 2, Message: "b"}}
	state := task.StateRunning
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !strings.HasSuffix(r.URL.Path, "/logs") {
			lines = append(lines, task.LogLine{Seq: 3, Message: "c"}, task.LogLine{Seq: 7, Message: "d"})
			state = task.StateFailed
			write(w, 200, task.Run{State: state})
			return
		}
		after, _ := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
		page := []task.LogLine{}
		for _, line := range lines {
			if line.Seq > after && len(page) < 1 {
				page = append(page, line)
			}
		}
		write(w, 200, page)
	})
	var got []string
	require.NoError(t, c.FollowLogs(t.Context(), uuid.New(), func(line task.LogLine) { got = append(got, line.Message) }))
	require.Equal(t, []string{"a", "b", "c", "d"}, got)
}
