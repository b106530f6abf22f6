package pkgstore

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestDiff(t *testing.T) {
	t.Parallel()
	from := contentOf(t, ManifestFile, "name: a\n", "gone.txt", "x\n", "same.txt", "s", "a.ts", "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12", "bin", "\x00")
	to := contentOf(t, ManifestFile, "name: a\n", "new.txt", "y\nz\n", "same.txt", "s", "a.ts", "1\nzwei\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n", "bin", "\x01")
	require.Equal(t, `--- a/a.ts
+++ b/a.ts
@@ -1,5 +1,5 @@
 1
-2
+zwei
 3
 4
 5
@@ -9,4 +9,4 @@
 9
 10
 11
-12
\ No newline at end of file
+12
Binary files a/bin and b/bin differ
--- a/gone.txt
+++ /dev/null
@@ -1 +0,0 @@
-x
--- /dev/null
+++ b/new.txt
@@ -0,0 +1,2 @@
+y
+z
`, strings.Replace(Diff(from, to), "Binary files a/bin and b/bin differ", "Binary files a/bin and b/bin differ", 1))
	require.Empty(t, Diff(from, from))
}

// TestDiffPatches applies diffs of random texts with patch(1).
func TestDiffPatches(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("patch"); err != nil {
		t.Skip("patch is not installed")
	}
	text := rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{"a\n", "b\n", "c\n", "d\n"}), 1, 40), func(l []string) string { return strings.Join(l, "") })
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		if n > 60 {
			return
		}
		before, after := text.Draw(r, "before"), text.Draw(r, "after")
		diff := Diff(contentOf(t, ManifestFile, "", "f", before), contentOf(t, ManifestFile, "", "f", after))
		sub := filepath.Join(dir, fmt.Sprint(n))
		require.NoError(r, os.Mkdir(sub, 0o755))
		require.NoError(r, os.WriteFile(filepath.Join(sub, "f"), []byte(before), 0o644))
		if diff != "" {
			cmd := exec.Command("patch", "-p1", "-s", "-F0")
			cmd.Dir, cmd.Stdin = sub, strings.NewReader(diff)
			out, err := cmd.CombinedOutput()
			require.NoError(r, err, "%s\n%s", out, diff)
		}
		got, err := os.ReadFile(filepath.Join(sub, "f"))
		require.NoError(r, err)
		require.Equal(r, after, string(got), diff)
	})
}

func TestDiffOfLargeChanges(t *testing.T) {
	t.Parallel()
	var a, b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&a, "a%d\n", i)
		fmt.Fprintf(&b, "b%d\n", i)
	}
	diff := Diff(contentOf(t, ManifestFile, "", "f", a.String()), contentOf(t, ManifestFile, "", "f", b.String()))
	require.Contains(t, diff, "@@ -1,5000 +1,5000 @@")
}
