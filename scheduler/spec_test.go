package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func mustParse(t testing.TB, cron, zone string) Spec {
	t.Helper()
	s, err := Parse(task.Schedule{Cron: cron, Timezone: zone})
	require.NoError(t, err)
	return s
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ancient := time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		in    task.Schedule
		where string
		says  []string
	}{
		"nothing":             {task.Schedule{}, "cron", []string{"no time"}},
		"both":                {task.Schedule{Cron: "@hourly", At: &at}, "at", []string{"both"}},
		"ancient":             {task.Schedule{At: &ancient}, "at", []string{"out of range"}},
		"four fields":         {task.Schedule{Cron: "* * * *"}, "cron", []string{"4 fields", "5 fields"}},
		"seven fields":        {task.Schedule{Cron: "* * * * * * *"}, "cron", []string{"7 fields"}},
		"minute":              {task.Schedule{Cron: "60 * * * *"}, "cron", []string{`minute "60"`, "0-59"}},
		"second":              {task.Schedule{Cron: "61 * * * * *"}, "cron", []string{`second "61"`, "0-59"}},
		"hour":                {task.Schedule{Cron: "0 24 * * *"}, "cron", []string{`hour "24"`, "0-23"}},
		"day of month":        {task.Schedule{Cron: "0 0 0 * *"}, "cron", []string{`day of month "0"`, "1-31"}},
		"month":               {task.Schedule{Cron: "0 0 1 foo *"}, "cron", []string{`month "foo"`, "jan-dec"}},
		"day of week":         {task.Schedule{Cron: "0 0 * * 7"}, "cron", []string{`day of week "7"`, "0 is Sunday"}},
		"step of nothing":     {task.Schedule{Cron: "*/0 * * * *"}, "cron", []string{`minute "*/0"`}},
		"range backwards":     {task.Schedule{Cron: "0 17-9 * * *"}, "cron", []string{`hour "17-9"`}},
		"commas":              {task.Schedule{Cron: "0 , * * *"}, "cron", []string{`hour ","`}},
		"30 February":         {task.Schedule{Cron: "0 0 30 2 *"}, "cron", []string{"never fires"}},
		"31 of short months":  {task.Schedule{Cron: "0 0 31 2,4,6,9,11 *"}, "cron", []string{"never fires"}},
		"unknown descriptor":  {task.Schedule{Cron: "@fortnightly"}, "cron", []string{"@fortnightly", "@weekly"}},
		"descriptor and more": {task.Schedule{Cron: "@daily 5"}, "cron", []string{"@daily 5"}},
		"reboot":              {task.Schedule{Cron: "@reboot"}, "cron", []string{"@reboot"}},
		"every nothing":       {task.Schedule{Cron: "@every"}, "cron", []string{"not a duration"}},
		"every word":          {task.Schedule{Cron: "@every day"}, "cron", []string{`"day"`, "90s"}},
		"every 0":             {task.Schedule{Cron: "@every 0s"}, "cron", []string{"once a second"}},
		"every negative":      {task.Schedule{Cron: "@every -1h"}, "cron", []string{"once a second"}},
		"every 500ms":         {task.Schedule{Cron: "@every 500ms"}, "cron", []string{"once a second"}},
		"every fraction":      {task.Schedule{Cron: "@every 1500ms"}, "cron", []string{"whole seconds"}},
		"unknown zone":        {task.Schedule{Cron: "@daily", Timezone: "Mars/Phobos"}, "timezone", []string{"Mars/Phobos", "IANA"}},
		"zone of the machine": {task.Schedule{Cron: "@daily", Timezone: "Local"}, "timezone", []string{"Local"}},
		"zone outside":        {task.Schedule{Cron: "@daily", Timezone: "../etc/passwd"}, "timezone", []string{"IANA"}},
		"unknown prefix zone": {task.Schedule{Cron: "TZ=Nowhere 0 0 * * *"}, "timezone", []string{"Nowhere"}},
		"prefix only":         {task.Schedule{Cron: "CRON_TZ=Europe/Paris"}, "cron", []string{"names no time zone or no time"}},
		"prefix without zone": {task.Schedule{Cron: "TZ= 0 0 * * *"}, "cron", []string{"names no time zone or no time"}},
		"two zones":           {task.Schedule{Cron: "TZ=Europe/Paris 0 0 * * *", Timezone: "Asia/Tokyo"}, "timezone", []string{"Europe/Paris", "Asia/Tokyo"}},
		"long":                {task.Schedule{Cron: strings.Repeat("1,", 200) + "1 * * * *"}, "cron", []string{"at most 256"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse(test.in)
			var coded *task.Error
			require.ErrorAs(t, err, &coded)
			require.Equal(t, task.CodeInvalid, coded.Code)
			require.Equal(t, test.where, coded.Where)
			require.NotEmpty(t, coded.Remedy)
			for _, text := range test.says {
				require.ErrorContains(t, err, text)
			}
		})
	}
}

func TestNextAndDescribe(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cron, zone, after, next, says string
	}{
		{"0 5 1 * *", "Europe/Paris", "2026-11-22T06:00:00Z", "2026-12-01T04:00:00Z", "at 05:00 on day 1 of the month (Europe/Paris)"},
		{"0 5 1 * *", "Europe/Paris", "2026-12-01T04:00:00Z", "2027-01-01T04:00:00Z", ""},
		{"TZ=Europe/Paris 0 5 1 * *", "", "2026-12-01T03:59:59.9Z", "2026-12-01T04:00:00Z", "at 05:00 on day 1 of the month (Europe/Paris)"},
		{"CRON_TZ=Europe/Paris  0 5 1 * *", "Europe/Paris", "2026-11-22T06:00:00Z", "2026-12-01T04:00:00Z", ""},
		{"30 0 5 * * mon-fri", "", "2026-11-21T00:00:00Z", "2026-11-23T05:00:30Z", "at 05:00:30 on Monday-Friday (UTC)"},
		{"*/15 9-17 * jan,jul 1,3", "", "2026-11-21T00:00:00Z", "2027-01-04T09:00:00Z", "at minute 0, 15, 30, 45 of hour 9-17 on Monday, Wednesday in January, July (UTC)"},
		{"0 0 13 * fri", "", "2026-11-21T00:00:00Z", "2026-11-27T00:00:00Z", "at 00:00 on day 13 of the month or on Friday (UTC)"},
		{"0 0 29 2 *", "", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z", "at 00:00 on day 29 of the month in February (UTC)"},
		{"* * * * *", "", "2026-11-21T00:00:00Z", "2026-11-21T00:01:00Z", "every minute (UTC)"},
		{"* * * * * *", "", "2026-11-21T00:00:00Z", "2026-11-21T00:00:01Z", "every second (UTC)"},
		{"*/20 * * * * *", "", "2026-11-21T00:00:40Z", "2026-11-21T00:01:00Z", "every minute, seconds 0, 20, 40 (UTC)"},
		{"* 2 * * *", "", "2026-11-21T02:59:00Z", "2026-11-22T02:00:00Z", "every minute of hour 2 (UTC)"},
		{"5 * * * *", "", "2026-11-21T00:00:40Z", "2026-11-21T00:05:00Z", "every hour at minute 5 (UTC)"},
		{"@hourly", "", "2026-11-21T00:00:40Z", "2026-11-21T01:00:00Z", "every hour (UTC)"},
		{"@daily", "Asia/Kathmandu", "2026-11-21T00:00:00Z", "2026-11-21T18:15:00Z", "at 00:00 (Asia/Kathmandu)"},
		{"@weekly", "", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", "at 00:00 on Sunday (UTC)"},
		{"@monthly", "", "2026-11-21T00:00:00Z", "2026-12-01T00:00:00Z", "at 00:00 on day 1 of the month (UTC)"},
		{"@yearly", "", "2026-11-21T00:00:00Z", "2027-01-01T00:00:00Z", "at 00:00 on day 1 of the month in January (UTC)"},
		{"@every 90s", "Europe/Paris", "1970-01-01T00:00:00Z", "1970-01-01T00:01:30Z", "every 1m30s"},
		{"@every 90s", "", "1970-01-01T00:01:29.999Z", "1970-01-01T00:01:30Z", ""},
		{"@every 90s", "", "1969-12-31T23:59:00Z", "1970-01-01T00:00:00Z", ""},
		{"@every 1h", "", "2026-11-21T10:30:00Z", "2026-11-21T11:00:00Z", "every 1h"},
		{"@every 10m", "", "2026-11-21T10:30:00Z", "2026-11-21T10:40:00Z", "every 10m"},
	} {
		s := mustParse(t, test.cron, test.zone)
		next, ok := s.Next(instant(t, test.after))
		require.True(t, ok, test.cron)
		require.Equal(t, test.next, next.Format(time.RFC3339), "%s after %s", test.cron, test.after)
		require.Equal(t, time.UTC, next.Location())
		if test.says != "" {
			require.Equal(t, test.says, Describe(s))
		}
	}
}

func TestOneShot(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 8, 0, 0, 1500, time.FixedZone("", 3600))
	s, err := Parse(task.Schedule{At: &at, Timezone: "Europe/Paris"})
	require.NoError(t, err)
	next, ok := s.Next(at.Add(-time.Hour))
	require.True(t, ok)
	require.Equal(t, "2026-11-22T07:00:00.000001Z", next.Format(time.RFC3339Nano))
	_, ok = s.Next(next)
	require.False(t, ok, "a one-shot fires once")
	require.Equal(t, "once, at 2026-11-22T08:00:00.000001+01:00", Describe(s))
}

func TestZeroSpecNeverFires(t *testing.T) {
	t.Parallel()
	_, ok := Spec{}.Next(time.Time{})
	require.False(t, ok)
	require.Equal(t, "never", Describe(Spec{}))
	require.Equal(t, time.UTC, Spec{}.Zone())
}

func instant(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return at
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"0 5 1 * *", "*/5 * * * * *", "@hourly", "@every 90s", "TZ=Europe/Paris 0 2 * * *", "CRON_TZ=", "0 0 30 2 *",
		"0 0 29 2 mon", "1-5/2,7 ? * jan-mar sun", "@every 9223372036s", "* , * * *", "*/18446744073709551615 * * * *",
	} {
		f.Add(seed, "Australia/Lord_Howe", int64(1_790_000_000))
	}
	f.Fuzz(func(t *testing.T, cron, zone string, after int64) {
		s, err := Parse(task.Schedule{Cron: cron, Timezone: zone})
		if err != nil {
			if task.CodeOf(err) != task.CodeInvalid {
				t.Fatalf("%q: code %s", cron, task.CodeOf(err))
			}
			return
		}
		at := time.Unix(after%(1<<37), 0)
		started := time.Now()
		for range 5 {
			next, ok := s.Next(at)
			if !ok {
				if at.Year() < latest-2*searchYears && s.every == 0 {
					t.Fatalf("%q has no due time after %v", cron, at)
				}
				break
			}
			if !next.After(at) {
				t.Fatalf("%q: %v is not after %v", cron, next, at)
			}
			at = next
		}
		if took := time.Since(started); took > time.Second {
			t.Fatalf("%q: Next took %v", cron, took)
		}
		if Describe(s) == "" {
			t.Fatalf("%q has no description", cron)
		}
	})
}
