// Package bench says what is measured and how figures are written. The peers
// stand in bench/peers, the programs in bench/cmd.
//
// It is a Go module of its own, so that the peers never become dependencies of
// the product. It measures; it judges nothing.
package bench

import (
	"context"
	"math"
	"slices"
	"time"
)

// Subject is one system under measurement, in one configuration. A subject
// opens what it needs in each call and leaves nothing behind.
type Subject interface {
	Name() string
	// Throughput accepts n no-op runs as fast as it can while workers work, and
	// returns runs per second from the first accept to the last end.
	Throughput(ctx context.Context, n int) (float64, error)
	// Latency triggers n runs one by one on an idle system, at random phases,
	// and returns the time from the trigger to the start of the run's code.
	Latency(ctx context.Context, n int) (p50, p99 time.Duration, err error)
}

// Backlogger is a subject that can also work off a backlog: n runs are accepted
// first, then the workers start. The figure counts from their start.
type Backlogger interface {
	Backlog(ctx context.Context, n int) (float64, error)
}

// Servers are the addresses of the servers to measure on.
type Servers struct {
	PostgresURL string
	RedisURL    string
}

// Percentile returns the smallest sample that is not below the share p (0 to 1)
// of the samples; 0 without samples.
func Percentile(samples []time.Duration, p float64) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(p*float64(len(sorted)))) - 1
	return sorted[max(rank, 0)]
}

// Median returns the middle of the figures, the lower one of two; 0 without figures.
func Median(figures []float64) float64 {
	if len(figures) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(figures))
	return sorted[(len(sorted)-1)/2]
}
