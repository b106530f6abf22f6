package scheduler

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// BackfillRequest asks for runs of the due times of a schedule from From up to,
// but not including, To.
type BackfillRequest struct {
	Task     string
	Schedule int64 // 0: the only one of the task
	From, To time.Time
	Overlap  task.Overlap // "": buffer-all
	DryRun   bool
	By       string
}

// BackfillPlan says which due times a backfill has.
type BackfillPlan struct {
	Schedule    int64
	Total       int64
	First, Last time.Time
}

// Backfills makes and counts backfills; it needs no leadership.
type Backfills struct{ store *store.Store }

// NewBackfills returns them.
func NewBackfills(s *store.Store) *Backfills { return &Backfills{store: s} }

// Create checks the request and enters the backfill, which the leader works
// off. With DryRun it enters nothing.
func (b *Backfills) Create(ctx context.Context, r BackfillRequest) (task.Backfill, BackfillPlan, error) {
	made := task.Backfill{Task: r.Task, From: r.From.UTC(), To: r.To.UTC(), Overlap: r.Overlap, CreatedBy: r.By}
	if made.Overlap == "" {
		made.Overlap = task.OverlapBufferAll
	}
	if err := b.check(ctx, made); err != nil {
		return made, BackfillPlan{}, err
	}
	schedule, err := b.schedule(ctx, r)
	if err != nil {
		return made, BackfillPlan{}, err
	}
	calendars, err := b.store.CalendarDays(ctx, schedule.Exclude)
	if err != nil {
		return made, BackfillPlan{}, err
	}
	plan, err := planBackfill(schedule.Schedule, calendars, made.From, made.To)
	if err != nil {
		return made, plan, err
	}
	made.Schedule, made.Total, made.NextDue = plan.Schedule, plan.Total, &plan.First
	if r.DryRun {
		return made, plan, nil
	}
	made, err = b.store.CreateBackfill(ctx, made, schedule.Version, plan.First)
	return made, plan, err
}

func (b *Backfills) check(ctx context.Context, made task.Backfill) error {
	if !slices.Contains(task.BackfillOverlaps[:], made.Overlap) {
		return task.Errorf(task.CodeInvalid, "a backfill has no overlap policy %q", made.Overlap).At("overlap").Fix("use one of %v", task.BackfillOverlaps)
	}
	if made.From.Year() < earliest || made.To.Year() > latest || !made.From.Before(made.To) {
		return task.Errorf(task.CodeInvalid, "%s to %s is no span of time", made.From.Format(time.RFC3339), made.To.Format(time.RFC3339)).At("from").
			Fix("let from be before to, which is not included")
	}
	now, err := b.store.Now(ctx)
	if err != nil {
		return err
	}
	if made.To.After(now) {
		return task.Errorf(task.CodeInvalid, "%s is in the future", made.To.Format(time.RFC3339)).At("to").
			Fix("a backfill is for the past; what is to come the schedule fires itself")
	}
	return nil
}

// schedule finds the one that is meant.
func (b *Backfills) schedule(ctx context.Context, r BackfillRequest) (store.Versioned, error) {
	list, err := b.store.SchedulesOf(ctx, r.Task)
	if err != nil {
		return store.Versioned{}, err
	}
	if r.Schedule == 0 && len(list) == 1 {
		return list[0], nil
	}
	ids := make([]int64, len(list))
	for i, sc := range list {
		if sc.ID == r.Schedule {
			return sc, nil
		}
		ids[i] = sc.ID
	}
	switch {
	case len(list) == 0:
		return store.Versioned{}, task.Errorf(task.CodeInvalid, "task %s has no schedule", r.Task).At("schedule").Fix("start its runs with `catena task run`")
	case r.Schedule == 0:
		return store.Versioned{}, task.Errorf(task.CodeInvalid, "task %s has %d schedules", r.Task, len(list)).At("schedule").Fix("name one of them: %v", ids)
	}
	return store.Versioned{}, task.Errorf(task.CodeNotFound, "task %s has no schedule %d", r.Task, r.Schedule).At("schedule").Fix("name one of %v", ids)
}

// planBackfill counts the due times.
func planBackfill(sc task.Schedule, calendars map[string]string, from, to time.Time) (BackfillPlan, error) {
	plan := BackfillPlan{Schedule: sc.ID}
	spec, err := ParseWith(sc, LookupIn(calendars))
	if err != nil {
		return plan, err
	}
	for at, ok := spec.Next(from.Add(-1)); ok && at.Before(to); at, ok = spec.Next(at) {
		if plan.Total == 0 {
			plan.First = at
		}
		plan.Last = at
		if plan.Total++; plan.Total > task.MaxBackfill {
			return plan, task.Errorf(task.CodeInvalid, "more than %d due times lie between %s and %s", task.MaxBackfill, from.Format(time.RFC3339), to.Format(time.RFC3339)).
				At("to").Fix("backfill a shorter span, one after the other")
		}
	}
	if plan.Total == 0 {
		return plan, task.Errorf(task.CodeInvalid, "no due time lies between %s and %s", from.Format(time.RFC3339), to.Format(time.RFC3339)).At("from").
			Fix("`catena task show` tells when the schedule is due")
	}
	return plan, nil
}

// Backfill works off what was asked for, each backfill a bounded number of runs.
func (s *Scheduler) Backfill(ctx context.Context, term int64) (more bool, err error) {
	ids, err := s.store.RunningBackfills(ctx)
	if err != nil {
		return false, err
	}
	var failures []error
	for _, id := range ids {
		again, err := s.store.WorkBackfill(ctx, term, id, s.dueTimes)
		if store.StaleTerm(err) {
			return false, err
		}
		failures, more = append(failures, err), more || again
	}
	return more, errors.Join(failures...)
}

// dueTimes lists due times from the given one on, and the one behind them.
func (s *Scheduler) dueTimes(sc task.Schedule, calendars map[string]string, from, to time.Time, limit int) (list []time.Time, next *time.Time, err error) {
	spec, err := s.specs.parse(sc, calendars)
	if err != nil {
		return nil, nil, err
	}
	at, ok := spec.Next(from.Add(-1))
	for ; ok && at.Before(to) && len(list) < limit; at, ok = spec.Next(at) {
		list = append(list, at)
	}
	if ok && at.Before(to) {
		next = &at
	}
	return list, next, nil
}
