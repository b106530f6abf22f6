package queue_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/queue/queuetest"
	"github.com/catena-run/catena/task"
)

const patience = 20 * time.Second

func TestConformsOnRedis(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(t *testing.T) queuetest.Subject {
		s := newServer(t, "")
		q, _ := open(t, queue.Config{URL: s.url()})
		return queuetest.Subject{Queue: q, Flush: func() { s.do("FLUSHALL") }}
	})
}

func TestConformsOnMiniredis(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(t *testing.T) queuetest.Subject {
		s := miniredis.RunT(t)
		q, _ := open(t, queue.Config{URL: "redis://" + s.Addr()})
		return queuetest.Subject{Queue: q, Flush: s.FlushAll}
	})
}

func TestNamespacesShareAServer(t *testing.T) {
	t.Parallel()
	url := servertest.Redis(t)
	one, _ := open(t, queue.Config{URL: url, Namespace: servertest.RedisNamespace(t)})
	two, _ := open(t, queue.Config{URL: url, Namespace: servertest.RedisNamespace(t)})
	require.NoError(t, one.SetEpoch(t.Context(), "1"))
	epoch, err := two.Epoch(t.Context())
	require.NoError(t, err)
	require.Empty(t, epoch)

	item := queue.Item{Lane: "default", Parcel: 1, DispatchNo: 1}
	require.NoError(t, one.Enqueue(t.Context(), []queue.Item{item}))
	require.NoError(t, two.Enqueue(t.Context(), []queue.Item{item}))
	var got [2]atomic.Int32
	for i, q := range []*queue.Asynq{one, two} {
		startConsumer(t, q, func(context.Context, queue.Item) { got[i].Add(1) })
	}
	require.Eventually(t, func() bool { return got[0].Load() == 1 && got[1].Load() == 1 }, patience, time.Millisecond)
}

func startConsumer(t *testing.T, q queue.Queue, handle queue.Handler) queue.Consumer {
	t.Helper()
	c, err := q.Consume("default", queue.ConsumeConfig{}, handle)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = c.Stop(ctx)
	})
	return c
}

func TestSurvivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, "")
	q, log := open(t, queue.Config{URL: s.url()})
	got := make(chan queue.Item, 100)
	startConsumer(t, q, func(_ context.Context, item queue.Item) { got <- item })
	require.NoError(t, q.Enqueue(t.Context(), []queue.Item{{Lane: "default", Parcel: 1}}))
	require.EqualValues(t, 1, (<-got).Parcel)

	s.kill()
	require.Eventually(t, func() bool { return log.count("cannot be used") == 1 }, patience, time.Millisecond)
	items := []queue.Item{{Lane: "default", Parcel: 2}, {Lane: "default", Parcel: 3}}
	err := q.Enqueue(t.Context(), items)
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	require.ErrorContains(t, err, "2 of 2 parcels")
	require.ErrorContains(t, err, s.addr())
	_, err = q.Check(t.Context())
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	_, err = q.Epoch(t.Context())
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))

	s.start()
	require.Eventually(t, func() bool { return q.Enqueue(t.Context(), items) == nil }, patience, 10*time.Millisecond)
	seen := map[int64]bool{(<-got).Parcel: true, (<-got).Parcel: true}
	require.Equal(t, map[int64]bool{2: true, 3: true}, seen)
	require.Equal(t, 1, log.count("cannot be used"), "one line per outage")
	require.Equal(t, 1, log.count("is back after"))
}

func TestStartsAndStopsWithoutAServer(t *testing.T) {
	t.Parallel()
	q, log := open(t, queue.Config{URL: fmt.Sprintf("redis://127.0.0.1:%d", freePort(t))})
	c := startConsumer(t, q, func(context.Context, queue.Item) {})
	require.Eventually(t, func() bool { return log.count("cannot be used") == 1 }, patience, time.Millisecond)
	started := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, c.Stop(ctx))
	require.Less(t, time.Since(started), 5*time.Second)
}

// A consumer killed between fetch and claim leaves an active task behind, which
// asynq archives later under its old id.
func TestCleanEmptiesTheArchive(t *testing.T) {
	t.Parallel()
	s := newServer(t, "")
	q, _ := open(t, queue.Config{URL: s.url()})
	items := []queue.Item{{Lane: "default", Parcel: 1, DispatchNo: 1}, {Lane: "default", Parcel: 2, DispatchNo: 1}}
	require.NoError(t, q.Enqueue(t.Context(), items))
	for _, id := range []string{"1:1", "2:1"} { // what asynq's recoverer does
		s.do("LREM", "asynq:{test:default}:pending", 0, id)
		s.do("ZADD", "asynq:{test:default}:archived", time.Now().Unix(), id)
		s.do("HSET", "asynq:{test:default}:t:"+id, "state", "archived")
	}
	s.do("DEL", "asynq:queues") // as after a flush, of which asynq's cache does not learn
	require.NoError(t, q.Clean(t.Context()))
	require.EqualValues(t, 0, s.do("EXISTS", "asynq:{test:default}:archived", "asynq:{test:default}:t:1:1", "asynq:{test:default}:t:2:1"))

	require.NoError(t, q.Enqueue(t.Context(), items))
	got := make(chan queue.Item, 2)
	startConsumer(t, q, func(_ context.Context, item queue.Item) { got <- item })
	require.NotEqual(t, <-got, <-got)
}

func TestCheckTellsOfTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, "maxmemory-policy allkeys-lru\nrequirepass s3cret")
	q, _ := open(t, queue.Config{URL: "redis://:s3cret@" + s.addr()})
	info, err := q.Check(t.Context())
	require.NoError(t, err)
	require.Equal(t, s.addr(), info.Addr)
	require.Regexp(t, `^\d+\.\d+`, info.Version)
	require.Equal(t, "allkeys-lru", info.MaxMemoryPolicy)
	require.Contains(t, info.Problem(), "noeviction")

	wrong, _ := open(t, queue.Config{URL: "redis://:hunter2@" + s.addr()})
	_, err = wrong.Check(t.Context())
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	require.NotContains(t, err.Error(), "hunter2")
}

func TestCheckOnAServerThatForbidsConfig(t *testing.T) {
	t.Parallel()
	s := newServer(t, "user default on nopass ~* &* +@all -config -info")
	q, _ := open(t, queue.Config{URL: s.url()})
	info, err := q.Check(t.Context())
	require.NoError(t, err)
	require.Equal(t, queue.Unknown, info.MaxMemoryPolicy)
	require.Equal(t, queue.Unknown, info.Version)
	require.Empty(t, info.Problem())
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	s := newServer(t, "unixsocket redis.sock")
	q, _ := open(t, queue.Config{URL: "unix://" + s.dir + "/redis.sock?db=1"})
	require.Eventually(t, func() bool { return q.SetEpoch(t.Context(), "1") == nil }, patience, time.Millisecond)
}

// TestSentinelFailover runs a master, a replica and a sentinel, kills the master
// and expects the queue to go on with the replica.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	master := newServer(t, "")
	replica := newServer(t, fmt.Sprintf("replicaof 127.0.0.1 %d\nrepl-diskless-sync-delay 0", master.port))
	sentinel := newServer(t, fmt.Sprintf("sentinel monitor main 127.0.0.1 %d 1\nsentinel down-after-milliseconds main 500\n"+
		"sentinel failover-timeout main 2000\nsentinel resolve-hostnames no", master.port), "--sentinel")
	direct := redis.NewSentinelClient(&redis.Options{Addr: sentinel.addr()})
	defer direct.Close()
	require.Eventually(t, func() bool {
		replicas, err := direct.Replicas(t.Context(), "main").Result()
		return err == nil && len(replicas) == 1 && replicas[0]["master-link-status"] == "ok"
	}, 30*time.Second, 50*time.Millisecond, "the sentinel does not see the replica")

	q, _ := open(t, queue.Config{Sentinel: queue.Sentinel{MasterName: "main", Addrs: []string{sentinel.addr()}}})
	got := make(chan queue.Item, 100)
	startConsumer(t, q, func(_ context.Context, item queue.Item) { got <- item })
	require.NoError(t, q.Enqueue(t.Context(), []queue.Item{{Lane: "default", Parcel: 1}}))
	require.EqualValues(t, 1, (<-got).Parcel)

	master.kill()
	second := []queue.Item{{Lane: "default", Parcel: 2}}
	require.Eventually(t, func() bool { return q.Enqueue(t.Context(), second) == nil }, 30*time.Second, 50*time.Millisecond)
	select {
	case item := <-got:
		require.EqualValues(t, 2, item.Parcel)
	case <-time.After(30 * time.Second):
		t.Fatal("the consumer did not follow the failover")
	}
	require.Equal(t, "master", replica.do("ROLE").([]any)[0])
}

func BenchmarkEnqueue(b *testing.B) {
	q, err := queue.Open(queue.Config{URL: servertest.Redis(b), Namespace: servertest.RedisNamespace(b)}, silent())
	require.NoError(b, err)
	defer q.Close()
	const batch = 500
	items := make([]queue.Item, batch)
	next := int64(0)
	for b.Loop() {
		for i := range items {
			next++
			items[i] = queue.Item{Lane: "bench", Parcel: next}
		}
		require.NoError(b, q.Enqueue(b.Context(), items))
	}
	b.ReportMetric(float64(next)/b.Elapsed().Seconds(), "items/s")
}

func BenchmarkConsume(b *testing.B) {
	q, err := queue.Open(queue.Config{URL: servertest.Redis(b), Namespace: servertest.RedisNamespace(b)}, silent())
	require.NoError(b, err)
	defer q.Close()
	items := make([]queue.Item, b.N)
	for i := range items {
		items[i] = queue.Item{Lane: "bench", Parcel: int64(i + 1)}
	}
	require.NoError(b, q.Enqueue(b.Context(), items))
	var n atomic.Int64
	all := make(chan struct{})
	b.ResetTimer()
	c, err := q.Consume("bench", queue.ConsumeConfig{}, func(context.Context, queue.Item) {
		if n.Add(1) == int64(b.N) {
			close(all)
		}
	})
	require.NoError(b, err)
	<-all
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
	b.StopTimer()
	require.NoError(b, c.Stop(b.Context()))
}
