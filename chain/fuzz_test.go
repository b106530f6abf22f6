package chain

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func addSeeds(f *testing.F, pattern string) {
	files, err := filepath.Glob(pattern)
	require.NoError(f, err)
	for _, path := range files {
		if !strings.HasSuffix(path, ".golden") {
			text, err := os.ReadFile(path)
			require.NoError(f, err)
			f.Add(text)
		}
	}
}

// FuzzParse: parsing never panics, and what parses explains itself and parses
// again from its own JSON into the same.
func FuzzParse(f *testing.F) {
	addSeeds(f, "testdata/parse/*")
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := Parse("fuzz", text)
		if err != nil {
			require.Contains(t, err.Error(), "fuzz:")
			return
		}
		raw, err := json.Marshal(doc)
		require.NoError(t, err)
		again, err := Parse("again", raw)
		require.NoError(t, err, "%s", raw)
		want, got := doc.Explain(), again.Explain()
		require.Len(t, got, len(want))
		for i := range want {
			want[i].Line = got[i].Line
		}
		require.Equal(t, want, got)
		require.Equal(t, doc.Calls(), again.Calls())
	})
}

// FuzzParseTasks: never panics; what is accepted is valid.
func FuzzParseTasks(f *testing.F) {
	addSeeds(f, "testdata/tasks/*")
	f.Fuzz(func(t *testing.T, text []byte) {
		read, err := ParseFile("fuzz", text)
		if err != nil {
			require.Contains(t, err.Error(), "fuzz:")
			return
		}
		require.NotZero(t, len(read.Tasks)+len(read.Calendars)+len(read.Sources))
		for _, one := range read.Sources {
			require.NoError(t, one.Definition.Validate())
			require.NoError(t, one.Definition.Normalize().Validate())
		}
		for _, one := range read.Calendars {
			require.True(t, task.ValidName(one.Name))
			require.ErrorContains(t, one.Locate(task.Errorf(task.CodeInvalid, "x").At("days[0]")), "fuzz:")
		}
		for _, one := range read.Tasks {
			require.NoError(t, one.Definition.Validate())
			_, err := Parse("chain", one.Definition.Chain)
			require.NoError(t, err)
		}
	})
}

// FuzzRef: an invoke string names a function, or says why not; what is read
// reads the same again.
func FuzzRef(f *testing.F) {
	for _, text := range []string{"a:m?f", "//inline/a:m?f", "//inline/a/lib/m", "///x", "//", "//inline", "//service/x", "?f", "rel:x", "./x", "https://h/x", "a:m?f&o=1", "a/b:m"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := parseInvoke(text)
		if err != nil {
			return
		}
		require.NotEmpty(t, ref.Package)
		require.NotEmpty(t, ref.Module)
		require.NotEmpty(t, ref.Function)
		again, err := parseInvoke(ref.String())
		require.NoError(t, err)
		require.Equal(t, ref, again)
	})
}
