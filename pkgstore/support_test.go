package pkgstore

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, servertest.LeakOptions()...) }

// contentOf makes a content of path, text, path, text, ...
func contentOf(t testing.TB, pairs ...string) *Content {
	t.Helper()
	b := newBuilder(Limits{})
	for i := 0; i < len(pairs); i += 2 {
		require.NoError(t, b.admit(pairs[i], int64(len(pairs[i+1]))))
		b.add(pairs[i], []byte(pairs[i+1]))
	}
	c, err := b.finish()
	require.NoError(t, err)
	return c
}

func writeTree(t testing.TB, pairs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		p := filepath.Join(dir, filepath.FromSlash(pairs[i]))
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(pairs[i+1]), 0o644))
	}
	return dir
}

func tarOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		text := h.Linkname
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			h.Typeflag, h.Size, h.Linkname, h.Mode = tar.TypeReg, int64(len(text)), "", 0o644
		}
		require.NoError(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write([]byte(text))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

// requireError checks code, place and that every part stands in the message or the remedy.
func requireError(t testing.TB, err error, code task.Code, where string, parts ...string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, code, task.CodeOf(err), err.Error())
	coded, ok := errors.AsType[*task.Error](err)
	require.True(t, ok)
	require.Equal(t, where, coded.Where, err.Error())
	for _, part := range parts {
		require.Contains(t, err.Error(), part)
	}
}

// shelf is a library in memory.
type shelf map[string]*Content

func (s shelf) find(ctx context.Context, name, want string) (*imported, error) {
	c, ok := s[strings.TrimSuffix(name+"@"+want, "@")]
	if !ok {
		return nil, task.Errorf(task.CodeNotFound, "there is no package %s %s", name, want)
	}
	made, err := bundle(ctx, c, s, 64*mebi)
	if err != nil {
		return nil, err
	}
	return &imported{content: c, manifest: made.manifest}, nil
}

// newest returns the number of the newest release: what a run that starts now is pinned to.
func newest(ctx context.Context, s *Store) (release int64, err error) {
	err = s.pool.QueryRow(ctx, `SELECT coalesce(max(id), 0) FROM releases`).Scan(&release)
	return release, err
}
