package pkgstore

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func file(name, text string) tar.Header { return tar.Header{Name: name, Linkname: text} }

func TestDigestIsStable(t *testing.T) {
	t.Parallel()
	const golden = "sha256:120afcf9058873cca723957e6fad6bfaceb3be1fe1b915f267a030bf72221380"
	dir := writeTree(t, ManifestFile, "name: a\n", "lib/b.ts", "export {}", "empty.txt", "",
		".git/config", "x", ".DS_Store", "y", "node_modules/z/index.js", "z", "lib/.hidden", "h")
	require.NoError(t, os.Chmod(filepath.Join(dir, "lib", "b.ts"), 0o600))
	require.NoError(t, os.Chtimes(filepath.Join(dir, ManifestFile), time.Unix(1, 0), time.Unix(1, 0)))
	fromDir, err := ReadDir(dir, Limits{})
	require.NoError(t, err)
	require.Equal(t, golden, fromDir.Digest())
	require.Equal(t, []string{ManifestFile, "empty.txt", "lib/b.ts"}, pathsOf(fromDir))

	other := tarOf(t, tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}},
		tar.Header{Typeflag: tar.TypeDir, Name: "./"}, tar.Header{Typeflag: tar.TypeDir, Name: "./lib/"},
		file("./lib/b.ts", "export {}"), file("./.git/config", "other"), tar.Header{Typeflag: tar.TypeSymlink, Name: "node_modules/x", Linkname: "/"},
		file("./empty.txt", ""), file("catena.yaml", "name: a\n"))
	fromTar, err := ReadArchive(bytes.NewReader(other), Limits{})
	require.NoError(t, err)
	require.Equal(t, golden, fromTar.Digest())

	var plain, again bytes.Buffer
	require.NoError(t, fromDir.WriteArchive(&plain))
	require.NoError(t, fromTar.WriteArchive(&again))
	require.Equal(t, plain.Bytes(), again.Bytes())
	zipped, err := compress(fromDir.WriteArchive)
	require.NoError(t, err)
	back, err := ReadArchive(bytes.NewReader(zipped), Limits{})
	require.NoError(t, err)
	require.Equal(t, golden, back.Digest())

	require.NotEqual(t, contentOf(t, ManifestFile, "x", "ab", "c").Digest(), contentOf(t, ManifestFile, "x", "a", "bc").Digest())
}

func pathsOf(c *Content) (paths []string) {
	for _, f := range c.Files() {
		paths = append(paths, f.Path)
	}
	return paths
}

func TestWriteDir(t *testing.T) {
	t.Parallel()
	c := contentOf(t, ManifestFile, "name: a", "deep/er/x.ts", "1")
	dir := filepath.Join(t.TempDir(), "new")
	require.NoError(t, c.WriteDir(dir))
	back, err := ReadDir(dir, Limits{})
	require.NoError(t, err)
	require.Equal(t, c.Digest(), back.Digest())
	requireError(t, c.WriteDir(dir), task.CodeConflict, filepath.Join(dir, ManifestFile), "there already")

	trap, outside := t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink(outside, filepath.Join(trap, "deep")))
	require.Error(t, c.WriteDir(trap))
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries, "nothing may be written through a link")
}

func TestArchiveRefuses(t *testing.T) {
	t.Parallel()
	manifest := file(ManifestFile, "name: a")
	cases := []struct {
		name    string
		entries []tar.Header
		code    task.Code
		where   string
		part    string
	}{
		{"parent", []tar.Header{file("../x.ts", "")}, task.CodeInvalid, "../x.ts", `".."`},
		{"inner parent", []tar.Header{file("a/../../x.ts", "")}, task.CodeInvalid, "a/../../x.ts", `".."`},
		{"parent in a skipped folder", []tar.Header{file(".git/../../x", "")}, task.CodeInvalid, ".git/../../x", `".."`},
		{"absolute", []tar.Header{file("/etc/passwd", "")}, task.CodeInvalid, "/etc/passwd", "absolute"},
		{"backslash", []tar.Header{file(`a\b.ts`, "")}, task.CodeInvalid, `a\b.ts`, `\`},
		{"drive", []tar.Header{file(`c:x.ts`, "")}, task.CodeInvalid, `c:x.ts`, `:`},
		{"control", []tar.Header{file("a\nb.ts", "")}, task.CodeInvalid, "a\uFFFDb.ts", "control character"},
		{"not utf-8", []tar.Header{{Name: "a\xff.ts", Format: tar.FormatGNU}}, task.CodeInvalid, "a\uFFFD.ts", "UTF-8"},
		{"long", []tar.Header{file(strings.Repeat("x/", 128)+"y", "")}, task.CodeInvalid, strings.Repeat("x/", 128) + "y", "257 bytes; 255 are the most"},
		{"symlink", []tar.Header{{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "/etc/passwd"}}, task.CodeInvalid, "link", "link"},
		{"hard link", []tar.Header{{Typeflag: tar.TypeLink, Name: "link", Linkname: "catena.yaml"}}, task.CodeInvalid, "link", "link"},
		{"device", []tar.Header{{Typeflag: tar.TypeChar, Name: "null"}}, task.CodeInvalid, "null", "not a regular file"},
		{"fifo", []tar.Header{{Typeflag: tar.TypeFifo, Name: "pipe"}}, task.CodeInvalid, "pipe", "not a regular file"},
		{"twice", []tar.Header{file("a.ts", ""), file("./a.ts", "")}, task.CodeInvalid, "a.ts", "twice"},
		{"case", []tar.Header{file("lib/a.ts", ""), file("LIB/b.ts", "")}, task.CodeInvalid, "LIB", "only in case"},
		{"accents", []tar.Header{file("\u00e9.ts", ""), file("e\u0301.ts", "")}, task.CodeInvalid, "e\u0301.ts", "only in case"},
		{"file and folder", []tar.Header{file("a", ""), file("a/b", "")}, task.CodeInvalid, "a", "both a file and a folder"},
		{"too large", []tar.Header{file("big.txt", strings.Repeat("x", 17<<20))}, task.CodeTooLarge, "big.txt", "17825799 bytes with this file; the limit is 16777216"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := ReadArchive(bytes.NewReader(tarOf(t, append([]tar.Header{manifest}, c.entries...)...)), Limits{})
			requireError(t, err, c.code, c.where, c.part)
		})
	}
	t.Run("no manifest", func(t *testing.T) {
		t.Parallel()
		_, err := ReadArchive(bytes.NewReader(tarOf(t, file("sub/catena.yaml", ""))), Limits{})
		requireError(t, err, task.CodeInvalid, ManifestFile, "no catena.yaml")
	})
	t.Run("not a tar", func(t *testing.T) {
		t.Parallel()
		for _, body := range []string{"hello, this is no archive", "\x1f\x8b broken", strings.Repeat("x", 5000)} {
			_, err := ReadArchive(strings.NewReader(body), Limits{})
			requireError(t, err, task.CodeInvalid, "", "tar archive")
		}
	})
	t.Run("cut off", func(t *testing.T) {
		t.Parallel()
		whole := tarOf(t, manifest, file("a.ts", strings.Repeat("x", 5000)))
		_, err := ReadArchive(bytes.NewReader(whole[:3000]), Limits{})
		require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	})
	t.Run("too many", func(t *testing.T) {
		t.Parallel()
		_, err := ReadArchive(bytes.NewReader(tarOf(t, manifest, file("a", ""), file("b", ""))), Limits{MaxFiles: 2})
		requireError(t, err, task.CodeTooLarge, "b", "more than 2 files")
	})
}

// TestArchiveBomb feeds gigabytes of zeros that cost the sender nothing: what
// is skipped must not be read for ever either.
func TestArchiveBomb(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"zeros", ".git/zeros"} {
		reader, writer := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			zipped := gzip.NewWriter(writer)
			w := tar.NewWriter(zipped)
			_ = w.WriteHeader(&tar.Header{Name: name, Size: 1 << 40, Format: tar.FormatPAX})
			_, _ = io.Copy(w, zeros{})
		}()
		_, err := ReadArchive(reader, Limits{MaxSize: 1 << 20})
		require.Equal(t, task.CodeTooLarge, task.CodeOf(err), "%v", err)
		require.NoError(t, reader.Close())
		<-done
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestReadDirRefuses(t *testing.T) {
	t.Parallel()
	with := func(change func(dir string)) error {
		dir := writeTree(t, ManifestFile, "name: a")
		change(dir)
		_, err := ReadDir(dir, Limits{})
		return err
	}
	requireError(t, with(func(dir string) { _ = os.Symlink("/etc/passwd", filepath.Join(dir, "link")) }), task.CodeInvalid, "link", "link")
	requireError(t, with(func(dir string) { _ = os.Symlink(dir, filepath.Join(dir, "loop")) }), task.CodeInvalid, "loop", "link")
	requireError(t, with(func(dir string) { _ = syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600) }), task.CodeInvalid, "pipe", "not a regular file")
	requireError(t, with(func(dir string) { _ = os.WriteFile(filepath.Join(dir, `a\b`), nil, 0o600) }), task.CodeInvalid, `a\b`, "character")
	requireError(t, with(func(dir string) { _ = os.WriteFile(filepath.Join(dir, "big"), make([]byte, 17<<20), 0o600) }),
		task.CodeTooLarge, "big", "17825799 bytes", "16777216")
	requireError(t, with(func(dir string) { _ = os.Remove(filepath.Join(dir, ManifestFile)) }), task.CodeInvalid, ManifestFile, "no catena.yaml")
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := ReadDir(missing, Limits{})
	requireError(t, err, task.CodeNotFound, missing)
	require.NoError(t, with(func(dir string) { _ = os.Symlink("/", filepath.Join(dir, ".link")) }), "dotfiles are left out")
}

func TestManifest(t *testing.T) {
	t.Parallel()
	c := contentOf(t, ManifestFile, `
name: billing/core
description: bills
exports: [invoice?close, "lib/mail"]
permissions:
  http: [API.example.com, "localhost:8080", "*.example.org", "[::1]:443"]
  secrets: [stripe.key]
  services: [mailer]
  tasks: [billing/close-month]
dependencies: [money, tax@beta]
`, "invoice.ts", "", "lib/mail.mjs", "")
	m, err := c.Manifest()
	require.NoError(t, err)
	require.Equal(t, &Manifest{
		Name: "billing/core", Description: "bills", Exports: []string{"invoice?close", "lib/mail?main"},
		Permissions: Permissions{
			HTTP:    []string{"api.example.com", "localhost:8080", "*.example.org", "[::1]:443"},
			Secrets: []string{"stripe.key"}, Services: []string{"mailer"}, Tasks: []string{"billing/close-month"},
		},
		Dependencies: []Dependency{{Name: "money"}, {Name: "tax", Want: "beta"}},
	}, m)
	require.True(t, m.Exported("lib/mail", ""))
	require.True(t, m.Exported("invoice", "close"))
	require.False(t, m.Exported("invoice", "main"))
	for target, allowed := range map[string]bool{
		"api.example.com": true, "API.Example.com.": true, "example.com": false, "xapi.example.com": false,
		"a.b.example.org": true, "example.org": false, "evilexample.org": false, "::1": true, "localhost": false,
	} {
		require.Equal(t, allowed, m.Permissions.AllowsHost(target, 443), target)
	}
	require.True(t, m.Permissions.AllowsHost("localhost", 8080))
	require.False(t, Permissions{}.AllowsHost("localhost", 80))
	require.True(t, Permissions{HTTP: []string{"*"}}.AllowsHost("anything", 1))
}

func TestManifestRefuses(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, source, where, part string }{
		{"unknown key", "name: a\nexport: [x]", "catena.yaml:2:1", "did you mean exports?"},
		{"unknown permission", "name: a\npermissions:\n  htp: []", "catena.yaml:3:3", "did you mean http?"},
		{"far key", "name: a\nzzzzzzzzzzzzz: 1", "catena.yaml:2:1", "the keys of the manifest are name, description"},
		{"no name", "description: x", "catena.yaml:1:1", "no name"},
		{"bad name", "name: Bill", "catena.yaml:1:7", `"Bill" cannot name a package`},
		{"empty", "# nothing", "catena.yaml", "empty"},
		{"list", "- name", "catena.yaml:1:1", "mapping"},
		{"malformed", "name: a\n  b: [", "catena.yaml:2", "not valid YAML"},
		{"key twice", "name: a\nname: b", "catena.yaml:2:1", "first in line 1"},
		{"alias", "name: &x a\ndescription: *x", "catena.yaml:2:14", "must be text"},
		{"bad export", "name: a\nexports: ['x?y?z']", "catena.yaml:2:11", "not an export"},
		{"missing module", "name: a\nexports:\n- invoce?x", "catena.yaml:3:3", "did you mean invoice?"},
		{"export twice", "name: a\nexports: [invoice, invoice?main]", "catena.yaml:2:20", "twice"},
		{"exports text", "name: a\nexports: invoice", "catena.yaml:2:10", "must be a list"},
		{"url as host", "name: a\npermissions: {http: ['https://x.com']}", "catena.yaml:2:22", "without scheme"},
		{"path in host", "name: a\npermissions: {http: ['x.com/y']}", "catena.yaml:2:22", "not a host"},
		{"bad port", "name: a\npermissions: {http: ['x.com:99999']}", "catena.yaml:2:22", "port"},
		{"inner star", "name: a\npermissions: {http: ['x.*.com']}", "catena.yaml:2:22", "not a part of a host name"},
		{"bad secret", "name: a\npermissions: {secrets: ['a b']}", "catena.yaml:2:25", "permissions.secrets"},
		{"self", "name: a\ndependencies: [a]", "catena.yaml:2:16", "itself"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := contentOf(t, ManifestFile, c.source, "invoice.ts", "").Manifest()
			requireError(t, err, task.CodeInvalid, c.where, c.part)
		})
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	require.NoError(t, Config{}.Validate())
	for _, c := range []Config{{MaxSize: 10}, {MaxSize: 1 << 40}, {MaxFiles: -1}, {MaxBundle: 2048}, {DeleteGrace: -1}} {
		require.Equal(t, task.CodeInvalid, task.CodeOf(c.Validate()), "%+v", c)
	}
}
