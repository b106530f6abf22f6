package api_test

import (
	"archive/tar"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
	"github.com/stretchr/testify/require"
)

const manifest = "name: demo\ndescription: a demo\nexports:\n  - hello?main\n"

// pack makes a tar of path, text pairs.
func pack(t *testing.T, pairs ...string) *bytes.Buffer {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for i := 0; i < len(pairs); i += 2 {
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: pairs[i], Size: int64(len(pairs[i+1])), Mode: 0o644}))
		_, err := w.Write([]byte(pairs[i+1]))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return &archive
}

func script(text string) string {
	return "export function main() { return {success: true, data: \"" + text + "\"} }\n"
}

func TestPackageLife(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	operator := f.as(auth.Operator)
	first, err := operator.Push(ctx, pack(t, "catena.yaml", manifest, "hello.js", script("one")), "")
	require.NoError(t, err)
	require.True(t, first.Created)
	require.Equal(t, "demo", first.Name)
	require.Equal(t, task.DefaultChannel, first.Channel)
	require.Contains(t, first.Digest, first.Version)
	again, err := operator.Push(ctx, pack(t, "catena.yaml", manifest, "hello.js", script("one")), "live")
	require.NoError(t, err)
	require.False(t, again.Created)
	require.Equal(t, first.Digest, again.Digest)
	second, err := operator.Push(ctx, pack(t, "catena.yaml", manifest, "hello.js", script("two")), "beta")
	require.NoError(t, err)

	live, err := f.Packages(ctx)
	require.NoError(t, err)
	require.Len(t, live, 1)
	require.Equal(t, first.Digest, live[0].Digest)
	shown, err := f.Package(ctx, "demo", client.PackageSelector{Channel: "beta"})
	require.NoError(t, err)
	require.Equal(t, second.Digest, shown.Digest)
	require.Contains(t, string(shown.Manifest), "hello?main")
	versions, err := f.PackageVersions(ctx, "demo")
	require.NoError(t, err)
	require.Len(t, versions, 2)
	files, err := f.PackageFiles(ctx, "demo", client.PackageSelector{})
	require.NoError(t, err)
	require.Len(t, files, 2)
	require.Equal(t, "hello.js", files[1].Path)

	var archive bytes.Buffer
	require.NoError(t, f.PackageArchive(ctx, "demo", client.PackageSelector{Digest: second.Version}, &archive))
	content, err := pkgstore.ReadArchive(&archive, pkgstore.Limits{})
	require.NoError(t, err)
	require.Equal(t, second.Digest, content.Digest())

	promoted, err := operator.Promote(ctx, "demo", "beta", "live")
	require.NoError(t, err)
	require.Equal(t, second.Digest, promoted.Digest)
	require.Equal(t, "the-operator", promoted.By)
	back, err := operator.Rollback(ctx, "demo", "")
	require.NoError(t, err)
	require.Equal(t, first.Digest, back.Digest)
	releases, err := f.PackageReleases(ctx, "demo")
	require.NoError(t, err)
	require.Len(t, releases, 4)
	require.Equal(t, "rollback", releases[0].Action)
	require.Equal(t, task.CodeConflict, task.CodeOf(operator.DeletePackage(ctx, "demo", first.Digest)), "a channel points at it")
	require.NoError(t, operator.DeletePackage(ctx, "demo", ""))
	live, err = f.Packages(ctx)
	require.NoError(t, err)
	require.Empty(t, live)

	_, err = f.Package(ctx, "nobody", client.PackageSelector{})
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	err = f.PackageArchive(ctx, "nobody", client.PackageSelector{}, &archive)
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	rows, _ := f.audited()
	require.Equal(t, []string{
		"the-operator push-package demo", "the-operator push-package demo", "the-operator push-package demo",
		"the-operator promote-package demo", "the-operator rollback-package demo", "the-operator delete-package demo",
	}, rows)
}

func TestBadPushes(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx := t.Context()
	for name, c := range map[string]struct {
		archive *bytes.Buffer
		code    task.Code
	}{
		"a way out":       {pack(t, "catena.yaml", manifest, "../hello.js", script("x")), task.CodeInvalid},
		"no manifest":     {pack(t, "hello.js", script("x")), task.CodeInvalid},
		"no tar":          {bytes.NewBufferString(strings.Repeat("x", 5000)), task.CodeInvalid},
		"nothing":         {&bytes.Buffer{}, task.CodeInvalid},
		"17 MiB":          {pack(t, "catena.yaml", manifest, "hello.js", script("x"), "data.bin", strings.Repeat("x", 17<<20)), task.CodeTooLarge},
		"a broken script": {pack(t, "catena.yaml", manifest, "hello.js", "export function main( {"), task.CodeInvalid},
		"a bad name":      {pack(t, "catena.yaml", "name: Big\n"), task.CodeInvalid},
	} {
		_, err := f.Push(ctx, c.archive, "live")
		require.Equal(t, c.code, task.CodeOf(err), "%s: %v", name, err)
	}
	_, err := f.Push(ctx, pack(t, "catena.yaml", manifest, "hello.js", script("x")), "No Channel")
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	live, err := f.Packages(ctx)
	require.NoError(t, err)
	require.Empty(t, live)
	rows, _ := f.audited()
	require.Empty(t, rows)
}

func TestPushLimitIsThatOfTheStore(t *testing.T) {
	t.Parallel()
	f := start(t)
	status, e := f.refused(http.MethodPost, "/api/v1/packages", f.tokens[auth.Operator], strings.Repeat("x", 41<<20), "Content-Type", "application/x-tar")
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
	require.Contains(t, e.Message, "MiB")
}
