package cli

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDiffTurnsOneTextIntoTheOther applies random diffs to the text before.
func TestDiffTurnsOneTextIntoTheOther(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	text := func() string {
		var b strings.Builder
		for range random.IntN(40) {
			fmt.Fprintf(&b, "%d\n", random.IntN(6))
		}
		return b.String()
	}
	for range 500 {
		before, after := text(), text()
		diff := unifiedDiff("f", before, after)
		require.Equal(t, before == after, diff == "")
		require.Equal(t, after, patch(t, before, diff), diff)
	}
}

// patch applies a unified diff, checking every context line and line number.
func patch(t *testing.T, before, diff string) string {
	t.Helper()
	lines, at := splitLines(before), 0
	var out strings.Builder
	for _, line := range splitLines(diff) {
		switch {
		case strings.HasPrefix(line, "---"), strings.HasPrefix(line, "+++"):
		case strings.HasPrefix(line, "@@"):
			var first, count, newFirst, newCount int
			_, err := fmt.Sscanf(line, "@@ -%d,%d +%d,%d @@", &first, &count, &newFirst, &newCount)
			require.NoError(t, err)
			if count == 0 {
				first++
			}
			for ; at < first-1; at++ {
				out.WriteString(lines[at])
			}
		case line[0] == '+':
			out.WriteString(line[1:])
		default:
			require.Equal(t, lines[at], line[1:])
			if line[0] == ' ' {
				out.WriteString(lines[at])
			}
			at++
		}
	}
	return out.String() + strings.Join(lines[at:], "")
}

func TestAHugeRewriteIsShownWhole(t *testing.T) {
	t.Parallel()
	before, after := strings.Repeat("a\n", 3000), strings.Repeat("b\n", 3000)
	diff := unifiedDiff("f", before, after)
	require.Equal(t, 3000, strings.Count(diff, "\n-"))
	require.Equal(t, 3000, strings.Count(diff, "\n+b"))
}

func TestSpans(t *testing.T) {
	t.Parallel()
	require.Equal(t, "48.0 MiB", bytesText(48<<20))
	require.Equal(t, "1023 B", bytesText(1023))
	require.Equal(t, "2.0 TiB", bytesText(2<<40))
	require.Equal(t, "abc...", short("abcdefghi", 6))
	for text, ok := range map[string]bool{"7d": true, "1h30m": true, "-1h": false, "d": false, "soon": false, "-7d": false} {
		_, got := parseSpan(text)
		require.Equal(t, ok, got, text)
	}
}
