package scheduler

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/catena-run/catena/task"
)

func dueOf(t testing.TB, cron, dueAt string) Due {
	t.Helper()
	return Due{Schedule: task.Schedule{ID: 7, Task: "a"}, Spec: mustParse(t, cron, ""), DueAt: instant(t, dueAt)}
}

// row is a fire in a form that reads well in a table.
type row struct {
	first, last string
	count       int64
	outcome     task.FireOutcome
	reason      string
}

func rowsOf(d Decision) []row {
	var rows []row
	for _, f := range d.Fires {
		rows = append(rows, row{f.DueAt.Format(time.TimeOnly), f.LastDueAt.Format(time.TimeOnly), f.Count, f.Outcome, f.Reason})
	}
	return rows
}

func TestDecide(t *testing.T) {
	t.Parallel()
	const overlapped = "overlap policy skip: the run before it has not ended"
	for name, test := range map[string]struct {
		cron, due, now string
		change         func(d *Due)
		want           []row
		next           string // "": the schedule is over
	}{
		"not due yet": {cron: "@every 1m", due: "2026-01-01T00:01:00Z", now: "2026-01-01T00:00:59.999Z", next: "00:01:00"},
		"on time": {
			cron: "@every 1m", due: "2026-01-01T00:01:00Z", now: "2026-01-01T00:01:00Z",
			want: []row{{"00:01:00", "00:01:00", 1, task.FireStarted, ""}}, next: "00:02:00",
		},
		"just on time": {
			cron: "@every 1h", due: "2026-01-01T01:00:00Z", now: "2026-01-01T01:01:00Z",
			want: []row{{"01:00:00", "01:00:00", 1, task.FireStarted, ""}}, next: "02:00:00",
		},
		"just missed": {
			cron: "@every 1h", due: "2026-01-01T01:00:00Z", now: "2026-01-01T01:01:00.001Z",
			want: []row{{"01:00:00", "01:00:00", 1, task.FireMissed, "nobody was there to start it: noticed 1m0s late"}}, next: "02:00:00",
		},
		"down for three hours": {
			cron: "0 * * * *", due: "2026-01-01T01:00:00Z", now: "2026-01-01T04:00:00Z",
			want: []row{
				{"01:00:00", "03:00:00", 3, task.FireMissed, "nobody was there to start it: noticed 3h0m0s late"},
				{"04:00:00", "04:00:00", 1, task.FireStarted, ""},
			}, next: "05:00:00",
		},
		"a stall of three seconds, skipping": {
			cron: "@every 1s", due: "2026-01-01T00:00:01Z", now: "2026-01-01T00:00:03.5Z",
			want: []row{
				{"00:00:01", "00:00:01", 1, task.FireStarted, ""},
				{"00:00:02", "00:00:02", 1, task.FireSkipped, overlapped},
				{"00:00:03", "00:00:03", 1, task.FireSkipped, overlapped},
			}, next: "00:00:04",
		},
		"a stall of three seconds, side by side": {
			cron: "@every 1s", due: "2026-01-01T00:00:01Z", now: "2026-01-01T00:00:03.5Z",
			change: func(d *Due) { d.Schedule.Overlap, d.LastRunActive = task.OverlapAllowAll, true },
			want: []row{
				{"00:00:01", "00:00:01", 1, task.FireStarted, ""},
				{"00:00:02", "00:00:02", 1, task.FireStarted, ""},
				{"00:00:03", "00:00:03", 1, task.FireStarted, ""},
			}, next: "00:00:04",
		},
		"the run before is active": {
			cron: "@every 1m", due: "2026-01-01T00:01:00Z", now: "2026-01-01T00:01:01Z",
			change: func(d *Due) { d.LastRunActive = true },
			want:   []row{{"00:01:00", "00:01:00", 1, task.FireSkipped, overlapped}}, next: "00:02:00",
		},
		"task paused, with a note": {
			cron: "*/10 * * * *", due: "2026-01-01T00:10:00Z", now: "2026-01-01T01:00:00Z",
			change: func(d *Due) { d.TaskPaused, d.Note = true, "until the audit" },
			want:   []row{{"00:10:00", "01:00:00", 6, task.FirePaused, "the task is paused: until the audit"}}, next: "01:10:00",
		},
		"task paused": {
			cron: "@every 10m", due: "2026-01-01T00:10:00Z", now: "2026-01-01T00:10:00Z",
			change: func(d *Due) { d.TaskPaused = true },
			want:   []row{{"00:10:00", "00:10:00", 1, task.FirePaused, "the task is paused"}}, next: "00:20:00",
		},
		"schedule paused": {
			cron: "@every 10m", due: "2026-01-01T00:10:00Z", now: "2026-01-01T00:39:00Z",
			change: func(d *Due) { d.Schedule.Paused = true },
			want:   []row{{"00:10:00", "00:30:00", 3, task.FirePaused, "the schedule is paused"}}, next: "00:40:00",
		},
		"one-shot": {
			cron: "@daily", due: "2026-01-01T00:10:00Z", now: "2026-01-01T00:10:05Z",
			change: func(d *Due) {
				at := d.DueAt
				d.Spec, _ = Parse(task.Schedule{At: &at})
			},
			want: []row{{"00:10:00", "00:10:00", 1, task.FireStarted, ""}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in, now := dueOf(t, test.cron, test.due), instant(t, test.now)
			if test.change != nil {
				test.change(&in)
			}
			got := Config{MissedAfter: time.Minute}.Decide(in, now)
			require.Equal(t, test.want, rowsOf(got))
			require.False(t, got.More)
			require.Equal(t, test.next != "", got.HasNext)
			if got.HasNext {
				require.Equal(t, test.next, got.Next.Format(time.TimeOnly))
			}
			for _, f := range got.Fires {
				require.EqualValues(t, 7, f.Schedule)
				require.Equal(t, "a", f.Task)
				require.Equal(t, now, f.FiredAt)
				require.Nil(t, f.Run)
			}
		})
	}
}

func TestDecideIsBounded(t *testing.T) {
	t.Parallel()
	now := instant(t, "2026-01-01T00:00:00Z")
	year := Due{Spec: mustParse(t, "@every 1s", ""), DueAt: now.AddDate(-1, 0, 0)}
	d := Config{MissedAfter: time.Minute}.Decide(year, now)
	require.EqualValues(t, 365*86400-60, d.Fires[0].Count, "a year of seconds is one row")
	require.Len(t, d.Fires, 1+61)
	require.False(t, d.More)

	year.Spec = mustParse(t, "* * * * * *", "Europe/Paris")
	d = Config{MissedAfter: time.Minute}.Decide(year, now)
	require.Len(t, d.Fires, 1)
	require.EqualValues(t, maxSteps, d.Fires[0].Count)
	require.True(t, d.More)
	require.Equal(t, d.Fires[0].LastDueAt.Add(time.Second), d.Next)

	busy := Due{Spec: mustParse(t, "@every 1s", ""), DueAt: now.Add(-time.Hour)}
	d = Config{MissedAfter: 2 * time.Hour}.Decide(busy, now)
	require.Len(t, d.Fires, maxFires)
	require.True(t, d.More)
}

// TestDecideCoversEachDueTimeOnce decides again and again, as the clock goes on
// and pauses come and go, and compares the rows with the due times that Next names.
func TestDecideCoversEachDueTimeOnce(t *testing.T) {
	t.Parallel()
	crons := []string{
		"@every 1s", "@every 7s", "@every 90s", "@every 1h", "* * * * *", "*/10 * * * * *", "30 2 * * *",
		"0 */3 * * 1-5", "15,45 1-3 * * *", "0 0 1 * *",
	}
	zones := []string{"UTC", "Europe/Paris", "Australia/Lord_Howe", "America/New_York"}
	rapid.Check(t, func(r *rapid.T) {
		spec, err := Parse(task.Schedule{
			Cron:     rapid.SampledFrom(crons).Draw(r, "cron"),
			Timezone: rapid.SampledFrom(zones).Draw(r, "zone"),
		})
		require.NoError(r, err)
		cfg := Config{MissedAfter: rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour}).Draw(r, "missedAfter")}
		now := time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(r, "start"), 0).UTC()
		first, _ := spec.Next(now)
		expected, stored := first, first
		for range rapid.IntRange(1, 6).Draw(r, "rounds") {
			now = now.Add(time.Duration(rapid.Int64Range(0, 20_000_000).Draw(r, "ms")) * time.Millisecond)
			in := Due{
				Spec: spec, Schedule: task.Schedule{
					Paused:  rapid.Bool().Draw(r, "paused") && rapid.Bool().Draw(r, "paused too"),
					Overlap: rapid.SampledFrom([]task.Overlap{"", task.OverlapSkip, task.OverlapAllowAll}).Draw(r, "overlap"),
				},
				TaskPaused:    rapid.IntRange(0, 4).Draw(r, "task paused") == 0,
				LastRunActive: rapid.Bool().Draw(r, "active"),
			}
			for more := true; more; {
				in.DueAt = stored
				d := cfg.Decide(in, now)
				require.True(r, d.HasNext)
				for i, f := range d.Fires {
					checkRow(r, cfg, in, now, f)
					if f.Outcome == task.FireStarted && in.Schedule.Overlap != task.OverlapAllowAll {
						require.False(r, in.LastRunActive)
						require.False(r, i > 0 && d.Fires[i-1].Outcome == task.FireStarted, "two runs beside each other")
					}
					require.Equal(r, expected, f.DueAt)
					for k := int64(1); k < f.Count; k++ {
						expected, _ = spec.Next(expected)
					}
					require.Equal(r, expected, f.LastDueAt)
					expected, _ = spec.Next(expected)
				}
				stored, more = d.Next, d.More
			}
			require.Equal(r, expected, stored)
			require.True(r, stored.After(now), "a due time was left uncovered")
		}
	})
}

func checkRow(r *rapid.T, cfg Config, in Due, now time.Time, f task.Fire) {
	require.False(r, f.LastDueAt.After(now))
	require.Positive(r, f.Count)
	paused := in.TaskPaused || in.Schedule.Paused
	require.Equal(r, paused, f.Outcome == task.FirePaused)
	if paused {
		return
	}
	require.Equal(r, now.Sub(f.DueAt) > cfg.MissedAfter, f.Outcome == task.FireMissed)
	require.Equal(r, now.Sub(f.LastDueAt) > cfg.MissedAfter, f.Outcome == task.FireMissed)
	require.Equal(r, f.Outcome == task.FireStarted, f.Reason == "")
	if f.Outcome != task.FireMissed {
		require.EqualValues(r, 1, f.Count)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	require.NoError(t, DefaultConfig().Validate())
	for _, bad := range []time.Duration{0, -1, 25 * time.Hour} {
		require.Equal(t, task.CodeInvalid, task.CodeOf(Config{MissedAfter: bad}.Validate()))
	}
}
