// Package queuetest is the conformance suite of queue.Queue: every
// implementation, on every server it supports, must pass Run. It is for tests
// only.
package queuetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/queue"
)

// Subject is a queue on a server that nothing else uses.
type Subject struct {
	Queue queue.Queue
	Flush func() // makes the server forget everything
}

const patience = time.Minute // a busy machine and an interpreted server are slow

// Run checks the contract of queue.Queue. open is called once per subtest and
// cleans up after itself; subtests run in parallel.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s Subject)
	}{
		{"each item is delivered once", deliverOnce},
		{"an item that waits is not doubled", noDoubleWhilePending},
		{"a fresh dispatch number delivers again", freshDispatch},
		{"lanes are apart", lanesApart},
		{"no more handlers than asked for", concurrency},
		{"a handler that panics harms nobody", panicking},
		{"stop waits for handlers", stopWaits},
		{"stop interrupts handlers when its time is up", stopInterrupts},
		{"a slow handler is interrupted and its slot is free again", handlerTimeout},
		{"a flushed server is used again", flushed},
		{"the epoch is lost with everything else", epoch},
		{"two consumers share a lane", share},
		{"bad items and settings are refused", refused},
		{"an ended context enqueues nothing", endedContext},
		{"check and clean", checkAndClean},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open(t))
		})
	}
}

// inbox counts deliveries.
type inbox struct {
	mu   sync.Mutex
	seen map[queue.Item]int
	n    int
}

func (b *inbox) take(_ context.Context, item queue.Item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen == nil {
		b.seen = map[queue.Item]int{}
	}
	b.seen[item]++
	b.n++
}

func (b *inbox) total() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

func (b *inbox) counts() map[queue.Item]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := make(map[queue.Item]int, len(b.seen))
	for k, v := range b.seen {
		c[k] = v
	}
	return c
}

// await waits until n items came and returns once no more can be on their way:
// when an item enqueued last, to the same lane, has come as well.
func (b *inbox) await(t *testing.T, q queue.Queue, lane string, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return b.total() >= n }, patience, time.Millisecond, "items are missing")
	last := queue.Item{Lane: lane, Parcel: 1 << 40, DispatchNo: n}
	enqueue(t, q, last)
	require.Eventually(t, func() bool { return b.counts()[last] == 1 }, patience, time.Millisecond, "the last item is missing")
	require.Equal(t, n+1, b.total(), "more items than were enqueued")
}

func enqueue(t *testing.T, q queue.Queue, items ...queue.Item) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, q.Enqueue(ctx, items))
}

func consume(t *testing.T, q queue.Queue, lane string, handle queue.Handler) queue.Consumer {
	t.Helper()
	return consumeWith(t, q, lane, queue.ConsumeConfig{}, handle)
}

func consumeWith(t *testing.T, q queue.Queue, lane string, cfg queue.ConsumeConfig, handle queue.Handler) queue.Consumer {
	t.Helper()
	c, err := q.Consume(lane, cfg, handle)
	require.NoError(t, err)
	t.Cleanup(func() { _ = stop(c, patience) })
	return c
}

func stop(c queue.Consumer, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return c.Stop(ctx)
}

func numbered(lane string, n int) []queue.Item {
	items := make([]queue.Item, n)
	for i := range items {
		items[i] = queue.Item{Lane: lane, Parcel: int64(i + 1), DispatchNo: 1}
	}
	return items
}

func deliverOnce(t *testing.T, s Subject) {
	items := numbered("default", 1000)
	enqueue(t, s.Queue, items[:500]...)
	var got inbox
	consume(t, s.Queue, "default", got.take)
	enqueue(t, s.Queue, items[500:]...)
	got.await(t, s.Queue, "default", len(items))
	counts := got.counts()
	for _, item := range items {
		require.Equal(t, 1, counts[item], "%v", item)
	}
}

func noDoubleWhilePending(t *testing.T, s Subject) {
	item := queue.Item{Lane: "default", Parcel: 7, DispatchNo: 3}
	enqueue(t, s.Queue, item, item)
	enqueue(t, s.Queue, item)
	var got inbox
	consume(t, s.Queue, "default", got.take)
	got.await(t, s.Queue, "default", 1)
}

func freshDispatch(t *testing.T, s Subject) {
	enqueue(t, s.Queue, queue.Item{Lane: "default", Parcel: 7, DispatchNo: 1})
	enqueue(t, s.Queue, queue.Item{Lane: "default", Parcel: 7, DispatchNo: 2})
	var got inbox
	consume(t, s.Queue, "default", got.take)
	got.await(t, s.Queue, "default", 2)
	// Delivered and done, the same number may be used again.
	enqueue(t, s.Queue, queue.Item{Lane: "default", Parcel: 7, DispatchNo: 2})
	require.Eventually(t, func() bool { return got.total() == 4 }, patience, time.Millisecond)
}

func lanesApart(t *testing.T, s Subject) {
	enqueue(t, s.Queue, queue.Item{Lane: "a+gpu,linux", Parcel: 1}, queue.Item{Lane: "b", Parcel: 2})
	var a, b inbox
	consume(t, s.Queue, "a+gpu,linux", a.take)
	a.await(t, s.Queue, "a+gpu,linux", 1)
	consume(t, s.Queue, "b", b.take)
	b.await(t, s.Queue, "b", 1)
	require.Equal(t, 1, a.counts()[queue.Item{Lane: "a+gpu,linux", Parcel: 1}])
	require.Equal(t, 1, b.counts()[queue.Item{Lane: "b", Parcel: 2}])
}

func concurrency(t *testing.T, s Subject) {
	var mu sync.Mutex
	now, most := 0, 0
	entered, release := make(chan struct{}, 100), make(chan struct{})
	consumeWith(t, s.Queue, "default", queue.ConsumeConfig{Concurrency: 3}, func(context.Context, queue.Item) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		entered <- struct{}{}
		<-release
		mu.Lock()
		now--
		mu.Unlock()
	})
	enqueue(t, s.Queue, numbered("default", 20)...)
	for range 3 {
		receive(t, entered)
	}
	close(release)
	for range 17 {
		receive(t, entered)
	}
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, 3, most)
}

func panicking(t *testing.T, s Subject) {
	var got inbox
	consume(t, s.Queue, "default", func(ctx context.Context, item queue.Item) {
		got.take(ctx, item)
		if item.Parcel%2 == 0 {
			panic("parcel is even")
		}
	})
	enqueue(t, s.Queue, numbered("default", 10)...)
	got.await(t, s.Queue, "default", 10)
}

func stopWaits(t *testing.T, s Subject) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	var cut error
	c := consumeWith(t, s.Queue, "default", queue.ConsumeConfig{Concurrency: 1}, func(ctx context.Context, _ queue.Item) {
		entered <- struct{}{}
		<-release
		cut = ctx.Err()
	})
	enqueue(t, s.Queue, numbered("default", 2)...)
	receive(t, entered)
	stopped := make(chan error, 1)
	go func() { stopped <- stop(c, patience) }()
	select {
	case err := <-stopped:
		t.Fatalf("Stop did not wait for the handler: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	require.NoError(t, receive(t, stopped))
	require.NoError(t, cut, "the handler was interrupted though Stop had time")
	require.NoError(t, stop(c, patience), "a second Stop")
	// What was not fetched is left for the next consumer.
	var rest inbox
	consume(t, s.Queue, "default", rest.take)
	rest.await(t, s.Queue, "default", 1)
}

func stopInterrupts(t *testing.T, s Subject) {
	entered := make(chan struct{}, 1)
	c := consume(t, s.Queue, "default", func(ctx context.Context, _ queue.Item) {
		entered <- struct{}{}
		<-ctx.Done()
	})
	enqueue(t, s.Queue, numbered("default", 1)...)
	receive(t, entered)
	started := time.Now()
	require.ErrorIs(t, stop(c, 50*time.Millisecond), context.DeadlineExceeded)
	require.Less(t, time.Since(started), 10*time.Second)
}

func handlerTimeout(t *testing.T, s Subject) {
	var got inbox
	cfg := queue.ConsumeConfig{Concurrency: 1, HandleTimeout: 50 * time.Millisecond}
	consumeWith(t, s.Queue, "default", cfg, func(ctx context.Context, item queue.Item) {
		got.take(ctx, item)
		if item.Parcel == 1 {
			<-ctx.Done()
		}
	})
	enqueue(t, s.Queue, numbered("default", 3)...)
	got.await(t, s.Queue, "default", 3)
}

func flushed(t *testing.T, s Subject) {
	var got inbox
	consume(t, s.Queue, "default", got.take)
	enqueue(t, s.Queue, numbered("default", 5)...)
	got.await(t, s.Queue, "default", 5)
	s.Flush()
	enqueue(t, s.Queue, numbered("default", 5)...)
	require.Eventually(t, func() bool { return got.total() == 11 }, patience, time.Millisecond)

	// What waited is gone, and the same items can be enqueued again.
	enqueue(t, s.Queue, queue.Item{Lane: "other", Parcel: 9, DispatchNo: 1})
	s.Flush()
	enqueue(t, s.Queue, queue.Item{Lane: "other", Parcel: 9, DispatchNo: 1})
	var other inbox
	consume(t, s.Queue, "other", other.take)
	other.await(t, s.Queue, "other", 1)
	require.NoError(t, s.Queue.Clean(t.Context()))
}

func epoch(t *testing.T, s Subject) {
	ctx := t.Context()
	got, err := s.Queue.Epoch(ctx)
	require.NoError(t, err)
	require.Empty(t, got, "a fresh server has no epoch")
	require.NoError(t, s.Queue.SetEpoch(ctx, "41"))
	require.NoError(t, s.Queue.SetEpoch(ctx, "42"))
	got, err = s.Queue.Epoch(ctx)
	require.NoError(t, err)
	require.Equal(t, "42", got)
	s.Flush()
	got, err = s.Queue.Epoch(ctx)
	require.NoError(t, err)
	require.Empty(t, got)
}

func share(t *testing.T, s Subject) {
	const n = 5000
	enqueue(t, s.Queue, numbered("default", n)...)
	var all, first, second inbox
	for _, own := range []*inbox{&first, &second} {
		consume(t, s.Queue, "default", func(ctx context.Context, item queue.Item) {
			own.take(ctx, item)
			all.take(ctx, item)
		})
	}
	all.await(t, s.Queue, "default", n)
	require.NotZero(t, first.total())
	require.NotZero(t, second.total())
}

func refused(t *testing.T, s Subject) {
	for _, item := range []queue.Item{{Lane: "", Parcel: 1}, {Lane: "a"}, {Lane: "a", Parcel: -1}, {Lane: "a", Parcel: 1, DispatchNo: -1}} {
		require.Error(t, s.Queue.Enqueue(t.Context(), []queue.Item{item}), "%v", item)
	}
	require.NoError(t, s.Queue.Enqueue(t.Context(), nil), "nothing to do")
	for _, cfg := range []queue.ConsumeConfig{{Concurrency: -1}, {Concurrency: 1e6}, {PollInterval: -1}, {HandleTimeout: time.Hour}} {
		_, err := s.Queue.Consume("a", cfg, func(context.Context, queue.Item) {})
		require.Error(t, err, "%+v", cfg)
	}
	_, err := s.Queue.Consume("", queue.ConsumeConfig{}, func(context.Context, queue.Item) {})
	require.Error(t, err)
}

func endedContext(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Queue.Enqueue(ctx, numbered("default", 3))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "3 of 3")
	var got inbox
	consume(t, s.Queue, "default", got.take)
	got.await(t, s.Queue, "default", 0)
}

func checkAndClean(t *testing.T, s Subject) {
	info, err := s.Queue.Check(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, info.Addr)
	require.NotEmpty(t, info.Version)
	require.NotEmpty(t, info.MaxMemoryPolicy)
	require.Positive(t, info.Latency)
	enqueue(t, s.Queue, numbered("default", 3)...)
	require.NoError(t, s.Queue.Clean(t.Context()))
	var got inbox
	consume(t, s.Queue, "default", got.take)
	got.await(t, s.Queue, "default", 3)
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}
