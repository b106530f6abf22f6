package task

import "strings"

// maxNearest is the longest word that Nearest compares: the work grows with its square.
const maxNearest = 255

// Nearest returns the known word that differs from word in the fewest letters,
// the first in their order among equals, or "" when none is near. Case does not
// count, and two neighbours that were swapped count as one letter.
func Nearest(word string, known []string) string {
	if len(word) > maxNearest {
		return ""
	}
	asked := []rune(strings.ToLower(word))
	found, best := "", len(asked)/2+1
	for _, candidate := range known {
		if len(candidate) > maxNearest || max(len(candidate)-len(word), len(word)-len(candidate)) > 4*best {
			continue // a letter has four bytes at most
		}
		if d := letterDistance(asked, []rune(strings.ToLower(candidate))); d < best {
			found, best = candidate, d
		}
	}
	return found
}

// DidYouMean makes a remedy that names the known word nearest to word; otherwise when none is near.
func DidYouMean(word string, known []string, otherwise string) string {
	if near := Nearest(word, known); near != "" {
		return "did you mean " + near + "?"
	}
	return otherwise
}

// letterDistance counts the letters to insert, remove, replace or swap with
// their neighbour between a and b.
func letterDistance(a, b []rune) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range a {
		row[0] = i + 1
		for j := range b {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
