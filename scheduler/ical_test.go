package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

// icalOf makes an iCalendar text of events.
func icalOf(events ...string) string {
	text := "BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//catena//test//EN\n"
	for _, event := range events {
		text += "BEGIN:VEVENT\nUID:u\n" + strings.TrimSpace(event) + "\nEND:VEVENT\n"
	}
	return strings.ReplaceAll(text+"END:VCALENDAR\n", "\n", "\r\n")
}

func TestICal(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		events []string
		want   []string
	}{
		"all day":             {[]string{"DTSTART;VALUE=DATE:20261225"}, []string{"2026-12-25"}},
		"the end is not in":   {[]string{"DTSTART;VALUE=DATE:20261224\nDTEND;VALUE=DATE:20261227"}, []string{"2026-12-24/2026-12-26"}},
		"duration":            {[]string{"DTSTART;VALUE=DATE:20261224\nDURATION:P2D"}, []string{"2026-12-24/2026-12-25"}},
		"weeks":               {[]string{"DTSTART;VALUE=DATE:20261224\nDURATION:P1W"}, []string{"2026-12-24/2026-12-30"}},
		"timed":               {[]string{"DTSTART;TZID=Europe/Paris:20261224T180000\nDTEND;TZID=Europe/Paris:20261225T020000"}, []string{"2026-12-24/2026-12-25"}},
		"until midnight":      {[]string{"DTSTART;TZID=Europe/Paris:20261224T180000\nDTEND;TZID=Europe/Paris:20261225T000000"}, []string{"2026-12-24"}},
		"end in UTC":          {[]string{"DTSTART;TZID=Europe/Paris:20261224T180000\nDTEND:20261224T233000Z"}, []string{"2026-12-24/2026-12-25"}},
		"no length":           {[]string{"DTSTART:20261224T180000Z"}, []string{"2026-12-24"}},
		"a zone of its own":   {[]string{"DTSTART;TZID=W. Europe Standard Time:20261224T180000\nDTEND;TZID=W. Europe Standard Time:20261224T190000"}, []string{"2026-12-24"}},
		"folded":              {[]string{"SUMMARY:a long\n  summary\nDTSTART;VALUE=DATE:2026\n 1225"}, []string{"2026-12-25"}},
		"adjacent":            {[]string{"DTSTART;VALUE=DATE:20261226", "DTSTART;VALUE=DATE:20261225"}, []string{"2026-12-25/2026-12-26"}},
		"cancelled":           {[]string{"STATUS:CANCELLED\nDTSTART;VALUE=DATE:20261226", "DTSTART;VALUE=DATE:20261225"}, []string{"2026-12-25"}},
		"yearly, three times": {[]string{"DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=YEARLY;COUNT=3"}, []string{"2026-12-25", "2027-12-25", "2028-12-25"}},
		"yearly, until":       {[]string{"DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=YEARLY;UNTIL=20271225"}, []string{"2026-12-25", "2027-12-25"}},
		"exdate":              {[]string{"DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=YEARLY;COUNT=3\nEXDATE;VALUE=DATE:20271225"}, []string{"2026-12-25", "2028-12-25"}},
		"exdate in UTC":       {[]string{"DTSTART;TZID=Europe/Paris:20261225T000000\nRRULE:FREQ=DAILY;COUNT=3\nEXDATE:20261225T230000Z"}, []string{"2026-12-25", "2026-12-27"}},
		"rdate":               {[]string{"DTSTART;VALUE=DATE:20261225\nRDATE;VALUE=DATE:20270101,20270201"}, []string{"2026-12-25", "2027-01-01", "2027-02-01"}},
		"thanksgiving":        {[]string{"DTSTART;VALUE=DATE:20261126\nRRULE:FREQ=YEARLY;BYMONTH=11;BYDAY=4TH;COUNT=2"}, []string{"2026-11-26", "2027-11-25"}},
		"a moved instance": {
			[]string{"DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=YEARLY;COUNT=2", "RECURRENCE-ID;VALUE=DATE:20271225\nDTSTART;VALUE=DATE:20271227"},
			[]string{"2026-12-25", "2027-12-27"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseICal(icalOf(test.events...))
			require.NoError(t, err)
			require.Equal(t, test.want, got)
			_, err = ParseDays(got)
			require.NoError(t, err)
		})
	}
	ever, err := ParseICal(icalOf("DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=YEARLY"))
	require.NoError(t, err)
	require.Len(t, ever, 74)
	require.Equal(t, "2099-12-25", ever[73])
}

func TestICalRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, says string }{
		"empty":             {"", "iCalendar"},
		"another format":    {`{"days": []}`, "iCalendar"},
		"no event":          {icalOf(), "no event"},
		"cut off":           {"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n", "iCalendar"},
		"no begin":          {icalOf("SUMMARY:x"), "event 1 (x): it has no DTSTART"},
		"bad begin":         {icalOf("DTSTART:tomorrow"), "tomorrow"},
		"impossible date":   {icalOf("DTSTART;VALUE=DATE:20260230"), "20260230"},
		"before the begin":  {icalOf("DTSTART;VALUE=DATE:20261225\nDTEND;VALUE=DATE:20261224"), "ends before"},
		"bad end":           {icalOf("DTSTART;VALUE=DATE:20261225\nDTEND:x"), "DTEND"},
		"bad duration":      {icalOf("DTSTART;VALUE=DATE:20261225\nDURATION:-P1D"), "DURATION"},
		"bad exdate":        {icalOf("DTSTART;VALUE=DATE:20261225\nEXDATE:x"), "EXDATE"},
		"bad rdate":         {icalOf("DTSTART;VALUE=DATE:20261225\nRDATE:x"), "RDATE"},
		"bad rule":          {icalOf("DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=SOMETIMES"), "RRULE"},
		"negative interval": {icalOf("DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=YEARLY;INTERVAL=-1"), "makes no sense"},
		"hourly":            {icalOf("DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=HOURLY"), "within a day"},
		"by hour":           {icalOf("DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=DAILY;BYHOUR=1,2"), "within a day"},
		"impossible rule":   {icalOf("DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"), "never recurs"},
		"for ever":          {icalOf("DTSTART;VALUE=DATE:20000101\nDURATION:P99999D", "DTSTART;VALUE=DATE:20000101\nDURATION:P99999D"), "more than"},
		"huge":              {strings.Repeat("x", maxICal+1), "bytes"},
		"many events":       {icalOf(make([]string, maxICalEvents+1)...), "too many"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseICal(test.text)
			var coded *task.Error
			require.ErrorAs(t, err, &coded)
			require.Equal(t, task.CodeInvalid, coded.Code)
			require.Equal(t, "ical", coded.Where)
			require.ErrorContains(t, err, test.says)
		})
	}
}

// FuzzICal: never panics nor hangs; what is accepted are days.
func FuzzICal(f *testing.F) {
	f.Add(icalOf("DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=YEARLY;BYDAY=-1MO;COUNT=3"))
	f.Add(icalOf("DTSTART;TZID=Europe/Paris:20261224T180000\nDTEND:20261225T020000Z\nEXDATE:20261224T170000Z"))
	f.Add(icalOf("DTSTART:20261224T180000Z\nDURATION:PT1H\nRRULE:FREQ=MONTHLY;BYSETPOS=-1;BYDAY=FR;UNTIL=20280101T000000Z"))
	f.Fuzz(func(t *testing.T, text string) {
		started := time.Now()
		days, err := ParseICal(text)
		require.Less(t, time.Since(started), 10*time.Second)
		if err != nil {
			require.Equal(t, task.CodeInvalid, task.CodeOf(err))
			return
		}
		_, err = ParseDays(days)
		require.True(t, err == nil || len(days) > MaxDays, "%v", err)
	})
}
