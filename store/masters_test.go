package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// enter registers a worker of a master's slot; no master: it runs alone.
func (f *fixture) enter(master string, slot int) (id string, epoch int64) {
	f.t.Helper()
	w := task.Worker{ID: uuid.NewString(), Host: "h1", PID: 7, Version: "test", Master: master, Queues: []string{"*"}, Slots: 4}
	if master != "" {
		w.Slot = &slot
	}
	epoch, err := f.RegisterWorker(f.t.Context(), w)
	require.NoError(f.t, err)
	return w.ID, epoch
}

func TestOrdersComeAlong(t *testing.T) {
	t.Parallel()
	f, ctx := open(t), t.Context()
	first, epoch := f.enter("m", 3)
	order, err := f.Order(ctx, first, task.OrderRestart, "ann")
	require.NoError(t, err)
	require.Equal(t, task.OrderAsked, order.State)
	require.Equal(t, epoch, order.Epoch)

	answer, err := f.BeatMaster(ctx, task.Master{Name: "m", Host: "h1", PID: 1, Version: "test"})
	require.NoError(t, err)
	require.Len(t, answer.Orders, 1)
	require.Equal(t, first, answer.Orders[0].Worker)
	other, err := f.BeatMaster(ctx, task.Master{Name: "other", Host: "h1", PID: 2, Version: "test"})
	require.NoError(t, err)
	require.Empty(t, other.Orders, "it is another master's")

	again, err := f.Order(ctx, first, task.OrderRestart, "bob")
	require.NoError(t, err)
	require.Equal(t, "ann", again.AskedBy)
	drain, err := f.Order(ctx, first, task.OrderDrain, "bob")
	require.NoError(t, err)
	require.Equal(t, task.OrderDrain, drain.Kind, "a drain outranks a restart that nobody has begun")

	require.NoError(t, f.AdvanceOrder(ctx, epoch, task.OrderDraining, ""))
	_, err = f.Order(ctx, first, task.OrderRestart, "eve")
	require.NoError(t, err)
	shown, err := f.Worker(ctx, first)
	require.NoError(t, err)
	require.Equal(t, task.OrderDraining, shown.Order.State)
	require.Equal(t, task.OrderDrain, shown.Order.Kind)

	require.NoError(t, f.EndWorker(ctx, epoch, task.WorkerStopped, store.StoppedAsAsked)) // by the worker
	require.NoError(t, f.EndWorker(ctx, epoch, task.WorkerStopped, "drain asked by bob")) // by its master
	require.NoError(t, f.EndWorker(ctx, epoch, task.WorkerLost, "too late"))
	second, _ := f.enter("m", 3)
	f.enter("m", 4)
	shown, err = f.Worker(ctx, first)
	require.NoError(t, err)
	require.Equal(t, task.OrderDone, shown.Order.State)
	require.Equal(t, second, shown.Order.Successor)
	shown, err = f.Worker(ctx, second)
	require.NoError(t, err)
	require.Nil(t, shown.Order)
	require.Len(t, shown.Restarts, 1)
	require.Equal(t, "drain asked by bob", shown.Restarts[0].Reason)
	require.Equal(t, task.WorkerStopped, shown.Restarts[0].State)

	_, err = f.Order(ctx, first, task.OrderDrain, "ann")
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	require.ErrorContains(t, err, "has ended: drain asked by bob")
	_, err = f.Order(ctx, "nobody", task.OrderDrain, "ann")
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	_, err = f.Worker(ctx, second[:len(second)-1])
	require.ErrorContains(t, err, "did you mean "+second)
}

func TestAWorkerAloneDrainsItself(t *testing.T) {
	t.Parallel()
	f, ctx := open(t), t.Context()
	id, epoch := f.enter("", 0)
	supervised, _ := f.enter("m", 0)
	order, err := f.Order(ctx, id, task.OrderRestart, "ann")
	require.NoError(t, err)
	require.Equal(t, task.OrderDrain, order.Kind)
	require.Contains(t, order.Detail, "it was started alone")
	answer, err := f.Beat(ctx, store.Beat{Epoch: epoch, State: task.WorkerActive, Alone: true})
	require.NoError(t, err)
	require.Equal(t, "ann", answer.Drain)

	all, err := f.RestartAll(ctx, "", "ann")
	require.NoError(t, err)
	require.Len(t, all, 1, "nobody would start the other one again")
	require.Equal(t, supervised, all[0].Worker)
	all, err = f.RestartAll(ctx, "", "ann")
	require.NoError(t, err)
	require.Len(t, all, 1, "it is asked already, and that is not carried out yet")
	require.NoError(t, f.AdvanceOrder(ctx, all[0].Epoch, task.OrderDone, ""))
	all, err = f.RestartAll(ctx, "", "ann")
	require.NoError(t, err)
	require.Empty(t, all)
	all, err = f.RestartAll(ctx, "elsewhere", "ann")
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestAnOrderThatFailedIsGivenAnew(t *testing.T) {
	t.Parallel()
	f, ctx := open(t), t.Context()
	id, epoch := f.enter("m", 0)
	_, err := f.Order(ctx, id, task.OrderRestart, "ann")
	require.NoError(t, err)
	require.NoError(t, f.AdvanceOrder(ctx, epoch, task.OrderFailed, "it did not come up"))
	order, err := f.Order(ctx, id, task.OrderRestart, "bob")
	require.NoError(t, err)
	require.Equal(t, task.OrderAsked, order.State)
	require.Equal(t, "bob", order.AskedBy)
	require.Empty(t, order.Detail)
}

func TestMastersAreListedAndCompared(t *testing.T) {
	t.Parallel()
	f, ctx := open(t), t.Context()
	beat := func(name string, settings map[string]string) store.MasterBeat {
		answer, err := f.BeatMaster(ctx, task.Master{Name: name, Host: "h", PID: 1, Version: "test", Admin: "127.0.0.1:1", Settings: settings,
			Slots: []task.Slot{{Slot: 0, State: task.SlotCrashLoop, Crashes: 4, Last: "exit status 2", NextStart: task.Duration(8 * time.Second)}}})
		require.NoError(t, err)
		return answer
	}
	beat("old", map[string]string{"retention.runs": "1h0m0s", "cluster.name": "a"})
	answer := beat("test", map[string]string{"retention.runs": "2h0m0s", "cluster.name": "a", "new.key": "1"}) // it leads
	require.Len(t, answer.Peers, 1)
	require.Equal(t, "1h0m0s", answer.Peers[0].Settings["retention.runs"])
	f.enter("test", 0)
	list, err := f.Masters(ctx, false)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "test", list[0].Name)
	require.True(t, list[0].Leads)
	require.Equal(t, 1, list[0].Workers)
	require.Equal(t, task.Duration(8*time.Second), list[0].Slots[0].NextStart)
	require.Empty(t, list[0].Warnings)
	require.Equal(t, []string{"retention.runs is 1h0m0s here and 2h0m0s on test"}, list[1].Warnings)

	f.exec(`UPDATE masters SET beat_at = beat_at - interval '10 seconds' WHERE name = 'old'`)
	list, err = f.Masters(ctx, false)
	require.NoError(t, err)
	require.Equal(t, task.MasterSilent, list[1].State)
	require.Empty(t, beat("test", nil).Peers)
	require.NoError(t, f.EndMaster(ctx, "old"))
	list, err = f.Masters(ctx, false)
	require.NoError(t, err)
	require.Len(t, list, 1)
	list, err = f.Masters(ctx, true)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, task.MasterStopped, list[1].State)
}

// A run that is named for the memory kills of its workers ends with their reason.
func TestAGreedyRunIsQuarantinedWithWhatItTook(t *testing.T) {
	t.Parallel()
	f, ctx := open(t), t.Context()
	w := f.worker()
	ids, parcels := f.submit(1)
	for n := 1; ; n++ {
		f.claim(w, parcels[0])
		shown, err := f.Worker(ctx, f.workerID(w))
		require.NoError(t, err)
		require.Len(t, shown.Runs, 1)
		require.Equal(t, ids[0], shown.Runs[0].ID)
		guilty, err := f.KillWorker(ctx, w, "uses 900.0 MiB of memory, the limit is 400.0 MiB")
		require.NoError(t, err)
		require.Equal(t, ids[0], *guilty)
		f.revoke()
		if n == 3 {
			break
		}
		require.Equal(t, "its worker was killed for the memory that this run took: uses 900.0 MiB of memory, the limit is 400.0 MiB", f.run(ids[0]).Reason)
		w = f.worker()
		parcels = f.fill()
	}
	run := f.run(ids[0])
	require.Equal(t, task.StateQuarantined, run.State)
	require.Equal(t, "quarantined: it has cost 3 workers, the last because of its memory: uses 900.0 MiB of memory, the limit is 400.0 MiB", run.Reason)
	require.Equal(t, 1, run.Attempt)
}

func (f *fixture) workerID(epoch int64) (id string) {
	f.t.Helper()
	require.NoError(f.t, f.Pool().QueryRow(f.t.Context(), `SELECT id FROM workers WHERE epoch = $1`, epoch).Scan(&id))
	return id
}

// Rows of masters that nobody needs go with the sweep, orders with their workers.
func TestOldMastersAndOrdersAreSwept(t *testing.T) {
	t.Parallel()
	f, ctx := open(t), t.Context()
	id, epoch := f.enter("m", 0)
	_, err := f.Order(ctx, id, task.OrderDrain, "ann")
	require.NoError(t, err)
	require.NoError(t, f.EndWorker(ctx, epoch, task.WorkerStopped, "done"))
	_, err = f.BeatMaster(ctx, task.Master{Name: "m", Settings: map[string]string{}, Slots: []task.Slot{}})
	require.NoError(t, err)
	f.exec(`UPDATE workers SET ended_at = ended_at - interval '8 days'`)
	f.exec(`UPDATE masters SET beat_at = beat_at - interval '8 days'`)
	_, err = f.Sweep(ctx, f.term, 24*time.Hour)
	require.NoError(t, err)
	for _, table := range []string{"workers", "worker_orders", "masters"} {
		var n int
		require.NoError(t, f.Pool().QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&n))
		require.Zero(t, n, table)
	}
}
