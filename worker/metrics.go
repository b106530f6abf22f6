package worker

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// metrics are the counts of this process. Those of a lane are found once for a
// parcel, so that a run costs a few additions.
type metrics struct {
	ended, retries, requeued, parked *prometheus.CounterVec
	duration, latency                *prometheus.HistogramVec
	claimed, refused, offered        prometheus.Counter
	claim, commit, beat              prometheus.Histogram
	steps, lines                     prometheus.Counter
	commitErrors, beatErrors         prometheus.Counter
	revocations                      prometheus.Counter

	queues telemetry.Names
	mu     sync.RWMutex
	lanes  map[string]*laneMetrics
}

// laneMetrics are those of one queue.
type laneMetrics struct {
	ended                     map[task.State]prometheus.Counter
	retries, requeued, parked prometheus.Counter
	duration, latency         prometheus.Observer
}

func endStates() []task.State {
	return []task.State{task.StateSucceeded, task.StateFailed, task.StateTimedOut, task.StateCancelled}
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"queue"}, labels...))
	}
	spans := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{"queue"})
	}
	m := &metrics{
		ended:    counter("catena_runs_ended_total", "Runs that ended in the workers, by queue and state.", "state"),
		retries:  counter("catena_run_retries_total", "Attempts that failed and are followed by another one of the same run."),
		requeued: counter("catena_runs_requeued_total", "Runs that went back to their queue without a burnt attempt, as at a drain."),
		parked:   counter("catena_runs_parked_total", "Times that a run was set aside to wait for an event, an approval, a time or its children."),
		duration: spans("catena_run_duration_seconds", "How long an attempt of a run was executed.", telemetry.LongSpans()),
		latency:  spans("catena_run_start_latency_seconds", "From the acceptance of a run to the start of its first attempt, by the database clock; waits at limits and for a later time included.", telemetry.LongSpans()),
		claimed:  telemetry.Counter("catena_parcels_claimed_total", "Parcels that the workers took."),
		refused:  telemetry.Counter("catena_parcels_refused_total", "Parcels that were gone, or another's, when a worker claimed them."),
		offered:  telemetry.Counter("catena_parcels_offered_again_total", "Parcels that found no room in a worker in time and were offered to others."),
		claim:    telemetry.Histogram("catena_claim_duration_seconds", "How long the claim of a parcel took.", telemetry.ShortSpans()),
		commit:   telemetry.Histogram("catena_commit_duration_seconds", "How long the commit of a batch of steps, outcomes and log lines took.", telemetry.ShortSpans()),
		beat:     telemetry.Histogram("catena_heartbeat_duration_seconds", "Round trip of a worker's heartbeat to Postgres.", telemetry.ShortSpans()),
		steps:    telemetry.Counter("catena_steps_committed_total", "Steps that became durable before their runs went on."),
		lines:    telemetry.Counter("catena_log_lines_total", "Lines of the logs of runs that were stored."),

		commitErrors: telemetry.Counter("catena_commit_errors_total", "Commits of outcomes that failed and were tried again."),
		beatErrors:   telemetry.Counter("catena_heartbeat_errors_total", "Heartbeats that failed."),
		revocations:  telemetry.Counter("catena_sessions_revoked_total", "Sessions of workers that the cluster had given up."),
		lanes:        map[string]*laneMetrics{},
	}
	m.of(task.DefaultQueue)
	return m
}

func (m *metrics) collectors() telemetry.Collectors {
	return telemetry.Collectors{
		m.ended, m.retries, m.requeued, m.parked, m.duration, m.latency, m.claimed, m.refused, m.offered, m.claim, m.commit, m.beat,
		m.steps, m.lines, m.commitErrors, m.beatErrors, m.revocations,
	}
}

// of returns the metrics of a lane's queue.
func (m *metrics) of(lane string) *laneMetrics {
	m.mu.RLock()
	l := m.lanes[lane]
	m.mu.RUnlock()
	if l != nil {
		return l
	}
	queue, _, _ := strings.Cut(lane, "+")
	if store.Suspect(queue) {
		_, queue, _ = strings.Cut(queue, ":")
	}
	queue = m.queues.Bound(queue)
	l = &laneMetrics{
		ended:   map[task.State]prometheus.Counter{},
		retries: m.retries.WithLabelValues(queue), requeued: m.requeued.WithLabelValues(queue), parked: m.parked.WithLabelValues(queue),
		duration: m.duration.WithLabelValues(queue), latency: m.latency.WithLabelValues(queue),
	}
	for _, state := range endStates() {
		l.ended[state] = m.ended.WithLabelValues(queue, string(state))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.lanes) >= maxLanes {
		clear(m.lanes) // they are found again; the metrics themselves stay
	}
	m.lanes[lane] = l
	return l
}

const maxLanes = 1000

// observe counts the end of an attempt.
func (l *laneMetrics) observe(attempt int, e *store.Ending, spent time.Duration) {
	l.duration.Observe(spent.Seconds())
	switch {
	case e.State == task.StateWaiting:
		l.parked.Inc()
	case e.State == task.StateQueued && e.Attempt > attempt:
		l.retries.Inc()
	case e.State == task.StateQueued:
		l.requeued.Inc()
	default:
		if c := l.ended[e.State]; c != nil {
			c.Inc()
		}
	}
}

// begun counts the wait of a run that starts for the first time.
func (s *session) begun(j *job) {
	if j.claimed.Fence != 1 {
		return
	}
	offset, _, _ := s.clock.Offset()
	s.metrics.of(j.lane).latency.Observe(max(j.startedAt.Add(-offset).Sub(j.claimed.CreatedAt), 0).Seconds())
}

// Metrics are those of this worker.
func (w *Worker) Metrics() prometheus.Collector {
	gauge := func(name, help string, read func(*session) int) prometheus.Collector {
		return telemetry.GaugeOf(name, help, func() float64 {
			if s := w.current.Load(); s != nil {
				return float64(read(s))
			}
			return 0
		})
	}
	return append(w.metrics.collectors(),
		telemetry.GaugeOf("catena_slots", "Runs that the workers can execute at once.", func() float64 { return float64(w.cfg.Slots) }),
		gauge("catena_slots_used", "Runs that the workers execute.", (*session).running),
		gauge("catena_backlog_runs", "Runs that the workers have claimed and that wait for a slot.", func(s *session) int { return s.backlog.size() }),
	)
}

// Ready reports why this worker takes no work, nil when it does.
func (w *Worker) Ready() error {
	s := w.current.Load()
	switch {
	case s == nil:
		return task.Errorf(task.CodeUnavailable, "it is not registered with the cluster")
	case !s.working():
		return task.Errorf(task.CodeUnavailable, "it drains")
	case !s.gate.open():
		return task.Errorf(task.CodeUnavailable, "its last acknowledged heartbeat is too old")
	}
	return nil
}
