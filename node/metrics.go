package node

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/catena-run/catena/telemetry"
)

// registerBase adds what masters and workers both tell. The label process keeps
// a master's own figures apart from the sums of its workers.
func (b *base) registerBase(registry prometheus.Registerer, process string) {
	registry = prometheus.WrapRegistererWith(prometheus.Labels{"process": process}, registry)
	registry.MustRegister(b.store.Metrics(), b.queue.Metrics(), b.dispatch.Metrics())
	registry.MustRegister(b.traces.Metrics()...)
}

// masterMetrics gathers what this master, its cluster and its workers tell.
func (m *masterNode) masterMetrics(version string) (http.Handler, *apiMetrics) {
	registry := telemetry.NewRegistry(version)
	requests := newAPIMetrics()
	m.registerBase(registry, "master")
	registry.MustRegister(newGauges(m), m.scheduler.Metrics(), m.sources.Metrics(), m.master.Metrics(), newSlotGauges(m.master.Slots), requests.collectors())
	all := prometheus.Gatherers{registry, m.master.WorkerMetrics()}
	// What can be gathered is told, whatever else is wrong.
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, ErrorLog: m.log}), requests
}

// apiMetrics count the requests to the admin API.
type apiMetrics struct {
	requests *prometheus.CounterVec
	duration prometheus.Histogram
}

func newAPIMetrics() *apiMetrics {
	return &apiMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "catena_api_requests_total", Help: "Requests to the admin API that were answered, by operation and class of the status.",
		}, []string{"operation", "code"}),
		duration: telemetry.Histogram("catena_api_request_duration_seconds", "From a request to the admin API to the end of its answer; waits for runs included.", telemetry.LongSpans()),
	}
}

func (a *apiMetrics) collectors() prometheus.Collector {
	return telemetry.Collectors{a.requests, a.duration}
}

func (a *apiMetrics) observe(operation string, status int, took time.Duration) {
	a.requests.WithLabelValues(operation, strconv.Itoa(status/100)+"xx").Inc()
	a.duration.Observe(took.Seconds())
}
