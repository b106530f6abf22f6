package store

import (
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/catena-run/catena/task"
)

// ledgerRow is a fire to write. Where extends is set, a range without a run
// that begins there, has the same outcome and reason and ends right before it
// grows instead.
type ledgerRow struct {
	task.Fire
	extends *time.Time
}

// extendable tells whether a fire may lengthen the row that begins at open. A
// range stays within the day (UTC) that it began on, as its partition is dropped with that day.
func extendable(open *time.Time, fire task.Fire) *time.Time {
	if open == nil || fire.Outcome.HasRun() || !open.UTC().Truncate(day).Equal(fire.DueAt.UTC().Truncate(day)) {
		return nil
	}
	return open
}

type ledgerColumns struct {
	schedules, counts        []int64
	tasks, outcomes, reasons []string
	first, last, fired       []time.Time
	runs                     []pgtype.UUID
	extends                  []time.Time
}

func (c *ledgerColumns) add(row ledgerRow) {
	c.schedules, c.counts = append(c.schedules, row.Schedule), append(c.counts, row.Count)
	c.tasks, c.outcomes, c.reasons = append(c.tasks, row.Task), append(c.outcomes, string(row.Outcome)), append(c.reasons, clean(row.Reason))
	c.first, c.last, c.fired = append(c.first, row.DueAt), append(c.last, row.LastDueAt), append(c.fired, row.FiredAt)
	c.runs = append(c.runs, nullID(row.Run))
	if row.extends != nil {
		c.extends = append(c.extends, *row.extends)
	}
}

// queueFires comes behind queueNext: a range that could not grow, its reason
// having changed, is noted in schedule_due as one of its own.
func queueFires(batch *pgx.Batch, rows []ledgerRow) {
	var plain, longer ledgerColumns
	for _, row := range rows {
		if row.extends == nil {
			plain.add(row)
		} else {
			longer.add(row)
		}
	}
	if c := plain; len(c.schedules) > 0 {
		rows := &rowSet{}
		rows.array("schedule", "bigint", c.schedules)
		rows.array("due_at", "timestamptz", c.first)
		rows.together(of("last_due_at", "timestamptz", c.last))
		rows.together(of("count", "bigint", c.counts))
		rows.together(of("task", "text", c.tasks))
		rows.together(of("outcome", "text", c.outcomes), of("reason", "text", c.reasons))
		rows.together(of("run", "uuid", c.runs))
		rows.together(of("fired_at", "timestamptz", c.fired))
		batch.Queue(rows.insert("fires", ""), rows.args...)
	}
	if c := longer; len(c.schedules) > 0 {
		// Each row is one look by primary key. A partition of today has no statistics yet, for
		// which the planner might read it as a whole.
		batch.Queue(`SET LOCAL enable_hashjoin = off`)
		batch.Queue(`SET LOCAL enable_mergejoin = off`)
		low, high := c.extends[0], c.extends[0]
		for _, at := range c.extends {
			if at.Before(low) {
				low = at
			}
			if at.After(high) {
				high = at
			}
		}
		batch.Queue(`
			WITH i AS (
				SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::timestamptz[], $9::timestamptz[])
					AS i(schedule, due_at, last_due_at, count, task, outcome, reason, fired_at, extends)
			), longer AS (
				UPDATE fires f SET last_due_at = i.last_due_at, count = f.count + i.count FROM i
				WHERE f.schedule = i.schedule AND f.due_at = i.extends AND f.due_at BETWEEN $10 AND $11
					AND f.outcome = i.outcome AND f.reason = i.reason AND f.task = i.task AND f.run IS NULL
				RETURNING f.schedule
			), other AS (
				INSERT INTO fires (schedule, due_at, last_due_at, count, task, outcome, reason, fired_at)
				SELECT schedule, due_at, last_due_at, count, task, outcome, reason, fired_at FROM i
				WHERE NOT EXISTS (SELECT 1 FROM longer l WHERE l.schedule = i.schedule)
				RETURNING schedule, due_at
			)
			UPDATE schedule_due d SET open_fire = other.due_at FROM other, i
			WHERE d.schedule = other.schedule AND i.schedule = other.schedule AND d.open_fire = i.extends`,
			c.schedules, c.first, c.last, c.counts, c.tasks, c.outcomes, c.reasons, c.fired, c.extends, low, high)
	}
}
