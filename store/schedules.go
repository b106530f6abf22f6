package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/catena-run/catena/task"
)

// Unplanned is a schedule whose last change has no due time yet.
type Unplanned struct {
	task.Schedule
	Version   int64
	ChangedAt time.Time         // due times after it are this version's
	Broken    string            // why the row cannot be a schedule; "" when it can
	Calendars map[string]string // the days, as JSON, of the calendars that it excludes and that are there
}

// firstDue: a due time before it, written by hand, is left alone.
const firstDue = `'2000-01-01Z'`

// UnplannedSchedules returns schedules that were inserted or changed, by whomever.
func (s *Store) UnplannedSchedules(ctx context.Context, limit int) ([]Unplanned, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+specColumns+`, s.version, s.updated_at, `+oddTime+`
		FROM schedules s WHERE planned IS DISTINCT FROM version ORDER BY id LIMIT $1`, limit)
	if err != nil {
		return nil, wrap(err, "look for changed schedules")
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (u Unplanned, err error) {
		spec, odd := specRow{Schedule: &u.Schedule}, ""
		err = row.Scan(append(spec.targets(), &u.Version, &u.ChangedAt, &odd)...)
		spec.finish()
		u.Broken = spec.reason(odd)
		return u, err
	})
	if err != nil {
		return nil, wrap(err, "look for changed schedules")
	}
	schedules := make([]*task.Schedule, len(list))
	for i := range list {
		schedules[i] = &list[i].Schedule
	}
	calendars, err := s.excludedDays(ctx, s.pool, schedules)
	for i := range list {
		list[i].Calendars = calendars
	}
	return list, wrap(err, "look for changed schedules")
}

// Plan is the verdict on a version of a schedule: when it is due next, or why never.
type Plan struct {
	Schedule  int64
	Version   int64
	ChangedAt time.Time
	Next      *time.Time // nil: not again
	Invalid   string
}

// PlanSchedules records plans. A schedule that has changed since, or whose calendar
// has, keeps its old due time until its next plan.
func (s *Store) PlanSchedules(ctx context.Context, term int64, plans []Plan) error {
	n := len(plans)
	ids, versions, next, invalid := make([]int64, n), make([]int64, n), make([]*time.Time, n), make([]string, n)
	changed := make([]time.Time, n)
	for i, p := range plans {
		ids[i], versions[i], next[i], invalid[i], changed[i] = p.Schedule, p.Version, p.Next, clean(p.Invalid), p.ChangedAt
	}
	if err := s.ensureOverdueDays(ctx, ids); err != nil {
		return err
	}
	return s.inTx(ctx, "plan schedules", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			UPDATE schedules s SET planned = s.version, invalid = i.invalid
			FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::timestamptz[]) AS i(id, version, invalid, changed)
			WHERE s.id = i.id AND s.version = i.version AND s.updated_at = i.changed RETURNING s.id`, ids, versions, invalid, changed)
		if err != nil {
			return err
		}
		done, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		batch := &pgx.Batch{}
		batch.Queue(`
			INSERT INTO fires (schedule, due_at, last_due_at, count, task, outcome, reason)
			SELECT d.schedule, d.due_at, d.due_at, 1, s.task, 'missed', 'the schedule was edited before this due time was fired'
			FROM schedule_due d JOIN schedules s ON s.id = d.schedule
			WHERE d.schedule = ANY ($1) AND d.due_at <= s.updated_at AND d.due_at >= `+firstDue+` ON CONFLICT DO NOTHING`, done)
		batch.Queue(`
			INSERT INTO schedule_due (schedule, due_at) SELECT i.id, i.next
			FROM unnest($1::bigint[], $2::timestamptz[]) AS i(id, next) WHERE i.next IS NOT NULL AND i.id = ANY ($3)
				AND NOT EXISTS (SELECT 1 FROM fires f WHERE f.schedule = i.id AND f.due_at = i.next)
			ON CONFLICT (schedule) DO UPDATE SET due_at = excluded.due_at`, ids, next, done)
		batch.Queue(`
			DELETE FROM schedule_due d USING unnest($1::bigint[], $2::timestamptz[]) AS i(id, next)
			WHERE d.schedule = i.id AND i.next IS NULL AND i.id = ANY ($3)`, ids, next, done)
		return tx.SendBatch(ctx, batch).Close()
	})
}

// ensureOverdueDays makes the ledger's partitions for due times that have
// passed and that an edit will have recorded as missed.
func (s *Store) ensureOverdueDays(ctx context.Context, ids []int64) error {
	rows, err := s.pool.Query(ctx, `SELECT DISTINCT date_trunc('day', due_at, 'UTC') FROM schedule_due
		WHERE schedule = ANY ($1) AND due_at BETWEEN `+firstDue+` AND clock_timestamp()`, ids)
	if err != nil {
		return wrap(err, "look for overdue schedules")
	}
	days, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return wrap(err, "look for overdue schedules")
	}
	for _, d := range days {
		if err := s.ensureFireDay(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// Due is a schedule whose due time has come.
type Due struct {
	Schedule      task.Schedule
	DueAt         time.Time
	TaskPaused    bool
	TaskNote      string
	TaskInvalid   string
	LastRunActive bool              // the run that it made last has not ended
	Calendars     map[string]string // the days, as JSON, of the calendars that it excludes and that are there

	lastRun *uuid.UUID
}

// Decision is what becomes of a due schedule. A fire of outcome started gets
// its run from FireDue. Together with Next the fires must cover every due time
// from DueAt on exactly once.
type Decision struct {
	Fires   []task.Fire
	Next    *time.Time                    // nil: not again
	StartAt func(due time.Time) time.Time // when the run of a due time starts; nil: at once
}

// errNoDay says that the ledger lacks the partition of a day.
type errNoDay struct{ at time.Time }

func (e errNoDay) Error() string {
	return "the ledger has no partition for " + e.at.Format(time.DateOnly)
}

// Rejected says that a due schedule could not be written into the ledger. It
// has been flagged as invalid with the reason and fires no more.
type Rejected struct {
	Schedule int64
	Task     string
	Reason   string
}

func (e *Rejected) Error() string {
	return fmt.Sprintf("schedule %d of task %s: %s", e.Schedule, e.Task, e.Reason)
}

// FireDue takes up to limit schedules that are due by the database clock, asks
// decide about each, and writes ledger, runs and next due times in one
// transaction: either all of it happened or none. It returns the number of
// schedules taken and the parcels to enqueue. When the database refuses what a
// schedule would write, fewer are taken at once until that schedule stands
// alone; it is then flagged, and the error is a *Rejected.
func (s *Store) FireDue(ctx context.Context, term int64, limit int, decide func(due Due, now time.Time) Decision) (taken int, parcels []Parcel, err error) {
	for {
		due, parcels, err := s.fireOnce(ctx, term, limit, decide)
		var missing errNoDay
		switch {
		case errors.As(err, &missing):
			if err := s.ensureFireDay(ctx, missing.at); err != nil {
				return 0, nil, err
			}
		case refusesValue(err) && len(due) > 1:
			limit = len(due) / 2
		case refusesValue(err) && len(due) == 1:
			return 1, nil, s.rejectDue(ctx, term, due[0], err)
		case err != nil:
			return 0, nil, err
		default:
			return len(due), parcels, nil
		}
	}
}

// refusesValue reports whether a value or a named constraint is the cause: a
// missing partition is not the fault of one schedule.
func refusesValue(err error) bool {
	var pg *pgconn.PgError
	return dataError(err) && errors.As(err, &pg) && (pg.Code[:2] != "23" || pg.ConstraintName != "")
}

// rejectDue flags a schedule, unless it has changed since.
func (s *Store) rejectDue(ctx context.Context, term int64, due Due, cause error) error {
	id := due.Schedule.ID
	reason := fmt.Sprintf("the due time %s could not be recorded: %v; to plan it again from now on: UPDATE schedules SET planned = NULL WHERE id = %d",
		due.DueAt.UTC().Format(time.RFC3339), cause, id)
	err := s.inTx(ctx, "flag a schedule", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM schedule_due WHERE schedule = $1 AND due_at = $2`, id, due.DueAt)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE schedules SET invalid = $2 WHERE id = $1 AND planned = version`, id, clean(reason))
		return err
	})
	if err != nil {
		return err
	}
	return &Rejected{Schedule: id, Task: due.Schedule.Task, Reason: reason}
}

func (s *Store) fireOnce(ctx context.Context, term int64, limit int, decide func(Due, time.Time) Decision) (due []Due, parcels []Parcel, err error) {
	err = s.inTx(ctx, "fire due schedules", func(tx pgx.Tx) error {
		due, parcels = nil, nil
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		if due, err = lockDue(ctx, tx, limit); err != nil || len(due) == 0 {
			return err
		}
		if err = s.addCalendars(ctx, tx, due); err != nil {
			return err
		}
		f, err := s.newFiring(ctx, tx, due, decide)
		if err != nil {
			return err
		}
		parcels, err = f.write(ctx, tx)
		return err
	})
	return due, parcels, err
}

// lockDue takes what is due in the order of its time. The sub-select makes the
// clock one value: an index cannot be searched with a volatile function, and a
// table of a million schedules would be walked to its end.
func lockDue(ctx context.Context, tx pgx.Tx, limit int) ([]Due, error) {
	return readDue(ctx, tx, limit, `FOR UPDATE OF d SKIP LOCKED`)
}

// readDue reads what is due in the order of its time, with the given lock.
func readDue(ctx context.Context, tx pgx.Tx, limit int, lock string) ([]Due, error) {
	rows, err := tx.Query(ctx, `
		SELECT `+specColumns+`, d.due_at, d.last_run, t.paused, t.note, t.invalid
		FROM schedule_due d JOIN schedules s ON s.id = d.schedule JOIN tasks t ON t.name = s.task
		WHERE d.due_at <= (SELECT clock_timestamp()) AND d.due_at >= `+firstDue+` AND s.planned = s.version
		ORDER BY d.due_at LIMIT $1 `+lock, limit)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d Due, err error) {
		spec := specRow{Schedule: &d.Schedule}
		err = row.Scan(append(spec.targets(), &d.DueAt, &d.lastRun, &d.TaskPaused, &d.TaskNote, &d.TaskInvalid)...)
		spec.finish()
		return d, err
	})
	if err != nil {
		return nil, err
	}
	return list, findActive(ctx, tx, list)
}

// findActive tells which of the schedules' last runs have not ended.
func findActive(ctx context.Context, tx pgx.Tx, list []Due) error {
	var ids []uuid.UUID
	for _, d := range list {
		if d.lastRun != nil {
			ids = append(ids, *d.lastRun)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	low, high := bounds(ids)
	rows, err := tx.Query(ctx, `SELECT id FROM runs WHERE id = ANY($1) AND id BETWEEN $2 AND $3 AND finished_at IS NULL`, ids, low, high)
	if err != nil {
		return err
	}
	active := map[uuid.UUID]bool{}
	var id uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { active[id] = true; return nil }); err != nil {
		return err
	}
	for i := range list {
		list[i].LastRunActive = list[i].lastRun != nil && active[*list[i].lastRun]
	}
	return nil
}

// firing gathers what one transaction of due schedules writes.
type firing struct {
	view  *laneView
	runs  *insertion
	fires []task.Fire
	next  map[int64]*time.Time

	wanted []NewRun // of the fires at the same index of places
	places []int
	last   map[int64]uuid.UUID
}

func (s *Store) newFiring(ctx context.Context, tx pgx.Tx, due []Due, decide func(Due, time.Time) Decision) (*firing, error) {
	tasks := make([]NewRun, len(due))
	for i, d := range due {
		tasks[i].Task = d.Schedule.Task
	}
	view, err := s.lookAtLanes(ctx, tx, tasks)
	if err != nil {
		return nil, err
	}
	f := &firing{view: view, runs: newInsertion(view), next: map[int64]*time.Time{}, last: map[int64]uuid.UUID{}}
	for _, d := range due {
		if _, there := view.tasks[d.Schedule.Task]; !there {
			continue // renamed a moment ago: its next turn knows the name
		}
		decision := decide(d, view.now)
		f.next[d.Schedule.ID] = decision.Next
		for _, fire := range decision.Fires {
			if !s.days.has(fire.DueAt.UTC().Truncate(day)) {
				return nil, errNoDay{fire.DueAt}
			}
			fire.Schedule, fire.Task = d.Schedule.ID, d.Schedule.Task
			if fire.Outcome == task.FireStarted {
				f.wanted = append(f.wanted, NewRun{Task: fire.Task, At: decision.startAt(fire.DueAt), schedule: fire.Schedule, dueAt: fire.DueAt})
				f.places = append(f.places, len(f.fires))
			}
			f.fires = append(f.fires, fire)
		}
	}
	return f, s.start(ctx, tx, f)
}

func (f *firing) write(ctx context.Context, tx pgx.Tx) ([]Parcel, error) {
	if !f.runs.empty() {
		if err := f.runs.write(ctx, tx); err != nil {
			return nil, err
		}
	}
	batch := &pgx.Batch{}
	f.queueFires(batch)
	f.queueNext(batch)
	return f.runs.parcels(), tx.SendBatch(ctx, batch).Close()
}

func (f *firing) queueFires(batch *pgx.Batch) {
	n := len(f.fires)
	schedules, tasks, outcomes, reasons := make([]int64, n), make([]string, n), make([]string, n), make([]string, n)
	first, last, counts, runs := make([]time.Time, n), make([]time.Time, n), make([]int64, n), make([]*uuid.UUID, n)
	for i, fire := range f.fires {
		schedules[i], tasks[i], outcomes[i], reasons[i] = fire.Schedule, fire.Task, string(fire.Outcome), clean(fire.Reason)
		first[i], last[i], counts[i], runs[i] = fire.DueAt, fire.LastDueAt, fire.Count, fire.Run
	}
	batch.Queue(`INSERT INTO fires (schedule, due_at, last_due_at, count, task, outcome, reason, run)
		SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::uuid[])`,
		schedules, first, last, counts, tasks, outcomes, reasons, runs)
}

func (f *firing) queueNext(batch *pgx.Batch) {
	var ids, over []int64
	var next []time.Time
	var last []*uuid.UUID
	for id, at := range f.next {
		if at == nil {
			over = append(over, id)
			continue
		}
		var run *uuid.UUID
		if made, ok := f.last[id]; ok {
			run = &made
		}
		ids, next, last = append(ids, id), append(next, *at), append(last, run)
	}
	batch.Queue(`UPDATE schedule_due d SET due_at = i.due_at, last_run = coalesce(i.last_run, d.last_run)
		FROM unnest($1::bigint[], $2::timestamptz[], $3::uuid[]) AS i(id, due_at, last_run) WHERE d.schedule = i.id`, ids, next, last)
	if len(over) > 0 {
		batch.Queue(`DELETE FROM schedule_due WHERE schedule = ANY($1)`, over)
	}
}

// NextDue returns when the next schedule is due, and the database clock.
func (s *Store) NextDue(ctx context.Context) (next *time.Time, now time.Time, err error) {
	err = s.pool.QueryRow(ctx, `SELECT (SELECT due_at FROM schedule_due WHERE due_at >= `+firstDue+` AND due_at < 'infinity' ORDER BY due_at LIMIT 1), clock_timestamp()`).Scan(&next, &now)
	return next, now, wrap(err, "look for the next due time")
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
