package node

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestASecondDevNamesTheFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	release, err := lockData(dir)
	require.NoError(t, err)
	_, err = lockData(dir)
	require.ErrorContains(t, err, "another dev is starting or ending in "+dir)
	require.Equal(t, task.CodeConflict, task.CodeOf(err))

	running := fmt.Sprintf(`{"admin":"http://127.0.0.1:20081","pid":%d}`, os.Getpid())
	require.NoError(t, os.WriteFile(filepath.Join(dir, DevFileName), []byte(running), 0o600))
	_, err = lockData(dir)
	require.EqualError(t, err, fmt.Sprintf("a dev runs in %s already: http://127.0.0.1:20081 (process %d); use it, stop it with Ctrl-C, or start this one with --data FOLDER", dir, os.Getpid()))
	release()
	release, err = lockData(dir)
	require.NoError(t, err)
	release()
}
