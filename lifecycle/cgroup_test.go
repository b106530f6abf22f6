package lifecycle

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// tree is a folder with the files that the code reads before it divides a
// cgroup; the kernel's part in it is not there.
func tree(t *testing.T, controllers string) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, setting(root, "cgroup.type", "domain\n"))
	require.NoError(t, setting(root, "cgroup.controllers", controllers))
	return root
}

func content(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return string(text)
}

func TestACgroupIsDividedForChildren(t *testing.T) {
	t.Parallel()
	root := tree(t, "cpu memory pids\n")
	ended := exec.Command("true")
	require.NoError(t, ended.Run())
	left := filepath.Join(root, childCgroup+strconv.Itoa(ended.Process.Pid)+"-1") // of a master before
	kept := filepath.Join(root, childCgroup+strconv.Itoa(os.Getppid())+"-1")      // of one that lives
	require.NoError(t, os.Mkdir(left, 0o755))
	require.NoError(t, os.Mkdir(kept, 0o755))
	c, err := NewCgroupsAt(root)
	require.NoError(t, err)
	require.Equal(t, "0", content(t, root, ownCgroup, "cgroup.procs"), "the process moves into a leaf")
	require.Equal(t, "+memory", content(t, root, "cgroup.subtree_control"))
	require.NoDirExists(t, left)
	require.DirExists(t, kept)

	g, err := c.New(800 << 20)
	require.NoError(t, err)
	require.Equal(t, "838860800", content(t, g.path, "memory.max"))
	require.Equal(t, "1", content(t, g.path, "memory.oom.group"))
	require.Equal(t, "0", content(t, g.path, "memory.swap.max"))
	require.False(t, g.Killed())
	require.NoError(t, setting(g.path, "memory.events", "low 0\nmax 12\noom 1\noom_kill 0\n"))
	require.False(t, g.Killed())
	require.NoError(t, setting(g.path, "memory.events", "low 0\nmax 12\noom 1\noom_kill 3\n"))
	require.True(t, g.Killed())
	cmd := exec.Command("true")
	g.Attach(cmd)
	other, err := c.New(1 << 20)
	require.NoError(t, err)
	require.NotEqual(t, g.path, other.path)
	g.Remove()
	g.Remove()

	// The process that goes on for this one begins in its leaf.
	again, err := NewCgroupsAt(filepath.Join(root, ownCgroup))
	require.NoError(t, err)
	require.Equal(t, root, again.root)
}

func TestACgroupThatIsNotOurs(t *testing.T) {
	t.Parallel()
	_, err := NewCgroupsAt(t.TempDir())
	require.ErrorContains(t, err, "the root of all cgroups")
	_, err = NewCgroupsAt(tree(t, "cpu pids\n"))
	require.ErrorContains(t, err, "the memory controller is not there")
	if _, err := NewCgroups(); err != nil {
		require.NotEmpty(t, err.Error()) // a machine that has none says so
	}
}
