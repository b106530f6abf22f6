package master_test

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/master"
)

func link(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, theirs, err := master.NewLink()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = ours.Close()
		_ = theirs.Close()
	})
	return ours, theirs
}

func TestAWorkerHearsItsMaster(t *testing.T) {
	t.Parallel()
	ours, theirs := link(t)
	require.False(t, master.Say(ours, 3))
	require.NoError(t, ours.Close())
	lines := bufio.NewScanner(theirs)
	n := 0
	for ; lines.Scan(); n++ {
		var w master.Word
		require.NoError(t, json.Unmarshal(lines.Bytes(), &w))
		require.Equal(t, n, w.Cluster.Ready)
	}
	require.NoError(t, lines.Err())
	require.Equal(t, 3, n)
}

// A worker of an earlier version does not read, and one that hangs neither:
// the health checks go on.
func TestAWorkerThatDoesNotHearHoldsUpNothing(t *testing.T) {
	t.Parallel()
	ours, theirs := link(t)
	began := time.Now()
	require.True(t, master.Say(ours, 100_000))
	require.Less(t, time.Since(began), 10*time.Second)
	require.NoError(t, theirs.Close())
	require.True(t, master.Say(ours, 1), "it is gone")
}
