package configs

import (
	"sort"
	"strings"
)

// Nearest returns the candidate that differs from word in the fewest letters,
// or "" when none is near. Case does not count.
func Nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)/2+1
	for _, candidate := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(candidate)); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// nearestKey looks for path among all keys and sections: first among its
// siblings, then anywhere, then for a key of that name in another section.
func nearestKey(path string, known []string) string {
	if len(path) > 200 {
		return ""
	}
	var siblings, named []string
	for _, k := range known {
		if parent(k) == parent(path) {
			siblings = append(siblings, k)
		}
		if strings.EqualFold(lastPart(k), lastPart(path)) {
			named = append(named, k)
		}
	}
	if near := nearestByLastPart(path, siblings); near != "" {
		return near
	}
	if near := Nearest(path, named); near != "" {
		return near
	}
	if near := Nearest(path, known); near != "" {
		return near
	}
	if len(named) > 0 {
		return named[0]
	}
	return ""
}

func nearestByLastPart(path string, siblings []string) string {
	byName := make(map[string]string, len(siblings))
	names := make([]string, 0, len(siblings))
	for _, s := range siblings {
		byName[lastPart(s)] = s
		names = append(names, lastPart(s))
	}
	sort.Strings(names)
	return byName[Nearest(lastPart(path), names)]
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// distance is the Levenshtein distance of two words.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		diagonal := row[0]
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(y)]
}
