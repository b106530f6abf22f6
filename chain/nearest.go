package chain

import (
	"slices"
	"strings"

	"github.com/catena-run/catena/task"
)

// suggest makes the remedy of an unknown word.
func suggest(word string, known []string) string {
	sorted := slices.Sorted(slices.Values(known))
	return task.DidYouMean(word, sorted, "use one of "+strings.Join(sorted, ", "))
}
