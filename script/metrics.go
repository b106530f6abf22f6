package script

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// Limits that a call may hit, as a label.
const (
	limitTime   = "time"
	limitMemory = "memory"
	limitOutput = "output"
)

// counts are the counts of one engine.
type counts struct {
	calls, limits, programs, requests *prometheus.CounterVec
	duration                          prometheus.Histogram
}

func newCounts() *counts {
	return &counts{
		calls:    telemetry.CounterOf("catena_script_calls_total", "Calls of package code, by how they ended.", "outcome", "success", "failure"),
		limits:   telemetry.CounterOf("catena_script_limits_hit_total", "Calls that were stopped at a limit.", "limit", limitTime, limitMemory, limitOutput),
		programs: telemetry.CounterOf("catena_script_programs_total", "Modules that were looked up in the cache of compiled programs.", "result", "hit", "miss"),
		requests: telemetry.CounterOf("catena_script_http_requests_total", "HTTP requests of package code, by the class of the answer.", "code", "1xx", "2xx", "3xx", "4xx", "5xx", "error"),
		duration: telemetry.Histogram("catena_script_call_duration_seconds", "How long a call of package code took, its waits included.", telemetry.LongSpans()),
	}
}

// observe counts the end of a call.
func (m *counts) observe(began time.Time, outcome *task.Outcome, s *stop) {
	m.duration.Observe(time.Since(began).Seconds())
	kind := "success"
	if !outcome.Success {
		kind = "failure"
	}
	m.calls.WithLabelValues(kind).Inc()
	switch {
	case s != nil && s.code == task.CodeTimeout:
		m.limits.WithLabelValues(limitTime).Inc()
	case s != nil && s.code == task.CodeTooLarge:
		m.limits.WithLabelValues(limitMemory).Inc()
	case s == nil && !outcome.Success && string(outcome.Extra["code"]) == `"`+string(task.CodeTooLarge)+`"`:
		m.limits.WithLabelValues(limitOutput).Inc()
	}
}

func (m *counts) looked(hit bool) {
	result := "miss"
	if hit {
		result = "hit"
	}
	m.programs.WithLabelValues(result).Inc()
}

// answered counts a request; nil: it failed.
func (m *counts) answered(response *http.Response) {
	class := "error"
	if response != nil && response.StatusCode >= 100 && response.StatusCode < 600 {
		class = strconv.Itoa(response.StatusCode/100) + "xx"
	}
	m.requests.WithLabelValues(class).Inc()
}

// Metrics are those of this engine.
func (e *Engine) Metrics() prometheus.Collector {
	m := e.counts
	return telemetry.Collectors{m.calls, m.limits, m.programs, m.requests, m.duration,
		telemetry.GaugeOf("catena_script_calls_running", "Calls of package code under way.", func() float64 { return float64(e.watch.size()) }),
	}
}
