package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestStartRunOnceByKey(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("billing/close-month")
	ctx := t.Context()

	first, err := f.StartRun(ctx, "billing/close-month", client.RunRequest{Params: json.RawMessage(`{"month":"2026-11"}`), Key: "a"})
	require.NoError(t, err)
	require.False(t, first.Duplicate)
	require.Equal(t, "billing/close-month", first.Task)
	require.JSONEq(t, `{"month":"2026-11"}`, string(first.Params))
	second, err := f.StartRun(ctx, "billing/close-month", client.RunRequest{Params: json.RawMessage(`{ "month": "2026-11" }`), Key: "a"})
	require.NoError(t, err)
	require.True(t, second.Duplicate)
	require.Equal(t, first.ID, second.ID)
	_, err = f.StartRun(ctx, "billing/close-month", client.RunRequest{Params: json.RawMessage(`{"month":"2026-12"}`), Key: "a"})
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	require.ErrorContains(t, err, `key: the key "a" has started run `+first.ID.String()+` of billing/close-month, which has other params`)

	path := "/api/v1/tasks/billing%2Fclose-month/runs"
	status, _ := f.refused(http.MethodPost, path, f.tokens[auth.Operator], "", "Idempotency-Key", "a")
	require.Equal(t, http.StatusConflict, status, "no params are other params")
	status, text := f.ask(http.MethodPost, path, f.tokens[auth.Operator], `{"params":{"month":"2026-11"}}`, "Idempotency-Key", "a")
	require.Equal(t, http.StatusOK, status, "the header is a key too: %s", text)
	require.Contains(t, text, first.ID.String())
	require.Contains(t, text, `"steps":[]`)
	status, text = f.ask(http.MethodPost, path, f.tokens[auth.Operator], "", "Idempotency-Key", "new")
	require.Equal(t, http.StatusCreated, status, "the body may be absent: %s", text)
	status, text = f.ask(http.MethodPost, path, f.tokens[auth.Operator], `{}`)
	require.Equal(t, http.StatusCreated, status, text)
	status, e := f.refused(http.MethodPost, path, f.tokens[auth.Operator], `{"key":"b"}`, "Idempotency-Key", "a")
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "key", e.Where)

	_, err = f.StartRun(ctx, "nobody", client.RunRequest{})
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	_, err = f.StartRun(ctx, "billing/close-month", client.RunRequest{Params: json.RawMessage(`[1]`)})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	require.ErrorContains(t, err, "params must be an object")
}

func TestStartRunLater(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	run, err := f.StartRun(t.Context(), "demo", client.RunRequest{At: &at})
	require.NoError(t, err)
	require.Equal(t, task.StateQueued, run.State)
	require.WithinDuration(t, at, *run.AvailableAt, time.Second)
}

func TestBatch(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	ctx := t.Context()
	requests := make([]client.RunRequest, client.MaxBatch)
	for i := range requests {
		requests[i] = client.RunRequest{Key: fmt.Sprint("line-", i), Params: json.RawMessage(fmt.Sprintf(`{"i":%d}`, i))}
	}
	first, err := f.StartRuns(ctx, "demo", requests)
	require.NoError(t, err)
	require.Len(t, first.IDs, client.MaxBatch)
	require.Zero(t, first.Duplicates)
	again, err := f.StartRuns(ctx, "demo", requests)
	require.NoError(t, err)
	require.Equal(t, first.IDs, again.IDs)
	require.Equal(t, client.MaxBatch, again.Duplicates)
	run, err := f.Run(ctx, first.IDs[7])
	require.NoError(t, err)
	require.JSONEq(t, `{"i":7}`, string(run.Params))

	_, err = f.StartRuns(ctx, "demo", append(requests, client.RunRequest{}))
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	_, err = f.StartRuns(ctx, "demo", nil)
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	requests[3].Params, requests[5].Params = json.RawMessage(`{"i":-3}`), json.RawMessage(`{"i":-5}`)
	_, err = f.StartRuns(ctx, "demo", requests)
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	require.ErrorContains(t, err, `runs[3].key: the key "line-3" has started run `+first.IDs[3].String())
	require.ErrorContains(t, err, "(and 1 more are refused)")
	requests[3].Params = json.RawMessage(`"x"`)
	_, err = f.StartRuns(ctx, "demo", requests)
	require.ErrorContains(t, err, "runs[3].params")
}

func TestListRuns(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("one", "two")
	ctx := t.Context()
	var ids []uuid.UUID
	for _, name := range []string{"one", "two", "one"} {
		run, err := f.StartRun(ctx, name, client.RunRequest{})
		require.NoError(t, err)
		ids = append(ids, run.ID)
	}
	_, err := f.CancelRun(ctx, ids[0], "not needed")
	require.NoError(t, err)
	list := func(filter client.RunFilter) (got []uuid.UUID) {
		runs, err := f.Runs(ctx, filter)
		require.NoError(t, err)
		for _, run := range runs {
			got = append(got, run.ID)
		}
		return got
	}
	require.Equal(t, []uuid.UUID{ids[2], ids[1], ids[0]}, list(client.RunFilter{}))
	require.Equal(t, []uuid.UUID{ids[2], ids[0]}, list(client.RunFilter{Task: "one"}))
	require.Equal(t, []uuid.UUID{ids[0]}, list(client.RunFilter{States: []task.State{task.StateCancelled, task.StateFailed}}))
	require.Equal(t, []uuid.UUID{ids[2]}, list(client.RunFilter{Limit: 1}))
	require.Equal(t, []uuid.UUID{ids[1], ids[0]}, list(client.RunFilter{Before: ids[2]}))
	require.Len(t, list(client.RunFilter{Since: "1d"}), 3)
	require.Empty(t, list(client.RunFilter{Since: time.Now().Add(time.Hour).Format(time.RFC3339)}))
	_, err = f.Runs(ctx, client.RunFilter{Task: "oen"})
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	require.ErrorContains(t, err, "did you mean one?")
	for _, filter := range []client.RunFilter{{Since: "soon"}, {States: []task.State{"done"}}, {Limit: -1}, {Limit: 1_000_000}} {
		_, err := f.Runs(ctx, filter)
		require.Equal(t, task.CodeInvalid, task.CodeOf(err), "%+v", filter)
	}
}

func TestWaitForOneRun(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	ctx := t.Context()
	run, err := f.StartRun(ctx, "demo", client.RunRequest{})
	require.NoError(t, err)

	status, text := f.ask(http.MethodGet, "/api/v1/runs/"+run.ID.String()+"?wait=50ms", f.tokens[auth.Viewer], "")
	require.Equal(t, http.StatusOK, status, "that the time is up is no error")
	require.NotContains(t, text, `"state":"cancelled"`)

	got := make(chan task.Run, 1)
	go func() {
		ended, err := f.WaitRun(ctx, run.ID)
		if err != nil {
			ended.Reason = err.Error()
		}
		got <- ended
	}()
	_, err = f.CancelRun(ctx, run.ID, "not needed")
	require.NoError(t, err)
	ended := <-got
	require.Equal(t, task.StateCancelled, ended.State, ended.Reason)
	require.Contains(t, ended.Reason, "the-admin: not needed")

	_, err = f.WaitRun(ctx, uuid.New())
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	_, err = f.CancelRun(ctx, run.ID, "")
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	for _, path := range []string{"/api/v1/runs/nonsense", "/api/v1/runs/" + run.ID.String() + "?wait=soon"} {
		status, e := f.refused(http.MethodGet, path, f.tokens[auth.Viewer], "")
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, []string{"id", "wait"}, e.Where)
	}
}

func TestWaitForManyRuns(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	ctx := t.Context()
	batch, err := f.StartRuns(ctx, "demo", make([]client.RunRequest, 40))
	require.NoError(t, err)
	failures := make(chan error, 1)
	go func() {
		var failure error
		for _, id := range batch.IDs {
			if _, err := f.CancelRun(ctx, id, ""); err != nil {
				failure = err
			}
		}
		failures <- failure
	}()
	last := 0
	states, err := f.WaitRuns(ctx, batch.IDs, func(done, total int) {
		require.Equal(t, 40, total)
		last = done
	})
	require.NoError(t, err)
	require.NoError(t, <-failures)
	require.Len(t, states, 40)
	require.Equal(t, 40, last)
	require.Equal(t, task.StateCancelled, states[batch.IDs[0]])

	status, text := f.ask(http.MethodPost, "/api/v1/runs/wait", f.tokens[auth.Viewer],
		fmt.Sprintf(`{"ids":[%q,%q,%q]}`, batch.IDs[0], batch.IDs[0], uuid.New()))
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, fmt.Sprintf(`{"done":[{"id":%q,"state":"cancelled"}],"pending":1}`, batch.IDs[0]), text)
	status, e := f.refused(http.MethodPost, "/api/v1/runs/wait", f.tokens[auth.Viewer], `{"ids":["x"]}`)
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, task.CodeInvalid, e.Code)
}

func TestRetryAndLogs(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	ctx := t.Context()
	run, err := f.StartRun(ctx, "demo", client.RunRequest{})
	require.NoError(t, err)
	_, err = f.CancelRun(ctx, run.ID, "")
	require.NoError(t, err)
	for i := range 3 {
		_, err := f.store.Pool().Exec(ctx, `INSERT INTO run_logs (run, seq, at, level, message) VALUES ($1, $2, now(), 'info', $3)`,
			run.ID, i+1, fmt.Appendf(nil, "line %d", i+1))
		require.NoError(t, err)
	}
	lines, err := f.Logs(ctx, run.ID, 1, 1)
	require.NoError(t, err)
	require.Len(t, lines, 1)
	require.Equal(t, "line 2", lines[0].Message)
	var followed []string
	require.NoError(t, f.FollowLogs(ctx, run.ID, func(line task.LogLine) { followed = append(followed, line.Message) }))
	require.Equal(t, []string{"line 1", "line 2", "line 3"}, followed)
	_, err = f.Logs(ctx, uuid.New(), 0, 0)
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))

	retried, err := f.RetryRun(ctx, run.ID, "")
	require.NoError(t, err)
	require.Equal(t, "the-admin", retried.RetriedBy)
	require.False(t, retried.State.Terminal())
	_, err = f.RetryRun(ctx, run.ID, "")
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
}

func TestAKeyWhoseRunIsGoneStartsNothing(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	started, err := f.StartRun(t.Context(), "demo", client.RunRequest{Key: "k"})
	require.NoError(t, err)
	_, err = f.store.Pool().Exec(t.Context(), `DELETE FROM runs WHERE id = $1`, started.ID)
	require.NoError(t, err)
	_, err = f.StartRun(t.Context(), "demo", client.RunRequest{Key: "k"})
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	require.ErrorContains(t, err, started.ID.String())
}

func TestFiresArePaged(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	ctx := t.Context()
	_, err := f.store.Pool().Exec(ctx, `INSERT INTO schedules (id, task, cron) VALUES (1, 'demo', '@daily'), (2, 'demo', '@daily')`)
	require.NoError(t, err)
	_, err = f.store.Pool().Exec(ctx, `INSERT INTO fires (schedule, due_at, last_due_at, count, task, outcome)
		SELECT s, due, due, 1, 'demo', 'skipped' FROM generate_series(1, 2) s,
			generate_series(clock_timestamp() - interval '3 seconds', clock_timestamp(), interval '1 second') due`)
	require.NoError(t, err)
	all, err := f.Fires(ctx, client.FireFilter{Task: "demo", Limit: 10_000})
	require.NoError(t, err)
	require.Len(t, all, 8)
	var paged []task.Fire
	for filter := (client.FireFilter{Task: "demo", Limit: 3}); ; filter.Before = &paged[len(paged)-1] {
		page, err := f.Fires(ctx, filter)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
	}
	require.Equal(t, all, paged)
	_, err = f.Fires(ctx, client.FireFilter{Task: "dmeo"})
	require.ErrorContains(t, err, "did you mean demo?")
	for _, query := range []string{"before=yesterday", "before=2026-11-05T10:00:00Z,x", "limit=10001", "limit=0"} {
		status, e := f.refused(http.MethodGet, "/api/v1/fires?"+query, f.tokens[auth.Viewer], "")
		require.Equal(t, http.StatusBadRequest, status, query)
		require.Equal(t, task.CodeInvalid, e.Code)
	}
}
