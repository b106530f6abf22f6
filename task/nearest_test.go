package task_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestNearest(t *testing.T) {
	t.Parallel()
	commands := []string{"task", "runs", "pkg"}
	for word, want := range map[string]string{
		"taks": "task", "rnus": "runs", "RUNS": "runs", "pkgs": "pkg", "nonsense": "", "": "", "x": "",
		strings.Repeat("runs", 100): "",
	} {
		require.Equal(t, want, task.Nearest(word, commands), word)
	}
	require.Equal(t, "été", task.Nearest("étés", []string{"été", "ici"}), "letters count, not bytes")
	require.Equal(t, "ab", task.Nearest("abc", []string{"ab", "abd"}), "the first of equals")
	require.Equal(t, "billing/close-month", task.Nearest("billing/close-mnoth", []string{"billing/close-month", "billing/mail"}))
	require.Equal(t, "did you mean task?", task.DidYouMean("taskk", commands, "see the list"))
	require.Equal(t, "see the list", task.DidYouMean("nonsense", commands, "see the list"))
}

func FuzzNearest(f *testing.F) {
	f.Add("taks", "task")
	f.Add("\xff", "é")
	f.Fuzz(func(t *testing.T, word, known string) {
		near := task.Nearest(word, []string{known})
		require.Contains(t, []string{"", known}, near)
		if word != "" && len(word) <= 255 && word == known {
			require.Equal(t, known, near)
		}
	})
}
