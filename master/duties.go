package master

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/source"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// duty is something that the leader does again and again. once reports
// whether to go on without waiting.
type duty struct {
	name  string
	every time.Duration
	once  func(ctx context.Context, term int64) (more bool, err error)
	poke  <-chan struct{} // do it now; may be nil

	took   prometheus.Observer // seconds of a turn
	failed prometheus.Counter
}

// run repeats the duty until ctx ends. A failure is logged when it begins and
// when it ends, not at every turn.
func (d duty) run(ctx context.Context, term int64, log logrus.FieldLogger) {
	log = log.WithField("duty", d.name)
	ticker := time.NewTicker(d.every)
	defer ticker.Stop()
	failing := false
	for {
		began := time.Now()
		more, err := d.once(ctx, term)
		d.took.Observe(time.Since(began).Seconds())
		if err != nil && ctx.Err() == nil {
			d.failed.Inc()
		}
		switch {
		case ctx.Err() != nil || store.StaleTerm(err):
			return
		case err != nil && !failing:
			failing = true
			log.WithError(err).Warn("a leader's duty fails; it is tried again")
		case err == nil && failing:
			failing = false
			log.Info("a leader's duty works again")
		}
		if more && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-d.poke:
		}
	}
}

// Retention says how long ended runs, their logs and the audit are kept.
type Retention struct {
	Runs time.Duration // default 30 days
	Logs time.Duration // default 7 days
	// Audit is how long it is known who changed what; default 365 days.
	Audit time.Duration
}

// leader does what exactly one master does.
type leader struct {
	store     *store.Store
	queue     queue.Queue
	dispatch  *dispatch.Dispatcher
	scheduler *scheduler.Scheduler
	waits     *dispatch.Waits
	sources   *source.Sources // nil: they are left alone
	retention Retention
	log       logrus.FieldLogger
	metrics   *metrics
	died      chan struct{} // poked when a supervised worker has died
}

// lead runs all duties until ctx ends.
func (l *leader) lead(ctx context.Context, term int64) {
	var all sync.WaitGroup
	for _, d := range l.duties() {
		d.took, d.failed = l.metrics.duty.WithLabelValues(d.name), l.metrics.failures.WithLabelValues(d.name)
		all.Go(func() { d.run(ctx, term, l.log) })
	}
	if l.sources != nil {
		all.Go(func() { l.sources.Lead(ctx, term) })
	}
	all.Wait()
}

func (l *leader) duties() []duty {
	quiet := func(work func(context.Context, int64) error) func(context.Context, int64) (bool, error) {
		return func(ctx context.Context, term int64) (bool, error) { return false, work(ctx, term) }
	}
	return []duty{
		{name: "dispatch", every: 20 * time.Millisecond, once: l.dispatch.RunOnce},
		{name: "schedule", every: 50 * time.Millisecond, once: l.scheduler.Fire},
		{name: "buffered runs", every: 50 * time.Millisecond, once: l.scheduler.OpenBuffered},
		{name: "catch-up", every: 100 * time.Millisecond, once: l.scheduler.CatchUp},
		{name: "backfills", every: 200 * time.Millisecond, once: l.scheduler.Backfill},
		{name: "catalogue", every: 250 * time.Millisecond, once: l.scheduler.Catalogue},
		{name: "waits", every: 50 * time.Millisecond, once: l.waits.RunOnce},
		{name: "lost workers", every: time.Second, once: l.reconcile, poke: l.died},
		{name: "outbox", every: time.Second, once: quiet(l.dispatch.Reenqueue)},
		{name: "pauses", every: time.Second, once: quiet(l.store.SyncPauses)},
		{name: "tokens", every: time.Second, once: l.store.ForgetTokens},
		{name: "sweep", every: time.Minute, once: l.sweep},
		{name: "partitions", every: time.Hour, once: l.partitions},
		{name: "retention", every: 5 * time.Minute, once: quiet(l.expire)},
	}
}

// reconcile takes runs back from workers that are gone, a bounded number at once.
func (l *leader) reconcile(ctx context.Context, term int64) (more bool, err error) {
	lost, err := l.store.MarkLost(ctx, term)
	if err != nil {
		return false, err
	}
	l.metrics.reconciled.WithLabelValues(actionWorkerLost).Add(float64(len(lost)))
	for _, id := range lost {
		l.log.WithField("worker", id).Warn("a worker fell silent: its runs are taken back")
	}
	revoked, more, err := l.store.Revoke(ctx, term)
	if err != nil {
		return false, err
	}
	for _, r := range revoked {
		log := l.log.WithFields(logrus.Fields{"run": r.ID, "task": r.Task, "state": r.State})
		if r.State == task.StateQuarantined {
			l.metrics.reconciled.WithLabelValues(actionQuarantined).Inc()
			log.Error("a run is quarantined: it kept killing its worker")
			continue
		}
		l.metrics.reconciled.WithLabelValues(actionTakenBack).Inc()
		log.Debug("a run was taken back from a lost worker")
	}
	return more, nil
}

// sweep goes on at once while a bounded turn leaves something, so that it keeps
// up with any rate of new keys.
func (l *leader) sweep(ctx context.Context, term int64) (more bool, err error) {
	more, err = l.store.Sweep(ctx, term, l.retention.Audit)
	if err != nil || more {
		return more, err
	}
	return false, l.queue.Clean(ctx)
}

func (l *leader) partitions(ctx context.Context, term int64) (more bool, err error) {
	if err := l.store.EnsurePartitions(ctx); err != nil {
		return false, err
	}
	now, err := l.store.Now(ctx)
	if err != nil {
		return false, err
	}
	dropped, err := l.store.DropExpired(ctx, term, store.Retention{Runs: l.retention.Runs, Logs: l.retention.Logs}, now)
	l.metrics.deleted.WithLabelValues("partitions").Add(float64(len(dropped)))
	if len(dropped) > 0 {
		l.log.WithField("partitions", dropped).Info("dropped what is past its retention")
	}
	if err != nil {
		return false, err
	}
	return l.store.PruneRevisions(ctx, term)
}

// expire deletes what is past its time in partitions that stay. After each
// batch it rests as long as that took, so that the runs of now get their share
// of the database.
func (l *leader) expire(ctx context.Context, term int64) error {
	now, err := l.store.Now(ctx)
	if err != nil {
		return err
	}
	list, err := l.store.Expired(ctx, store.Retention{Runs: l.retention.Runs, Logs: l.retention.Logs}, now)
	if err != nil {
		return err
	}
	total := 0
	for _, e := range list {
		for more := true; more; {
			began := time.Now()
			var n int
			if n, e, more, err = l.store.DeleteExpired(ctx, term, e); err != nil {
				return err
			}
			total += n
			l.metrics.deleted.WithLabelValues("runs").Add(float64(n))
			if n > 0 && !rest(ctx, time.Since(began)) {
				return ctx.Err()
			}
		}
	}
	if total > 0 {
		l.log.WithField("runs", total).Info("deleted runs that are past the time their task keeps them")
	}
	return nil
}

// rest waits; false means that ctx ended.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
