// Package master is the control plane: it competes for the leadership of the
// cluster, does the leader's duties while it has it, advances the cluster's
// tick, and supervises the worker processes of its host.
//
// It executes no package code and claims no runs. Any number of masters may
// run: whatever only one may do is fenced by the leader's term in the store.
package master

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/source"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Config of a master.
type Config struct {
	Name        string // who it is, in the leader's row
	Host        string
	PID         int
	Version     string
	Admin       string            // address of its API
	Settings    map[string]string // those that the masters of a cluster should have in common
	Lead        bool              // whether it competes for leadership
	Retention   Retention
	Supervision Supervision
	Scaling     Scaling
	Queues      []string // what its workers serve, for Scaling
	Tags        []string
	Slots       int // of one worker
}

// Deps are the parts that a master connects.
type Deps struct {
	Store     *store.Store
	Queue     queue.Queue
	Dispatch  *dispatch.Dispatcher
	Scheduler *scheduler.Scheduler
	Sources   *source.Sources // nil: they are left alone
	Log       logrus.FieldLogger
}

// Master runs until it is told to stop.
type Master struct {
	cfg        Config
	deps       Deps
	leader     *leader
	candidate  *candidate
	supervisor *supervisor
	clock      healthcheck.Clock // of this host beside the database's
	metrics    *metrics
}

// New returns a master; Run starts it.
func New(cfg Config, deps Deps) *Master {
	if cfg.Retention.Runs == 0 {
		cfg.Retention.Runs = 30 * 24 * time.Hour
	}
	if cfg.Retention.Logs == 0 {
		cfg.Retention.Logs = 7 * 24 * time.Hour
	}
	if cfg.Retention.Audit == 0 {
		cfg.Retention.Audit = 365 * 24 * time.Hour
	}
	m := &Master{cfg: cfg, deps: deps, metrics: newMetrics()}
	m.leader = &leader{store: deps.Store, queue: deps.Queue, dispatch: deps.Dispatch, scheduler: deps.Scheduler, waits: dispatch.NewWaits(deps.Store), sources: deps.Sources,
		retention: cfg.Retention, log: deps.Log, metrics: m.metrics, died: make(chan struct{}, 1)}
	m.candidate = &candidate{store: deps.Store, holder: cfg.Name, log: deps.Log, lead: m.lead}
	m.supervisor = newSupervisor(cfg.Supervision, deps.Log, m.metrics, m.workerDied)
	if deps.Store != nil {
		m.supervisor.advanced = deps.Store.AdvanceOrder
	}
	return m
}

// lead does the duties of a term that has begun.
func (m *Master) lead(ctx context.Context, term int64) {
	m.metrics.elections.Inc()
	m.leader.lead(ctx, term)
}

// Ready is closed once every supervised worker has begun its work.
func (m *Master) Ready() <-chan struct{} { return m.supervisor.ready }

// Leads reports whether this master is the leader, to its own knowledge.
func (m *Master) Leads() bool { return m.candidate.Term() != 0 }

// WorkerMetrics are the sums of what the supervised workers count.
func (m *Master) WorkerMetrics() prometheus.Gatherer { return m.supervisor.sums }

// Run works until ctx ends. It resigns at once, so that another master leads
// while its workers drain.
func (m *Master) Run(ctx context.Context) error {
	control, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var duties sync.WaitGroup
	duties.Go(func() { m.ticks(control) })
	duties.Go(func() { m.presence(control) })
	if m.cfg.Lead {
		duties.Go(func() { m.candidate.run(ctx) })
	}
	if m.cfg.Scaling.Most > m.cfg.Supervision.Workers {
		duties.Go(func() { m.autoscale(ctx) })
	}
	if max(m.cfg.Supervision.Workers, m.cfg.Scaling.Most) > 0 {
		duties.Go(func() { m.tellWorkers(control) })
	}
	m.supervisor.run(ctx)
	stop()
	duties.Wait()
	m.absent()
	return nil
}

// tickEvery is how often a master tries. The store lets one a second through; a
// try each second would come a moment too early half of the time, and the
// tick would take two.
const tickEvery = 200 * time.Millisecond

// ticks advances the cluster's tick while the database answers.
func (m *Master) ticks(ctx context.Context) {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	failing := false
	for {
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		sent := time.Now()
		now, err := m.deps.Store.Tick(asking)
		cancel()
		if err == nil {
			m.readClock(sent, now)
		}
		if err != nil && !failing && !errors.Is(err, context.Canceled) && ctx.Err() == nil {
			m.deps.Log.WithError(err).Warn("cannot advance the cluster's tick")
		}
		failing = err != nil
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// readClock compares the clocks after a round trip, and tells when this host's
// goes wrong or is right again.
func (m *Master) readClock(sent, theirs time.Time) {
	m.clock.Add(sent, time.Now(), theirs)
	far, news := m.clock.Turned()
	if !news {
		return
	}
	offset, _, _ := m.clock.Offset()
	log := m.deps.Log.WithField("offset", offset.Round(time.Millisecond).String())
	if far {
		log.Warn("the clock of this master is far from the database's: synchronise the clocks; due times follow the database's")
		return
	}
	log.Info("the clock of this master agrees with the database's again")
}

// Clock tells how far this host's clock is from the database's.
func (m *Master) Clock() *healthcheck.Clock { return &m.clock }

// workerDied records the end of a supervised worker and has its runs taken
// back at once. While the database is away, its ticks tell the same later.
func (m *Master) workerDied(d death) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := m.recordDeath(ctx, d); err != nil {
		m.deps.Log.WithError(err).Warn("cannot record the end of a worker; it is noticed by its silence")
	}
	select {
	case m.leader.died <- struct{}{}:
	default:
	}
}

// recordDeath notes the end of a worker that did not do so itself. One that was
// killed for its memory counts only against the run that can be named for it.
func (m *Master) recordDeath(ctx context.Context, d death) error {
	if !d.memory {
		return m.deps.Store.EndWorker(ctx, d.epoch, workerEnd(d.planned), d.reason)
	}
	guilty, err := m.deps.Store.KillWorker(ctx, d.epoch, d.reason)
	if guilty != nil {
		m.deps.Log.WithFields(logrus.Fields{"run": guilty, "worker": d.worker, "reason": d.reason}).Error("a run made its worker take too much memory; it counts against the run")
	}
	if err != nil {
		return err
	}
	return m.deps.Store.EndWorker(ctx, d.epoch, task.WorkerLost, d.reason) // where it ended in order before it had to be killed
}
