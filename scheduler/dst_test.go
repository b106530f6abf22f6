package scheduler

import (
	"sort"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

// reading is what a wall clock shows, taken apart.
type reading struct{ month, day, weekday, hour, minute, last int } // last: the day counted from the end of its month

// rule is a schedule and its meaning, written down a second time by hand.
type rule struct {
	cron     string
	calendar *task.Calendar
	fixed    bool // names fixed hours
	matches  func(r reading) bool
}

func (r rule) schedule(zone string, dst task.DST) task.Schedule {
	return task.Schedule{Cron: r.cron, Calendar: r.calendar, Timezone: zone, DST: dst}
}

var rules = []rule{
	{cron: "* * * * *", matches: func(reading) bool { return true }},
	{cron: "0 * * * *", matches: func(r reading) bool { return r.minute == 0 }},
	{cron: "*/15 * * * *", matches: func(r reading) bool { return r.minute%15 == 0 }},
	{cron: "45 * * * 0", matches: func(r reading) bool { return r.minute == 45 && r.weekday == 0 }},
	{cron: "30 2 * * *", fixed: true, matches: func(r reading) bool { return r.hour == 2 && r.minute == 30 }},
	{cron: "15 2 * * *", fixed: true, matches: func(r reading) bool { return r.hour == 2 && r.minute == 15 }},
	{cron: "0 2 * * *", fixed: true, matches: func(r reading) bool { return r.hour == 2 && r.minute == 0 }},
	{cron: "0 3 * * *", fixed: true, matches: func(r reading) bool { return r.hour == 3 && r.minute == 0 }},
	{cron: "45 1 * * *", fixed: true, matches: func(r reading) bool { return r.hour == 1 && r.minute == 45 }},
	{cron: "*/20 1-3 * * *", fixed: true, matches: func(r reading) bool { return r.hour >= 1 && r.hour <= 3 && r.minute%20 == 0 }},
	{cron: "* 2 * * *", fixed: true, matches: func(r reading) bool { return r.hour == 2 }},
	{cron: "0 */2 * * *", fixed: true, matches: func(r reading) bool { return r.hour%2 == 0 && r.minute == 0 }},
	{cron: "0 0 * * *", fixed: true, matches: func(r reading) bool { return r.hour == 0 && r.minute == 0 }},
	{cron: "30 2 25-31 3,10 0", fixed: true, matches: func(r reading) bool {
		return r.hour == 2 && r.minute == 30 && (r.month == 3 || r.month == 10) && (r.day >= 25 || r.weekday == 0)
	}},
	{calendar: &task.Calendar{Times: []string{"01:45", "02:15"}}, fixed: true, matches: func(r reading) bool {
		return r.hour == 1 && r.minute == 45 || r.hour == 2 && r.minute == 15
	}},
	{calendar: &task.Calendar{Times: []string{"08:00"}, Days: []int{-1, 15}}, fixed: true, matches: func(r reading) bool {
		return r.hour == 8 && r.minute == 0 && (r.last == 1 || r.day == 15)
	}},
	{calendar: &task.Calendar{Times: []string{"02:30"}, Weekdays: []string{"fri-mon"}, Months: []string{"oct-apr"}, Days: []int{-7, -6, -5, -4, -3, -2, -1}}, fixed: true, matches: func(r reading) bool {
		return r.hour == 2 && r.minute == 30 && (r.weekday <= 1 || r.weekday >= 5) && (r.month >= 10 || r.month <= 4) && r.last <= 7
	}},
	{calendar: &task.Calendar{Times: []string{"00:00"}, Weekdays: []string{"fri"}, Days: []int{13}}, fixed: true, matches: func(r reading) bool {
		return r.hour == 0 && r.minute == 0 && r.day == 13 && r.weekday == 5
	}},
}

// dstRules are the rules in the order of the oracle's columns.
var dstRules = [...]task.DST{task.DSTAuto, task.DSTSkip, task.DSTOnce, task.DSTTwice}

// fires is the meaning of each rule: whether a reading that matches fires, by whether
// it was shown before, and whether readings that were passed over fire.
func (r rule) fires(dst task.DST, matches, passed, repeated bool) bool {
	switch dst {
	case task.DSTSkip:
		return matches && !repeated
	case task.DSTOnce:
		return (matches || passed) && !repeated
	case task.DSTTwice:
		return matches || passed
	}
	if r.fixed {
		return r.fires(task.DSTOnce, matches, passed, repeated)
	}
	return matches
}

// TestNextAgainstEveryMinute walks the minutes of seven years in each zone, and of
// a leap year beyond the tables of the zones, keeps the furthest reading that the
// clock has shown, and applies the stated rule to each minute.
func TestNextAgainstEveryMinute(t *testing.T) {
	t.Parallel()
	for name, years := range map[string]int{
		"UTC": longWalk, "Europe/Paris": longWalk, "America/New_York": longWalk, "Australia/Lord_Howe": longWalk, "Asia/Kathmandu": longWalk, "Asia/Beirut": 1, "Africa/Casablanca": 1,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			zone, err := time.LoadLocation(name)
			require.NoError(t, err)
			checkMinutes(t, zone, time.Date(2023, 12, 31, 23, 59, 0, 0, time.UTC), time.Date(2024+years, 1, 1, 0, 0, 0, 0, time.UTC))
			checkMinutes(t, zone, time.Date(2040, 2, 1, 0, 0, 0, 0, time.UTC), time.Date(2041, 2, 1, 0, 0, 0, 0, time.UTC))
		})
	}
}

func checkMinutes(t *testing.T, zone *time.Location, from, to time.Time) {
	want := walk(zone, from, to)
	for i, r := range rules {
		for j, dst := range dstRules {
			spec, err := Parse(r.schedule(zone.String(), dst))
			require.NoError(t, err)
			until, due := to, want[i][j]
			if !r.fixed && dst != task.DSTAuto { // one year has every change of the clock
				until = time.Unix(min(to.Unix(), from.AddDate(1, 0, 1).Unix()), 0)
				due = due[:sort.Search(len(due), func(n int) bool { return due[n] >= until.Unix() })]
			}
			checkDue(t, spec, from, until, due)
		}
	}
}

func checkDue(t *testing.T, spec Spec, from, to time.Time, want []int64) {
	t.Helper()
	at := from
	for _, due := range want {
		next, ok := spec.Next(at)
		if !ok || next.Unix() != due { // require would take longer than all the rest
			t.Fatalf("%s, %+v, after %v: want %v, got %v", Describe(spec), spec.rule, at.In(spec.Zone()), time.Unix(due, 0).In(spec.Zone()), next.In(spec.Zone()))
		}
		at = next
	}
	if next, ok := spec.Next(at); ok {
		require.False(t, next.Before(to), "%s: %v is one too many", Describe(spec), next)
	}
}

// walk returns the due times of each rule, by the rule for changes of the clock,
// after from and before to.
func walk(zone *time.Location, from, to time.Time) [][len(dstRules)][]int64 {
	due := make([][len(dstRules)][]int64, len(rules))
	furthest := minuteOf(from, zone)
	previous := furthest
	for at := from.Unix() + 60; at < to.Unix(); at += 60 {
		now := minuteOf(time.Unix(at, 0), zone)
		for i, r := range rules {
			matches := r.matches(readingOf(now))
			passed := now > furthest && now > previous+1 && anyMatches(r, previous, now)
			if !matches && !passed {
				continue
			}
			for j, dst := range dstRules {
				if r.fires(dst, matches, passed, now <= furthest) {
					due[i][j] = append(due[i][j], at)
				}
			}
		}
		furthest, previous = max(furthest, now), now
	}
	return due
}

// anyMatches looks at the readings after previous up to now: one, and in a gap more.
func anyMatches(r rule, previous, now int64) bool {
	for m := previous + 1; m <= now; m++ {
		if r.matches(readingOf(m)) {
			return true
		}
	}
	return false
}

// minuteOf counts the minutes of the wall clock.
func minuteOf(at time.Time, zone *time.Location) int64 {
	_, offset := at.In(zone).Zone()
	return (at.Unix() + int64(offset)) / 60
}

// readingOf takes a minute apart. It keeps to the calendar of the time package, but
// uses nothing of its zones.
func readingOf(minute int64) reading {
	d := calendar[minute/1440-firstDay]
	d.hour, d.minute = int(minute%1440/60), int(minute%60)
	return d
}

var firstDay = time.Date(2023, 12, 29, 0, 0, 0, 0, time.UTC).Unix() / 86400

var calendar = func() []reading {
	var days []reading
	for d := time.Unix(firstDay*86400, 0).UTC(); d.Year() < 2042; d = d.AddDate(0, 0, 1) {
		days = append(days, reading{month: int(d.Month()), day: d.Day(), weekday: int(d.Weekday())})
	}
	for i, d := range days {
		for _, later := range days[i:min(i+31, len(days))] {
			if later.month == d.month {
				days[i].last++
			}
		}
	}
	return days
}()

// TestDaylightSavingByExample shows the stated rule.
func TestDaylightSavingByExample(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, cron, zone, after string
		next                    []string
	}{
		{
			"spring: 02:30 is skipped and fires at 03:00", "30 2 * * *", "Europe/Paris", "2026-03-28T12:00:00+01:00",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"},
		},
		{
			"spring: sixty skipped minutes fire once", "* 2 * * *", "Europe/Paris", "2026-03-28T12:00:00+01:00",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"},
		},
		{
			"spring: a skipped reading and one at the gap's end fire once", "30 2,3 * * *", "Europe/Paris", "2026-03-28T12:00:00+01:00",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"},
		},
		{
			"autumn: 02:30 fires at its first occurrence", "30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00+02:00",
			[]string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"},
		},
		{
			"autumn: hours go on in real time", "0 * * * *", "Europe/Paris", "2026-10-25T01:30:00+02:00",
			[]string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"},
		},
		{
			"spring: hours go on in real time", "0 * * * *", "America/New_York", "2026-03-08T00:30:00-05:00",
			[]string{"2026-03-08T01:00:00-05:00", "2026-03-08T03:00:00-04:00", "2026-03-08T04:00:00-04:00"},
		},
		{
			"half an hour is skipped", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00+10:30",
			[]string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"},
		},
		{
			"half an hour is repeated", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00+11:00",
			[]string{"2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"},
		},
		{
			"midnight is skipped", "0 0 * * *", "Asia/Beirut", "2026-03-28T12:00:00+02:00",
			[]string{"2026-03-29T01:00:00+03:00", "2026-03-30T00:00:00+03:00"},
		},
		{
			"seconds in a repeated hour", "59 59 2 * * *", "Europe/Paris", "2026-10-25T00:00:00+02:00",
			[]string{"2026-10-25T02:59:59+02:00", "2026-10-26T02:59:59+01:00"},
		},
		{
			"a whole day is skipped", "0 9 * * *", "Pacific/Apia", "2011-12-29T08:00:00-10:00",
			[]string{"2011-12-29T09:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T09:00:00+14:00"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			spec, at := mustParse(t, test.cron, test.zone), instant(t, test.after)
			for _, want := range test.next {
				next, ok := spec.Next(at)
				require.True(t, ok)
				require.Equal(t, want, next.In(spec.Zone()).Format(time.RFC3339))
				at = next
			}
		})
	}
}
