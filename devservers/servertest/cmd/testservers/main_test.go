package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRunGivesTheCommandItsServersAndPassesItsExitCode(t *testing.T) {
	t.Parallel()
	told := filepath.Join(t.TempDir(), "told")
	var out bytes.Buffer
	code, err := run([]string{"sh", "-c", `echo "$CATENA_TEST_POSTGRES_URL $CATENA_TEST_REDIS_URL" > "$0"; exit 7`, told}, &out)
	require.NoError(t, err)
	require.Equal(t, 7, code)
	text, err := os.ReadFile(told)
	require.NoError(t, err)
	require.Regexp(t, `^postgres:///catena\?\S+ redis://127\.0\.0\.1:\d+/0\n$`, string(text))
	lines := regexp.MustCompile(`(?m)^export (CATENA_TEST_\w+)='[^']+'$`).FindAllStringSubmatch(out.String(), -1)
	require.Len(t, lines, 2)
	folder := regexp.MustCompile(`catena-test-\d+`).FindString(string(text))
	require.NotEmpty(t, folder)
	require.NoDirExists(t, filepath.Join(os.TempDir(), folder), "the data must be gone afterwards")
}

func TestRunReportsACommandThatCannotStart(t *testing.T) {
	t.Parallel()
	code, err := run([]string{"/no/such/command"}, &bytes.Buffer{})
	require.Error(t, err)
	require.Equal(t, 1, code)
}
