package server

import (
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catena-run/catena/telemetry"
)

// counts are the requests of this process, by class of the answer. They are
// plain numbers, so that counting a request costs next to nothing.
type counts struct {
	classes  [6]atomic.Int64
	inFlight atomic.Int64
	accepted atomic.Int64 // connections
}

func (c *counts) answered(status int) {
	if class := status / 100; class >= 1 && class <= 5 {
		c.classes[class].Add(1)
	}
}

// Metrics are those of this server.
func (s *Server) Metrics() prometheus.Collector {
	return telemetry.Collectors{
		&requestCounts{&s.counts, prometheus.NewDesc("catena_http_requests_total", "Requests that the shared server answered, by class of the status.", []string{"code"}, nil)},
		telemetry.GaugeOf("catena_http_requests_in_flight", "Requests to the shared server under way.", func() float64 { return float64(s.counts.inFlight.Load()) }),
		telemetry.GaugeOf("catena_http_connections", "Open connections of the shared server.", func() float64 { return float64(s.open.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "catena_http_connections_total", Help: "Connections that the shared server accepted."},
			func() float64 { return float64(s.counts.accepted.Load()) }),
	}
}

type requestCounts struct {
	counts *counts
	desc   *prometheus.Desc
}

// Describe tells the name.
func (r *requestCounts) Describe(out chan<- *prometheus.Desc) { out <- r.desc }

// Collect reads the counts.
func (r *requestCounts) Collect(out chan<- prometheus.Metric) {
	for class, name := range [...]string{1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"} {
		if class > 0 {
			out <- prometheus.MustNewConstMetric(r.desc, prometheus.CounterValue, float64(r.counts.classes[class].Load()), name)
		}
	}
}

// statusWriter remembers the status of an answer. It is used again for the
// requests that follow.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader takes note of the final status.
func (w *statusWriter) WriteHeader(status int) {
	if w.status < 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write answers 200 when nothing else was said before.
func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status < 200 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap gives the writer underneath to http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type statusWriters struct{ pool sync.Pool }

func (p *statusWriters) get(w http.ResponseWriter) *statusWriter {
	s, ok := p.pool.Get().(*statusWriter)
	if !ok {
		s = &statusWriter{}
	}
	s.ResponseWriter, s.status = w, 0
	return s
}

func (p *statusWriters) put(s *statusWriter) {
	s.ResponseWriter = nil
	p.pool.Put(s)
}
