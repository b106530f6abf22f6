package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/cli"
)

// TestMakeDevRefusesBeforeItBuilds: the program of a running dev is not built anew below it.
func TestMakeDevRefusesBeforeItBuilds(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), cli.DevFileName)
	free := func() (string, error) {
		out, err := exec.CommandContext(t.Context(), "../.ci/dev-free", file).CombinedOutput()
		return string(out), err
	}
	_, err := free()
	require.NoError(t, err, "no dev has run here")

	dev := exec.CommandContext(t.Context(), "bash", "-c", "read -r; :", "dev", "dev")
	stdin, err := dev.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, dev.Start())
	write := func(pid int) {
		text, err := json.Marshal(cli.DevFile{Admin: "http://127.0.0.1:20081", PID: pid})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, text, 0o600))
	}
	write(dev.Process.Pid)
	said, err := free()
	require.Error(t, err)
	require.Contains(t, said, "a dev of this folder runs already: http://127.0.0.1:20081 (process")

	require.NoError(t, stdin.Close())
	_ = dev.Wait()
	_, err = free()
	require.NoError(t, err, "it has ended")
	write(os.Getpid())
	_, err = free()
	require.NoError(t, err, "the number belongs to another program now")
}
