package master_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/store"
)

// Five ticks of silence make a worker lost: they must take little more than
// five seconds, also with one master.
func TestTheClusterTicksOnceASecond(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Config{URL: servertest.PostgresURL(t)})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = master.New(master.Config{Name: "m"}, master.Deps{Store: s, Log: logrus.New()}).Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	tick := func() (n int64) {
		require.NoError(t, s.Pool().QueryRow(t.Context(), `SELECT tick FROM cluster`).Scan(&n))
		return n
	}
	var first int64
	require.Eventually(t, func() bool { first = tick(); return first > 0 }, 5*time.Second, 10*time.Millisecond)
	began := time.Now()
	require.Eventually(t, func() bool { return tick() >= first+5 }, 15*time.Second, 10*time.Millisecond)
	took := time.Since(began)
	require.Greater(t, took, 3800*time.Millisecond, "a tick is a second")
	require.Less(t, took, 6500*time.Millisecond)
}
