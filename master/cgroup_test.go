package master_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/master"
)

// Where a process may make cgroups but start none in them, workers start without.
func TestAWorkerThatMayNotStartInACgroupStartsWithout(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, text := range map[string]string{"cgroup.type": "domain", "cgroup.controllers": "memory"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	cgroups, err := lifecycle.NewCgroupsAt(root) // a folder that is no cgroup: the kernel refuses it
	require.NoError(t, err)
	s := start(t, "good", func(cfg *master.Supervision) { cfg.Cgroups, cfg.HardMemory = cgroups, 1<<30 })
	require.Equal(t, 1, s.working()[0].Starts)
}
