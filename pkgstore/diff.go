package pkgstore

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	diffContext = 3    // unchanged lines around a change
	maxEdits    = 1000 // beyond it a file is shown as replaced
)

// Diff returns what changed between two contents as a unified diff, by path;
// "" when nothing did.
func Diff(from, to *Content) string {
	paths := map[string]bool{}
	for _, c := range []*Content{from, to} {
		for _, f := range c.files {
			paths[f.path] = true
		}
	}
	var out strings.Builder
	for _, p := range sortedKeys(paths) {
		before, was := from.File(p)
		after, is := to.File(p)
		if was && is && bytes.Equal(before, after) {
			continue
		}
		diffFile(&out, diffName("a/", p, was), diffName("b/", p, is), before, after)
	}
	return out.String()
}

func diffName(prefix, p string, there bool) string {
	if !there {
		return "/dev/null"
	}
	return prefix + p
}

func diffFile(out *strings.Builder, fromName, toName string, before, after []byte) {
	if !isText(before) || !isText(after) {
		fmt.Fprintf(out, "Binary files %s and %s differ\n", fromName, toName)
		return
	}
	fmt.Fprintf(out, "--- %s\n+++ %s\n", fromName, toName)
	a, b := lines(before), lines(after)
	for _, h := range hunks(edits(a, b)) {
		h.write(out)
	}
}

func isText(data []byte) bool { return utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 }

// lines keeps the line ends, so that a missing last one shows.
func lines(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	list := strings.SplitAfter(string(data), "\n")
	if list[len(list)-1] == "" {
		list = list[:len(list)-1]
	}
	return list
}

// edit is one line of a diff: kept (' '), deleted ('-') or inserted ('+').
type edit struct {
	kind byte
	text string
}

// edits finds a shortest list of edits (Myers' greedy algorithm) after taking
// off what both have in common at their ends.
func edits(a, b []string) []edit {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	var list []edit
	keep := func(text []string) {
		for _, line := range text {
			list = append(list, edit{' ', line})
		}
	}
	keep(a[:head])
	list = append(list, middle(a[head:len(a)-tail], b[head:len(b)-tail])...)
	keep(a[len(a)-tail:])
	return list
}

func middle(a, b []string) []edit {
	trace, ok := search(a, b)
	if !ok {
		var list []edit
		for _, line := range a {
			list = append(list, edit{'-', line})
		}
		for _, line := range b {
			list = append(list, edit{'+', line})
		}
		return list
	}
	return backtrack(a, b, trace)
}

// search returns, for each number of edits, the furthest x on each diagonal
// before that round (index: diagonal + rounds), up to the round that reaches the end.
func search(a, b []string) (trace [][]int, ok bool) {
	furthest := map[int]int{1: 0}
	for d := 0; d <= min(maxEdits, len(a)+len(b)); d++ {
		row := make([]int, 2*d+3)
		for k := -d - 1; k <= d+1; k++ {
			row[k+d+1] = furthest[k]
		}
		trace = append(trace, row)
		for k := -d; k <= d; k += 2 {
			x := step(row, k, d)
			for x < len(a) && x-k < len(b) && a[x] == b[x-k] {
				x++
			}
			furthest[k] = x
			if x >= len(a) && x-k >= len(b) {
				return trace, true
			}
		}
	}
	return nil, false
}

// step is where round d begins on diagonal k: below or right of its neighbour.
func step(row []int, k, d int) int {
	if down(row, k, d) {
		return row[k+1+d+1]
	}
	return row[k-1+d+1] + 1
}

func down(row []int, k, d int) bool {
	return k == -d || (k != d && row[k-1+d+1] < row[k+1+d+1])
}

func backtrack(a, b []string, trace [][]int) []edit {
	var reversed []edit
	x, y := len(a), len(b)
	for d := len(trace) - 1; d >= 0; d-- {
		k, row := x-y, trace[d]
		from := step(row, k, d)
		for x > from {
			x, y = x-1, y-1
			reversed = append(reversed, edit{' ', a[x]})
		}
		if d == 0 {
			break
		}
		if down(row, k, d) {
			y--
			reversed = append(reversed, edit{'+', b[y]})
		} else {
			x--
			reversed = append(reversed, edit{'-', a[x]})
		}
	}
	list := make([]edit, len(reversed))
	for i, e := range reversed {
		list[len(reversed)-1-i] = e
	}
	return list
}

// hunk is a run of changes with the lines around them.
type hunk struct {
	fromLine, toLine int // of its first line, from 1
	edits            []edit
}

func hunks(list []edit) []hunk {
	var found []hunk
	from, to, end := 1, 1, 0 // end: where the last hunk's context ends
	for i, e := range list {
		if e.kind != ' ' {
			begin := max(i-diffContext, 0)
			if len(found) == 0 || begin > end {
				found = append(found, hunk{fromLine: from - (i - begin), toLine: to - (i - begin)})
			} else {
				begin = end
			}
			last := &found[len(found)-1]
			stop := min(i+1+diffContext, len(list))
			last.edits = append(last.edits, list[min(begin, stop):stop]...)
			end = stop
		}
		if e.kind != '+' {
			from++
		}
		if e.kind != '-' {
			to++
		}
	}
	return found
}

func (h hunk) write(out *strings.Builder) {
	var from, to int
	for _, e := range h.edits {
		if e.kind != '+' {
			from++
		}
		if e.kind != '-' {
			to++
		}
	}
	fmt.Fprintf(out, "@@ -%s +%s @@\n", span(h.fromLine, from), span(h.toLine, to))
	for _, e := range h.edits {
		out.WriteByte(e.kind)
		out.WriteString(e.text)
		if !strings.HasSuffix(e.text, "\n") {
			out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

// span counts an empty side from the line before it, as diff does.
func span(line, count int) string {
	if count == 0 {
		line--
	}
	if count == 1 {
		return fmt.Sprint(line)
	}
	return fmt.Sprintf("%d,%d", line, count)
}
