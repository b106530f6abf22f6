package scheduler

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func seconds(n float64) task.Duration { return task.Duration(n * float64(time.Second)) }

// day is a calendar schedule for every day at eight.
func day(change func(*task.Schedule)) task.Schedule {
	s := task.Schedule{Calendar: &task.Calendar{Times: []string{"08:00"}}}
	if change != nil {
		change(&s)
	}
	return s
}

func TestSpecsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	at := instant(t, "2027-01-01T00:00:00Z")
	later := at.Add(time.Hour)
	ancient := time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		in    task.Schedule
		where string
		says  string
	}{
		"every too short":          {task.Schedule{Every: seconds(0.5)}, "every", "once a second"},
		"every fraction":           {task.Schedule{Every: seconds(1.5)}, "every", "whole seconds"},
		"every and cron":           {task.Schedule{Every: seconds(60), Cron: "@daily"}, "every", "both cron and every"},
		"calendar and at":          {day(func(s *task.Schedule) { s.At = &at }), "at", "both calendar and at"},
		"offset as long":           {task.Schedule{Every: seconds(60), Offset: seconds(60)}, "offset", "not shorter"},
		"offset negative":          {task.Schedule{Every: seconds(60), Offset: seconds(-1)}, "offset", "not shorter"},
		"offset fraction":          {task.Schedule{Every: seconds(60), Offset: seconds(1.5)}, "offset", "whole seconds"},
		"offset of cron":           {task.Schedule{Cron: "@every 1h", Offset: seconds(60)}, "offset", "every only"},
		"offset of a calendar":     {day(func(s *task.Schedule) { s.Offset = seconds(60) }), "offset", "every only"},
		"no times":                 {task.Schedule{Calendar: &task.Calendar{Weekdays: []string{"mon"}}}, "calendar.times", "no time of day"},
		"many times":               {task.Schedule{Calendar: &task.Calendar{Times: make([]string, 1441)}}, "calendar.times", "too many"},
		"bad time":                 {task.Schedule{Calendar: &task.Calendar{Times: []string{"08:00", "24:00"}}}, "calendar.times[1]", "24:00"},
		"fraction of a second":     {task.Schedule{Calendar: &task.Calendar{Times: []string{"08:00:00.5"}}}, "calendar.times[0]", "not a time of day"},
		"bad weekday":              {day(func(s *task.Schedule) { s.Calendar.Weekdays = []string{"mon", "fryday"} }), "calendar.weekdays[1]", "fryday"},
		"half a range":             {day(func(s *task.Schedule) { s.Calendar.Weekdays = []string{"mon-"} }), "calendar.weekdays[0]", "mon-"},
		"bad month":                {day(func(s *task.Schedule) { s.Calendar.Months = []string{"13"} }), "calendar.months[0]", "13"},
		"day 0":                    {day(func(s *task.Schedule) { s.Calendar.Days = []int{1, 0} }), "calendar.days[1]", "not a day"},
		"day 32":                   {day(func(s *task.Schedule) { s.Calendar.Days = []int{32} }), "calendar.days[0]", "not a day"},
		"day -32":                  {day(func(s *task.Schedule) { s.Calendar.Days = []int{-32} }), "calendar.days[0]", "not a day"},
		"least day":                {day(func(s *task.Schedule) { s.Calendar.Days = []int{math.MinInt} }), "calendar.days[0]", "not a day"},
		"31 of short months":       {day(func(s *task.Schedule) { s.Calendar.Days = []int{1, 31}; s.Calendar.Months = []string{"feb", "apr"} }), "calendar.days[1]", "never fires"},
		"31st from the end of Feb": {day(func(s *task.Schedule) { s.Calendar.Days = []int{-30}; s.Calendar.Months = []string{"feb"} }), "calendar.days[0]", "never fires"},
		"unknown dst":              {day(func(s *task.Schedule) { s.DST = "never" }), "dst", "never"},
		"dst of every":             {task.Schedule{Every: seconds(60), DST: task.DSTOnce}, "dst", "cron and calendar only"},
		"dst of @every":            {task.Schedule{Cron: "@every 60s", DST: task.DSTSkip}, "dst", "cron and calendar only"},
		"dst of at":                {task.Schedule{At: &at, DST: task.DSTTwice}, "dst", "cron and calendar only"},
		"end before start":         {day(func(s *task.Schedule) { s.Start, s.End = &later, &at }), "end", "ends before it starts"},
		"end at the start":         {day(func(s *task.Schedule) { s.Start, s.End = &at, &at }), "end", "ends before it starts"},
		"nothing between":          {day(func(s *task.Schedule) { s.Start, s.End = &at, &later }), "end", "never fires"},
		"start of at":              {task.Schedule{At: &at, Start: &at}, "start", "does not go with at"},
		"end of at":                {task.Schedule{At: &at, End: &later}, "end", "does not go with at"},
		"ancient start":            {day(func(s *task.Schedule) { s.Start = &ancient }), "start", "out of range"},
		"ancient end":              {day(func(s *task.Schedule) { s.End = &ancient }), "end", "out of range"},
		"exclude of at":            {task.Schedule{At: &at, Exclude: []string{"a"}}, "exclude", "does not go with at"},
		"exclude twice":            {day(func(s *task.Schedule) { s.Exclude = []string{"a", "b", "a"} }), "exclude[2]", "named twice"},
		"exclude without a name":   {day(func(s *task.Schedule) { s.Exclude = []string{""} }), "exclude[0]", "cannot name"},
		"exclude too many":         {day(func(s *task.Schedule) { s.Exclude = make([]string, 21) }), "exclude", "too many"},
		"jitter negative":          {day(func(s *task.Schedule) { s.Jitter = -1 }), "jitter", "out of range"},
		"jitter of two days":       {day(func(s *task.Schedule) { s.Jitter = seconds(2 * 86400) }), "jitter", "out of range"},
		"jitter of microseconds":   {day(func(s *task.Schedule) { s.Jitter = task.Duration(1500 * time.Microsecond) }), "jitter", "whole milliseconds"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse(test.in)
			var coded *task.Error
			require.ErrorAs(t, err, &coded)
			require.Equal(t, task.CodeInvalid, coded.Code)
			require.Equal(t, test.where, coded.Where)
			require.NotEmpty(t, coded.Remedy)
			require.ErrorContains(t, err, test.says)
		})
	}
}

func TestSpecsByExample(t *testing.T) {
	t.Parallel()
	start, end := instant(t, "2026-11-25T12:00:00Z"), instant(t, "2026-11-27T08:00:00Z")
	for _, test := range []struct {
		in    task.Schedule
		after string
		next  []string
		says  string
	}{
		{
			task.Schedule{Every: seconds(3600), Offset: seconds(600)}, "2026-11-21T10:10:00Z",
			[]string{"2026-11-21T11:10:00Z", "2026-11-21T12:10:00Z"}, "every 1h plus 10m",
		},
		{
			task.Schedule{Every: seconds(7 * 86400), Offset: seconds(4 * 86400)}, "2026-11-21T00:00:00Z",
			[]string{"2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"}, "every 168h plus 96h",
		},
		{
			task.Schedule{Every: seconds(90)}, "1969-12-31T23:59:00Z",
			[]string{"1970-01-01T00:00:00Z", "1970-01-01T00:01:30Z"}, "every 1m30s",
		},
		{
			task.Schedule{Calendar: &task.Calendar{Times: []string{"17:30:15", "08:00"}, Weekdays: []string{"Mon-Fri"}}, Timezone: "Europe/Paris"}, "2026-11-20T12:00:00Z",
			[]string{"2026-11-20T16:30:15Z", "2026-11-23T07:00:00Z"}, "at 08:00, 17:30:15 on Monday-Friday (Europe/Paris)",
		},
		{
			task.Schedule{Calendar: &task.Calendar{Times: []string{"08:00"}, Days: []int{-1, 15}, Months: []string{"february", "dec-jan"}}}, "2027-12-16T00:00:00Z",
			[]string{"2027-12-31T08:00:00Z", "2028-01-15T08:00:00Z", "2028-01-31T08:00:00Z", "2028-02-15T08:00:00Z", "2028-02-29T08:00:00Z", "2028-12-15T08:00:00Z"},
			"at 08:00 on day 15 or the last day of the month in January, February, December (UTC)",
		},
		{
			task.Schedule{Calendar: &task.Calendar{Times: []string{"00:00"}, Days: []int{29}, Months: []string{"feb"}, Weekdays: []string{"sun"}}}, "2072-01-01T00:00:00Z",
			[]string{"2088-02-29T00:00:00Z", "2128-02-29T00:00:00Z"}, "at 00:00 on day 29 of the month, if on Sunday in February (UTC)",
		},
		{
			day(func(s *task.Schedule) { s.Start, s.End = &start, &end }), "2026-01-01T00:00:00Z",
			[]string{"2026-11-26T08:00:00Z"}, "at 08:00 (UTC), from 2026-11-25T12:00:00Z, before 2026-11-27T08:00:00Z",
		},
		{
			task.Schedule{Cron: "0 12 * * *", Start: &start, Jitter: seconds(90)}, "2026-01-01T00:00:00Z",
			[]string{"2026-11-25T12:00:00Z", "2026-11-26T12:00:00Z"}, "at 12:00 (UTC), from 2026-11-25T12:00:00Z, up to 1m30s later",
		},
	} {
		spec, err := Parse(test.in)
		require.NoError(t, err)
		require.Equal(t, test.says, Describe(spec))
		at := instant(t, test.after)
		for _, want := range test.next {
			next, ok := spec.Next(at)
			require.True(t, ok, test.says)
			require.Equal(t, want, next.Format(time.RFC3339), test.says)
			at = next
		}
		if test.in.End != nil {
			_, ok := spec.Next(at)
			require.False(t, ok)
		}
	}
}

func TestEveryIsWhatCronCallsEvery(t *testing.T) {
	t.Parallel()
	for _, length := range []string{"1s", "90s", "1h", "26h", "1000h"} {
		d, err := time.ParseDuration(length)
		require.NoError(t, err)
		one, err := Parse(task.Schedule{Every: task.Duration(d)})
		require.NoError(t, err)
		other := mustParse(t, "@every "+length, "")
		for _, after := range []int64{-5, 0, 1, 1_790_000_000} {
			a, okA := one.Next(time.Unix(after, 0))
			b, okB := other.Next(time.Unix(after, 0))
			require.True(t, okA && okB)
			require.Equal(t, a, b)
		}
	}
}

func daysOfText(t testing.TB, entries ...string) *Days {
	t.Helper()
	d, err := ParseDays(entries)
	require.NoError(t, err)
	return d
}

func TestDays(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		entries []string
		in, out []string
	}{
		"nothing":         {nil, nil, []string{"2026-12-25", "1970-01-01"}},
		"one":             {[]string{"2026-12-25"}, []string{"2026-12-25"}, []string{"2026-12-24", "2026-12-26", "2027-12-25"}},
		"a range":         {[]string{"2026-12-24/2027-01-02"}, []string{"2026-12-24", "2026-12-31", "2027-01-02"}, []string{"2026-12-23", "2027-01-03"}},
		"overlapping":     {[]string{"2026-12-20/2026-12-30", "2026-12-22", "2026-12-25/2027-01-05"}, []string{"2026-12-20", "2027-01-05"}, []string{"2027-01-06"}},
		"every year":      {[]string{"--12-25"}, []string{"1970-12-25", "2026-12-25", "9999-12-25"}, []string{"2026-12-24"}},
		"leap days":       {[]string{"--02-29"}, []string{"2028-02-29"}, []string{"2028-02-28", "2027-02-28", "2027-03-01"}},
		"a yearly range":  {[]string{"--07-01/--08-31"}, []string{"2026-07-01", "2030-08-31"}, []string{"2026-06-30", "2026-09-01"}},
		"over a new year": {[]string{"--12-24/--01-02"}, []string{"2026-12-24", "2026-12-31", "2026-01-02", "2027-01-01"}, []string{"2026-12-23", "2026-01-03", "2026-06-01"}},
		"all but one":     {[]string{"--03-02/--02-29"}, []string{"2028-02-29", "2026-03-02"}, []string{"2026-03-01"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := daysOfText(t, test.entries...)
			has := func(text string) bool {
				number, ok := parseDay(text)
				require.True(t, ok)
				return d.after(number) != number
			}
			for _, day := range test.in {
				require.True(t, has(day), day)
			}
			for _, day := range test.out {
				require.False(t, has(day), day)
			}
		})
	}
	whole := daysOfText(t, "--01-01/--12-31")
	require.Greater(t, whole.after(0), lastDay, "every day of every year")
	for _, bad := range []string{"", "2026-13-01", "2026-02-29", "25.12.2026", "2026-12-26/2026-12-24", "2026-12-25/", "--12-25/2026-12-26", "--02-30", "--1-1", "-12-25", "0001-01-01", "2026-12-25/--12-26", "2026-12-25T00:00:00Z"} {
		_, err := ParseDays([]string{"2026-01-01", bad})
		var coded *task.Error
		require.ErrorAs(t, err, &coded, bad)
		require.Equal(t, "days[1]", coded.Where)
		require.NotEmpty(t, coded.Remedy)
	}
	_, err := ParseDays(make([]string, MaxDays+1))
	require.ErrorContains(t, err, "too many")
	_, err = ParseDaysJSON(`[1]`)
	require.ErrorContains(t, err, "list of texts")
}

func lookup(days map[string]*Days) Lookup {
	return func(name string) (*Days, error) {
		if d := days[name]; d != nil {
			return d, nil
		}
		return nil, task.Errorf(task.CodeInvalid, "there is no calendar %s", name)
	}
}

func TestExclusionsThatLeaveNothing(t *testing.T) {
	t.Parallel()
	days := lookup(map[string]*Days{
		"all": daysOfText(t, "--01-01/--12-31"), "h1": daysOfText(t, "--01-01/--06-30"), "h2": daysOfText(t, "--07-01/--12-31"),
		"new-year": daysOfText(t, "--01-01"), "future": daysOfText(t, "2026-01-01/9999-12-31"), "none": daysOfText(t),
	})
	for name, in := range map[string]task.Schedule{
		"every day":   {Cron: "* * * * *", Exclude: []string{"all"}},
		"two halves":  {Every: seconds(1), Exclude: []string{"h1", "h2"}},
		"its one day": {Cron: "0 0 1 1 *", Exclude: []string{"none", "new-year"}},
		"a calendar":  {Calendar: &task.Calendar{Times: []string{"00:00"}, Months: []string{"jan"}, Days: []int{1}}, Exclude: []string{"new-year"}},
	} {
		started := time.Now()
		_, err := ParseWith(in, days)
		require.ErrorContains(t, err, "never fires", name)
		require.Less(t, time.Since(started), 5*time.Second, name)
	}
	spec, err := ParseWith(task.Schedule{Cron: "@daily", Exclude: []string{"future"}}, days)
	require.NoError(t, err)
	require.NoError(t, spec.Check(instant(t, "2020-01-01T00:00:00Z")))
	require.ErrorContains(t, spec.Check(instant(t, "2026-11-22T00:00:00Z")), "never fires again")
	_, ok := spec.Next(instant(t, "2025-12-31T12:00:00Z"))
	require.False(t, ok)
	_, err = ParseWith(task.Schedule{Cron: "@daily", Exclude: []string{"none", "gone"}}, days)
	var coded *task.Error
	require.True(t, errors.As(err, &coded))
	require.Equal(t, "exclude[1]", coded.Where)
	require.ErrorContains(t, err, "no calendar gone")

	end := instant(t, "2026-01-01T00:00:00Z")
	over, err := Parse(task.Schedule{Cron: "@daily", End: &end})
	require.NoError(t, err)
	require.NoError(t, over.Check(end), "a schedule whose end has come is over, not wrong")
}

// TestWindowsAndExclusionsAgainstEveryMinute asks an oracle that looks at each minute
// and knows days as texts.
func TestWindowsAndExclusionsAgainstEveryMinute(t *testing.T) {
	t.Parallel()
	from, to := instant(t, "2026-01-01T00:00:00Z"), instant(t, "2027-03-01T00:00:00Z")
	start, end := instant(t, "2026-02-03T09:30:00Z"), instant(t, "2027-01-15T10:00:00Z")
	excluded := map[string]bool{"12-25": true, "12-24": true, "01-01": true} // every year
	for d := instant(t, "2026-03-20T00:00:00Z"); d.Before(instant(t, "2026-04-11T00:00:00Z")); d = d.AddDate(0, 0, 1) {
		excluded[d.Format(time.DateOnly)] = true // over the change of the clock
	}
	excluded["2026-10-25"], excluded["2026-10-04"], excluded["2026-11-01"] = true, true, true
	calendars := lookup(map[string]*Days{
		"a": daysOfText(t, "--12-24/--12-25", "2026-03-20/2026-04-10", "2026-10-04"), "b": daysOfText(t, "--01-01", "2026-10-25", "2026-11-01"),
	})
	for _, name := range []string{"UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Asia/Beirut"} {
		zone, err := time.LoadLocation(name)
		require.NoError(t, err)
		for _, in := range []task.Schedule{
			{Cron: "0 * * * *"}, {Cron: "30 2 * * *"}, {Cron: "0 0 * * *"}, {Cron: "*/10 * * * *"},
			{Calendar: &task.Calendar{Times: []string{"00:00", "02:15", "23:59"}, Weekdays: []string{"fri-tue"}}},
			{Every: seconds(5400), Offset: seconds(660)}, {Every: seconds(60)}, {Every: seconds(86400 * 3), Offset: seconds(7200)},
		} {
			in.Timezone = name
			plain, err := Parse(in)
			require.NoError(t, err)
			in.Start, in.End, in.Exclude = &start, &end, []string{"a", "b"}
			spec, err := ParseWith(in, calendars)
			require.NoError(t, err)
			var want []int64
			for at, ok := plain.due(from); ok && at.Before(to); at, ok = plain.due(at) {
				local := at.In(zone)
				if !at.Before(start) && at.Before(end) && !excluded[local.Format(time.DateOnly)] && !excluded[local.Format("01-02")] {
					want = append(want, at.Unix())
				}
			}
			require.NotEmpty(t, want)
			checkDue(t, spec, from, to, want)
		}
	}
}

func TestJitter(t *testing.T) {
	t.Parallel()
	in := task.Schedule{ID: 7, Cron: "@hourly", Jitter: seconds(600)}
	spec, err := Parse(in)
	require.NoError(t, err)
	again, err := Parse(in)
	require.NoError(t, err)
	in.ID = 8
	other, err := Parse(in)
	require.NoError(t, err)
	due, sum, same := instant(t, "2026-01-01T00:00:00Z"), time.Duration(0), 0
	const n = 10_000
	for range n {
		delay := spec.Jitter(due)
		require.True(t, delay >= 0 && delay < 10*time.Minute, "%v", delay)
		require.Equal(t, delay, again.Jitter(due), "the same for one due time")
		require.Equal(t, due.Add(delay), spec.StartAt(due))
		require.Zero(t, delay%time.Microsecond)
		if delay == other.Jitter(due) {
			same++
		}
		sum += delay
		due = due.Add(time.Hour)
	}
	require.Less(t, same, 10, "schedules differ")
	require.InDelta(t, 300, (sum / n).Seconds(), 10, "spread evenly")
	require.Zero(t, mustParse(t, "@hourly", "").Jitter(due))
}

func TestCacheKnowsWhatASpecIsMadeOf(t *testing.T) {
	t.Parallel()
	c := newCache()
	calendars := map[string]string{"a": `["2026-12-25"]`, "b": `["--12-26"]`, "bad": `["x"]`}
	early, late := instant(t, "2026-01-01T00:00:00Z"), instant(t, "2040-01-01T00:00:00Z")
	schedules := []task.Schedule{
		{Cron: "@daily"}, {Cron: "@daily", Timezone: "Europe/Paris"}, {Cron: "@daily", Start: &early}, {Cron: "@daily", End: &late},
		{Cron: "@daily", Exclude: []string{"a"}}, {Cron: "@daily", Exclude: []string{"b"}}, {Cron: "@daily", Exclude: []string{"a", "b"}},
		{Cron: "@daily", DST: task.DSTTwice}, {Cron: "@daily", Jitter: seconds(60)}, {Every: seconds(60)}, {Every: seconds(60), Offset: seconds(1)},
		day(nil), day(func(s *task.Schedule) { s.Calendar.Weekdays = []string{"mon"} }), {At: &late},
	}
	for range 2 {
		for i, in := range schedules {
			in.ID = int64(i + 1)
			got, err := c.parse(in, calendars)
			require.NoError(t, err)
			want, err := ParseWith(in, LookupIn(calendars))
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		require.Len(t, c.specs, len(schedules)-1, "a one-shot is not kept")
	}
	changed := map[string]string{"a": `["2026-12-27"]`}
	got, err := c.parse(task.Schedule{Cron: "@daily", Exclude: []string{"a"}}, changed)
	require.NoError(t, err)
	next, _ := got.Next(instant(t, "2026-12-26T12:00:00Z"))
	require.Equal(t, "2026-12-28T00:00:00Z", next.Format(time.RFC3339), "a changed calendar is read again")
	for _, name := range []string{"gone", "bad"} {
		_, err = c.parse(task.Schedule{Cron: "@daily", Exclude: []string{name}}, calendars)
		require.ErrorContains(t, err, "calendar "+name)
	}
	for i := range keptSpecs + 10 {
		_, err := c.parse(task.Schedule{Every: seconds(float64(i + 1))}, nil)
		require.NoError(t, err)
	}
	require.LessOrEqual(t, len(c.specs), keptSpecs)
	for i := range keptDays + 10 {
		_, err := c.parse(task.Schedule{Every: seconds(60), Exclude: []string{"a"}}, map[string]string{"a": fmt.Sprintf(`["%04d-01-01"]`, 2000+i)})
		require.NoError(t, err)
	}
	require.LessOrEqual(t, len(c.days), keptDays)
}

// FuzzSpec: whatever is accepted fires after the given time, and fast.
func FuzzSpec(f *testing.F) {
	f.Add("08:00", "mon-fri", "dec-jan", 31, "Europe/Paris", "twice", int64(0), int64(0), "--12-25", int64(1_790_000_000))
	f.Add("23:59:59", "sun", "feb", -1, "Australia/Lord_Howe", "skip", int64(0), int64(0), "2026-01-01/2027-01-01", int64(-5))
	f.Add("", "", "", 0, "", "", int64(5400), int64(60), "--01-01/--12-30", int64(1<<35))
	f.Fuzz(func(t *testing.T, clock, weekday, month string, monthDay int, zone, dst string, every, offset int64, days string, after int64) {
		in := task.Schedule{Timezone: zone, DST: task.DST(dst), Every: task.Duration(every % 1e9 * 1e9), Offset: task.Duration(offset % 1e9 * 1e9), Exclude: []string{"a"}}
		if every == 0 {
			in.Calendar = &task.Calendar{Times: []string{clock}, Weekdays: []string{weekday}, Months: []string{month}, Days: []int{monthDay}}
		}
		excluded, err := ParseDays([]string{days})
		if err != nil {
			excluded = &Days{}
		}
		started := time.Now()
		s, err := ParseWith(in, lookup(map[string]*Days{"a": excluded}))
		if err != nil {
			require.Equal(t, task.CodeInvalid, task.CodeOf(err))
			return
		}
		at := time.Unix(after%(1<<37), 0)
		for range 5 {
			next, ok := s.Next(at)
			if !ok {
				break
			}
			require.True(t, next.After(at), "%v is not after %v", next, at)
			require.False(t, next.After(at) && s.freeDay(spanAt(next, s.Zone()).day(next)) != spanAt(next, s.Zone()).day(next), "%v is on an excluded day", next)
			at = next
		}
		require.Less(t, time.Since(started), 2*time.Second)
		require.NotEmpty(t, Describe(s))
	})
}

func TestMonthsAreThoseOfTheTimePackage(t *testing.T) {
	t.Parallel()
	for at := time.Date(earliest, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 2500; at = at.AddDate(0, 1, 0) {
		require.Equal(t, at.AddDate(0, 1, -1).Day(), daysIn(at.Year(), at.Month()), "%v", at)
		require.Equal(t, int(at.Weekday()), weekdayOfFirst(at.Year(), at.Month()), "%v", at)
	}
}
