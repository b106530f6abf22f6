package scheduler

import (
	"testing"
	"time"
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
