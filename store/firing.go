package store

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/catena-run/catena/task"
)

// firing gathers what one transaction of due schedules writes.
type firing struct {
	view    *laneView
	runs    *insertion
	wanted  []NewRun // of the fires at the same index of places
	places  []int
	last    map[int64]uuid.UUID // the run that later due times of a schedule are compared with
	fires   []ledgerRow
	next    []dueRow
	late    []lateRow
	cancels []replaced
	pauses  map[int64]string
	invalid map[int64]string
}

// dueRow is what a turn makes of a row of schedule_due.
type dueRow struct {
	schedule int64
	at       *time.Time // nil: never again
	lastRun  *uuid.UUID
	failures int
	openFire *time.Time
	kept     bool // though never due again
}

type lateRow struct {
	Late
	schedule int64
}

func (s *Store) newFiring(ctx context.Context, tx pgx.Tx, due []Due) (*firing, error) {
	wanted := make([]NewRun, len(due))
	for i, d := range due {
		wanted[i].Task = d.Schedule.Task
	}
	view, err := s.lookAtLanes(ctx, tx, wanted)
	if err != nil {
		return nil, err
	}
	return &firing{view: view, runs: newInsertion(view), pauses: map[int64]string{}, invalid: map[int64]string{}, last: map[int64]uuid.UUID{}}, nil
}

// include adds the decision about a due schedule.
func (s *Store) include(f *firing, d Due, decision Decision) error {
	row := dueRow{schedule: d.Schedule.ID, at: decision.Next, lastRun: d.active(), failures: d.Failures}
	if err := s.includeFires(f, d, decision, &row); err != nil {
		return err
	}
	if late := decision.Late; late != nil {
		if !s.days.has(late.First.UTC().Truncate(day)) {
			return errNoDay{late.First}
		}
		f.late = append(f.late, lateRow{Late: *late, schedule: d.Schedule.ID})
	}
	if decision.Pause != "" {
		f.pauses[d.Schedule.ID] = decision.Pause
		row.failures = 0
	}
	if decision.Invalid != "" {
		f.invalid[d.Schedule.ID] = decision.Invalid
	}
	f.includeCancel(d, decision)
	row.kept = decision.Late != nil
	f.next = append(f.next, row)
	return nil
}

// includeFires adds the rows of the ledger and the runs that they want.
func (s *Store) includeFires(f *firing, d Due, decision Decision, row *dueRow) error {
	for i, fire := range decision.Fires {
		if !s.days.has(fire.DueAt.UTC().Truncate(day)) {
			return errNoDay{fire.DueAt}
		}
		fire.Schedule, fire.Task = d.Schedule.ID, d.Schedule.Task
		entry := ledgerRow{Fire: fire}
		if i == 0 && fire.DueAt.Equal(d.DueAt) {
			entry.extends = extendable(d.openFire, fire)
		}
		if fire.Outcome.HasRun() {
			f.wanted = append(f.wanted, NewRun{Task: fire.Task, At: decision.startAt(fire.DueAt), schedule: fire.Schedule, dueAt: fire.DueAt, buffered: fire.Outcome == task.FireBuffered})
			f.places = append(f.places, len(f.fires))
		}
		f.fires = append(f.fires, entry)
		row.openFire = nil
		if i == len(decision.Fires)-1 && !fire.Outcome.HasRun() {
			at := fire.DueAt
			if entry.extends != nil {
				at = *entry.extends
			}
			row.openFire = &at
		}
	}
	if len(decision.Fires) == 0 && decision.Late == nil {
		row.openFire = d.openFire
	}
	if n := len(decision.Fires); n > 0 && decision.Late != nil && decision.Fires[n-1].DueAt.Before(decision.Late.First) {
		row.openFire = nil // what is to be caught up stands between it and the next due time
	}
	return nil
}

func (s *Store) writeFiring(ctx context.Context, tx pgx.Tx, f *firing) error {
	if err := s.start(ctx, tx, f); err != nil {
		return err
	}
	if err := cancelEarlier(ctx, tx, f.cancels); err != nil {
		return err
	}
	batch := &pgx.Batch{}
	if !f.runs.empty() {
		if err := f.runs.queue(ctx, tx, batch); err != nil {
			return err
		}
	}
	f.queueNext(batch)
	queueFires(batch, f.fires)
	f.queueLate(batch)
	f.queuePauses(batch)
	f.queueInvalid(batch)
	return tx.SendBatch(ctx, batch).Close()
}

// lastOf returns the run that later due times are compared with.
func (f *firing) lastOf(row dueRow) *uuid.UUID {
	if made, ok := f.last[row.schedule]; ok {
		return &made
	}
	return row.lastRun
}

func (f *firing) queueNext(batch *pgx.Batch) {
	var ids, over []int64
	var failures []int32
	var next []pgtype.Timestamptz
	var open []*time.Time
	var last []pgtype.UUID
	for _, row := range f.next {
		run := f.lastOf(row)
		if row.at == nil && run == nil && !row.kept {
			over = append(over, row.schedule)
			continue
		}
		ids, failures, next = append(ids, row.schedule), append(failures, int32(row.failures)), append(next, dueOr(row.at))
		open, last = append(open, row.openFire), append(last, nullID(run))
	}
	if len(ids) > 0 {
		rows := &rowSet{}
		rows.array("schedule", "bigint", ids)
		rows.together(of("due_at", "timestamptz", next))
		rows.together(of("last_run", "uuid", last))
		rows.together(of("failures", "integer", failures))
		rows.together(ofTime("open_fire", open))
		batch.Queue(rows.update("schedule_due", "schedule"), rows.args...)
	}
	if len(over) > 0 {
		batch.Queue(`DELETE FROM schedule_due WHERE schedule = ANY($1)`, over)
	}
}

// dueOr is a due time, or never.
func dueOr(at *time.Time) pgtype.Timestamptz {
	if at == nil {
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: *at, Valid: true}
}

func (f *firing) queueLate(batch *pgx.Batch) {
	n := len(f.late)
	if n == 0 {
		return
	}
	ids, counts, first, last := make([]int64, n), make([]int64, n), make([]time.Time, n), make([]time.Time, n)
	for i, row := range f.late {
		ids[i], counts[i], first[i], last[i] = row.schedule, row.Count, row.First, row.Last
	}
	batch.Queue(`INSERT INTO catch_ups (schedule, next_at, last_at, count, noticed_at)
		SELECT *, $5 FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bigint[])`, ids, first, last, counts, f.view.now)
}

func (f *firing) queuePauses(batch *pgx.Batch) {
	if len(f.pauses) == 0 {
		return
	}
	ids := slices.Sorted(maps.Keys(f.pauses))
	notes := make([]string, len(ids))
	for i, id := range ids {
		notes[i] = clean(f.pauses[id])
	}
	batch.Queue(`UPDATE schedules s SET paused = true, note = i.note FROM unnest($1::bigint[], $2::text[]) AS i(id, note)
		WHERE s.id = i.id AND NOT s.paused`, ids, notes)
}

// queueInvalid flags schedules, unless they have changed since.
func (f *firing) queueInvalid(batch *pgx.Batch) {
	for _, id := range slices.Sorted(maps.Keys(f.invalid)) {
		batch.Queue(`UPDATE schedules SET invalid = $2 WHERE id = $1 AND planned = version`, id, clean(f.invalid[id]))
	}
}

// fired sums up what the turn did.
func (f *firing) fired(taken int) Fired {
	out := Fired{Taken: taken, Outcomes: map[task.FireOutcome]int64{}}
	if f == nil {
		return out
	}
	out.Runs, out.Parcels = len(f.runs.ids), f.runs.parcels()
	for _, row := range f.fires {
		out.Outcomes[row.Outcome] += row.Count
		if row.Outcome == task.FireStarted {
			out.Lateness = append(out.Lateness, row.FiredAt.Sub(row.DueAt))
		}
	}
	return out
}
