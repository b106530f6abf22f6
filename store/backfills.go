package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

const (
	backfillRank    = time.Hour // how much younger than it is a run of a backfill counts
	backfillBatch   = 200       // runs in one transaction
	backfillWaiting = 1000      // runs that may wait in its lane before it makes more
	backfillEnded   = 2000      // runs looked at for their end in one turn
)

const backfillColumns = `SELECT b.id, b.task, b.schedule, b.from_at, b.to_at, b.overlap, b.state, b.next_at, b.total, b.started, b.skipped,
	b.ended, b.failed, b.reason, b.created_by, b.created_at, b.finished_at FROM backfills b `

// CreateBackfill enters a backfill of a version of a schedule; due is the first
// due time and Total how many there are.
func (s *Store) CreateBackfill(ctx context.Context, b task.Backfill, version int64, due time.Time) (task.Backfill, error) {
	var id int64
	err := s.pool.QueryRow(ctx, `
		INSERT INTO backfills (task, schedule, version, from_at, to_at, overlap, next_at, total, created_by)
		SELECT s.task, s.id, s.version, $4, $5, $6, $7, $8, $9 FROM schedules s WHERE s.id = $1 AND s.task = $2 AND s.version = $3 RETURNING id`,
		b.Schedule, b.Task, version, b.From, b.To, b.Overlap, due, b.Total, clean(b.CreatedBy)).Scan(&id)
	if isMissing(err) {
		return b, task.Errorf(task.CodeConflict, "schedule %d of %s was edited meanwhile", b.Schedule, b.Task).Fix("ask again")
	}
	if err != nil {
		return b, wrap(err, "create a backfill")
	}
	return s.Backfill(ctx, id)
}

// Backfill returns one backfill, or a not_found error.
func (s *Store) Backfill(ctx context.Context, id int64) (task.Backfill, error) {
	list, err := s.backfills(ctx, `WHERE b.id = $1`, id)
	if err == nil && len(list) == 0 {
		err = noBackfill(id)
	}
	if err != nil {
		return task.Backfill{}, err
	}
	return list[0], nil
}

// Backfills lists backfills, newest first, of one task where name is not "".
func (s *Store) Backfills(ctx context.Context, name string) ([]task.Backfill, error) {
	return s.backfills(ctx, `WHERE $1 = '' OR b.task = $1 ORDER BY b.id DESC LIMIT 1000`, name)
}

func (s *Store) backfills(ctx context.Context, where string, args ...any) ([]task.Backfill, error) {
	rows, err := s.pool.Query(ctx, backfillColumns+where, args...)
	if err != nil {
		return nil, wrap(err, "read backfills")
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[task.Backfill])
	return list, wrap(err, "read backfills")
}

func noBackfill(id int64) error {
	return task.Errorf(task.CodeNotFound, "there is no backfill %d", id).Fix("`catena backfill list` shows them")
}

// CancelBackfill ends the making of runs. Those that were made go on. One that
// is over is a conflict.
func (s *Store) CancelBackfill(ctx context.Context, id int64, by string) (task.Backfill, error) {
	tag, err := s.pool.Exec(ctx, `UPDATE backfills SET state = 'cancelled', reason = $2, finished_at = clock_timestamp() WHERE id = $1 AND state = 'running'`,
		id, clean("cancelled by "+by))
	if err != nil {
		return task.Backfill{}, wrap(err, "cancel a backfill")
	}
	b, err := s.Backfill(ctx, id)
	if err == nil && tag.RowsAffected() == 0 {
		err = task.Errorf(task.CodeConflict, "backfill %d is over: it is %s", id, b.State)
	}
	return b, err
}

// RunningBackfills returns the ids of those that are not over.
func (s *Store) RunningBackfills(ctx context.Context) ([]int64, error) {
	rows, err := s.pool.Query(ctx, `SELECT id FROM backfills WHERE state = 'running' ORDER BY id`)
	if err != nil {
		return nil, wrap(err, "look for backfills")
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	return ids, wrap(err, "look for backfills")
}

// backfilling is a backfill in the transaction of one turn.
type backfilling struct {
	task.Backfill
	lastRun *uuid.UUID
	endedTo *uuid.UUID
}

// DueTimes lists at most so many due times of a schedule from the given one on,
// and the one after them, nil when there is none before the end. calendars are the days, as
// JSON, of those that the schedule excludes.
type DueTimes func(sc task.Schedule, calendars map[string]string, from, to time.Time, limit int) ([]time.Time, *time.Time, error)

// WorkBackfill does one bounded turn of a backfill.
func (s *Store) WorkBackfill(ctx context.Context, term, id int64, due DueTimes) (more bool, err error) {
	err = s.inTx(ctx, fmt.Sprintf("work on backfill %d", id), func(tx pgx.Tx) error {
		more = false
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		b, there, err := lockBackfill(ctx, tx, id)
		if err != nil || !there {
			return err
		}
		if err := b.countEnded(ctx, tx); err != nil {
			return err
		}
		view, err := s.lookAtLanes(ctx, tx, []NewRun{{Task: b.Task}})
		if err != nil {
			return err
		}
		if info, ok := view.tasks[b.Task]; ok && !info.paused && info.invalid == "" && b.NextDue != nil {
			if more, err = s.makeBackfilled(ctx, tx, b, view, due); err != nil {
				return err
			}
		}
		return b.save(ctx, tx)
	})
	return more, err
}

// lockBackfill takes a running backfill, and cancels one whose schedule is not
// what it was.
func lockBackfill(ctx context.Context, tx pgx.Tx, id int64) (*backfilling, bool, error) {
	var b backfilling
	var fits bool
	err := tx.QueryRow(ctx, `
		SELECT b.id, b.task, b.to_at, b.overlap, b.next_at, b.started, b.skipped, b.ended, b.failed, b.last_run, b.ended_to,
			EXISTS (SELECT 1 FROM schedules s WHERE s.id = b.schedule AND s.task = b.task AND s.version = b.version), b.schedule
		FROM backfills b WHERE b.id = $1 AND b.state = 'running' FOR UPDATE OF b SKIP LOCKED`, id).
		Scan(&b.ID, &b.Task, &b.To, &b.Overlap, &b.NextDue, &b.Started, &b.Skipped, &b.Ended, &b.Failed, &b.lastRun, &b.endedTo,
			&fits, &b.Schedule)
	if isMissing(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if !fits && b.NextDue != nil {
		_, err := tx.Exec(ctx, `UPDATE backfills SET state = 'cancelled', reason = 'the schedule was edited or deleted', finished_at = clock_timestamp() WHERE id = $1`, id)
		return nil, false, err
	}
	return &b, true, nil
}

// countEnded goes on from the last run known to have ended with all before it.
func (b *backfilling) countEnded(ctx context.Context, tx pgx.Tx) error {
	if b.lastRun == nil || b.Ended == b.Started {
		return nil
	}
	after := uuid.Nil
	if b.endedTo != nil {
		after = *b.endedTo
	}
	rows, err := tx.Query(ctx, `SELECT id, state FROM runs WHERE task = $1 AND id > $2 AND id <= $3 AND backfill = $4 ORDER BY id LIMIT $5`,
		b.Task, after, *b.lastRun, b.ID, backfillEnded)
	if err != nil {
		return err
	}
	var id uuid.UUID
	var state task.State
	whole := true
	_, err = pgx.ForEachRow(rows, []any{&id, &state}, func() error {
		if whole = whole && state.Terminal(); !whole {
			return nil
		}
		ended := id
		b.endedTo = &ended
		b.Ended++
		if state != task.StateSucceeded {
			b.Failed++
		}
		return nil
	})
	return err
}

// makeBackfilled makes the next runs, as far as the policy and the lane allow.
func (s *Store) makeBackfilled(ctx context.Context, tx pgx.Tx, b *backfilling, view *laneView, due DueTimes) (more bool, err error) {
	limit := 1
	switch {
	case b.Overlap == task.OverlapAllowAll:
		limit = backfillBatch
		if full, err := laneFull(ctx, tx, b.Task); err != nil || full {
			return false, err
		}
	case b.lastRun != nil && b.Ended < b.Started:
		return false, nil // its run before has not ended
	}
	sc, calendars, err := s.scheduleOf(ctx, tx, b.Schedule)
	if err != nil {
		return false, err
	}
	times, next, err := due(sc, calendars, *b.NextDue, b.To, limit)
	if err != nil || len(times) == 0 {
		b.NextDue = nil
		return false, err
	}
	runs := make([]NewRun, len(times))
	for i, at := range times {
		runs[i] = NewRun{Task: b.Task, schedule: b.Schedule, dueAt: at, backfill: b.ID}
	}
	keys, refused := s.keysOf(view, runs)
	if refused != nil { // an expression of the task's limits, which has the same params each time
		b.Reason, b.NextDue = refused.Error(), nil
		return false, nil
	}
	plan := newInsertion(view)
	ids := s.ids.mint(view.now, len(times))
	for i, run := range runs {
		run.Trace = s.trace(ids[i])
		plan.add(ids[i], run, keyAt(keys, i))
	}
	b.Started += int64(len(times))
	b.lastRun, b.NextDue = &ids[len(ids)-1], next
	if b.Overlap == task.OverlapSkip { // all due times have come already: the run overlaps with every further one
		b.Skipped, b.NextDue = -1, nil
	}
	return b.NextDue != nil, plan.write(ctx, tx)
}

// scheduleOf reads a schedule with the days that it excludes.
func (s *Store) scheduleOf(ctx context.Context, tx pgx.Tx, id int64) (sc task.Schedule, calendars map[string]string, err error) {
	spec := specRow{Schedule: &sc}
	if err := tx.QueryRow(ctx, `SELECT `+specColumns+` FROM schedules s WHERE s.id = $1`, id).Scan(spec.targets()...); err != nil {
		return sc, nil, err
	}
	spec.finish()
	calendars, err = s.excludedDays(ctx, tx, []*task.Schedule{&sc})
	return sc, calendars, err
}

// laneFull tells whether enough runs of the task or its lane wait already.
func laneFull(ctx context.Context, tx pgx.Tx, name string) (full bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM (SELECT FROM ready r WHERE r.hold = '' AND r.lane = (SELECT t.lane FROM tasks t WHERE t.name = $1) LIMIT $2) w) >= $2
			OR (SELECT count(*) FROM (SELECT FROM ready r WHERE r.hold = 'limited' AND r.lane = (SELECT t.lane FROM tasks t WHERE t.name = $1) AND r.task = $1 LIMIT $2) w) >= $2
			OR (SELECT count(*) FROM (SELECT FROM ready r WHERE r.hold = 'paused' AND r.task = $1 LIMIT $2) w) >= $2`, name, backfillWaiting).Scan(&full)
	return full, err
}

// outcome is the state that the turn leaves the backfill in.
func (b *backfilling) outcome() task.BackfillState {
	switch {
	case b.Reason != "":
		return task.BackfillCancelled
	case b.NextDue == nil && b.Ended >= b.Started:
		return task.BackfillDone
	}
	return task.BackfillRunning
}

func (b *backfilling) save(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `
		UPDATE backfills SET next_at = $2, started = $3, skipped = CASE WHEN $4 < 0 THEN total - $3 ELSE $4 END, ended = $5, failed = $6,
			last_run = $7, ended_to = $8, state = $9, finished_at = CASE WHEN $9 <> 'running' THEN clock_timestamp() END, reason = $10
		WHERE id = $1`, b.ID, b.NextDue, b.Started, b.Skipped, b.Ended, b.Failed, b.lastRun, b.endedTo, string(b.outcome()), clean(b.Reason))
	return err
}
