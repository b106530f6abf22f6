package servertest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOnlyFoldersOfDeadProcessesAreRemoved(t *testing.T) {
	t.Parallel()
	live, err := NewFolder()
	require.NoError(t, err)
	defer func() { require.NoError(t, RemoveFolder(live)) }()
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(live, "owner"), old, old))
	require.False(t, isDead(live), "its owner, this process, holds the lock")

	dead := t.TempDir()
	require.False(t, isDead(dead), "new and without a lock: its owner may be about to take it")
	require.NoError(t, os.Chtimes(dead, old, old))
	require.True(t, isDead(dead))
	owner := filepath.Join(dead, "owner")
	require.NoError(t, os.WriteFile(owner, nil, 0o600))
	require.False(t, isDead(dead), "a new lock file may be about to be locked")
	require.NoError(t, os.Chtimes(owner, old, old))
	require.True(t, isDead(dead))

	require.ErrorIs(t, RemoveFolder("/tmp/other"), os.ErrInvalid)
}

func TestSlugKeepsDatabaseNamesShortAndPlain(t *testing.T) {
	t.Parallel()
	require.Equal(t, "testa_b_c", slug("TestA/b c", 30))
	require.Len(t, slug(strings.Repeat("x", 100), 30), 30)
	require.Empty(t, slug("é", 30))
}
