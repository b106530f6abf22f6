package master

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/telemetry"
)

// What the reconciler does.
const (
	actionWorkerLost  = "worker_lost"
	actionTakenBack   = "run_taken_back"
	actionQuarantined = "run_quarantined"
)

// Why a worker process ended, beside the causes of healthcheck.
const (
	endCrash = "crash" // by itself
	endStop  = "stop"  // it was not needed any more, or did not come up
)

// metrics are the counts of this master.
type metrics struct {
	elections   prometheus.Counter
	duty        *prometheus.HistogramVec
	failures    *prometheus.CounterVec
	reconciled  *prometheus.CounterVec
	deleted     *prometheus.CounterVec
	workerEnds  *prometheus.CounterVec
	workerStart prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		elections: telemetry.Counter("catena_leader_elections_total", "Times that this master became the leader."),
		duty: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "catena_duty_duration_seconds", Help: "How long one turn of a leader's duty took.",
			Buckets: []float64{.001, .01, .1, 1, 10, 60}}, []string{"duty"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "catena_duty_failures_total", Help: "Turns of a leader's duty that failed."}, []string{"duty"}),
		reconciled: telemetry.CounterOf("catena_reconciler_actions_total", "What this master put right as the leader.", "action",
			actionWorkerLost, actionTakenBack, actionQuarantined),
		deleted: telemetry.CounterOf("catena_retention_deleted_total", "What this master removed as the leader because it was past its time.", "kind", "runs", "partitions"),
		workerEnds: telemetry.CounterOf("catena_worker_ends_total", "Worker processes of this master that ended, by reason.", "reason",
			string(healthcheck.CauseHang), string(healthcheck.CauseMemory), string(healthcheck.CauseAge), string(healthcheck.CauseRuns), string(healthcheck.CauseLate), string(healthcheck.CauseAsked), endCrash, endStop),
		workerStart: telemetry.Counter("catena_worker_starts_total", "Worker processes that this master started."),
	}
}

// Metrics are those of this master and of the worker processes that it supervises.
func (m *Master) Metrics() prometheus.Collector {
	c := m.metrics
	offset := func() float64 {
		offset, _, _ := m.clock.Offset()
		return offset.Seconds()
	}
	return telemetry.Collectors{
		c.elections, c.duty, c.failures, c.reconciled, c.deleted, c.workerEnds, c.workerStart,
		telemetry.GaugeOf("catena_leader", "1 when this master leads the cluster.", func() float64 {
			if m.Leads() {
				return 1
			}
			return 0
		}),
		telemetry.GaugeOf("catena_leader_term", "The term that this master leads, 0 when it does not lead.", func() float64 { return float64(m.candidate.Term()) }),
		telemetry.GaugeOf("catena_clock_offset_seconds", "How far the clock of this master is ahead of the database's.", offset),
		newWorkerGauges(m.supervisor),
	}
}

// workerGauges are the figures of the worker processes, by slot: a slot stays
// when its worker is replaced, so the number of series is bounded.
type workerGauges struct {
	supervisor *supervisor

	memory, cpu, files, threads, goroutines, beat, age *prometheus.Desc
}

func newWorkerGauges(s *supervisor) *workerGauges {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, []string{"slot"}, nil) }
	return &workerGauges{
		supervisor: s,
		memory:     desc("catena_worker_resident_memory_bytes", "Resident memory of the worker process in a slot of this master."),
		cpu:        desc("catena_worker_cpu_seconds_total", "CPU time of the worker process in a slot of this master."),
		files:      desc("catena_worker_open_fds", "Open file descriptors of the worker process in a slot of this master."),
		threads:    desc("catena_worker_threads", "Threads of the worker process in a slot of this master."),
		goroutines: desc("catena_worker_goroutines", "Goroutines of the worker process in a slot of this master."),
		beat:       desc("catena_worker_heartbeat_age_seconds", "Time since the last sign of life of the worker process in a slot of this master."),
		age:        desc("catena_worker_age_seconds", "Time since the worker process in a slot of this master was started."),
	}
}

// Describe tells the names.
func (g *workerGauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.memory, g.cpu, g.files, g.threads, g.goroutines, g.beat, g.age} {
		out <- d
	}
}

// Collect tells what the last health checks read.
func (g *workerGauges) Collect(out chan<- prometheus.Metric) {
	for slot, p := range g.supervisor.present() {
		f, goroutines := p.lastFigures()
		send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64) {
			out <- prometheus.MustNewConstMetric(d, kind, value, strconv.Itoa(slot))
		}
		send(g.memory, prometheus.GaugeValue, float64(f.RSS))
		send(g.cpu, prometheus.CounterValue, f.CPUTime.Seconds())
		send(g.files, prometheus.GaugeValue, float64(f.OpenFiles))
		send(g.threads, prometheus.GaugeValue, float64(f.Threads))
		send(g.goroutines, prometheus.GaugeValue, float64(goroutines))
		send(g.beat, prometheus.GaugeValue, time.Since(f.BeatAt).Seconds())
		send(g.age, prometheus.GaugeValue, time.Since(p.started).Seconds())
	}
}
