package pkgstore

import (
	"maps"
	"slices"
)

// suggest names the known word nearest to an unknown one, or says otherwise
// when none is near.
func suggest(unknown string, known []string, otherwise string) string {
	best, distance := "", len(unknown)/2+2
	for _, word := range known {
		if d := editDistance(unknown, word); d < distance {
			best, distance = word, d
		}
	}
	if best == "" {
		return otherwise
	}
	return "did you mean " + best + "?"
}

// editDistance counts the letters to insert, delete or replace (Levenshtein).
// Words longer than 255 letters are far from everything.
func editDistance(a, b string) int {
	if len(a) > maxPath || len(b) > maxPath {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
