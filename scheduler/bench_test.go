package scheduler

import (
	"testing"
	"time"

	"github.com/catena-run/catena/task"
)

func BenchmarkNext(b *testing.B) {
	for _, cron := range []string{"* * * * *", "30 2 * * *", "0 5 1 * *", "@every 90s"} {
		b.Run(cron, func(b *testing.B) {
			spec, at := mustParse(b, cron, "Europe/Paris"), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			for i := 0; b.Loop(); i++ {
				if i%1000 == 0 {
					at = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
				}
				at, _ = spec.Next(at)
			}
		})
	}
}

// BenchmarkNextSparse seeks far due times over excluded years.
func BenchmarkNextSparse(b *testing.B) {
	days, err := ParseDays([]string{"2026-01-01/2033-12-31", "--12-24/--12-26", "--01-01", "2034-02-28"})
	if err != nil {
		b.Fatal(err)
	}
	calendars := func(string) (*Days, error) { return days, nil }
	for name, in := range map[string]task.Schedule{
		"month ends":            {Calendar: &task.Calendar{Times: []string{"08:00"}, Weekdays: []string{"mon-fri"}, Days: []int{-1}}},
		"29 February on Sunday": {Calendar: &task.Calendar{Times: []string{"08:00"}, Weekdays: []string{"sun"}, Days: []int{29}, Months: []string{"feb"}}},
		"every minute":          {Cron: "* * * * *"},
		"every 90s":             {Every: task.Duration(90 * time.Second)},
	} {
		b.Run(name, func(b *testing.B) {
			in.Timezone, in.Exclude = "Europe/Paris", []string{"a"}
			spec, err := ParseWith(in, calendars)
			if err != nil {
				b.Fatal(err)
			}
			from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			for b.Loop() {
				spec.Next(from)
			}
		})
	}
}

// BenchmarkParse compares reading a schedule for each fire with keeping it.
func BenchmarkParse(b *testing.B) {
	for _, zone := range []string{"UTC", "Europe/Paris"} {
		in := task.Schedule{ID: 1, Cron: "30 2 * * *", Timezone: zone}
		b.Run("read/"+zone, func(b *testing.B) {
			for b.Loop() {
				_, _ = Parse(in)
			}
		})
		b.Run("kept/"+zone, func(b *testing.B) {
			kept := newCache()
			for b.Loop() {
				_, _ = kept.parse(in, nil)
			}
		})
	}
}
