package api_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

const limitedTask = `
name: limited
chain: [nop]
concurrency: {limit: 1, key: "${params.customer}"}
dedupe: {key: "${params.order}", window: 10m}
params: {order: none}
`

func TestKeysOfRunsOverTheAPI(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	apply := func(text string) error {
		_, err := f.ApplyTasks(ctx, client.ApplyRequest{Files: []client.File{{Name: "limits.yaml", Content: text}}})
		return err
	}
	require.NoError(t, apply(limitedTask))
	require.ErrorContains(t, apply("name: bad\nchain: [nop]\nrate: {limit: 0, per: 1s}\n"), "pause the task")
	require.ErrorContains(t, apply("name: bad\nchain: [nop]\nrate: {limit: 1, per: 1s, key: \"${[1]}\"}\n"), "is a list")
	read, err := f.Task(ctx, "limited")
	require.NoError(t, err)
	require.Equal(t, "${params.customer}", read.Concurrency.Key)
	require.Equal(t, task.Duration(10*time.Minute), read.Dedupe.Window)

	params := func(text string) client.RunRequest { return client.RunRequest{Params: json.RawMessage(text)} }
	first, err := f.StartRun(ctx, "limited", params(`{"customer":"acme","order":17}`))
	require.NoError(t, err)
	require.False(t, first.Duplicate)
	second, err := f.StartRun(ctx, "limited", params(`{"customer":"acme","order":17}`))
	require.NoError(t, err)
	require.True(t, second.Duplicate, "answered with 200")
	require.Equal(t, first.ID, second.ID)

	_, err = f.StartRun(ctx, "limited", params(`{"order":18}`))
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	require.ErrorContains(t, err, "concurrency.key: ${params.customer} is null")
	_, err = f.StartRun(ctx, "limited", params(`{"customer":["a"],"order":18}`))
	require.ErrorContains(t, err, "is a list")
	_, err = f.StartRun(ctx, "limited", client.RunRequest{Key: "dedupe:17", Params: json.RawMessage(`{"customer":"acme"}`)})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	require.ErrorContains(t, err, "dedupe:")

	why, err := f.Why(ctx, first.ID)
	require.NoError(t, err)
	require.Equal(t, task.WaitWorker, why.Waits)
	require.Equal(t, first.ID, why.Run)
	require.Contains(t, why.Sentence, "no live worker serves queue default")
	_, err = f.Why(ctx, uuid.New())
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	status, _ := f.ask(http.MethodGet, "/api/v1/runs/nonsense/why", f.tokens[auth.Viewer], "")
	require.Equal(t, http.StatusBadRequest, status)
}
