package history

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Span is how long a run occupied a place: from the first beginning of its
// first step, however often that was repeated, to the beginning of its last.
type Span struct {
	Run        uuid.UUID
	Begin, End time.Time
}

// Spans returns the spans of the given runs that began at all. A run without a
// last step occupies its place until the given time.
func Spans(executions []Execution, runs map[uuid.UUID]bool, last int, until time.Time) []Span {
	spans := map[uuid.UUID]*Span{}
	for _, e := range executions {
		if !runs[e.Run] {
			continue
		}
		s := spans[e.Run]
		if s == nil {
			s = &Span{Run: e.Run, Begin: e.Began, End: until}
			spans[e.Run] = s
		}
		if e.Began.Before(s.Begin) {
			s.Begin = e.Began
		}
		if e.Step == last && (s.End.Equal(until) || e.Began.After(s.End)) {
			s.End = e.Began
		}
	}
	list := make([]Span, 0, len(spans))
	for _, s := range spans {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b Span) int { return cmp.Or(a.Begin.Compare(b.Begin), a.End.Compare(b.End)) })
	return list
}

// MostAtOnce returns the largest number of spans that share a moment. One that
// ends in the millisecond in which another begins is over: the recorder sees no finer.
func MostAtOnce(spans []Span) (most int, runs []uuid.UUID) {
	var open []Span
	for _, s := range spans {
		open = slices.DeleteFunc(open, func(o Span) bool { return !o.End.After(s.Begin) })
		open = append(open, s)
		if len(open) > most {
			most, runs = len(open), nil
			for _, o := range open {
				runs = append(runs, o.Run)
			}
		}
	}
	return most, runs
}

// MostInWindow returns the largest number of times within any window of the
// given length, its end not included.
func MostInWindow(times []time.Time, window time.Duration) (most int) {
	times = slices.SortedFunc(slices.Values(times), time.Time.Compare)
	first := 0
	for i, t := range times {
		for t.Sub(times[first]) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// CheckPlaces returns a sentence when more runs than the limit were under way at once.
func CheckPlaces(spans []Span, limit int) []string {
	most, runs := MostAtOnce(spans)
	if most <= limit {
		return nil
	}
	return []string{fmt.Sprintf("%d runs were under way at once with a limit of %d: %v", most, limit, runs)}
}
