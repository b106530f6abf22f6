package scheduler

import (
	"strconv"
	"time"

	"github.com/catena-run/catena/task"
)

// maxExcluded bounds the due times that one search for the next passes over.
const maxExcluded = 50_000

// Lookup returns the days of a named calendar, or why it has none.
type Lookup func(name string) (*Days, error)

// ParseWith reads a schedule together with the calendars that it excludes.
func ParseWith(s task.Schedule, calendars Lookup) (Spec, error) {
	spec, err := Parse(s)
	if err != nil || len(s.Exclude) == 0 {
		return spec, err
	}
	for i, name := range s.Exclude {
		days, err := calendars(name)
		if err != nil {
			return Spec{}, invalid(excludeField(i), "%w", err)
		}
		spec.exclude = append(spec.exclude, days)
	}
	if _, fires := spec.Next(epoch); !fires {
		return Spec{}, invalid("exclude", "the schedule never fires: each of its due times is on an excluded day").Fix("leave out a calendar, or change the schedule")
	}
	return spec, nil
}

func excludeField(index int) string { return "exclude[" + strconv.Itoa(index) + "]" }

// Check refuses a schedule that has no due time after now, although neither its
// end nor a one-shot's time explains that.
func (s Spec) Check(now time.Time) error {
	if !s.at.IsZero() || !s.end.IsZero() && !now.Before(s.end) {
		return nil
	}
	if _, fires := s.Next(now); fires {
		return nil
	}
	field := "exclude"
	if len(s.exclude) == 0 {
		field = "end"
	}
	return invalid(field, "the schedule never fires again: nothing is left after %s", now.UTC().Format(time.RFC3339)).
		Fix("leave out a calendar, or change the schedule")
}

// free returns the first instant from at on whose day, in the schedule's zone, is
// not excluded.
func (s Spec) free(at time.Time) (time.Time, bool) {
	for {
		span := spanAt(at, s.Zone())
		day := span.day(at)
		first := s.freeDay(day)
		switch {
		case first > lastDay:
			return time.Time{}, false
		case first == day:
			return at, true
		}
		midnight := time.Unix(int64(first)*secondsPerDay, 0).UTC().Add(-span.offset)
		if span.covers(midnight) {
			return midnight, true
		}
		at = span.leave(at, midnight)
	}
}

// freeDay returns the first day from the given one on that no calendar has.
func (s Spec) freeDay(day int) int {
	for {
		before := day
		for _, days := range s.exclude {
			day = days.after(day)
		}
		if day == before || day > lastDay {
			return day
		}
	}
}
