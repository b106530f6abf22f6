package scheduler

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func dueOf(t testing.TB, cron, dueAt string) Due {
	t.Helper()
	window := task.Duration(time.Minute)
	return Due{Schedule: task.Schedule{ID: 7, Task: "a", CatchUp: &window}, Spec: mustParse(t, cron, ""), DueAt: instant(t, dueAt)}
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

const (
	overlapped = "overlap policy skip: the run before it has not ended"
	tooLate    = "nobody was there to start it within the catch-up window of 1m0s"
)

func one(at string, outcome task.FireOutcome) row { return row{at, at, 1, outcome, ""} }

func TestDecide(t *testing.T) {
	t.Parallel()
	hour := task.Duration(time.Hour)
	for name, test := range map[string]struct {
		cron, due, now string
		change         func(d *Due)
		want           []row
		late           *store.Late
		cancel         task.Overlap
		next           string // "": the schedule is over
	}{
		"not due yet": {cron: "@every 1m", due: "2026-01-01T00:01:00Z", now: "2026-01-01T00:00:59.999Z", next: "00:01:00"},
		"on time": {
			cron: "@every 1m", due: "2026-01-01T00:01:00Z", now: "2026-01-01T00:01:00Z",
			want: []row{one("00:01:00", task.FireStarted)}, next: "00:02:00",
		},
		"just on time": {
			cron: "@every 1h", due: "2026-01-01T01:00:00Z", now: "2026-01-01T01:00:10Z",
			want: []row{one("01:00:00", task.FireStarted)}, next: "02:00:00",
		},
		"to be caught up": {
			cron: "@every 1h", due: "2026-01-01T01:00:00Z", now: "2026-01-01T01:01:00Z",
			late: &store.Late{First: instant(t, "2026-01-01T01:00:00Z"), Last: instant(t, "2026-01-01T01:00:00Z"), Count: 1}, next: "02:00:00",
		},
		"just missed": {
			cron: "@every 1h", due: "2026-01-01T01:00:00Z", now: "2026-01-01T01:01:00.001Z",
			want: []row{{"01:00:00", "01:00:00", 1, task.FireMissed, tooLate}}, next: "02:00:00",
		},
		"nothing is caught up": {
			cron: "@every 1m", due: "2026-01-01T00:01:00Z", now: "2026-01-01T00:03:00Z",
			change: func(d *Due) { d.Schedule.CatchUp = new(task.Duration) },
			want: []row{
				{"00:01:00", "00:02:00", 2, task.FireMissed, "nobody was there to start it, and the schedule catches nothing up"},
				one("00:03:00", task.FireStarted),
			}, next: "00:04:00",
		},
		"down for three hours": {
			cron: "*/30 * * * *", due: "2026-01-01T01:00:00Z", now: "2026-01-01T04:00:00Z",
			change: func(d *Due) { d.Schedule.CatchUp = &hour },
			want: []row{
				{"01:00:00", "02:30:00", 4, task.FireMissed, "nobody was there to start it within the catch-up window of 1h0m0s"},
				one("04:00:00", task.FireStarted),
			},
			late: &store.Late{First: instant(t, "2026-01-01T03:00:00Z"), Last: instant(t, "2026-01-01T03:30:00Z"), Count: 2}, next: "04:30:00",
		},
		"a stall of three seconds, skipping": {
			cron: "@every 1s", due: "2026-01-01T00:00:01Z", now: "2026-01-01T00:00:03.5Z",
			want: []row{one("00:00:01", task.FireStarted), {"00:00:02", "00:00:03", 2, task.FireSkipped, overlapped}}, next: "00:00:04",
		},
		"a stall of three seconds, side by side": {
			cron: "@every 1s", due: "2026-01-01T00:00:01Z", now: "2026-01-01T00:00:03.5Z",
			change: func(d *Due) { d.Schedule.Overlap, d.LastRunActive = task.OverlapAllowAll, true },
			want:   []row{one("00:00:01", task.FireStarted), one("00:00:02", task.FireStarted), one("00:00:03", task.FireStarted)}, next: "00:00:04",
		},
		"a stall, one waits": {
			cron: "@every 1s", due: "2026-01-01T00:00:01Z", now: "2026-01-01T00:00:03.5Z",
			change: func(d *Due) { d.Schedule.Overlap = task.OverlapBufferOne },
			want: []row{
				one("00:00:01", task.FireStarted), one("00:00:02", task.FireBuffered),
				{"00:00:03", "00:00:03", 1, task.FireSkipped, "overlap policy buffer-one: a run waits already for the end of the one before"},
			}, next: "00:00:04",
		},
		"a stall, two wait": {
			cron: "@every 1s", due: "2026-01-01T00:00:01Z", now: "2026-01-01T00:00:05Z",
			change: func(d *Due) {
				d.Schedule.Overlap, d.Schedule.Buffer, d.Waiting = task.OverlapBufferAll, 3, 1
			},
			want: []row{
				one("00:00:01", task.FireBuffered), one("00:00:02", task.FireBuffered),
				{"00:00:03", "00:00:05", 3, task.FireSkipped, "overlap policy buffer-all: 3 runs wait already"},
			}, next: "00:00:06",
		},
		"nothing runs to be cancelled": {
			cron: "@every 1m", due: "2026-01-01T00:01:00Z", now: "2026-01-01T00:01:00Z",
			change: func(d *Due) { d.Schedule.Overlap = task.OverlapCancelOther },
			want:   []row{one("00:01:00", task.FireStarted)}, next: "00:02:00",
		},
		"the newest replaces the run before": {
			cron: "@every 1s", due: "2026-01-01T00:00:01Z", now: "2026-01-01T00:00:03.5Z",
			change: func(d *Due) { d.Schedule.Overlap, d.LastRunActive = task.OverlapTerminateOther, true },
			want: []row{
				{"00:00:01", "00:00:02", 2, task.FireSkipped, "overlap policy terminate-other: a later due time had come as well"},
				one("00:00:03", task.FireBuffered),
			}, cancel: task.OverlapTerminateOther, next: "00:00:04",
		},
		"the run before is active": {
			cron: "@every 1m", due: "2026-01-01T00:01:00Z", now: "2026-01-01T00:01:01Z",
			change: func(d *Due) { d.LastRunActive = true },
			want:   []row{{"00:01:00", "00:01:00", 1, task.FireSkipped, overlapped}}, next: "00:02:00",
		},
		"a run waits to be opened": {
			cron: "@every 1m", due: "2026-01-01T00:01:00Z", now: "2026-01-01T00:01:01Z",
			change: func(d *Due) { d.Waiting = 1 },
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
		"task invalid": {
			cron: "@every 10m", due: "2026-01-01T00:10:00Z", now: "2026-01-01T00:20:00Z",
			change: func(d *Due) { d.Invalid = "chain: no such action" },
			want:   []row{{"00:10:00", "00:20:00", 2, task.FireSkipped, "the task is invalid: chain: no such action"}}, next: "00:30:00",
		},
		"schedule paused": {
			cron: "@every 10m", due: "2026-01-01T00:10:00Z", now: "2026-01-01T00:39:00Z",
			change: func(d *Due) { d.Schedule.Paused, d.Schedule.Note = true, "for now" },
			want:   []row{{"00:10:00", "00:30:00", 3, task.FirePaused, "the schedule is paused: for now"}}, next: "00:40:00",
		},
		"one failure less than allowed": {
			cron: "@every 10m", due: "2026-01-01T00:10:00Z", now: "2026-01-01T00:10:00Z",
			change: func(d *Due) { d.Schedule.PauseOnFailure, d.Failures = 3, 2 },
			want:   []row{one("00:10:00", task.FireStarted)}, next: "00:20:00",
		},
		"one-shot": {
			cron: "@daily", due: "2026-01-01T00:10:00Z", now: "2026-01-01T00:10:05Z",
			change: func(d *Due) {
				at := d.DueAt
				d.Spec, _ = Parse(task.Schedule{At: &at})
			},
			want: []row{one("00:10:00", task.FireStarted)},
		},
		"one-shot that had passed": {
			cron: "@daily", due: "2026-01-01T00:10:00Z", now: "2026-01-01T00:10:05Z",
			change: func(d *Due) {
				at := d.DueAt
				d.Spec, _ = Parse(task.Schedule{At: &at})
				d.Stale = true
			},
			want: []row{{"00:10:00", "00:10:00", 1, task.FireMissed, "the time had passed when the schedule was made"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in, now := dueOf(t, test.cron, test.due), instant(t, test.now)
			if test.change != nil {
				test.change(&in)
			}
			got := Decide(in, now)
			require.Equal(t, test.want, rowsOf(got))
			require.False(t, got.More)
			require.Equal(t, test.late, got.Late)
			require.Equal(t, test.cancel, got.Cancel)
			require.Empty(t, got.Pause)
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

func TestPauseAfterFailures(t *testing.T) {
	t.Parallel()
	in := dueOf(t, "@every 10m", "2026-01-01T00:10:00Z")
	in.Schedule.PauseOnFailure, in.Failures = 3, 3
	d := Decide(in, in.DueAt)
	require.Contains(t, d.Pause, "its last 3 runs failed")
	require.Equal(t, []row{{"00:10:00", "00:10:00", 1, task.FirePaused, "the schedule is paused: " + d.Pause}}, rowsOf(d))
	in.Schedule.Paused, in.Schedule.Note = true, d.Pause
	require.Equal(t, rowsOf(d), rowsOf(Decide(in, in.DueAt)), "the range goes on")
	require.Empty(t, Decide(in, in.DueAt).Pause)
}

func TestCatchUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(d *Due)
		runs   int
		want   []row
		more   bool
	}{
		"skip": {runs: 100, want: []row{one("00:01:00", task.FireCaughtUp), {"00:02:00", "00:05:00", 4, task.FireSkipped, overlapped}}},
		"side by side, as many as the rate allows": {
			change: func(d *Due) { d.Schedule.Overlap = task.OverlapAllowAll }, runs: 2,
			want: []row{one("00:01:00", task.FireCaughtUp), one("00:02:00", task.FireCaughtUp)}, more: true,
		},
		"one waits": {
			change: func(d *Due) { d.Schedule.Overlap, d.LastRunActive = task.OverlapBufferOne, true }, runs: 100,
			want: []row{
				one("00:01:00", task.FireBuffered),
				{"00:02:00", "00:05:00", 4, task.FireSkipped, "overlap policy buffer-one: a run waits already for the end of the one before"},
			},
		},
		"a later run is not cancelled": {
			change: func(d *Due) { d.Schedule.Overlap, d.LastRunActive = task.OverlapCancelOther, true }, runs: 100,
			want: []row{{"00:01:00", "00:05:00", 5, task.FireSkipped, "overlap policy cancel-other: a run of a later due time is under way"}},
		},
		"the newest": {
			change: func(d *Due) { d.Schedule.Overlap = task.OverlapCancelOther }, runs: 100,
			want: []row{
				{"00:01:00", "00:04:00", 4, task.FireSkipped, "overlap policy cancel-other: a later due time had come as well"},
				one("00:05:00", task.FireCaughtUp),
			},
		},
		"paused meanwhile": {
			change: func(d *Due) { d.Schedule.Paused = true }, runs: 100,
			want: []row{{"00:01:00", "00:05:00", 5, task.FirePaused, "the schedule is paused"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := dueOf(t, "@every 1m", "2026-01-01T00:01:00Z")
			if test.change != nil {
				test.change(&in)
			}
			got := CatchUp(in, instant(t, "2026-01-01T00:30:00Z"), instant(t, "2026-01-01T00:05:00Z"), test.runs)
			require.Equal(t, test.want, rowsOf(got))
			require.Equal(t, test.more, got.More)
			require.Empty(t, got.Cancel)
		})
	}
}

func TestDecideIsBounded(t *testing.T) {
	t.Parallel()
	now := instant(t, "2026-01-01T00:00:00Z")
	minute := task.Duration(time.Minute)
	year := Due{Spec: mustParse(t, "@every 1s", ""), DueAt: now.AddDate(-1, 0, 0), Schedule: task.Schedule{CatchUp: &minute, Overlap: task.OverlapAllowAll}}
	d := Decide(year, now)
	require.EqualValues(t, 365*86400-60, d.Fires[0].Count, "a year of seconds is one row")
	require.Len(t, d.Fires, 1+11)
	require.EqualValues(t, 50, d.Late.Count)
	require.False(t, d.More)

	year.Spec = mustParse(t, "* * * * * *", "Europe/Paris")
	d = Decide(year, now)
	require.Len(t, d.Fires, 1)
	require.EqualValues(t, maxSteps, d.Fires[0].Count)
	require.True(t, d.More)
	require.Equal(t, d.Fires[0].LastDueAt.Add(time.Second), d.Next)

	busy := Due{Spec: mustParse(t, "@every 1s", ""), DueAt: now.Add(-time.Hour), Schedule: task.Schedule{Overlap: task.OverlapAllowAll}}
	d = CatchUp(busy, now, now, 1000)
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
		window := task.Duration(rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, time.Hour}).Draw(r, "window"))
		now := time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(r, "start"), 0).UTC()
		first, _ := spec.Next(now)
		expected, stored := first, first
		cover := func(from, to time.Time, count int64) {
			require.Equal(r, expected, from)
			for k := int64(1); k < count; k++ {
				expected, _ = spec.Next(expected)
			}
			require.Equal(r, expected, to)
			expected, _ = spec.Next(expected)
		}
		for range rapid.IntRange(1, 6).Draw(r, "rounds") {
			now = now.Add(time.Duration(rapid.Int64Range(0, 20_000_000).Draw(r, "ms")) * time.Millisecond)
			in := Due{
				Spec: spec, Schedule: task.Schedule{
					Paused:  rapid.Bool().Draw(r, "paused") && rapid.Bool().Draw(r, "paused too"),
					Overlap: rapid.SampledFrom(append([]task.Overlap{""}, task.Overlaps[:]...)).Draw(r, "overlap"),
					Buffer:  rapid.IntRange(1, 5).Draw(r, "buffer"), CatchUp: &window,
				},
				TaskPaused:    rapid.IntRange(0, 4).Draw(r, "task paused") == 0,
				LastRunActive: rapid.Bool().Draw(r, "active"),
				Waiting:       rapid.IntRange(0, 3).Draw(r, "waiting"),
			}
			for more := true; more; {
				in.DueAt = stored
				d := Decide(in, now)
				require.True(r, d.HasNext)
				checkPolicy(r, in, d.Fires)
				late := d.Late
				for _, f := range d.Fires {
					if late != nil && late.First.Before(f.DueAt) {
						cover(late.First, late.Last, late.Count)
						late = nil
					}
					checkRow(r, in, now, f)
					cover(f.DueAt, f.LastDueAt, f.Count)
				}
				if late != nil {
					cover(late.First, late.Last, late.Count)
				}
				if d.Late != nil {
					require.Greater(r, now.Sub(d.Late.Last), store.Punctual)
					require.LessOrEqual(r, now.Sub(d.Late.First), time.Duration(window))
				}
				stored, more = d.Next, d.More
			}
			require.Equal(r, expected, stored)
			require.True(r, stored.After(now), "a due time was left uncovered")
		}
	})
}

// checkPolicy counts what one decision starts and lets wait.
func checkPolicy(r *rapid.T, in Due, fires []task.Fire) {
	outcomes := map[task.FireOutcome]int{}
	for _, f := range fires {
		outcomes[f.Outcome]++
	}
	if in.Schedule.Overlap == task.OverlapAllowAll {
		require.Zero(r, outcomes[task.FireBuffered])
		return
	}
	require.LessOrEqual(r, outcomes[task.FireStarted], 1, "two runs beside each other")
	if in.LastRunActive || in.Waiting > 0 {
		require.Zero(r, outcomes[task.FireStarted])
	}
	most := map[task.Overlap]int{task.OverlapBufferOne: 1, task.OverlapBufferAll: in.Schedule.Buffer}[in.Schedule.Overlap]
	switch in.Schedule.Overlap {
	case task.OverlapCancelOther, task.OverlapTerminateOther:
		require.LessOrEqual(r, outcomes[task.FireBuffered], 1)
	default:
		require.LessOrEqual(r, outcomes[task.FireBuffered], max(0, most-in.Waiting))
	}
}

func checkRow(r *rapid.T, in Due, now time.Time, f task.Fire) {
	require.False(r, f.LastDueAt.After(now))
	require.Positive(r, f.Count)
	paused := in.TaskPaused || in.Schedule.Paused
	require.Equal(r, paused, f.Outcome == task.FirePaused)
	if paused {
		return
	}
	missed := max(in.window(), store.Punctual)
	require.Equal(r, now.Sub(f.DueAt) > missed, f.Outcome == task.FireMissed)
	require.Equal(r, now.Sub(f.LastDueAt) > missed, f.Outcome == task.FireMissed)
	require.Equal(r, f.Outcome.HasRun(), f.Reason == "")
	if f.Outcome.HasRun() {
		require.EqualValues(r, 1, f.Count)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	require.NoError(t, DefaultConfig().Validate())
	for _, bad := range []int{0, -1, 100_001} {
		require.Equal(t, task.CodeInvalid, task.CodeOf(Config{CatchUpRate: bad}.Validate()))
	}
}
