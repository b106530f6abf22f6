package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// park makes a run that waits as if a worker had parked it.
func (f *fixture) park(p store.Park) uuid.UUID {
	f.t.Helper()
	ctx := f.t.Context()
	epoch, err := f.store.RegisterWorker(ctx, task.Worker{ID: uuid.NewString(), Host: "h", PID: 1, Version: "test", Queues: []string{"*"}, Slots: 4})
	require.NoError(f.t, err)
	_, err = f.store.Pool().Exec(ctx, `DELETE FROM ready`) // what waits there would go first
	require.NoError(f.t, err)
	accepted, parcels, err := f.store.InsertRuns(ctx, []store.NewRun{{Task: "demo"}})
	require.NoError(f.t, err)
	require.Len(f.t, parcels, 1)
	claimed, err := f.store.Claim(ctx, epoch, parcels[0].ID, parcels[0].DispatchNo)
	require.NoError(f.t, err)
	p.Path = "0"
	_, err = f.store.Write(ctx, store.Batch{Worker: epoch, Parcels: []int64{parcels[0].ID}, Endings: []store.Ending{{
		Run: accepted[0].ID, Fence: claimed[0].Fence, State: task.StateWaiting, Attempt: 1, StartedAt: time.Now(), Park: &p}}})
	require.NoError(f.t, err)
	return accepted[0].ID
}

func TestEventsOverTheAPI(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	ctx := t.Context()
	id := f.park(store.Park{Kind: task.WaitEvent, Name: "paid", Key: "7"})
	waiting, err := f.Runs(ctx, client.RunFilter{WaitingFor: task.WaitEvent})
	require.NoError(t, err)
	require.Len(t, waiting, 1)
	require.Equal(t, "paid", waiting[0].Wait.Name)
	none, err := f.Runs(ctx, client.RunFilter{WaitingFor: task.WaitApproval})
	require.NoError(t, err)
	require.Empty(t, none)

	sent, err := f.as(auth.Operator).SendEvent(ctx, client.EventRequest{Name: "paid", Key: "8", Data: json.RawMessage(`{"sum":1}`)})
	require.NoError(t, err)
	require.Zero(t, sent.Reached, "nobody waits for it")
	require.WithinDuration(t, sent.SentAt.Add(7*24*time.Hour), sent.ExpiresAt, time.Second)
	sent, err = f.SendEvent(ctx, client.EventRequest{Name: "paid", Key: "7"})
	require.NoError(t, err)
	require.Equal(t, 1, sent.Reached)
	run, err := f.Run(ctx, id)
	require.NoError(t, err)
	require.Equal(t, task.StateQueued, run.State)

	events, err := f.as(auth.Viewer).Events(ctx, client.EventFilter{Name: "paid"})
	require.NoError(t, err)
	require.Len(t, events, 2)
	require.Equal(t, "7", events[0].Key)
	require.Equal(t, "the-operator", events[1].SentBy)
	require.JSONEq(t, `{"sum":1}`, string(events[1].Data))
	older, err := f.Events(ctx, client.EventFilter{Before: events[0].ID, Limit: 1})
	require.NoError(t, err)
	require.Equal(t, events[1:], older)

	_, err = f.as(auth.Viewer).SendEvent(ctx, client.EventRequest{Name: "paid"})
	require.Equal(t, task.CodeForbidden, task.CodeOf(err))
	for body, code := range map[string]task.Code{
		`{"name":""}`:         task.CodeInvalid,
		`{"name":"  "}`:       task.CodeInvalid,
		`{"name":"a\u0000b"}`: task.CodeInvalid,
		`{"name":"` + strings.Repeat("n", 201) + `"}`:                    task.CodeInvalid,
		`{"name":"a","key":"` + strings.Repeat("k", 201) + `"}`:          task.CodeInvalid,
		`{"name":"a","data":"` + strings.Repeat("d", 1<<20) + `"}`:       task.CodeTooLarge,
		`{"name":"a","data":"` + strings.Repeat("d", 1<<20+1<<18) + `"}`: task.CodeTooLarge,
	} {
		_, e := f.refused(http.MethodPost, "/api/v1/events", f.tokens[auth.Operator], body)
		require.Equal(t, code, e.Code, body[:min(len(body), 60)])
	}
	_, e := f.refused(http.MethodGet, "/api/v1/runs?waiting_for=godot", f.tokens[auth.Viewer], "")
	require.Equal(t, task.CodeInvalid, e.Code)
	_, e = f.refused(http.MethodGet, "/api/v1/runs?parent=me", f.tokens[auth.Viewer], "")
	require.Equal(t, "parent", e.Where)
}

func TestApprovalsOverTheAPI(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	ctx := t.Context()
	id := f.park(store.Park{Kind: task.WaitApproval, Name: "admin"})
	_, err := f.as(auth.Operator).ApproveRun(ctx, id, client.ApprovalRequest{})
	require.ErrorContains(t, err, "waits for the approval of the role admin; the role operator may not give it")
	require.Equal(t, task.CodeForbidden, task.CodeOf(err))
	_, err = f.as(auth.Viewer).ApproveRun(ctx, id, client.ApprovalRequest{})
	require.Equal(t, task.CodeForbidden, task.CodeOf(err))
	run, err := f.ApproveRun(ctx, id, client.ApprovalRequest{Comment: "fine"})
	require.NoError(t, err)
	require.Equal(t, task.StateQueued, run.State)
	_, err = f.ApproveRun(ctx, id, client.ApprovalRequest{Reject: true})
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	require.ErrorContains(t, err, "was approved by the-admin at ")
	rows, details := f.audited()
	require.Contains(t, rows, "the-admin approve-run "+id.String())
	require.Contains(t, details, "fine")

	_, err = f.ApproveRun(ctx, uuid.New(), client.ApprovalRequest{})
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	other := f.park(store.Park{Kind: task.WaitDelay, For: time.Hour})
	_, err = f.ApproveRun(ctx, other, client.ApprovalRequest{})
	require.ErrorContains(t, err, "waits for no approval: it is waiting")
	cancelled := f.park(store.Park{Kind: task.WaitApproval, Name: "operator"})
	_, err = f.CancelRun(ctx, cancelled, "")
	require.NoError(t, err)
	_, err = f.ApproveRun(ctx, cancelled, client.ApprovalRequest{})
	require.ErrorContains(t, err, "was cancelled while it waited")
}

func TestTreesOverTheAPI(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.apply("demo")
	ctx := t.Context()
	root := f.park(store.Park{Kind: task.WaitDelay})
	children := make([]store.NewRun, 30)
	for i := range children {
		children[i] = store.NewRun{Task: "demo", Parent: &store.Parent{Run: root, Path: "2", InheritCancel: true}}
	}
	accepted, _, err := f.store.InsertRuns(ctx, children)
	require.NoError(t, err)
	_, _, err = f.store.InsertRuns(ctx, []store.NewRun{{Task: "demo", Parent: &store.Parent{Run: accepted[0].ID, Path: "0"}}})
	require.NoError(t, err)
	tree, err := f.as(auth.Viewer).RunTree(ctx, root)
	require.NoError(t, err)
	require.Equal(t, task.StateWaiting, tree.State)
	require.Len(t, tree.Children, 20)
	require.Equal(t, 10, tree.More)
	require.Len(t, tree.Children[0].Children, 1)
	listed, err := f.Runs(ctx, client.RunFilter{Parents: []uuid.UUID{root, accepted[0].ID}})
	require.NoError(t, err)
	require.Len(t, listed, 31)
	_, err = f.RunTree(ctx, uuid.New())
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	_, err = f.CancelRun(ctx, root, "")
	require.NoError(t, err)
	_, _, err = f.store.InsertRuns(ctx, []store.NewRun{{Task: "demo", Parent: &store.Parent{Run: root}}})
	require.ErrorContains(t, err, "has ended or is being cancelled: it starts no children")
}
