package master_test

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
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
	require.False(t, master.NewSpeaker(ours).Say(3))
	require.NoError(t, ours.Close())
	require.Equal(t, []int{0, 1, 2}, heard(t, theirs))
}

// A worker of an earlier version does not read, and one that hangs neither: the
// health checks go on, and one that reads again understands what is said then.
func TestAWorkerThatDoesNotHearHoldsUpNothing(t *testing.T) {
	t.Parallel()
	ours, theirs := link(t)
	speaker := master.NewSpeaker(ours)
	began := time.Now()
	require.True(t, speaker.Say(5000))
	require.Less(t, time.Since(began), 20*time.Second)
	all := make(chan []int)
	go func() { all <- heard(t, theirs) }()
	require.Eventually(t, func() bool { return !speaker.Say(1) }, 10*time.Second, time.Millisecond)
	require.False(t, speaker.Say(2))
	require.NoError(t, ours.Close())
	numbers := <-all
	require.Equal(t, []int{0, 1}, numbers[len(numbers)-2:])
	require.Less(t, len(numbers), 5000)

	require.True(t, speaker.Say(1), "it is gone")
}

// heard are the numbers that a worker understands until the link ends.
func heard(t *testing.T, theirs *os.File) (numbers []int) {
	lines := bufio.NewScanner(theirs)
	for lines.Scan() {
		var w master.Word
		if json.Unmarshal(lines.Bytes(), &w) == nil && w.Cluster != nil {
			numbers = append(numbers, w.Cluster.Ready)
		}
	}
	assert.NoError(t, lines.Err())
	return numbers
}
