package chain_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden compares what every document in testdata becomes, or the error it
// gives, with the text beside it.
func TestGolden(t *testing.T) {
	t.Parallel()
	golden(t, "testdata/parse/*", func(name string, text []byte) (string, error) {
		doc, err := chain.Parse(name, text)
		if err != nil {
			return "", err
		}
		var b strings.Builder
		for _, info := range doc.Explain() {
			fmt.Fprintf(&b, "%d: %s %s", info.Line, info.Path, info.Kind)
			if info.Name != "" {
				fmt.Fprintf(&b, " (%s)", info.Name)
			}
			fmt.Fprintf(&b, " %s\n", info.Text)
		}
		fmt.Fprintf(&b, "calls %v\ntasks %v\n", doc.Calls(), doc.Tasks())
		return b.String(), nil
	})
}

func TestGoldenTasks(t *testing.T) {
	t.Parallel()
	golden(t, "testdata/tasks/*", func(name string, text []byte) (string, error) {
		read, err := chain.ParseFile(name, text)
		if err != nil {
			return "", err
		}
		var b strings.Builder
		for _, one := range read.Calendars {
			fmt.Fprintf(&b, "%d: calendar %s days=%v ical=%s\n", one.Line, one.Name, one.Days, one.ICalName())
		}
		for _, one := range read.Sources {
			text, err := json.Marshal(one.Definition.Normalize())
			require.NoError(t, err)
			fmt.Fprintf(&b, "%d: source %s\n", one.Line, text)
		}
		for _, one := range read.Tasks {
			d := one.Definition
			fmt.Fprintf(&b, "%d: %s chain=%s params=%s timeout=%v retry=%v schedules=%d\n", one.Line, d.Name, d.Chain, d.Params, d.Timeout, d.Retry, len(d.Schedule))
		}
		return b.String(), nil
	})
}

func golden(t *testing.T, pattern string, read func(name string, text []byte) (string, error)) {
	files, err := filepath.Glob(pattern)
	require.NoError(t, err)
	count := 0
	for _, path := range files {
		if strings.HasSuffix(path, ".golden") {
			continue
		}
		count++
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			got, err := read(filepath.Base(path), text)
			if err != nil {
				got = "error: " + err.Error() + "\n"
			}
			want := path + ".golden"
			if *update {
				require.NoError(t, os.WriteFile(want, []byte(got), 0o644))
			}
			expected, err := os.ReadFile(want)
			require.NoError(t, err)
			require.Equal(t, string(expected), got)
		})
	}
	require.NotZero(t, count)
}
