package store

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// queryer is a pool or a transaction.
type queryer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

const calendarColumns = `SELECT c.name, c.days::text, c.invalid, c.updated_at,
	(SELECT count(*) FROM schedules s WHERE s.exclude @> ARRAY[c.name] AND s.exclude <> '{}') FROM calendars c `

func scanCalendar(row pgx.CollectableRow) (c task.NamedCalendar, err error) {
	var days string
	if err = row.Scan(&c.Name, &days, &c.Invalid, &c.UpdatedAt, &c.Schedules); err != nil {
		return c, err
	}
	if json.Unmarshal([]byte(days), &c.Days) != nil || c.Days == nil {
		c.Days = []string{} // written by hand, and flagged
	}
	return c, nil
}

// Calendars returns all calendars by name.
func (s *Store) Calendars(ctx context.Context) ([]task.NamedCalendar, error) {
	rows, err := s.pool.Query(ctx, calendarColumns+`ORDER BY c.name`)
	if err != nil {
		return nil, wrap(err, "read calendars")
	}
	list, err := pgx.CollectRows(rows, scanCalendar)
	return list, wrap(err, "read calendars")
}

// Calendar returns one calendar, or a not_found error.
func (s *Store) Calendar(ctx context.Context, name string) (task.NamedCalendar, error) {
	rows, err := s.pool.Query(ctx, calendarColumns+`WHERE c.name = $1`, name)
	if err != nil {
		return task.NamedCalendar{}, wrap(err, "read calendar "+name)
	}
	c, err := pgx.CollectExactlyOneRow(rows, scanCalendar)
	if isMissing(err) {
		return c, noCalendar(name)
	}
	return c, wrap(err, "read calendar "+name)
}

func noCalendar(name string) error {
	return task.Errorf(task.CodeNotFound, "there is no calendar %q", name).Fix("`catena calendar list` shows them; `catena calendar apply -f FILE` makes one")
}

// CalendarDays returns the days, as JSON, of those of the named calendars that are there.
func (s *Store) CalendarDays(ctx context.Context, names []string) (map[string]string, error) {
	days, err := calendarDays(ctx, s.pool, names)
	return days, wrap(err, "read calendars")
}

func calendarDays(ctx context.Context, q queryer, names []string) (map[string]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	rows, err := q.Query(ctx, `SELECT name, days::text FROM calendars WHERE name = ANY ($1)`, names)
	if err != nil {
		return nil, err
	}
	days := make(map[string]string, len(names))
	var name, text string
	_, err = pgx.ForEachRow(rows, []any{&name, &text}, func() error { days[name] = text; return nil })
	return days, err
}

// excludedDays returns the days of all calendars that the schedules exclude.
func (s *Store) excludedDays(ctx context.Context, q queryer, schedules []*task.Schedule) (map[string]string, error) {
	var names []string
	for _, sc := range schedules {
		for _, name := range sc.Exclude {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return calendarDays(ctx, q, names)
}

// addCalendars is read after the due schedules were locked: a calendar that is newer
// than a schedule's plan has that schedule planned again anyway.
func (s *Store) addCalendars(ctx context.Context, tx pgx.Tx, due []Due) error {
	schedules := make([]*task.Schedule, len(due))
	for i := range due {
		schedules[i] = &due[i].Schedule
	}
	days, err := s.excludedDays(ctx, tx, schedules)
	for i := range due {
		due[i].Calendars = days
	}
	return err
}

func applyCalendar(ctx context.Context, tx pgx.Tx, c task.NamedCalendar) (change string, err error) {
	days, err := json.Marshal(c.Days)
	if err != nil {
		return "", err
	}
	var created bool
	err = tx.QueryRow(ctx, `INSERT INTO calendars AS c (name, days, checked) VALUES ($1, $2::text::json, true)
		ON CONFLICT (name) DO UPDATE SET days = excluded.days WHERE c.days::text <> excluded.days::text RETURNING xmax = 0`,
		c.Name, string(days)).Scan(&created)
	switch {
	case isMissing(err):
		return "unchanged", nil
	case err != nil:
		return "", err
	case created:
		return "created", nil
	}
	_, err = tx.Exec(ctx, `UPDATE calendars SET checked = true, invalid = '' WHERE name = $1`, c.Name)
	return "updated", err
}

// DeleteCalendar removes a calendar. One that schedules exclude is a conflict, unless
// force is set: those schedules are then flagged as invalid and fire no more.
func (s *Store) DeleteCalendar(ctx context.Context, name string, force bool) error {
	return s.inTx(ctx, "delete calendar "+name, func(tx pgx.Tx) error {
		var users int
		var first *string
		if err := tx.QueryRow(ctx, `SELECT count(*), min(task) FROM schedules WHERE exclude @> ARRAY[$1::text] AND exclude <> '{}'`, name).Scan(&users, &first); err != nil {
			return err
		}
		if users > 0 && !force {
			return task.Errorf(task.CodeConflict, "calendar %s is excluded by %d schedules, of task %s among others", name, users, *first).
				Fix("change those schedules first, or use --force: they are then invalid and fire no more")
		}
		tag, err := tx.Exec(ctx, `DELETE FROM calendars WHERE name = $1`, name)
		if err == nil && tag.RowsAffected() == 0 {
			return noCalendar(name)
		}
		return err
	})
}

// UncheckedCalendar is a calendar that was inserted or changed by SQL.
type UncheckedCalendar struct {
	Name string
	Text string // of its days, JSON
}

// UncheckedCalendars returns calendars whose last change nobody has looked at.
func (s *Store) UncheckedCalendars(ctx context.Context, limit int) ([]UncheckedCalendar, error) {
	rows, err := s.pool.Query(ctx, `SELECT name, days::text FROM calendars WHERE NOT checked ORDER BY name LIMIT $1`, limit)
	if err != nil {
		return nil, wrap(err, "look for changed calendars")
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[UncheckedCalendar])
	return list, wrap(err, "look for changed calendars")
}

// MarkCalendarChecked records the verdict on a calendar; invalid "" means good. One
// that has changed since is left for the next look.
func (s *Store) MarkCalendarChecked(ctx context.Context, term int64, c UncheckedCalendar, invalid string) error {
	return s.inTx(ctx, "record the check of calendar "+c.Name, func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE calendars SET checked = true, invalid = $3 WHERE name = $1 AND days::text = $2`, c.Name, c.Text, clean(invalid))
		return err
	})
}
