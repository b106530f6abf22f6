package store

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// poolMetrics reads the statistics of the connection pools when asked for.
type poolMetrics struct {
	pools map[string]*pgxpool.Pool

	connections, most, acquires, waited, cancelled, opened *prometheus.Desc
}

// Metrics are those of the connections of this process.
func (s *Store) Metrics() prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, append([]string{"pool"}, labels...), nil)
	}
	return &poolMetrics{
		pools:       map[string]*pgxpool.Pool{"main": s.pool, "beats": s.beats, "bulk": s.bulk},
		connections: desc("catena_postgres_connections", "Connections to Postgres by pool and state.", "state"),
		most:        desc("catena_postgres_connections_max", "Connections that a pool may open."),
		acquires:    desc("catena_postgres_acquires_total", "Times that a connection was taken from a pool."),
		waited:      desc("catena_postgres_acquire_seconds_total", "Time that callers waited for a connection of a pool."),
		cancelled:   desc("catena_postgres_acquires_cancelled_total", "Callers that gave up waiting for a connection."),
		opened:      desc("catena_postgres_connections_opened_total", "Connections that were opened."),
	}
}

// Describe tells the names.
func (m *poolMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.connections, m.most, m.acquires, m.waited, m.cancelled, m.opened} {
		out <- d
	}
}

// Collect reads the pools.
func (m *poolMetrics) Collect(out chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, value, labels...)
	}
	for name, pool := range m.pools {
		stat := pool.Stat()
		send(m.connections, prometheus.GaugeValue, float64(stat.AcquiredConns()), name, "used")
		send(m.connections, prometheus.GaugeValue, float64(stat.IdleConns()), name, "idle")
		send(m.connections, prometheus.GaugeValue, float64(stat.ConstructingConns()), name, "opening")
		send(m.most, prometheus.GaugeValue, float64(stat.MaxConns()), name)
		send(m.acquires, prometheus.CounterValue, float64(stat.AcquireCount()), name)
		send(m.waited, prometheus.CounterValue, stat.AcquireDuration().Seconds(), name)
		send(m.cancelled, prometheus.CounterValue, float64(stat.CanceledAcquireCount()), name)
		send(m.opened, prometheus.CounterValue, float64(stat.NewConnsCount()), name)
	}
}
