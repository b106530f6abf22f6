package history_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
)

func TestATrendTellsGrowthFromNoise(t *testing.T) {
	t.Parallel()
	series := func(value func(minute float64) float64) (list []history.Sample) {
		for i := range 180 {
			at := time.Duration(i) * 10 * time.Second
			list = append(list, history.Sample{At: at, Value: value(at.Minutes()), Unit: "MiB"})
		}
		return list
	}
	noise := func(m float64) float64 { return 12 * math.Sin(m*m*7) }
	warm := 6 * time.Minute
	require.False(t, history.TrendOf(series(func(m float64) float64 { return 100 + noise(m) }), warm).Grows(), "noise")
	require.False(t, history.TrendOf(series(func(m float64) float64 { return 100 - m + noise(m) }), warm).Grows(), "it shrinks")
	require.False(t, history.TrendOf(series(func(m float64) float64 { return 60 + 40*min(m/6, 1) + noise(m) }), warm).Grows(), "it got warm")
	require.False(t, history.TrendOf(series(func(m float64) float64 { return 100 + m/10 }), warm).Grows(), "too little to matter")
	leak := history.TrendOf(series(func(m float64) float64 { return 100 + m + noise(m) }), warm)
	require.True(t, leak.Grows())
	require.InDelta(t, 60, leak.PerHour, 10)
	require.Contains(t, leak.String(), "MiB")
	files := history.TrendOf(series(func(m float64) float64 { return 40 + math.Floor(m/2) }), warm)
	require.True(t, files.Grows(), "a descriptor every two minutes")
	require.Equal(t, "no samples", history.TrendOf(nil, 0).String())
	require.False(t, history.TrendOf(nil, 0).Grows())
}
