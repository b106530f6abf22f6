package chain

import (
	"maps"
	"slices"
)

// Cycles finds tasks that start each other in a circle. Each cycle names its
// tasks in the order of the starts, beginning with the first by name; there is
// one for every group of tasks that can all reach each other.
func Cycles(tasks map[string]*Document) [][]string {
	var cycles [][]string
	t := tarjan{tasks: tasks, low: map[string]int{}, order: map[string]int{}, onStack: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(tasks)) {
		if _, seen := t.order[name]; !seen {
			t.visit(name)
		}
	}
	for _, group := range t.groups {
		if cycle := shortest(tasks, group); cycle != nil {
			cycles = append(cycles, cycle)
		}
	}
	slices.SortFunc(cycles, slices.Compare[[]string])
	return cycles
}

// tarjan finds the strongly connected tasks without recursion, since nothing
// bounds how long a line of tasks is.
type tarjan struct {
	tasks   map[string]*Document
	order   map[string]int
	low     map[string]int
	onStack map[string]bool
	stack   []string
	groups  [][]string
}

type visit struct {
	name string
	next int // of its starts
}

func (t *tarjan) visit(root string) {
	path := []visit{t.enter(root)}
	for len(path) > 0 {
		top := &path[len(path)-1]
		starts := t.starts(top.name)
		if top.next == len(starts) {
			t.leave(top.name)
			path = path[:len(path)-1]
			if len(path) > 0 {
				above := path[len(path)-1].name
				t.low[above] = min(t.low[above], t.low[top.name])
			}
			continue
		}
		next := starts[top.next]
		top.next++
		if _, seen := t.order[next]; !seen {
			path = append(path, t.enter(next))
		} else if t.onStack[next] {
			t.low[top.name] = min(t.low[top.name], t.order[next])
		}
	}
}

func (t *tarjan) starts(name string) []string {
	if d := t.tasks[name]; d != nil {
		return d.tasks
	}
	return nil
}

func (t *tarjan) enter(name string) visit {
	t.order[name], t.low[name] = len(t.order), len(t.order)
	t.stack = append(t.stack, name)
	t.onStack[name] = true
	return visit{name: name}
}

func (t *tarjan) leave(name string) {
	if t.low[name] != t.order[name] {
		return
	}
	at := len(t.stack) - 1
	for t.stack[at] != name {
		at--
	}
	group := slices.Clone(t.stack[at:])
	t.stack = t.stack[:at]
	for _, member := range group {
		delete(t.onStack, member)
	}
	slices.Sort(group)
	t.groups = append(t.groups, group)
}

// shortest returns a shortest cycle through the first task of a group of
// strongly connected ones, or nil when that is a single task that does not
// start itself.
func shortest(tasks map[string]*Document, group []string) []string {
	first := group[0]
	inside := make(map[string]bool, len(group))
	for _, name := range group {
		inside[name] = true
	}
	from := map[string]string{}
	for queue := []string{first}; len(queue) > 0; queue = queue[1:] {
		d := tasks[queue[0]]
		if d == nil {
			continue
		}
		for _, next := range d.tasks {
			if next == first {
				return back(from, first, queue[0])
			}
			if _, seen := from[next]; inside[next] && !seen {
				from[next] = queue[0]
				queue = append(queue, next)
			}
		}
	}
	return nil
}

func back(from map[string]string, first, last string) []string {
	cycle := []string{last}
	for last != first {
		last = from[last]
		cycle = append(cycle, last)
	}
	slices.Reverse(cycle)
	return cycle
}
