package queue

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/catena-run/catena/telemetry"
)

// metrics are the counts of this process.
type metrics struct {
	enqueued, delivered, errors, outages prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		enqueued:  telemetry.Counter("catena_queue_enqueued_total", "Parcels that were given to the queue."),
		delivered: telemetry.Counter("catena_queue_delivered_total", "Parcels that the queue gave to a worker, which may refuse them."),
		errors:    telemetry.Counter("catena_queue_errors_total", "Calls that gave parcels to the queue and failed; the parcels wait in Postgres."),
		outages:   telemetry.Counter("catena_redis_outages_total", "Times that Redis went away or could not be used."),
	}
}

// Metrics are those of this process.
func (q *Asynq) Metrics() prometheus.Collector {
	m := q.metrics
	return telemetry.Collectors{m.enqueued, m.delivered, m.errors, m.outages,
		telemetry.GaugeOf("catena_redis_up", "Processes for which Redis can be used, as far as they know.", func() float64 {
			if q.outage.open() {
				return 0
			}
			return 1
		}),
	}
}
