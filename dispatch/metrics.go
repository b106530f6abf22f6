package dispatch

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/catena-run/catena/telemetry"
)

// metrics are the counts of this process.
type metrics struct {
	accepted, refused, opened, admitted, filled, again, emptied prometheus.Counter
	commit                                                      prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		accepted: telemetry.Counter("catena_runs_accepted_total", "Runs that were asked for and committed; those of schedules are in catena_fires_total."),
		refused:  telemetry.Counter("catena_submissions_refused_total", "Requests for runs that were refused or failed."),
		opened:   telemetry.Counter("catena_runs_opened_total", "Delayed runs and retries whose time had come."),
		admitted: telemetry.Counter("catena_parcels_admitted_total", "Parcels made of runs that limits let in."),
		filled:   telemetry.Counter("catena_parcels_filled_total", "Parcels made of runs that waited for room."),
		again:    telemetry.Counter("catena_parcels_enqueued_again_total", "Parcels that nobody had claimed for too long and that were given to the queue again."),
		emptied:  telemetry.Counter("catena_queue_emptied_total", "Times that Redis was found empty and filled again."),
		commit:   telemetry.Histogram("catena_submit_duration_seconds", "How long the group commit of accepted runs took.", telemetry.ShortSpans()),
	}
}

// Metrics are those of this process.
func (d *Dispatcher) Metrics() prometheus.Collector {
	m := d.metrics
	return telemetry.Collectors{m.accepted, m.refused, m.opened, m.admitted, m.filled, m.again, m.emptied, m.commit}
}
