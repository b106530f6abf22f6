package pkgstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// folder writes a package of one module and reads it back.
func folder(t *testing.T, manifest, module, code string) *pkgstore.Content {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, pkgstore.ManifestFile), []byte(manifest), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, module), []byte(code), 0o600))
	content, err := pkgstore.ReadDir(dir, pkgstore.Limits{})
	require.NoError(t, err)
	return content
}

func TestFoldersAreBundledLikeAPush(t *testing.T) {
	t.Parallel()
	money := folder(t, "name: money\nexports: [\"sum?add\"]\n", "sum.ts", "export const add = (a: number, b: number) => a + b")
	shop := folder(t, "name: shop\nexports: [\"cart?total\"]\ndependencies: [money@live]\n", "cart.ts", `import { add } from "pkg:money/sum"; export const total = () => add(1, 2)`)
	lost := folder(t, "name: lost\nexports: [\"a?b\"]\n", "a.ts", `import { x } from "pkg:nowhere/a"; export const b = x`)
	f, err := pkgstore.NewFolders([]*pkgstore.Content{money, shop, lost})
	require.NoError(t, err)
	require.Equal(t, []string{"lost", "money", "shop"}, f.Names())
	v, err := f.Load(t.Context(), "shop")
	require.NoError(t, err)
	require.Equal(t, shop.Digest(), v.Digest)
	require.True(t, v.Manifest.Exported("cart", "total"))
	require.Contains(t, v.Modules["cart"].Code, "a + b")
	_, err = f.Load(t.Context(), "lost")
	require.ErrorContains(t, err, "no package has the module")
	_, err = f.Load(t.Context(), "nobody")
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	_, err = pkgstore.NewFolders([]*pkgstore.Content{money, money})
	require.ErrorContains(t, err, "two folders hold the package money")
}

func TestReadonlyHTTPIsWithinHTTP(t *testing.T) {
	t.Parallel()
	c := folder(t, "name: p\npermissions:\n  http: [\"a.example\", \"*.b.example\"]\n  readonly_http: [\"a.example:80\", \"c.example\"]\n", "m.ts", "")
	m, err := c.Manifest()
	require.NoError(t, err)
	p := m.Permissions
	require.True(t, p.AllowsReadonlyHost("a.example", 80))
	require.False(t, p.AllowsReadonlyHost("a.example", 81), "another port")
	require.False(t, p.AllowsReadonlyHost("x.b.example", 80), "not among readonly_http")
	require.False(t, p.AllowsReadonlyHost("c.example", 80), "not among http")
	require.Equal(t, map[string][]string{"http": {"a.example", "*.b.example"}, "readonly_http": {"a.example:80", "c.example"}}, p.Lists())
	bad := folder(t, "name: p\npermissions:\n  readonly_http: [\"http://a\"]\n", "m.ts", "")
	_, err = bad.Manifest()
	require.ErrorContains(t, err, "is not a host")
}
