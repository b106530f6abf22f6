package node

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestOnlyDrainingWorkersHaveToldWhatTheyRun(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		workers []task.Worker
		running int
		told    bool
	}{
		"none is left":    {nil, 0, true},
		"of another":      {[]task.Worker{{Master: "b", State: task.WorkerActive, Running: 5}}, 0, true},
		"not told yet":    {[]task.Worker{{Master: "a", State: task.WorkerActive}, {Master: "a", State: task.WorkerDraining, Running: 1}}, 1, false},
		"all have told":   {[]task.Worker{{Master: "a", State: task.WorkerDraining, Running: 2}, {Master: "a", State: task.WorkerDraining, Running: 1}}, 3, true},
		"nothing is left": {[]task.Worker{{Master: "a", State: task.WorkerDraining}}, 0, true},
	} {
		running, told := runsOf(c.workers, "a")
		require.Equal(t, c.running, running, name)
		require.Equal(t, c.told, told, name)
	}
}
