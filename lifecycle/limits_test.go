//go:build linux

package lifecycle

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const envLimited = "CATENA_TEST_LIMITED"

// TestLimitSelf bounds a process of its own, which then asks for more.
func TestLimitSelf(t *testing.T) {
	if os.Getenv(envLimited) != "" {
		limited(t)
		return
	}
	t.Parallel()
	if raceDetector {
		t.Skip("processes with the race detector get no RLIMIT_DATA")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLimitSelf$", "-test.v")
	cmd.Env = append(os.Environ(), envLimited+"=1")
	out, err := cmd.CombinedOutput()
	require.Error(t, err, "it may not have so much")
	text := string(out)
	require.Contains(t, text, "limited", text)
	require.Contains(t, text, "memory", text)
	require.NotContains(t, text, "has it all")
}

func limited(t *testing.T) {
	t.Helper()
	require.NoError(t, LimitSelf(256<<20))
	var core syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_CORE, &core))
	require.Zero(t, core.Cur)
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	require.NoError(t, err)
	require.Equal(t, "500", strings.TrimSpace(string(score)))
	small := make([]byte, 32<<20)
	t.Log("limited", len(small))
	large := make([]byte, 4<<30)
	t.Log("has it all", len(large))
}
