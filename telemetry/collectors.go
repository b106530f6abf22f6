package telemetry

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Collectors are several collectors as one.
type Collectors []prometheus.Collector

// Describe describes all.
func (c Collectors) Describe(out chan<- *prometheus.Desc) {
	for _, one := range c {
		one.Describe(out)
	}
}

// Collect collects all.
func (c Collectors) Collect(out chan<- prometheus.Metric) {
	for _, one := range c {
		one.Collect(out)
	}
}

// Counter makes a counter without labels.
func Counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

// CounterOf makes a counter with one label, at zero for the values that are
// known beforehand.
func CounterOf(name, help, label string, values ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	for _, v := range values {
		c.WithLabelValues(v)
	}
	return c
}

// Histogram makes one without labels.
func Histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
}

// GaugeOf makes a gauge that is read when asked for.
func GaugeOf(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
}

// ShortSpans are buckets, in seconds, for what takes milliseconds.
func ShortSpans() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

// LongSpans are buckets, in seconds, for what may take a millisecond or a day.
func LongSpans() []float64 {
	return []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400}
}

// maxNames is how many values of a label a Names lets through.
const maxNames = 200

// Others is the label of what came after the last one that a Names lets through.
const Others = "(others)"

// Names bounds the values of a label that users choose.
type Names struct {
	mu    sync.RWMutex
	known map[string]bool
}

// Bound returns name, or Others when there are too many names already.
func (n *Names) Bound(name string) string {
	n.mu.RLock()
	known, full := n.known[name], len(n.known) >= maxNames
	n.mu.RUnlock()
	switch {
	case known:
		return name
	case full:
		return Others
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil {
		n.known = map[string]bool{}
	}
	n.known[name] = true
	return name
}
