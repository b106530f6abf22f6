package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

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
			INSERT INTO fires (schedule, due_at, last_due_at, count, task, outcome, reason, fired_at)
			SELECT d.schedule, d.due_at, s.updated_at, 1, s.task, 'missed', 'the schedule was edited before what was due until then was fired', clock_timestamp()
			FROM schedule_due d JOIN schedules s ON s.id = d.schedule
			WHERE d.schedule = ANY ($1) AND d.due_at <= s.updated_at AND d.due_at >= `+firstDue+` ON CONFLICT DO NOTHING`, done)
		batch.Queue(`
			WITH c AS (DELETE FROM catch_ups WHERE schedule = ANY ($1) RETURNING schedule, next_at, last_at, count)
			INSERT INTO fires (schedule, due_at, last_due_at, count, task, outcome, reason, fired_at)
			SELECT c.schedule, c.next_at, c.last_at, c.count, s.task, 'missed', 'the schedule was edited before these due times were caught up', clock_timestamp()
			FROM c JOIN schedules s ON s.id = c.schedule ON CONFLICT DO NOTHING`, done)
		batch.Queue(`
			INSERT INTO schedule_due (schedule, due_at) SELECT i.id, i.next
			FROM unnest($1::bigint[], $2::timestamptz[]) AS i(id, next) WHERE i.next IS NOT NULL AND i.id = ANY ($3)
				AND NOT EXISTS (SELECT 1 FROM fires f WHERE f.schedule = i.id AND f.due_at = i.next)
			ON CONFLICT (schedule) DO UPDATE SET due_at = excluded.due_at, open_fire = NULL`, ids, next, done)
		batch.Queue(`
			DELETE FROM schedule_due d USING unnest($1::bigint[], $2::timestamptz[]) AS i(id, next)
			WHERE d.schedule = i.id AND i.next IS NULL AND i.id = ANY ($3) AND d.last_run IS NULL`, ids, next, done)
		batch.Queue(`
			UPDATE schedule_due d SET due_at = 'infinity', open_fire = NULL FROM unnest($1::bigint[], $2::timestamptz[]) AS i(id, next)
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

// Punctual is how late a due time may be noticed and still count as on time: it
// is more than the time in which another master takes the lead.
const Punctual = 10 * time.Second

// Due is a schedule whose due time has come.
type Due struct {
	Schedule      task.Schedule
	Stale         bool // its one time had passed when it was made
	DueAt         time.Time
	Until         time.Time // of due times to catch up: the last one
	TaskPaused    bool
	TaskNote      string
	TaskInvalid   string
	LastRunActive bool              // the run that it made last has not ended
	Waiting       int               // runs of it that wait for the end of an earlier one
	Failures      int               // runs that failed in a row
	Calendars     map[string]string // the days, as JSON, of the calendars that it excludes and that are there

	lastRun  *uuid.UUID
	openFire *time.Time
}

// active returns the run to compare a due time with, nil when it has ended.
func (d *Due) active() *uuid.UUID {
	if d.LastRunActive {
		return d.lastRun
	}
	return nil
}

// Decision is what becomes of a due schedule. Fires that have a run get it from
// the store. Together with Next and Late the fires must cover every due time
// from DueAt on exactly once.
type Decision struct {
	Fires   []task.Fire
	Next    *time.Time                    // nil: not again
	StartAt func(due time.Time) time.Time // when the run of a due time starts; nil: at once
	Late    *Late                         // due times to catch up, older than those of Next
	Cancel  task.Overlap                  // cancel-other or terminate-other: the earlier runs are to end
	Pause   string                        // why the schedule is to be paused; "": it is not
	Invalid string                        // why the schedule cannot be read any more; it is flagged and fires no more
}

// Late are due times that passed while nobody was there.
type Late struct {
	First, Last time.Time
	Count       int64
}

// Fired is what a turn of firing did.
type Fired struct {
	Taken    int // schedules
	Runs     int
	Parcels  []Parcel // to enqueue
	Outcomes map[task.FireOutcome]int64
	Lateness []time.Duration // of each due time whose run was started
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

// Take says which due schedules a turn takes.
type Take struct {
	Limit int
	// Of several turns at once each takes its own part of the schedules, so
	// that none walks over what another has locked. Parts 0: there is one turn.
	Part, Parts int
}

// FireDue takes schedules that are due by the database clock, asks
// decide about each, and writes ledger, runs and next due times in one
// transaction: either all of it happened or none. What is on time goes before
// what is late. When the database refuses what a
// schedule would write, fewer are taken at once until that schedule stands
// alone; it is then flagged, and the error is a *Rejected.
func (s *Store) FireDue(ctx context.Context, term int64, take Take, decide func(due Due, now time.Time) Decision) (Fired, error) {
	for {
		due, f, err := s.fireOnce(ctx, term, take, decide)
		var missing errNoDay
		switch {
		case errors.As(err, &missing):
			if err := s.ensureFireDay(ctx, missing.at); err != nil {
				return Fired{}, err
			}
		case refusesValue(err) && len(due) > 1:
			take.Limit = len(due) / 2
		case refusesValue(err) && len(due) == 1:
			return Fired{Taken: 1}, s.rejectDue(ctx, term, due[0], err)
		case err != nil:
			return Fired{}, err
		default:
			return f.fired(len(due)), nil
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

func (s *Store) fireOnce(ctx context.Context, term int64, take Take, decide func(Due, time.Time) Decision) (due []Due, f *firing, err error) {
	err = s.inTx(ctx, "fire due schedules", func(tx pgx.Tx) error {
		due, f = nil, nil
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		if due, err = lockDue(ctx, tx, take); err != nil || len(due) == 0 {
			return err
		}
		if err = s.addCalendars(ctx, tx, due); err != nil {
			return err
		}
		if f, err = s.newFiring(ctx, tx, due); err != nil {
			return err
		}
		for _, d := range due {
			if _, there := f.view.tasks[d.Schedule.Task]; !there {
				continue // renamed a moment ago: its next turn knows the name
			}
			if err := s.include(f, d, decide(d, f.view.now)); err != nil {
				return err
			}
		}
		return s.writeFiring(ctx, tx, f)
	})
	return due, f, err
}

const dueColumns = specColumns + `, coalesce(s.at <= s.updated_at, false), d.last_run, d.failures, d.open_fire, t.paused, t.note, t.invalid`

// scanDue reads dueColumns and what follows them.
func scanDue(row pgx.Row, d *Due, more ...any) error {
	spec := specRow{Schedule: &d.Schedule}
	var last pgtype.UUID
	err := row.Scan(append(append(spec.targets(), &d.Stale, &last, &d.Failures, &d.openFire, &d.TaskPaused, &d.TaskNote, &d.TaskInvalid), more...)...)
	if last.Valid {
		id := uuid.UUID(last.Bytes)
		d.lastRun = &id
	}
	spec.finish()
	return err
}

// lockDue takes what is due in the order of its time, on time first, but leaves
// a place for what is late. The sub-select makes the
// clock one value: an index cannot be searched with a volatile function, and a
// table of a million schedules would be walked to its end.
func lockDue(ctx context.Context, tx pgx.Tx, take Take) ([]Due, error) {
	return readDue(ctx, tx, take, `FOR UPDATE OF d SKIP LOCKED`)
}

// readDue reads what is due, on time first, with the given lock.
func readDue(ctx context.Context, tx pgx.Tx, take Take, lock string) ([]Due, error) {
	const statement = `
		SELECT ` + dueColumns + `, d.due_at
		FROM schedule_due d JOIN schedules s ON s.id = d.schedule JOIN tasks t ON t.name = s.task
		WHERE d.due_at <= (SELECT clock_timestamp() - $2::interval) AND d.due_at >= (SELECT greatest(` + firstDue + `, clock_timestamp() - $3::interval))
			AND d.schedule % $4 = $5 AND s.planned = s.version
		ORDER BY d.due_at LIMIT $1 `
	const ever = 100 * 366 * day
	limit, parts := take.Limit, max(take.Parts, 1)
	list := make([]Due, 0, limit)
	taken := make(map[int64]bool, limit)
	for _, part := range []struct {
		limit     int
		from, ago time.Duration
	}{{limit - limit/10, 0, Punctual}, {limit, Punctual, ever}} {
		rows, err := tx.Query(ctx, statement+lock, part.limit-len(list), part.from, part.ago, parts, take.Part)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var d Due
			if err := scanDue(rows, &d, &d.DueAt); err != nil {
				rows.Close()
				return nil, err
			}
			if !taken[d.Schedule.ID] { // it became late between the two looks
				taken[d.Schedule.ID] = true
				list = append(list, d)
			}
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
	}
	return list, lookBack(ctx, tx, list)
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
