package check_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/check"
	"github.com/catena-run/catena/task"
)

var midnight = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func scheduled(name string, s ...task.Schedule) task.Task {
	return task.Task{Definition: task.Definition{Name: name, Schedule: s}}
}

// TestSimulateByHand checks small clocks whose answer can be counted on fingers.
func TestSimulateByHand(t *testing.T) {
	t.Parallel()
	every := func(text string, overlap task.Overlap) task.Schedule {
		return task.Schedule{Cron: "@every " + text, Overlap: overlap}
	}
	cron := func(overlap task.Overlap) task.Schedule {
		return task.Schedule{Cron: "*/10 * * * * *", Overlap: overlap}
	}
	for name, c := range map[string]struct {
		task    task.Task
		lasts   time.Duration
		want    check.Flow
		running int64
	}{
		"short runs start all": {scheduled("a", every("10s", "")), time.Second, check.Flow{Fires: 6, Started: 6}, 1},
		"skip":                 {scheduled("a", every("10s", "")), 25 * time.Second, check.Flow{Fires: 6, Started: 2, Skipped: 4}, 1},
		"skip of a cron":       {scheduled("a", cron("")), 25 * time.Second, check.Flow{Fires: 6, Started: 2, Skipped: 4}, 1},
		"allow-all":            {scheduled("a", cron(task.OverlapAllowAll)), 25 * time.Second, check.Flow{Fires: 6, Started: 6}, 3},
		"buffer-one":           {scheduled("a", cron(task.OverlapBufferOne)), 25 * time.Second, check.Flow{Fires: 6, Started: 3, Buffered: 3, Skipped: 2, Waiting: 1, LongestMS: 20_000}, 1},
		"buffer-all": {scheduled("a", task.Schedule{Cron: "*/10 * * * * *", Overlap: task.OverlapBufferAll, Buffer: 2}), 25 * time.Second,
			check.Flow{Fires: 6, Started: 3, Buffered: 4, Overruns: 1, Waiting: 2, LongestMS: 30_000}, 1},
		"cancel-other":  {scheduled("a", cron(task.OverlapCancelOther)), 25 * time.Second, check.Flow{Fires: 6, Started: 6, Cancelled: 5}, 1},
		"two schedules": {scheduled("a", every("10s", ""), every("20s", "")), 5 * time.Second, check.Flow{Fires: 9, Started: 9}, 2},
		"concurrency": {task.Task{Definition: task.Definition{Name: "a", Schedule: []task.Schedule{every("10s", ""), every("20s", "")},
			Concurrency: &task.Concurrency{Limit: 1}}}, 5 * time.Second, check.Flow{Fires: 9, Started: 9, Delayed: 3, LongestMS: 5000}, 1},
		"cancel-running": {task.Task{Definition: task.Definition{Name: "a", Schedule: []task.Schedule{every("10s", ""), every("20s", "")},
			Concurrency: &task.Concurrency{Limit: 1, Strategy: task.StrategyCancelRunning}}}, 5 * time.Second, check.Flow{Fires: 9, Started: 9, Cancelled: 3}, 1},
		"reject-new": {task.Task{Definition: task.Definition{Name: "a", Schedule: []task.Schedule{every("10s", ""), every("20s", "")},
			Concurrency: &task.Concurrency{Limit: 1, Strategy: task.StrategyRejectNew}}}, 5 * time.Second, check.Flow{Fires: 9, Started: 6, Rejected: 3}, 1},
		"rate": {task.Task{Definition: task.Definition{Name: "a", Schedule: []task.Schedule{every("10s", task.OverlapAllowAll)},
			Rate: &task.Rate{Limit: 2, Per: task.Duration(30 * time.Second)}}}, time.Second, check.Flow{Fires: 6, Started: 4, Delayed: 2, Waiting: 2, LongestMS: 10_000}, 1},
		"rate that does not bind": {task.Task{Definition: task.Definition{Name: "a", Schedule: []task.Schedule{every("10s", "")},
			Rate: &task.Rate{Limit: 6, Per: task.Duration(time.Minute)}}}, time.Second, check.Flow{Fires: 6, Started: 6}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := check.Simulate([]task.Task{c.task}, check.Clock{From: midnight, Until: midnight.Add(time.Minute), Duration: c.lasts})
			require.NoError(t, err)
			require.Equal(t, c.want, f.Total)
			require.Equal(t, c.running, f.Running.Count)
			require.Equal(t, c.want, f.Tasks[0].Flow)
		})
	}
}

func TestSimulateFindsPeaksAndWhatNeverFires(t *testing.T) {
	t.Parallel()
	past, late := midnight.Add(-time.Hour), midnight.AddDate(0, 6, 0)
	tasks := []task.Task{
		scheduled("noon", task.Schedule{Cron: "0 12 * * *"}, task.Schedule{Cron: "0 12 * * *", Overlap: task.OverlapAllowAll}),
		scheduled("hourly", task.Schedule{Cron: "@hourly"}),
		scheduled("past", task.Schedule{At: &past}),
		scheduled("late", task.Schedule{At: &late}),
		scheduled("leap", task.Schedule{Cron: "0 0 29 2 *"}),
		scheduled("broken", task.Schedule{Cron: "61 * * * *"}),
		{Definition: task.Definition{Name: "resting", Schedule: []task.Schedule{{Cron: "@hourly"}}}, Paused: true},
	}
	tasks[1].Queue = "slow"
	f, err := check.Simulate(tasks, check.Clock{From: midnight, Duration: time.Minute, Slots: map[string]int{"slow": 4},
		Measured: map[string]time.Duration{"hourly": 1500 * time.Millisecond}})
	require.NoError(t, err)
	require.Equal(t, midnight.Add(check.DefaultHorizon), f.Until)
	require.EqualValues(t, 60+720, f.Total.Fires)
	noon := midnight.Add(12 * time.Hour)
	require.Equal(t, check.Peak{Count: 3, At: noon}, f.Second)
	require.Equal(t, check.Peak{Count: 3, At: noon}, f.Minute)
	require.Equal(t, check.Peak{Count: 3, At: noon}, f.Running)
	require.Len(t, f.Queues, 2)
	require.Equal(t, "slow", f.Queues[1].Queue)
	require.Equal(t, 4, f.Queues[1].Slots)
	require.EqualValues(t, 720*2, f.Queues[1].Busy, "seconds are rounded up")
	never := map[string]string{}
	for _, one := range f.Tasks {
		for _, s := range one.Schedules {
			never[one.Task] = s.Never
		}
		require.Equal(t, one.Task == "hourly", one.Measured)
	}
	require.Contains(t, never["past"], "has passed")
	require.Contains(t, never["late"], "first due at 2027-05-01")
	require.Contains(t, never["leap"], "2028-02-29")
	require.Contains(t, never["broken"], "minute")
	require.Contains(t, never["resting"], "paused")
	require.Empty(t, never["noon"])

	for _, bad := range []check.Clock{
		{From: midnight, Until: midnight}, {From: midnight, Until: midnight.AddDate(1, 0, 0)}, {From: midnight, Duration: -time.Second},
	} {
		_, err := check.Simulate(tasks, bad)
		require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	}
}

// manySchedules are n schedules of all kinds with durations of their own.
func manySchedules(n int) ([]task.Task, map[string]time.Duration) {
	r := rand.New(rand.NewPCG(1, 2))
	zones := []string{"", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"}
	overlaps := task.Overlaps
	tasks := make([]task.Task, n)
	measured := map[string]time.Duration{}
	for i := range tasks {
		s := task.Schedule{Overlap: overlaps[r.IntN(len(overlaps))], Timezone: zones[r.IntN(len(zones))]}
		switch i % 10 {
		case 0:
			s.Cron = "* * * * *"
		case 1, 2:
			s.Cron = fmt.Sprintf("*/%d * * * *", 2+r.IntN(29))
		case 3, 4, 5:
			s.Cron = fmt.Sprintf("%d %d * * *", r.IntN(60), r.IntN(24))
		case 6:
			s.Cron = fmt.Sprintf("%d %d * * %d", r.IntN(60), r.IntN(24), r.IntN(7))
		case 7:
			s.Cron = "@every 1s"
		case 8:
			s.Cron = fmt.Sprintf("@every %ds", 1+r.IntN(600))
		default:
			s.Cron = fmt.Sprintf("%d %d * * * *", r.IntN(60), r.IntN(60))
		}
		tasks[i] = scheduled(fmt.Sprintf("t%d", i), s)
		tasks[i].Queue = []string{"", "slow", "mail"}[r.IntN(3)]
		if i%20 == 0 {
			tasks[i].Concurrency = &task.Concurrency{Limit: 1 + r.IntN(3)}
		}
		measured[tasks[i].Name] = time.Duration(r.ExpFloat64() * float64(2*time.Second))
	}
	return tasks, measured
}

// TestAMonthOfTenThousandSchedulesTakesSeconds prints how long it took.
func TestAMonthOfTenThousandSchedulesTakesSeconds(t *testing.T) {
	tasks, measured := manySchedules(many)
	f, err := check.Simulate(tasks, check.Clock{From: midnight, Measured: measured})
	require.NoError(t, err)
	t.Logf("%d schedules, %d due times, %d runs in %d ms", f.Schedules, f.Total.Fires, f.Total.Started, f.TookMS)
	require.Greater(t, f.Total.Fires, int64(200_000*many))
	require.Equal(t, f.Total.Fires, f.Total.Started+f.Total.Skipped+f.Total.Overruns+f.Total.Rejected+f.Total.Waiting)
	if many == 10_000 {
		require.Less(t, f.TookMS, int64(120_000), "6.9 s on one core of two that others use too")
	}
}

func BenchmarkSimulate(b *testing.B) {
	tasks, measured := manySchedules(10_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := check.Simulate(tasks, check.Clock{From: midnight, Measured: measured}); err != nil {
			b.Fatal(err)
		}
	}
}
