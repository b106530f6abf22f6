package cli

import (
	"fmt"
	"strings"
)

const (
	diffContext = 3         // lines around a change
	diffCells   = 4_000_000 // size of the table of common lines beyond which a file counts as rewritten
)

// edit is one line of a diff: ' ' kept, '-' removed, '+' added.
type edit struct {
	mark byte
	line string
}

// unifiedDiff returns the difference of two texts in the unified format, "" when
// there is none.
func unifiedDiff(path, before, after string) string {
	edits := lineEdits(splitLines(before), splitLines(after))
	var b strings.Builder
	a, z := 1, 1 // numbers of the next line before and after
	for i := 0; i < len(edits); {
		if edits[i].mark == ' ' {
			i, a, z = i+1, a+1, z+1
			continue
		}
		begin := max(0, i-diffContext)
		end := hunkEnd(edits, i)
		a, z = a-(i-begin), z-(i-begin)
		if b.Len() == 0 {
			fmt.Fprintf(&b, "--- a/%s\n+++ b/%s\n", path, path)
		}
		a, z = writeHunk(&b, edits[begin:end], a, z)
		i = end
	}
	return b.String()
}

// hunkEnd returns the end of the hunk with the change at i: where more than two
// contexts of kept lines follow.
func hunkEnd(edits []edit, i int) int {
	last := i
	for j := i; j < len(edits) && j-last <= 2*diffContext; j++ {
		if edits[j].mark != ' ' {
			last = j
		}
	}
	return min(len(edits), last+1+diffContext)
}

func writeHunk(b *strings.Builder, edits []edit, a, z int) (nextA, nextZ int) {
	nextA, nextZ = a, z
	for _, e := range edits {
		if e.mark != '+' {
			nextA++
		}
		if e.mark != '-' {
			nextZ++
		}
	}
	fmt.Fprintf(b, "@@ -%s +%s @@\n", hunkRange(a, nextA-a), hunkRange(z, nextZ-z))
	for _, e := range edits {
		b.WriteByte(e.mark)
		b.WriteString(e.line)
		if !strings.HasSuffix(e.line, "\n") {
			b.WriteString("\n\\ No newline at end of file\n")
		}
	}
	return nextA, nextZ
}

// hunkRange writes first line and count; an empty range names the line before it.
func hunkRange(first, count int) string {
	if count == 0 {
		first--
	}
	return fmt.Sprintf("%d,%d", first, count)
}

func splitLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, line)
	}
	return lines
}

// lineEdits finds a shortest list of edits between two texts, after setting
// aside the lines they begin and end with in common.
func lineEdits(a, b []string) []edit {
	var head, tail []edit
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		head = append(head, edit{' ', a[0]})
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		tail = append(tail, edit{' ', a[len(a)-1]})
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	edits := append(head, middleEdits(a, b)...)
	for i := len(tail) - 1; i >= 0; i-- {
		edits = append(edits, tail[i])
	}
	return edits
}

func middleEdits(a, b []string) []edit {
	var edits []edit
	i, j := 0, 0
	if len(a)*len(b) <= diffCells {
		common := commonLines(a, b)
		for i < len(a) && j < len(b) {
			switch {
			case a[i] == b[j]:
				edits = append(edits, edit{' ', a[i]})
				i, j = i+1, j+1
			case common[i+1][j] >= common[i][j+1]:
				edits = append(edits, edit{'-', a[i]})
				i++
			default:
				edits = append(edits, edit{'+', b[j]})
				j++
			}
		}
	}
	for ; i < len(a); i++ {
		edits = append(edits, edit{'-', a[i]})
	}
	for ; j < len(b); j++ {
		edits = append(edits, edit{'+', b[j]})
	}
	return edits
}

// commonLines counts, for each pair of places, the longest common sequence of
// the lines that follow them.
func commonLines(a, b []string) [][]int32 {
	common := make([][]int32, len(a)+1)
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	return common
}
