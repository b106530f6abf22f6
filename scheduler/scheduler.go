package scheduler

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// Bounds of one turn.
const (
	fireBatch = 1000 // due schedules in one transaction
	fireTurns = 2    // transactions at once, when a batch is not enough
	fireWaves = 10   // transactions one after the other, before the duty looks around
	planBatch = 1000 // changed schedules in one transaction
	taskBatch = 200  // changed tasks looked at in one turn
)

// Enqueuer tells the queue of parcels after their commit.
type Enqueuer interface {
	Enqueue(ctx context.Context, parcels []store.Parcel)
}

// Scheduler turns due times into ledger rows and runs, and keeps the catalogue
// of tasks and schedules checked. Its methods are duties of the leader: each
// does one bounded turn and says whether there is more to do at once.
type Scheduler struct {
	config Config
	store  *store.Store
	queue  Enqueuer
	log    logrus.FieldLogger
	specs  *cache
	fires  *prometheus.CounterVec
	late   prometheus.Histogram

	mu     sync.Mutex // of what follows
	budget float64    // runs that may be caught up now
	filled time.Time  // when budget was computed
	rest   time.Time  // no look for buffered runs before
}

// New returns a scheduler.
func New(config Config, s *store.Store, q Enqueuer, log logrus.FieldLogger) *Scheduler {
	fires := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "catena_fires_total", Help: "Due times that this master covered as the leader, by what became of them.",
	}, []string{"outcome"})
	for _, outcome := range task.FireOutcomes {
		fires.WithLabelValues(string(outcome))
	}
	late := telemetry.Histogram("catena_schedule_lateness_seconds", "From a due time to the turn of the leader that started its run.", telemetry.LongSpans())
	return &Scheduler{config: config, store: s, queue: q, log: log, specs: newCache(), fires: fires, late: late}
}

// Metrics counts due times by outcome, and how late they were covered.
func (s *Scheduler) Metrics() prometheus.Collector { return telemetry.Collectors{s.fires, s.late} }

// Fire handles the schedules that are due. When they are many it takes several
// turns at once, each on its own part of them: while Postgres works on one, the
// decisions of another are made.
func (s *Scheduler) Fire(ctx context.Context, term int64) (more bool, err error) {
	next, now, err := s.store.NextDue(ctx)
	if err != nil || next == nil || next.After(now) {
		return false, err
	}
	taken, err := s.fire(ctx, term, store.Take{Limit: fireBatch})
	if err != nil || taken < fireBatch/2 {
		return taken > 0, err
	}
	failures := make([]error, fireTurns)
	var all sync.WaitGroup
	for part := range fireTurns {
		all.Go(func() {
			taken := 1
			for wave := 0; wave < fireWaves && taken > 0 && failures[part] == nil && ctx.Err() == nil; wave++ {
				taken, failures[part] = s.fire(ctx, term, store.Take{Limit: fireBatch, Part: part, Parts: fireTurns})
			}
		})
	}
	all.Wait()
	return true, errors.Join(failures...)
}

// fire takes one turn and returns how many schedules it took.
func (s *Scheduler) fire(ctx context.Context, term int64, take store.Take) (int, error) {
	fired, err := s.store.FireDue(ctx, term, take, s.decide)
	s.announce(ctx, fired)
	var rejected *store.Rejected
	if errors.As(err, &rejected) {
		s.log.WithFields(logrus.Fields{"task": rejected.Task, "schedule": rejected.Schedule}).
			Error("a schedule is flagged and fires no more: " + rejected.Reason)
		err = nil
	}
	return fired.Taken, err
}

// announce tells the queue and the counters of what was committed.
func (s *Scheduler) announce(ctx context.Context, fired store.Fired) {
	s.queue.Enqueue(ctx, fired.Parcels)
	for outcome, n := range fired.Outcomes {
		s.fires.WithLabelValues(string(outcome)).Add(float64(n))
	}
	for _, late := range fired.Lateness {
		s.late.Observe(max(late, 0).Seconds())
	}
}

// decide is called inside the store's transaction, so it only computes.
func (s *Scheduler) decide(due store.Due, now time.Time) store.Decision {
	in, err := s.toDecide(due)
	if err != nil {
		// It was good when it was planned: its calendar has changed since, or the time zone database.
		s.log.WithFields(logrus.Fields{"task": due.Schedule.Task, "schedule": due.Schedule.ID}).WithError(err).
			Error("a schedule cannot be read any more: it is flagged and fires no more")
		return store.Decision{Fires: []task.Fire{skipped(due, err.Error())}, Invalid: err.Error()}
	}
	return decided(in.Spec, Decide(in, now))
}

func (s *Scheduler) toDecide(due store.Due) (Due, error) {
	spec, err := s.specs.parse(due.Schedule, due.Calendars)
	return Due{
		Schedule: due.Schedule, Spec: spec, TaskPaused: due.TaskPaused, Note: due.TaskNote, Invalid: due.TaskInvalid,
		Stale: due.Stale, DueAt: due.DueAt, LastRunActive: due.LastRunActive, Waiting: due.Waiting, Failures: due.Failures,
	}, err
}

func decided(spec Spec, d Decision) store.Decision {
	decision := store.Decision{Fires: d.Fires, Late: d.Late, Cancel: d.Cancel, Pause: d.Pause}
	if spec.jitter > 0 {
		decision.StartAt = spec.StartAt
	}
	if d.HasNext {
		decision.Next = &d.Next
	}
	return decision
}

func skipped(due store.Due, reason string) task.Fire {
	return task.Fire{DueAt: due.DueAt, LastDueAt: due.DueAt, Count: 1, Outcome: task.FireSkipped, Reason: reason}
}

// Catalogue checks tasks and calendars and plans schedules that were changed, by whomever: a
// row that makes no sense is flagged with the reason and stops nothing else.
func (s *Scheduler) Catalogue(ctx context.Context, term int64) (more bool, err error) {
	checked, err := s.checkTasks(ctx)
	calendarErr := s.checkCalendars(ctx, term)
	planned, planErr := s.planSchedules(ctx, term)
	return checked == taskBatch || planned == planBatch, errors.Join(err, calendarErr, planErr)
}

func (s *Scheduler) checkTasks(ctx context.Context) (int, error) {
	tasks, err := s.store.UncheckedTasks(ctx, taskBatch)
	if err != nil {
		return 0, err
	}
	for _, t := range tasks {
		invalid := ""
		if err := checkTask(t); err != nil {
			invalid = err.Error()
			s.log.WithField("task", t.Name).WithError(err).Warn("a task was changed into one that cannot run")
		}
		if err := s.store.MarkTaskChecked(ctx, t.Name, t.Revision, invalid); err != nil {
			return 0, err
		}
	}
	return len(tasks), nil
}

func checkTask(t task.Task) error {
	if t.Invalid != "" {
		return errors.New(t.Invalid) // the store could not read the row
	}
	def := t.Definition
	def.Schedule = nil // schedules are rows of their own, flagged by themselves
	if err := def.Validate(); err != nil {
		return err
	}
	if err := chain.CheckKeys(def); err != nil {
		return err
	}
	_, err := chain.Parse("chain", def.Chain)
	return err
}
