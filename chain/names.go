package chain

import (
	"slices"
	"strings"
)

// rootNames are what expressions read; none of them can be the name of data.
var rootNames = []string{"outcome", "params", "vars", "run", "steps"}

// checkNames notes what authors of task files cannot mean: data with a name that
// stands for something else, and two items of a list with one name, unless each has a
// condition. What is stored already goes on to run as it did.
func (p *parser) checkNames(l *list, s *source) {
	first := map[string]*item{}
	for i, it := range l.items {
		if it == nil || it.name == "" || s.items[i].kind != kindObject {
			continue
		}
		label := s.items[i].get("as")
		if label == nil {
			label = s.items[i].get("name")
		}
		if it.asVar && slices.Contains(rootNames, it.name) {
			*p.problems = append(*p.problems, p.fail(it, label, "as: %s stands for something else in expressions", it.name).
				Fix("choose a name other than %s", strings.Join(rootNames, ", ")))
			continue
		}
		before := first[it.name]
		if before == nil {
			first[it.name] = it
			continue
		}
		if before.when == nil || it.when == nil {
			*p.problems = append(*p.problems, p.fail(it, label, "item %s has the name %s already", before.path, it.name).
				Fix("rename one of them, or give both a when of which one is true"))
		}
	}
}
