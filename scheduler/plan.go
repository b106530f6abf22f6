package scheduler

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/store"
)

// calendarBatch is how many changed calendars are looked at in one turn.
const calendarBatch = 20

// checkCalendars flags calendars that were changed into ones that cannot be read. The
// schedules that exclude them are planned again, and flagged, by themselves.
func (s *Scheduler) checkCalendars(ctx context.Context, term int64) error {
	changed, err := s.store.UncheckedCalendars(ctx, calendarBatch)
	if err != nil {
		return err
	}
	for _, c := range changed {
		invalid := ""
		if _, err := ParseDaysJSON(c.Text); err != nil {
			invalid = err.Error()
			s.log.WithField("calendar", c.Name).WithError(err).Warn("a calendar was changed into one that cannot be read")
		}
		if err := s.store.MarkCalendarChecked(ctx, term, c, invalid); err != nil {
			return err
		}
	}
	return nil
}

func (s *Scheduler) planSchedules(ctx context.Context, term int64) (int, error) {
	changed, err := s.store.UnplannedSchedules(ctx, planBatch)
	if err != nil || len(changed) == 0 {
		return 0, err
	}
	plans := make([]store.Plan, len(changed))
	for i, sc := range changed {
		plans[i] = store.Plan{Schedule: sc.ID, Version: sc.Version, ChangedAt: sc.ChangedAt}
		next, err := s.firstDue(sc)
		if err != nil {
			plans[i].Invalid = err.Error()
			s.log.WithFields(logrus.Fields{"task": sc.Task, "schedule": sc.ID}).WithError(err).Warn("a schedule was changed into one that cannot fire")
			continue
		}
		plans[i].Next = next
	}
	return len(changed), s.store.PlanSchedules(ctx, term, plans)
}

// firstDue returns the first due time of a changed schedule; nil: it is over.
func (s *Scheduler) firstDue(sc store.Unplanned) (*time.Time, error) {
	if sc.Broken != "" {
		return nil, errors.New(sc.Broken)
	}
	spec, err := s.specs.parse(sc.Schedule, sc.Calendars)
	if err != nil {
		return nil, err
	}
	if err := spec.Check(sc.ChangedAt); err != nil {
		return nil, err
	}
	next, ok := spec.Next(sc.ChangedAt) // not from now: a late plan loses no due time
	switch {
	case ok:
		return &next, nil
	case sc.At != nil:
		return sc.At, nil // its time has passed: the ledger says so
	}
	return nil, nil
}
