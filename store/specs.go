package store

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Rows written by hand may hold times that no time.Time does, such as infinity:
// they are read as none, and oddTime names the field. Lists may hold NULL, or lists.
const (
	soundAt  = `CASE WHEN s.at BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN s.at END`
	soundDue = `CASE WHEN d.due_at BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN d.due_at END`
	oddTime  = `CASE WHEN s.at NOT BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN 'at'
		WHEN s.starts_at NOT BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN 'start'
		WHEN s.ends_at NOT BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN 'end' ELSE '' END`
)

// specColumns are the columns of schedules s that specRow reads.
const specColumns = `s.id, s.task, coalesce(s.cron, ''), ` + soundAt + `, s.timezone, s.overlap, s.paused,
	coalesce(s.interval_ms, 0), s.offset_ms, s.calendar::text,
	CASE WHEN s.exclude = '{}' THEN s.exclude ELSE ARRAY(SELECT coalesce(name, '') FROM unnest(s.exclude) AS name) END,
	CASE WHEN s.starts_at BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN s.starts_at END,
	CASE WHEN s.ends_at BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN s.ends_at END,
	s.jitter_ms, s.dst, s.catch_up_ms, s.buffer, s.pause_on_failure, s.note`

// specRow reads a schedule from specColumns.
type specRow struct {
	*task.Schedule
	every, offset, jitter, catchUp int64
	calendar                       *string
	broken                         error // calendar cannot be read
}

func (r *specRow) targets() []any {
	return []any{
		&r.ID, &r.Task, &r.Cron, &r.At, &r.Timezone, &r.Overlap, &r.Paused,
		&r.every, &r.offset, &r.calendar, &r.Exclude, &r.Start, &r.End,
		&r.jitter, &r.DST, &r.catchUp, &r.Buffer, &r.PauseOnFailure, &r.Note,
	}
}

// finish brings what was read into the form of a schedule. A calendar that cannot be
// read becomes one without times, which the scheduler refuses.
func (r *specRow) finish() {
	r.Every, r.Offset, r.Jitter = spanOf(r.every), spanOf(r.offset), spanOf(r.jitter)
	catchUp := spanOf(r.catchUp)
	r.CatchUp = &catchUp
	if len(r.Exclude) == 0 {
		r.Exclude = nil
	}
	if r.calendar == nil {
		return
	}
	r.Calendar = &task.Calendar{}
	decoder := json.NewDecoder(strings.NewReader(*r.calendar))
	decoder.DisallowUnknownFields()
	if r.broken = decoder.Decode(r.Calendar); r.broken != nil {
		r.Calendar = &task.Calendar{}
	}
}

// reason says why a row cannot be a schedule, odd being what oddTime gave; "" when it can.
func (r *specRow) reason(odd string) string {
	switch {
	case odd != "":
		return odd + ": the time is out of range; use a time of the years 1970 to 9999"
	case r.broken != nil:
		return "calendar: " + r.broken.Error() + `; write {"times": ["08:00"], "weekdays": ["mon-fri"]}`
	}
	return ""
}

func spanOf(ms int64) task.Duration { return task.Duration(milliseconds(ms)) }

const scheduleColumns = `SELECT ` + specColumns + `, s.invalid, ` + soundDue + `
	FROM schedules s LEFT JOIN schedule_due d ON d.schedule = s.id `

func scanSchedule(row pgx.CollectableRow) (sc task.Schedule, err error) {
	spec := specRow{Schedule: &sc}
	err = row.Scan(append(spec.targets(), &sc.Invalid, &sc.NextDue)...)
	spec.finish()
	return sc, err
}

func insertSchedule(ctx context.Context, tx pgx.Tx, name string, given task.Schedule) error {
	sc := filled(given)
	var calendar *string
	if sc.Calendar != nil {
		text, err := json.Marshal(sc.Calendar)
		if err != nil {
			return err
		}
		calendar = nullText(string(text))
	}
	_, err := tx.Exec(ctx, `INSERT INTO schedules (task, cron, at, timezone, overlap, paused, interval_ms, offset_ms, calendar, exclude,
			starts_at, ends_at, jitter_ms, dst, catch_up_ms, buffer, pause_on_failure, note)
		VALUES ($1, $2, $3, $4, $5, $6, nullif($7, 0::bigint), $8, $9::text::json, $10, $11, $12, $13, $14, $15, $16, $17, $18)`,
		name, nullText(sc.Cron), sc.At, sc.Timezone, sc.Overlap, sc.Paused, msOf(sc.Every), msOf(sc.Offset), calendar, sc.Exclude,
		sc.Start, sc.End, msOf(sc.Jitter), sc.DST, msOf(*sc.CatchUp), sc.Buffer, sc.PauseOnFailure, clean(sc.Note))
	return err
}

func msOf(d task.Duration) int64 { return time.Duration(d).Milliseconds() }

// filled is a schedule with the defaults that its row has.
func filled(sc task.Schedule) task.Schedule {
	if sc.Timezone == "" {
		sc.Timezone = "UTC"
	}
	if sc.Overlap == "" {
		sc.Overlap = task.OverlapSkip
	}
	if sc.DST == "" {
		sc.DST = task.DSTAuto
	}
	if sc.Buffer == 0 {
		sc.Buffer = task.DefaultBuffer
	}
	if sc.CatchUp == nil {
		catchUp := task.DefaultCatchUp
		sc.CatchUp = &catchUp
	}
	if sc.Exclude == nil {
		sc.Exclude = []string{}
	}
	return sc
}

// sameTimes tells whether two schedules have the same due times: they are then
// one schedule, with its ledger and its runs, whatever else was edited.
func sameTimes(a, b task.Schedule) bool {
	a, b = filled(a), filled(b)
	return sameTime(a.At, b.At) && sameTime(a.Start, b.Start) && sameTime(a.End, b.End) &&
		a.Cron == b.Cron && a.Timezone == b.Timezone && msOf(a.Every) == msOf(b.Every) && msOf(a.Offset) == msOf(b.Offset) &&
		sameCalendar(a.Calendar, b.Calendar) && slices.Equal(a.Exclude, b.Exclude) && a.DST == b.DST
}

// applyPolicy edits what a schedule does at its due times. A pause that the
// definition does not ask for stays: somebody paused it, or its failures did.
func applyPolicy(ctx context.Context, tx pgx.Tx, id int64, want task.Schedule) (changed bool, err error) {
	want = filled(want)
	tag, err := tx.Exec(ctx, `
		UPDATE schedules s SET overlap = $2, buffer = $3, catch_up_ms = $4, pause_on_failure = $5, jitter_ms = $8,
			paused = s.paused OR $6, note = CASE WHEN $6 THEN $7 ELSE s.note END
		WHERE id = $1 AND (overlap, buffer, catch_up_ms, pause_on_failure, jitter_ms, paused, note)
			IS DISTINCT FROM ($2, $3::int, $4::bigint, $5::int, $8::bigint, s.paused OR $6, CASE WHEN $6 THEN $7 ELSE s.note END)`,
		id, want.Overlap, want.Buffer, msOf(*want.CatchUp), want.PauseOnFailure, want.Paused, clean(want.Note), msOf(want.Jitter))
	return tag.RowsAffected() > 0, err
}

func sameTime(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Truncate(time.Microsecond).Equal(b.Truncate(time.Microsecond))
}

func sameCalendar(a, b *task.Calendar) bool {
	return a == nil && b == nil || a != nil && b != nil &&
		slices.Equal(a.Times, b.Times) && slices.Equal(a.Weekdays, b.Weekdays) && slices.Equal(a.Days, b.Days) && slices.Equal(a.Months, b.Months)
}

func (d Decision) startAt(due time.Time) time.Time {
	if d.StartAt == nil {
		return time.Time{}
	}
	return d.StartAt(due)
}
