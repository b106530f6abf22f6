package source

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catena-run/catena/store"
)

const (
	outcomeOK     = "ok"
	outcomeFailed = "failed"
	// maxNames bounds how many sources have figures of their own; the others share the name "other".
	maxNames  = 100
	otherName = "other"
)

// metrics counts what this master did as the leader.
type metrics struct {
	polls, records *prometheus.CounterVec
	items          *prometheus.CounterVec

	mu    sync.Mutex
	names map[string]bool
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		polls:   counter("catena_source_polls_total", "Polls of sources by this master as the leader; of the 101st source on under the name other.", "source", "outcome"),
		records: counter("catena_source_records_total", "Requests that told sources of outcomes, by this master as the leader.", "source", "outcome"),
		items:   counter("catena_source_items_total", "Items of sources by what this master did with them as the leader.", "action"),
		names:   map[string]bool{},
	}
	for _, action := range []string{"started", "refused", "requeued", "recorded"} {
		m.items.WithLabelValues(action)
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, c := range []prometheus.Collector{m.polls, m.records, m.items} {
		c.Describe(out)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{m.polls, m.records, m.items} {
		c.Collect(out)
	}
}

func (m *metrics) label(source string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.names[source] && len(m.names) >= maxNames {
		return otherName
	}
	m.names[source] = true
	return source
}

func (m *metrics) polled(source, outcome string) {
	m.polls.WithLabelValues(m.label(source), outcome).Inc()
}

func (m *metrics) recordedTo(source, outcome string) {
	m.records.WithLabelValues(m.label(source), outcome).Inc()
}

func (m *metrics) took(t store.Taken) {
	for action, n := range map[string]int{"started": t.Started, "refused": t.Refused, "requeued": t.Requeued, "recorded": t.Recorded} {
		m.items.WithLabelValues(action).Add(float64(n))
	}
}
