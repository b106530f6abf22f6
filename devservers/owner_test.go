package devservers

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAccountFindsTheFolderThatBlocksIt(t *testing.T) {
	t.Parallel()
	root := serverDir(t)
	path := filepath.Join(root, "a", "b", "c")
	require.NoError(t, os.MkdirAll(path, 0o755))
	stranger := &account{name: "stranger", uid: 4_000_000, gid: 4_000_000}
	require.Empty(t, stranger.blockedBy(path))

	require.NoError(t, os.Chmod(filepath.Join(root, "a"), 0o700))
	require.Equal(t, filepath.Join(root, "a"), stranger.blockedBy(path))
	self := &account{name: "self", uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	require.Empty(t, self.blockedBy(path), "the owner may enter")

	require.NoError(t, os.Chmod(filepath.Join(root, "a"), 0o750))
	group := &account{name: "group", uid: 4_000_000, gid: uint32(os.Getegid())}
	require.Empty(t, group.blockedBy(path), "the group may enter")
	require.Empty(t, (*account)(nil).blockedBy(path), "without an account nobody needs to")
	require.Nil(t, (*account)(nil).credential())
}
