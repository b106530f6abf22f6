package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// gauges are the figures of the cluster that a master tells at /metrics. They
// are read from the narrow tables when asked for.
type gauges struct {
	m                                       *masterNode
	workers, running, ready, parcel, waited *prometheus.Desc
	unserved, waits                         *prometheus.Desc
	stages                                  *prometheus.Desc
}

func newGauges(m *masterNode) *gauges {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &gauges{
		m:        m,
		workers:  desc("catena_workers", "Live workers by state.", "state"),
		running:  desc("catena_runs_running", "Runs that the live workers execute, by their last heartbeats."),
		ready:    desc("catena_runs_ready", "Runs that wait for dispatch, by lane and what holds them.", "lane", "hold"),
		parcel:   desc("catena_parcels", "Parcels by lane and state.", "lane", "state"),
		waits:    desc("catena_waits", "Runs that are set aside until something happens, by what that is.", "kind"),
		unserved: desc("catena_runs_unserved", "Runs that wait in a lane that no active worker serves.", "lane"),
		waited:   desc("catena_lane_waited_seconds", "How long the oldest work of a lane has waited that no worker has claimed.", "lane"),
		stages: desc("catena_cancellations_total",
			"Runs that were asked to end, whose code was interrupted, and for which a worker process was replaced, since the cluster began.", "stage"),
	}
}

// Describe tells the figures' names.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.workers, g.running, g.ready, g.parcel, g.waited, g.unserved, g.waits, g.stages} {
		out <- d
	}
}

// Collect reads them. What cannot be read is left out.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	stages, err := g.m.store.StageCounts(ctx)
	if err != nil {
		return
	}
	for stage, count := range stages {
		out <- prometheus.MustNewConstMetric(g.stages, prometheus.CounterValue, float64(count), string(stage))
	}
	figures, err := g.m.store.Figures(ctx)
	if err != nil {
		return
	}
	running := 0
	for state, w := range figures.Workers {
		gauge(g.workers, float64(w.Count), string(state))
		running += w.Running
	}
	gauge(g.running, float64(running))
	for _, r := range figures.Ready {
		gauge(g.ready, float64(r.Count), r.Lane, r.State)
	}
	for _, p := range figures.Parcels {
		gauge(g.parcel, float64(p.Count), p.Lane, p.State)
	}
	for kind, n := range figures.Waits {
		gauge(g.waits, float64(n), string(kind))
	}
	for lane, waited := range figures.Waited {
		gauge(g.waited, waited.Seconds(), lane)
	}
	waits, err := g.m.store.UnservedLanes(ctx)
	if err != nil {
		return
	}
	for _, w := range waits {
		gauge(g.unserved, float64(w.Runs), w.Lane)
	}
}
