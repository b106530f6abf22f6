package store_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/store"
)

// Masters that start together on a new database all make its partitions.
func TestPartitionsAreMadeByManyAtOnce(t *testing.T) {
	t.Parallel()
	url := servertest.PostgresURL(t)
	var all sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		s, err := store.Open(t.Context(), store.Config{URL: url, MaxConns: 2})
		require.NoError(t, err)
		t.Cleanup(s.Close)
		all.Go(func() { errs[i] = s.EnsurePartitions(t.Context()) })
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}
