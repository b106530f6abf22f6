package cli_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// packageServer keeps what was pushed to it, under "live" and by digest.
type packageServer struct {
	mu       sync.Mutex
	archives map[string][]byte
	releases []task.Release // newest first
}

func (s *packageServer) push(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	archive, _ := io.ReadAll(r.Body)
	content, err := pkgstore.ReadArchive(bytes.NewReader(archive), pkgstore.Limits{})
	if err != nil {
		refuse(400, task.CodeInvalid, err.Error(), "")(w, r)
		return
	}
	digest, channel := content.Digest(), r.URL.Query().Get("channel")
	_, there := s.archives[digest]
	s.archives[digest], s.archives[channel] = archive, archive
	s.releases = append([]task.Release{{ID: int64(len(s.releases) + 1), Package: "p", Channel: channel, Digest: digest}}, s.releases...)
	answer(200, client.PushResult{Name: "p", Digest: digest, Version: pkgstore.Short(digest), Created: !there, Channel: channel, Release: s.releases[0].ID})(w, r)
}

func (s *packageServer) archive(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	which := r.URL.Query().Get("digest") + r.URL.Query().Get("channel")
	if which == "" {
		which = "live"
	}
	archive, ok := s.archives[which]
	if !ok {
		refuse(404, task.CodeNotFound, "no version "+which, "")(w, r)
		return
	}
	_, _ = w.Write(archive)
}

func packageShell(t *testing.T) *shell {
	s := &packageServer{archives: map[string][]byte{}}
	return shellOn(t, map[string]http.HandlerFunc{
		"POST /api/v1/packages":               s.push,
		"GET /api/v1/packages/{name}/archive": s.archive,
		"GET /api/v1/packages/{name}/releases": func(w http.ResponseWriter, r *http.Request) {
			answer(200, s.releases)(w, r)
		},
	})
}

// folder writes files below a new folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for path, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644))
	}
	return dir
}

func TestPushPullDiff(t *testing.T) {
	t.Parallel()
	s := packageShell(t)
	dir := folder(t, map[string]string{"catena.yaml": "name: p\n", "a.ts": "one\ntwo\nthree\n", "gone.ts": "gone\n"})
	got := s.run("pkg", "push", dir)
	require.Equal(t, 0, got.code, got.err)
	require.Regexp(t, `^pushed p [0-9a-f]{12} \(3 files, \d+ B\); channel live points at it since release 1\n$`, got.out)
	got = s.run("pkg", "push", dir, "--json")
	require.Contains(t, got.out, `"created":false`)
	require.Contains(t, s.run("pkg", "push", dir).out, "was there already")

	got = s.run("pkg", "diff", "p")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "only ever had one live version")

	next := folder(t, map[string]string{"catena.yaml": "name: p\n", "a.ts": "one\n2\nthree\n", "new/b.ts": "new"})
	want := `--- a/a.ts
+++ b/a.ts
@@ -1,3 +1,3 @@
 one
-two
+2
 three
--- a/gone.ts
+++ b/gone.ts
@@ -1,1 +0,0 @@
-gone
--- a/new/b.ts
+++ b/new/b.ts
@@ -0,0 +1,1 @@
+new
\ No newline at end of file
`
	require.Equal(t, result{0, want, ""}, s.run("pkg", "diff", "p", next), "a folder against what is live")
	require.Equal(t, 0, s.run("pkg", "push", next).code)
	require.Equal(t, result{0, want, ""}, s.run("pkg", "diff", "p"), "what was live before against what is")
	require.Equal(t, "the versions are the same\n", s.run("pkg", "diff", "p", "live", next).out)
	require.Contains(t, s.run("pkg", "diff", "p", "--json").out, `"change":"removed"`)

	target := filepath.Join(t.TempDir(), "copy")
	got = s.run("pkg", "pull", "p", target)
	require.Equal(t, 0, got.code, got.err)
	text, err := os.ReadFile(filepath.Join(target, "new/b.ts"))
	require.NoError(t, err)
	require.Equal(t, "new", string(text))
	got = s.run("pkg", "pull", "p", target)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "the folder is not empty")
	require.Equal(t, 1, s.run("pkg", "pull", "p", filepath.Join(t.TempDir(), "x"), "--version", "nope").code)
}

func TestABadFolderIsNotSent(t *testing.T) {
	t.Parallel()
	s := packageShell(t)
	got := s.run("pkg", "push", filepath.Join(t.TempDir(), "none"))
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "none")
	got = s.run("pkg", "push", folder(t, map[string]string{"a.ts": ""}))
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "catena.yaml")
	big := folder(t, map[string]string{"catena.yaml": "name: p\n", "big.txt": strings.Repeat("x", 17<<20)})
	got = s.run("pkg", "push", big)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "16777216")
	require.Equal(t, 1, s.run("pkg", "push", big, "--max-size", "32MiB").code, "the server has a limit too")
}

func TestPackageChanges(t *testing.T) {
	t.Parallel()
	var seen []string
	s := shellOn(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, r.Method+" "+r.URL.RequestURI()+" "+strings.TrimSpace(string(body)))
		answer(200, task.Release{ID: 9, Package: "p", Channel: "live", Digest: "sha256:0123456789abcdef"})(w, r)
	}})
	require.Equal(t, "p: channel live points at 0123456789ab since release 9\n", s.run("pkg", "promote", "p", "test").out)
	require.Equal(t, "p: channel live points at 0123456789ab since release 9\n", s.run("pkg", "rollback", "p").out)
	require.Equal(t, "p 0123456789ab is deleted\n", s.run("pkg", "delete", "p", "sha256:0123456789abcdef").out)
	require.Equal(t, "p is deleted\n", s.run("pkg", "delete", "p", "--yes").out)
	require.Equal(t, []string{
		`POST /api/v1/packages/p/promote {"digest":"test","channel":"live"}`,
		`POST /api/v1/packages/p/rollback {"channel":"live"}`,
		`DELETE /api/v1/packages/p?digest=sha256%3A0123456789abcdef `,
		`DELETE /api/v1/packages/p `,
	}, seen)
}
