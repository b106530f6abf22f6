package scheduler

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

// MaxDays is how many entries a calendar may have.
const MaxDays = 20_000

const dayRemedy = `write a day as "2026-12-25", days as "2026-12-24/2026-12-26", a day of every year as "--12-25"`

// Days is a set of days, such as the public holidays of a country: immutable,
// safe to share. Which instants a day has is for the reader's time zone to say.
type Days struct {
	spans  []daySpan  // in order, without overlap
	yearly [13]uint32 // a bit per day of each month, every year
}

// daySpan holds days since 1970-01-01, both included.
type daySpan struct{ first, last int }

// ParseDays reads the entries of a calendar. An error names the entry.
func ParseDays(entries []string) (*Days, error) {
	if len(entries) > MaxDays {
		return nil, invalid("days", "%d entries are too many", len(entries)).Fix("use at most %d, or write days that follow one another as a range", MaxDays)
	}
	d := &Days{}
	for i, entry := range entries {
		if err := d.add(entry); err != nil {
			return nil, err.At("days[" + strconv.Itoa(i) + "]")
		}
	}
	d.merge()
	return d, nil
}

func (d *Days) add(entry string) *task.Error {
	from, to, ranged := strings.Cut(entry, "/")
	if !ranged {
		to = from
	}
	if strings.HasPrefix(from, "--") {
		return d.addYearly(entry, from, to)
	}
	first, ok := parseDay(from)
	last, okToo := parseDay(to)
	switch {
	case !ok || !okToo:
		return invalid("", "%q names no day of the years %d to %d", entry, earliest, latest).Fix(dayRemedy)
	case last < first:
		return invalid("", "%q ends before it begins", entry).Fix("write the earlier day first")
	}
	d.spans = append(d.spans, daySpan{first, last})
	return nil
}

// addYearly takes --12-24/--01-02 as the days around a new year.
func (d *Days) addYearly(entry, from, to string) *task.Error {
	first, err := time.Parse("--01-02 2006", from+" 2000") // a leap year
	last, err2 := time.Parse("--01-02 2006", to+" 2000")
	if err != nil || err2 != nil {
		return invalid("", "%q names no day of a year", entry).Fix(dayRemedy)
	}
	for at := first; ; at = at.AddDate(0, 0, 1) {
		if at.Year() > 2000 {
			at = at.AddDate(-1, 0, 0) // 1 January of the leap year
		}
		d.yearly[at.Month()] |= 1 << at.Day()
		if at.Equal(last) {
			break
		}
	}
	return nil
}

func parseDay(text string) (int, bool) {
	t, err := time.Parse(time.DateOnly, text)
	return int(t.Unix() / secondsPerDay), err == nil && t.Year() >= earliest
}

const secondsPerDay = 24 * 60 * 60

func (d *Days) merge() {
	slices.SortFunc(d.spans, func(a, b daySpan) int { return cmp.Compare(a.first, b.first) })
	merged := d.spans[:0]
	for _, s := range d.spans {
		if n := len(merged); n > 0 && s.first <= merged[n-1].last+1 {
			merged[n-1].last = max(merged[n-1].last, s.last)
			continue
		}
		merged = append(merged, s)
	}
	d.spans = merged
}

// lastDay is the last one that anything is sure of.
var lastDay = int(time.Date(latest, 12, 31, 0, 0, 0, 0, time.UTC).Unix() / secondsPerDay)

// after returns the first day from the given one on that is not in the set;
// beyond lastDay: there is none.
func (d *Days) after(day int) int {
	for day <= lastDay {
		before := day
		i, _ := slices.BinarySearchFunc(d.spans, day, func(s daySpan, day int) int { return cmp.Compare(s.last, day) })
		if i < len(d.spans) && d.spans[i].first <= day {
			day = d.spans[i].last + 1
		}
		if day = d.afterYearly(day); day == before {
			return day
		}
	}
	return day
}

// afterYearly skips days of every year. Nine years hold every day that there is.
func (d *Days) afterYearly(day int) int {
	if d.yearly == [13]uint32{} {
		return day
	}
	at := time.Unix(int64(day)*secondsPerDay, 0).UTC()
	for last := day + 9*366; day <= last; day++ {
		if d.yearly[at.Month()]>>at.Day()&1 == 0 {
			return day
		}
		at = at.AddDate(0, 0, 1)
	}
	return lastDay + 1
}
