package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// println writes one line of ordinary output.
func (s *session) println(args ...any) error {
	_, err := fmt.Fprintln(s.out, args...)
	return err
}

func (s *session) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(s.out, format, args...)
	return err
}

// note writes a remark that is no result, to stderr, where with --json every
// line is JSON.
func (s *session) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !s.json {
		fmt.Fprintln(s.err, text)
		return
	}
	encoder := json.NewEncoder(s.err)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(map[string]string{"note": text}) // a remark may get lost
}

// writeJSON writes v in one line, or, for a person, indented.
func (s *session) writeJSON(v any) error {
	encoder := json.NewEncoder(s.out)
	encoder.SetEscapeHTML(false)
	if telemetry.IsTerminal(s.out) {
		encoder.SetIndent("", "  ")
	}
	return encoder.Encode(v)
}

// list makes an absent list an empty one, so that it is [] in JSON.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

// table writes rows below headers in aligned columns, or, when there is no
// row, the remark empty on stderr.
func (s *session) table(empty string, headers []string, rows [][]string) error {
	if len(rows) == 0 {
		s.note("%s", empty)
		return nil
	}
	return writeTable(s.out, headers, rows)
}

func writeTable(out io.Writer, headers []string, rows [][]string) error {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	if len(headers) > 0 {
		fmt.Fprintln(w, strings.Join(headers, "\t"))
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = plain(cell)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// fields writes name and value pairs, leaving out those without a value.
func (s *session) fields(pairs ...[2]string) error {
	var rows [][]string
	for _, pair := range pairs {
		if pair[1] != "" {
			rows = append(rows, []string{pair[0], pair[1]})
		}
	}
	return writeTable(s.out, nil, rows)
}

// plain keeps text of others from breaking a table or steering the terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r) || r == utf8.RuneError:
			return '?'
		}
		return r
	}, text)
}

// short cuts text to at most n characters.
func short(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n-3]) + "..."
}

// age says how long ago t was, in its largest unit.
func (s *session) age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := s.Now().Sub(t)
	if d < 0 {
		return "in " + span(-d)
	}
	return span(d)
}

func (s *session) ageOf(t *time.Time) string {
	if t == nil {
		return ""
	}
	return s.age(*t)
}

// moment writes a time and how long ago it was.
func (s *session) moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	ago := s.age(*t)
	if !strings.HasPrefix(ago, "in ") {
		ago += " ago"
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z") + " (" + ago + ")"
}

// span writes a duration in its largest unit.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// durationText writes a duration in full, as every command does: 500d, 1d12h, 10m.
func durationText[D ~int64](d D) string { return task.DurationText(time.Duration(d)) }

// goDuration is how servers write durations in sentences.
var goDuration = regexp.MustCompile(`\b[0-9]+h[0-9]+m[0-9.]+s\b|\b[0-9]+m0s\b`)

// plainDurations writes the durations in a sentence of a server as durationText does.
func plainDurations(text string) string {
	return goDuration.ReplaceAllStringFunc(text, func(found string) string {
		d, err := time.ParseDuration(found)
		if err != nil {
			return found
		}
		return durationText(d)
	})
}

// took writes how long something lasted, with three digits.
func took(start, end *time.Time) string {
	if start == nil || end == nil {
		return ""
	}
	d := end.Sub(*start)
	switch {
	case d < time.Second:
		return durationText(d.Round(10 * time.Microsecond))
	case d < time.Minute:
		return durationText(d.Round(10 * time.Millisecond))
	}
	return durationText(d.Round(time.Second))
}

// bytesText writes a number of bytes in its largest unit, with one decimal.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, suffix := float64(n), ""
	for _, suffix = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value /= unit; value < unit {
			break
		}
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + suffix
}
