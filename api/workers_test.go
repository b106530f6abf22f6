package api_test

import (
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// enter registers a worker; no master: it was started alone.
func (f *fixture) enter(host, master string, slot int) string {
	f.t.Helper()
	w := task.Worker{ID: uuid.NewString(), Host: host, PID: 1, Version: "test", Master: master, Queues: []string{"*"}, Slots: 4}
	if master != "" {
		w.Slot = &slot
	}
	_, err := f.store.RegisterWorker(f.t.Context(), w)
	require.NoError(f.t, err)
	return w.ID
}

func TestOrdersToWorkers(t *testing.T) {
	t.Parallel()
	f, ctx := start(t), t.Context()
	one, two, alone := f.enter("h1", "m", 0), f.enter("h2", "m2", 0), f.enter("h2", "", 0)

	_, err := f.as(auth.Viewer).RestartWorker(ctx, one)
	require.Equal(t, task.CodeForbidden, task.CodeOf(err))
	require.ErrorContains(t, err, "restarting a worker needs the role operator")
	shown, err := f.as(auth.Viewer).Worker(ctx, one)
	require.NoError(t, err)
	require.Nil(t, shown.Order)
	require.NotNil(t, shown.Runs)
	require.Equal(t, 0, *shown.Slot)

	order, err := f.as(auth.Operator).RestartWorker(ctx, one)
	require.NoError(t, err)
	require.Equal(t, task.OrderAsked, order.State)
	require.Equal(t, "the-operator", order.AskedBy)
	result, err := f.RestartWorkers(ctx, client.RestartRequest{Host: "h2"})
	require.NoError(t, err)
	require.Len(t, result.Orders, 1)
	require.Equal(t, two, result.Orders[0].Worker)
	require.Equal(t, []string{alone}, result.Alone)
	require.False(t, order.Earlier || result.Orders[0].Earlier)
	result, err = f.RestartWorkers(ctx, client.RestartRequest{})
	require.NoError(t, err)
	require.Len(t, result.Orders, 2)
	require.True(t, result.Orders[0].Earlier && result.Orders[1].Earlier)
	order, err = f.RestartWorker(ctx, one)
	require.NoError(t, err)
	require.True(t, order.Earlier)
	order, err = f.RestartWorker(ctx, alone)
	require.NoError(t, err)
	require.Equal(t, task.OrderDrain, order.Kind)
	require.Contains(t, order.Detail, "whoever started it must start it again")
	_, err = f.DrainWorker(ctx, one)
	require.NoError(t, err)
	_, err = f.DrainWorker(ctx, "nobody")
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))

	rows, _ := f.audited()
	require.Equal(t, []string{
		"the-operator restart-worker " + one, "the-admin restart-workers h2", "the-admin restart-workers ", "the-admin restart-worker " + one, "the-admin restart-worker " + alone, "the-admin drain-worker " + one,
	}, rows)
	status, _ := f.ask(http.MethodGet, "/api/v1/workers/restart", f.tokens[auth.Admin], "")
	require.Equal(t, http.StatusNotFound, status, "restart is no worker")
}

func TestMastersAreListed(t *testing.T) {
	t.Parallel()
	f, ctx := start(t), t.Context()
	list, err := f.Masters(ctx, false)
	require.NoError(t, err)
	require.NotNil(t, list)
	require.Empty(t, list)
	for _, name := range []string{"m1", "m2"} {
		_, err = f.store.BeatMaster(ctx, task.Master{Name: name, Host: "h", PID: 4, Version: "v1", Admin: "127.0.0.1:1",
			Settings: map[string]string{"cluster.name": name}, Slots: []task.Slot{{State: task.SlotCrashLoop, Last: "died"}}})
		require.NoError(t, err)
	}
	list, err = f.as(auth.Viewer).Masters(ctx, true)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, task.SlotCrashLoop, list[0].Slots[0].State)
	require.Equal(t, []string{"cluster.name is m2 here and m1 on m1"}, list[1].Warnings)
}
