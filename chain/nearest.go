package chain

import "slices"

// nearest returns the known word closest to word, or "" when none is close.
func nearest(word string, known []string) string {
	best, found := len(word)/2+2, ""
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := distance(word, k); d < best {
			best, found = d, k
		}
	}
	return found
}

// suggest makes the remedy of an unknown word.
func suggest(word string, known []string) string {
	if len(word) > 100 {
		word = word[:100]
	}
	if near := nearest(word, known); near != "" {
		return "did you mean " + near + "?"
	}
	text := "use one of"
	sorted := slices.Sorted(slices.Values(known))
	for i, k := range sorted {
		if i > 0 {
			text += ","
		}
		text += " " + k
	}
	return text
}

// distance counts the bytes to insert, remove, replace or swap with their
// neighbour between a and b.
func distance(a, b string) int {
	width := len(b) + 1
	table := make([]int, (len(a)+1)*width)
	for j := range width {
		table[j] = j
	}
	for i := 1; i <= len(a); i++ {
		table[i*width] = i
		for j := 1; j <= len(b); j++ {
			at := i*width + j
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			table[at] = min(table[at-width]+1, table[at-1]+1, table[at-width-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				table[at] = min(table[at], table[at-2*width-2]+1)
			}
		}
	}
	return table[len(table)-1]
}
