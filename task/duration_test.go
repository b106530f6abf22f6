package task_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/catena-run/catena/task"
)

func TestDurationText(t *testing.T) {
	t.Parallel()
	for text, d := range map[string]time.Duration{
		"500d": 12000 * time.Hour, "1d12h": 36 * time.Hour, "1d": 24 * time.Hour, "1d1ms": 24*time.Hour + time.Millisecond, "23h59m59s": 24*time.Hour - time.Second,
		"1h": time.Hour, "1h0m5s": time.Hour + 5*time.Second, "10m": 10 * time.Minute, "1m30s": 90 * time.Second, "1.5s": 1500 * time.Millisecond, "0s": 0, "-48h": -48 * time.Hour,
	} {
		require.Equal(t, text, task.DurationText(d))
	}
}

func TestPropertyDurationTextIsReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.SampledFrom([]time.Duration{1, time.Millisecond, time.Second, time.Hour, 24 * time.Hour}).Draw(t, "unit")
		d := time.Duration(rapid.Int64Range(-1<<62/int64(unit), 1<<62/int64(unit)).Draw(t, "n")) * unit
		read, err := task.ParseDuration(task.DurationText(d))
		if err != nil || read != d {
			t.Fatalf("%d: %q is read as %d: %v", d, task.DurationText(d), read, err)
		}
	})
}
