package node_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/node"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// migrated is a configuration on a database that has the schema.
func migrated(t *testing.T) (configs.Config, *store.Store) {
	t.Helper()
	c := config(t)
	c.Postgres.URL = servertest.PostgresURL(t)
	s, err := store.Open(t.Context(), store.Config{URL: c.Postgres.URL})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	_, err = s.Pool().Exec(t.Context(), `UPDATE cluster SET id = gen_random_uuid()`) // the databases of the tests are copies of one
	require.NoError(t, err)
	return c, s
}

// refusedWorker starts a worker that must be refused before it has registered.
func refusedWorker(t *testing.T, c configs.Config, s *store.Store, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := node.RunWorker(ctx, c, node.WorkerOptions{Options: node.Options{Version: "test", Out: io.Discard, Err: io.Discard}})
	require.Error(t, err)
	for _, text := range want {
		require.ErrorContains(t, err, text)
	}
	workers, listErr := s.Workers(t.Context(), true)
	require.NoError(t, listErr)
	require.Empty(t, workers)
}

// The Redis is used by a cluster, but there is no trace of this one.
func TestAWorkerBetweenTwoClustersIsRefused(t *testing.T) {
	t.Parallel()
	c, s := migrated(t)
	log := logrus.New()
	log.SetOutput(io.Discard)
	other, err := queue.Open(queue.Config{URL: c.Redis.URL, Namespace: c.Cluster.Name + "-other", ClusterID: "0f0f0f0f-other", ClusterName: "other"}, log)
	require.NoError(t, err)
	require.NoError(t, other.SetEpoch(t.Context(), "1"))
	require.NoError(t, other.Close())
	refusedWorker(t, c, s, "redis.url: the database belongs to the cluster "+c.Cluster.Name, "the Redis is used by", "one cluster")
}

func TestAWorkerWithAnotherClusterNameIsRefused(t *testing.T) {
	t.Parallel()
	c, s := migrated(t)
	_, err := s.BeatMaster(t.Context(), task.Master{Name: "m", Settings: map[string]string{"cluster.name": "production"}})
	require.NoError(t, err)
	refusedWorker(t, c, s, "cluster.name: this worker is of the cluster "+c.Cluster.Name+", and the masters on its database are of production; set cluster.name to production")
}

// A binary that the schema no longer allows starts nothing, whatever it is.
func TestABinaryThatIsTooOldIsRefused(t *testing.T) {
	t.Parallel()
	c, s := migrated(t)
	_, err := s.Pool().Exec(t.Context(), `UPDATE schema_info SET min_compatible = 99`)
	require.NoError(t, err)
	refusedWorker(t, c, s, "the database (version ", "needs at least 99; use a newer release of catena")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c.Master.Admin = free.Addr().String()
	require.NoError(t, free.Close())
	err = node.RunMaster(t.Context(), c, node.Options{Version: "test", Out: io.Discard, Err: io.Discard})
	require.ErrorContains(t, err, "use a newer release of catena")
	free, err = net.Listen("tcp", c.Master.Admin)
	require.NoError(t, err, "its address must be free again")
	require.NoError(t, free.Close())
	masters, err := s.Masters(t.Context(), true)
	require.NoError(t, err)
	require.Empty(t, masters)
}

// Two masters whose settings differ say so in their logs and in the list.
func TestMastersWithDifferentSettingsSaySo(t *testing.T) {
	t.Parallel()
	c, s := migrated(t)
	c.Master.Workers = 0
	ctx, stop := context.WithCancel(t.Context())
	first, second := &output{}, &output{}
	ended := make(chan error, 2)
	other := c
	other.Retention.Runs, other.Master.CatchUpRate = c.Retention.Runs*2, 7
	go func() {
		ended <- node.RunMaster(ctx, c, node.Options{Version: "test", Out: io.Discard, Err: first})
	}()
	go func() {
		ended <- node.RunMaster(ctx, other, node.Options{Version: "test", Out: io.Discard, Err: second})
	}()
	defer func() {
		stop()
		require.NoError(t, <-ended)
		require.NoError(t, <-ended)
		masters, err := s.Masters(context.Background(), true)
		require.NoError(t, err)
		for _, m := range masters {
			require.Equal(t, task.MasterStopped, m.State)
		}
	}()
	require.Eventually(t, func() bool {
		return strings.Contains(first.String(), "have different settings") && strings.Contains(second.String(), "have different settings")
	}, 30*time.Second, 20*time.Millisecond)
	require.Contains(t, first.String(), "retention.runs is 720h0m0s here and 1440h0m0s on ")
	require.Contains(t, second.String(), "master.catchUpRate is 7 here and 100 on ")
	masters, err := s.Masters(t.Context(), false)
	require.NoError(t, err)
	require.Len(t, masters, 2)
	require.Empty(t, masters[0].Warnings)
	require.Len(t, masters[1].Warnings, 2)
	require.Equal(t, "test", masters[1].Version)
	require.NotEmpty(t, masters[1].Admin)
}
