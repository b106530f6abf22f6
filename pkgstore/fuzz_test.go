package pkgstore

import (
	"archive/tar"
	"bytes"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzReadArchive(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(tarOf(f, file(ManifestFile, "name: a"), file("lib/x.ts", "export {}")))
	f.Add(tarOf(f, file("../x", "")))
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/"}))
	zipped, err := compress(contentOf(f, ManifestFile, "name: a", "é.txt", "x").WriteArchive)
	require.NoError(f, err)
	f.Add(zipped)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ReadArchive(bytes.NewReader(data), Limits{MaxSize: 1 << 16, MaxFiles: 20})
		if err != nil {
			return
		}
		require.LessOrEqual(t, c.Size(), int64(1<<16))
		for _, info := range c.Files() {
			require.True(t, filepath.IsLocal(filepath.FromSlash(info.Path)), info.Path)
			require.Equal(t, path.Clean(info.Path), info.Path)
			require.False(t, strings.ContainsAny(info.Path, "\\\x00\n"))
		}
		var out bytes.Buffer
		require.NoError(t, c.WriteArchive(&out))
		back, err := ReadArchive(&out, Limits{})
		require.NoError(t, err)
		require.Equal(t, c.Digest(), back.Digest())
	})
}

func FuzzManifest(f *testing.F) {
	for _, seed := range []string{
		"name: a", "name: a\nexports: [x?y, z]\npermissions: {http: ['*.a.b:1', '[::1]:2', '*']}\ndependencies: [b@c]",
		"name: &a b\n<<: *a", "- [", "name: a\nname: b", "? {a: b}\n: c", "--- !!binary x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, source string) {
		m, _, err := parseManifest([]byte(source))
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.NotEmpty(t, m.Name)
		for _, host := range m.Permissions.HTTP {
			_, _, err := splitHost(host)
			require.NoError(t, err, "a stored host must be readable again: %q", host)
		}
	})
}
