package configs

import (
	"sort"
	"strings"

	"github.com/catena-run/catena/task"
)

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
	if near := task.Nearest(path, named); near != "" {
		return near
	}
	if near := task.Nearest(path, known); near != "" {
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
	return byName[task.Nearest(lastPart(path), names)]
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
