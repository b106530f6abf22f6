package pkgstore

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/catena-run/catena/telemetry"
)

// Metrics are those of this cache.
func (c *Cache) Metrics() prometheus.Collector {
	read := func(of func() float64) func() float64 {
		return func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return of()
		}
	}
	return telemetry.Collectors{
		c.lookups,
		telemetry.GaugeOf("catena_package_cache_bytes", "Package code that the workers keep in memory.", read(func() float64 { return float64(c.size) })),
		telemetry.GaugeOf("catena_package_cache_versions", "Package versions that the workers keep in memory.", read(func() float64 { return float64(len(c.versions)) })),
	}
}

func newLookups() *prometheus.CounterVec {
	return telemetry.CounterOf("catena_package_cache_lookups_total", "Package versions that calls asked the workers' cache for.", "result", "hit", "miss")
}
