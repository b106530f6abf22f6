package dispatch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, servertest.LeakOptions()...) }

// fixture is a dispatcher on a database of its own, led by the test.
type fixture struct {
	*dispatch.Dispatcher
	t     *testing.T
	store *store.Store
	queue *queue.Asynq
	term  int64
	space string
}

func start(t *testing.T) *fixture {
	return startOn(t, servertest.Redis(t), servertest.RedisNamespace(t))
}

func startOn(t *testing.T, redisURL, namespace string) *fixture {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{URL: servertest.PostgresURL(t)})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.EnsurePartitions(t.Context()))
	log := logrus.New()
	log.SetLevel(logrus.ErrorLevel)
	q, err := queue.Open(queue.Config{URL: redisURL, Namespace: namespace}, log)
	require.NoError(t, err)
	t.Cleanup(func() { _ = q.Close() })
	lease, won, err := s.Campaign(t.Context(), "test")
	require.NoError(t, err)
	require.True(t, won)
	_, err = s.ApplyTasks(t.Context(), []task.Definition{{Name: "demo", Chain: json.RawMessage(`["nop"]`)}}, false)
	require.NoError(t, err)
	return &fixture{Dispatcher: dispatch.New(s, q, log), t: t, store: s, queue: q, term: lease.Term, space: namespace}
}

// worker registers a worker that only gives the lanes room.
func (f *fixture) worker(slots int) int64 {
	f.t.Helper()
	epoch, err := f.store.RegisterWorker(f.t.Context(), task.Worker{ID: uuid.NewString(), Host: "h", PID: 1, Version: "test", Queues: []string{"*"}, Slots: slots})
	require.NoError(f.t, err)
	return epoch
}

func (f *fixture) count(sql string) (n int) {
	f.t.Helper()
	require.NoError(f.t, f.store.Pool().QueryRow(f.t.Context(), sql).Scan(&n))
	return n
}

// consume collects what the lane delivers.
func (f *fixture) consume(lane string) <-chan queue.Item {
	f.t.Helper()
	items := make(chan queue.Item, 1000)
	c, err := f.queue.Consume(lane, queue.ConsumeConfig{}, func(_ context.Context, it queue.Item) { items <- it })
	require.NoError(f.t, err)
	f.t.Cleanup(func() { require.NoError(f.t, c.Stop(context.Background())) })
	return items
}

func receive(t *testing.T, items <-chan queue.Item) queue.Item {
	t.Helper()
	select {
	case it := <-items:
		return it
	case <-time.After(10 * time.Second):
		require.FailNow(t, "nothing was delivered")
		return queue.Item{}
	}
}

func demo(key string) []dispatch.Request { return []dispatch.Request{{Task: "demo", Key: key}} }

func TestSubmitsShareCommitsAndABadOneFailsAlone(t *testing.T) {
	t.Parallel()
	f := start(t)
	const calls = 100
	errs := make([]error, calls)
	ids := make([]uuid.UUID, calls)
	var all sync.WaitGroup
	begin := make(chan struct{})
	for i := range calls {
		all.Go(func() {
			<-begin
			name := "demo"
			if i == 50 {
				name = "nobody"
			}
			got, err := f.Submit(context.Background(), []dispatch.Request{{Task: name}})
			if errs[i] = err; err == nil {
				ids[i] = got[0].ID
			}
		})
	}
	close(begin)
	all.Wait()
	seen := map[uuid.UUID]bool{}
	for i, err := range errs {
		if i == 50 {
			require.Equal(t, task.CodeNotFound, task.CodeOf(err), "%v", err)
			continue
		}
		require.NoError(t, err)
		seen[ids[i]] = true
		run, err := f.store.Run(t.Context(), ids[i])
		require.NoError(t, err, "an accepted run is durable")
		require.Equal(t, "demo", run.Task)
	}
	require.Len(t, seen, calls-1)
	require.Equal(t, calls-1, f.count(`SELECT count(*) FROM runs`))
	require.Less(t, f.count(`SELECT count(DISTINCT xmin::text) FROM runs`), calls, "calls at the same time share commits")
}

// Groups of more than 500 runs split, and a call may then commit others first:
// its own turn must come all the same.
func TestNoSubmitIsLeftBehindByFullGroups(t *testing.T) {
	t.Parallel()
	f := start(t)
	requests := make([]dispatch.Request, 300)
	for i := range requests {
		requests[i].Task = "demo"
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const calls = 24
	for round := range 4 {
		var all sync.WaitGroup
		errs := make(chan error, calls)
		for i := range calls {
			all.Go(func() {
				_, err := f.Submit(ctx, requests[:1+i*97%300])
				errs <- err
			})
		}
		all.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err, "round %d", round)
		}
	}
}

func TestCancelledCallsLeaveNoTurnBehind(t *testing.T) {
	t.Parallel()
	f := start(t)
	// The lock makes commits wait, so that calls gather behind those that have the turn.
	tx, err := f.store.Pool().Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE runs IN SHARE MODE`)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	const calls = 20
	errs := make(chan error, calls)
	for i := range calls {
		go func() {
			_, err := f.Submit(ctx, demo(fmt.Sprint("gone-", i)))
			errs <- err
		}()
	}
	require.Eventually(t, func() bool {
		return f.count(`SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'runs' AND NOT l.granted`) > 0
	}, 10*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, tx.Rollback(t.Context()))
	for range calls {
		if err := <-errs; err != nil {
			require.Equal(t, task.CodeCancelled, task.CodeOf(err), "%v", err)
		}
	}
	late, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	for i := range 10 {
		_, err := f.Submit(late, demo(fmt.Sprint("after-", i)))
		require.NoError(t, err)
	}
	// What was cancelled may have been accepted; asking again with the key tells, and makes it once.
	for i := range calls {
		_, err := f.Submit(late, demo(fmt.Sprint("gone-", i)))
		require.NoError(t, err)
	}
	require.Equal(t, calls+10, f.count(`SELECT count(*) FROM runs`))
}

func TestDuplicatesByKey(t *testing.T) {
	t.Parallel()
	f := start(t)
	const calls = 50
	ids := make([]uuid.UUID, calls)
	fresh := make([]bool, calls)
	var all sync.WaitGroup
	for i := range calls {
		all.Go(func() {
			got, err := f.Submit(context.Background(), demo("once"))
			if err == nil {
				ids[i], fresh[i] = got[0].ID, !got[0].Duplicate
			}
		})
	}
	all.Wait()
	made := 0
	for i := range calls {
		require.Equal(t, ids[0], ids[i])
		if fresh[i] {
			made++
		}
	}
	require.Equal(t, 1, made)
	got, err := f.Submit(t.Context(), []dispatch.Request{{Task: "demo", Key: "a"}, {Task: "demo", Key: "once"}, {Task: "demo", Key: "a"}, {Task: "demo"}})
	require.NoError(t, err)
	require.False(t, got[0].Duplicate)
	require.Equal(t, dispatch.Accepted{ID: ids[0], Duplicate: true}, got[1])
	require.Equal(t, dispatch.Accepted{ID: got[0].ID, Duplicate: true}, got[2])
	require.Equal(t, 3, f.count(`SELECT count(*) FROM runs`))
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	f := start(t)
	for name, c := range map[string]struct {
		request dispatch.Request
		code    task.Code
	}{
		"huge params":   {dispatch.Request{Task: "demo", Params: json.RawMessage(`{"a":"` + strings.Repeat("x", 1<<20) + `"}`)}, task.CodeTooLarge},
		"long key":      {dispatch.Request{Task: "demo", Key: strings.Repeat("k", 201)}, task.CodeInvalid},
		"params a list": {dispatch.Request{Task: "demo", Params: json.RawMessage(`[1]`)}, task.CodeInvalid},
		"params null":   {dispatch.Request{Task: "demo", Params: json.RawMessage(`null`)}, task.CodeInvalid},
		"no JSON":       {dispatch.Request{Task: "demo", Params: json.RawMessage(`{`)}, task.CodeInvalid},
		"no task":       {dispatch.Request{}, task.CodeNotFound},
		"key with NUL":  {dispatch.Request{Task: "demo", Key: "a\x00b"}, task.CodeInvalid},
		"key no UTF-8":  {dispatch.Request{Task: "demo", Key: "a\xff"}, task.CodeInvalid},
		"task with NUL": {dispatch.Request{Task: "de\x00mo"}, task.CodeNotFound},
	} {
		_, err := f.Submit(t.Context(), []dispatch.Request{{Task: "demo"}, c.request})
		require.Equal(t, c.code, task.CodeOf(err), "%s: %v", name, err)
	}
	got, err := f.Submit(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, got)
	require.Zero(t, f.count(`SELECT count(*) FROM runs`), "all or none")
}

func TestParamsKeepWhatJSONAllows(t *testing.T) {
	t.Parallel()
	f := start(t)
	const params = `{"nul":"\u0000","lone":"\ud800","big":1e400000,"twice":1,"twice":2}`
	got, err := f.Submit(t.Context(), []dispatch.Request{{Task: "demo", Params: json.RawMessage(params)}})
	require.NoError(t, err)
	run, err := f.store.Run(t.Context(), got[0].ID)
	require.NoError(t, err)
	require.Equal(t, params, string(run.Params))
}

func TestReenqueueAfterTheQueueWasEmptied(t *testing.T) {
	t.Parallel()
	redis := servertest.OwnRedis(t)
	f := startOn(t, redis.URL, "own")
	f.worker(8)
	require.NoError(t, f.Reenqueue(t.Context(), f.term), "the first look writes the epoch")
	const runs = 5
	for i := range runs {
		_, err := f.Submit(t.Context(), demo(fmt.Sprint(i)))
		require.NoError(t, err)
	}
	require.Equal(t, runs, f.count(`SELECT count(*) FROM parcels WHERE state = 'unclaimed'`))
	flush(t, redis.URL)
	epoch, err := f.queue.Epoch(t.Context())
	require.NoError(t, err)
	require.Empty(t, epoch)

	require.NoError(t, f.Reenqueue(t.Context(), f.term))
	require.Equal(t, runs, f.count(`SELECT count(*) FROM parcels WHERE dispatch_no = 2`))
	items := f.consume("default")
	found := map[int64]bool{}
	for range runs {
		it := receive(t, items)
		require.Equal(t, 2, it.DispatchNo)
		found[it.Parcel] = true
	}
	require.Len(t, found, runs)

	require.NoError(t, f.Reenqueue(t.Context(), f.term))
	require.Equal(t, runs, f.count(`SELECT count(*) FROM parcels WHERE dispatch_no = 2`), "nothing was emptied since")
	require.True(t, store.StaleTerm(func() error { flush(t, redis.URL); return f.Reenqueue(t.Context(), f.term-1) }()))
	require.Equal(t, runs, f.count(`SELECT count(*) FROM parcels WHERE dispatch_no = 2`), "a stale leader does nothing")
}

func TestStrandedParcelsAreEnqueuedAgain(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.worker(8)
	require.NoError(t, f.Reenqueue(t.Context(), f.term))
	items := f.consume("default")
	_, err := f.Submit(t.Context(), demo(""))
	require.NoError(t, err)
	first := receive(t, items) // and is dropped, as by a worker that died before the claim
	require.NoError(t, f.Reenqueue(t.Context(), f.term))
	_, err = f.store.Pool().Exec(t.Context(), `UPDATE parcels SET dispatched_at = dispatched_at - interval '3 seconds'`)
	require.NoError(t, err)
	require.NoError(t, f.Reenqueue(t.Context(), f.term))
	require.Equal(t, queue.Item{Lane: "default", Parcel: first.Parcel, DispatchNo: first.DispatchNo + 1}, receive(t, items))
}

func TestRunOnceReleasesDelayedRuns(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.worker(8)
	items := f.consume("default")
	now, err := f.store.Now(t.Context())
	require.NoError(t, err)
	at := now.Add(700 * time.Millisecond)
	got, err := f.Submit(t.Context(), []dispatch.Request{{Task: "demo", At: at}, {Task: "demo", At: now.Add(time.Hour)}})
	require.NoError(t, err)
	more, err := f.RunOnce(t.Context(), f.term)
	require.NoError(t, err)
	require.False(t, more)
	run, err := f.store.Run(t.Context(), got[0].ID)
	require.NoError(t, err)
	require.Equal(t, task.StateQueued, run.State)

	require.Eventually(t, func() bool {
		_, err := f.RunOnce(t.Context(), f.term)
		require.NoError(t, err)
		run, err = f.store.Run(t.Context(), got[0].ID)
		require.NoError(t, err)
		return run.State == task.StateDispatched
	}, 10*time.Second, 10*time.Millisecond)
	now, err = f.store.Now(t.Context())
	require.NoError(t, err)
	require.False(t, now.Before(at), "never before its time")
	receive(t, items)
	later, err := f.store.Run(t.Context(), got[1].ID)
	require.NoError(t, err)
	require.Equal(t, task.StateQueued, later.State)
	_, err = f.RunOnce(t.Context(), f.term-1)
	require.NoError(t, err, "there is nothing to do, so nothing is refused")
}

func TestAnAbsentQueueLosesNothing(t *testing.T) {
	t.Parallel()
	redis := servertest.OwnRedis(t)
	f := startOn(t, redis.URL, "own")
	f.worker(8)
	require.NoError(t, f.Reenqueue(t.Context(), f.term))
	require.NoError(t, redis.Kill(9))
	<-redis.Done()
	_, err := f.Submit(t.Context(), demo(""))
	require.NoError(t, err, "runs are accepted without a queue")
	require.Error(t, f.Reenqueue(t.Context(), f.term))
	require.NoError(t, redis.Restart(t.Context()))
	items := f.consume("default")
	require.Eventually(t, func() bool { return f.Reenqueue(t.Context(), f.term) == nil && len(items) > 0 }, 20*time.Second, 50*time.Millisecond)
}
