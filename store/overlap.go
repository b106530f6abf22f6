package store

import (
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Locks are taken in the order schedule_due, runs, parcels, ready: who starts,
// opens or retries a run of a schedule holds the schedule's row of schedule_due,
// so that no two of them find it idle.

// openBatch is how many schedules get their next buffered run in one transaction.
const openBatch = 500

// bufferedBatch is more than a schedule's buffer may hold.
const bufferedBatch = 20_000

// lookBack tells of each due schedule whether its last run has ended, counts
// its failures in a row, and how many of its runs wait.
func lookBack(ctx context.Context, tx pgx.Tx, list []Due) error {
	if len(list) == 0 {
		return nil
	}
	var runs []uuid.UUID
	schedules := make([]int64, len(list))
	for i, d := range list {
		schedules[i] = d.Schedule.ID
		if d.lastRun != nil {
			runs = append(runs, *d.lastRun)
		}
	}
	states, waiting := map[uuid.UUID]task.State{}, map[int64]int{}
	batch := &pgx.Batch{}
	if len(runs) > 0 {
		low, high := bounds(runs)
		batch.Queue(`SELECT id, state FROM runs WHERE id = ANY($1) AND id BETWEEN $2 AND $3`, runs, low, high).Query(func(rows pgx.Rows) error {
			var id uuid.UUID
			var state task.State
			_, err := pgx.ForEachRow(rows, []any{&id, &state}, func() error { states[id] = state; return nil })
			return err
		})
	}
	batch.Queue(`SELECT schedule, count(*) FROM ready WHERE hold = 'buffered' AND schedule = ANY($1) GROUP BY schedule`, schedules).Query(func(rows pgx.Rows) error {
		var schedule int64
		var n int
		_, err := pgx.ForEachRow(rows, []any{&schedule, &n}, func() error { waiting[schedule] = n; return nil })
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	for i := range list {
		d := &list[i]
		d.Waiting = waiting[d.Schedule.ID]
		if d.lastRun == nil {
			continue
		}
		state, there := states[*d.lastRun]
		d.LastRunActive = there && !state.Terminal()
		d.Failures = countFailure(d.Failures, state)
	}
	return nil
}

// countFailure folds the state of a run into the number of failed ones in a row.
func countFailure(before int, state task.State) int {
	switch state {
	case task.StateSucceeded:
		return 0
	case task.StateFailed, task.StateTimedOut, task.StateQuarantined:
		return before + 1
	}
	return before
}

// replaced names what a schedule's new run is to replace.
type replaced struct {
	schedule int64
	run      *uuid.UUID // the one under way
	policy   task.Overlap
}

// includeCancel notes the earlier runs that the decision wants ended.
func (f *firing) includeCancel(d Due, decision Decision) {
	if decision.Cancel != "" {
		f.cancels = append(f.cancels, replaced{schedule: d.Schedule.ID, run: d.active(), policy: decision.Cancel})
	}
}

// cancelEarlier asks to cancel the runs, those that wait included. It comes
// before the new runs are inserted, which are not meant.
func cancelEarlier(ctx context.Context, tx pgx.Tx, list []replaced) error {
	for _, policy := range []task.Overlap{task.OverlapCancelOther, task.OverlapTerminateOther} {
		var schedules []int64
		var runs []uuid.UUID
		for _, r := range list {
			if r.policy != policy {
				continue
			}
			schedules = append(schedules, r.schedule)
			if r.run != nil {
				runs = append(runs, *r.run)
			}
		}
		if len(schedules) == 0 {
			continue
		}
		waiting, err := bufferedRuns(ctx, tx, schedules)
		if err != nil {
			return err
		}
		if runs = append(runs, waiting...); len(runs) == 0 {
			continue
		}
		if _, err := cancelRuns(ctx, tx, runs, "overlap policy "+string(policy)+": the next due time has come", policy == task.OverlapTerminateOther); err != nil {
			return err
		}
	}
	return nil
}

// bufferedRuns lists the runs of schedules that wait for an earlier one, a bounded number.
func bufferedRuns(ctx context.Context, tx pgx.Tx, schedules []int64) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, `SELECT run FROM ready WHERE hold = 'buffered' AND schedule = ANY($1) ORDER BY run LIMIT $2`, schedules, bufferedBatch)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// OpenBuffered opens, for each schedule whose run has ended, the oldest of
// those that wait for that, and returns how many. Runs that wait of a schedule that was
// deleted are cancelled.
func (s *Store) OpenBuffered(ctx context.Context, term int64) (opened int, err error) {
	free, gone, err := s.freeSchedules(ctx)
	if err != nil {
		return 0, err
	}
	if len(gone) > 0 {
		if err := s.cancelOrphans(ctx, term, gone); err != nil {
			return 0, err
		}
	}
	if len(free) == 0 {
		return 0, nil
	}
	free = free[:min(len(free), openBatch)]
	err = s.inTx(ctx, "open buffered runs", func(tx pgx.Tx) error {
		opened = 0
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		list, err := lockSchedules(ctx, tx, free)
		if err != nil {
			return err
		}
		if err := lookBack(ctx, tx, list); err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(d Due) bool { return d.LastRunActive })
		opened, err = openNext(ctx, tx, list)
		return err
	})
	return opened, err
}

// freeSchedules walks the schedules with buffered runs by index jumps: those
// whose last run has ended, and those that are gone.
func (s *Store) freeSchedules(ctx context.Context) (free, gone []int64, err error) {
	rows, err := s.pool.Query(ctx, `
		WITH RECURSIVE b AS (
			(SELECT schedule FROM ready WHERE hold = 'buffered' ORDER BY schedule LIMIT 1)
			UNION ALL
			SELECT (SELECT r.schedule FROM ready r WHERE r.hold = 'buffered' AND r.schedule > b.schedule ORDER BY r.schedule LIMIT 1) FROM b WHERE b.schedule IS NOT NULL
		)
		SELECT b.schedule, d.last_run, EXISTS (SELECT 1 FROM schedules s WHERE s.id = b.schedule)
		FROM b LEFT JOIN schedule_due d ON d.schedule = b.schedule WHERE b.schedule IS NOT NULL`)
	if err != nil {
		return nil, nil, wrap(err, "look for buffered runs")
	}
	last := map[int64]uuid.UUID{}
	var schedule int64
	var run *uuid.UUID
	var there bool
	_, err = pgx.ForEachRow(rows, []any{&schedule, &run, &there}, func() error {
		switch {
		case !there:
			gone = append(gone, schedule)
		case run == nil:
			free = append(free, schedule)
		default:
			last[schedule] = *run
		}
		return nil
	})
	if err != nil || len(last) == 0 {
		return free, gone, wrap(err, "look for buffered runs")
	}
	ids := make([]uuid.UUID, 0, len(last))
	for _, id := range last {
		ids = append(ids, id)
	}
	active, err := s.active(ctx, ids)
	for schedule, id := range last {
		if !active[id] {
			free = append(free, schedule)
		}
	}
	return free, gone, err
}

// active returns those of the runs that have not ended.
func (s *Store) active(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]bool, error) {
	low, high := bounds(ids)
	rows, err := s.pool.Query(ctx, `SELECT id FROM runs WHERE id = ANY($1) AND id BETWEEN $2 AND $3 AND finished_at IS NULL`, ids, low, high)
	if err != nil {
		return nil, wrap(err, "look for active runs")
	}
	active := map[uuid.UUID]bool{}
	var id uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error { active[id] = true; return nil })
	return active, wrap(err, "look for active runs")
}

// lockSchedules locks the due rows of schedules, which one that is over may lack.
func lockSchedules(ctx context.Context, tx pgx.Tx, ids []int64) ([]Due, error) {
	if _, err := tx.Exec(ctx, `INSERT INTO schedule_due (schedule, due_at)
		SELECT s.id, 'infinity' FROM schedules s WHERE s.id = ANY($1) AND NOT EXISTS (SELECT 1 FROM schedule_due d WHERE d.schedule = s.id)
		ON CONFLICT DO NOTHING`, ids); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `SELECT schedule, last_run, failures FROM schedule_due WHERE schedule = ANY($1) ORDER BY schedule FOR UPDATE SKIP LOCKED`, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (d Due, err error) {
		err = row.Scan(&d.Schedule.ID, &d.lastRun, &d.Failures)
		return d, err
	})
}

// openedHold is what becomes of a ready run that waits for nothing else.
const openedHold = `CASE WHEN r.available_at > clock_timestamp() THEN 'later' ELSE ` + openHold + ` END`

func openNext(ctx context.Context, tx pgx.Tx, list []Due) (int, error) {
	schedules, failures := make([]int64, len(list)), map[int64]int{}
	for i, d := range list {
		schedules[i], failures[d.Schedule.ID] = d.Schedule.ID, d.Failures
	}
	rows, err := tx.Query(ctx, `
		UPDATE ready r SET hold = `+openedHold+` FROM (
			SELECT n.run FROM unnest($1::bigint[]) AS i(id)
			CROSS JOIN LATERAL (SELECT b.run FROM ready b WHERE b.hold = 'buffered' AND b.schedule = i.id ORDER BY b.run LIMIT 1) n) first
		WHERE r.run = first.run AND r.hold = 'buffered' RETURNING r.schedule, r.run`, schedules)
	if err != nil {
		return 0, err
	}
	var ids []int64
	var runs []uuid.UUID
	var counts []int32
	var schedule int64
	var run uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&schedule, &run}, func() error {
		ids, runs, counts = append(ids, schedule), append(runs, run), append(counts, int32(failures[schedule]))
		return nil
	})
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	_, err = tx.Exec(ctx, `UPDATE schedule_due d SET last_run = i.run, failures = i.failures
		FROM unnest($1::bigint[], $2::uuid[], $3::int[]) AS i(id, run, failures) WHERE d.schedule = i.id`, ids, runs, counts)
	return len(ids), err
}

// cancelOrphans cancels buffered runs of schedules that were deleted.
func (s *Store) cancelOrphans(ctx context.Context, term int64, schedules []int64) error {
	return s.inTx(ctx, "cancel runs of deleted schedules", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		runs, err := bufferedRuns(ctx, tx, schedules)
		if err != nil || len(runs) == 0 {
			return err
		}
		_, err = cancelRuns(ctx, tx, runs, "the end of its schedule, which was deleted while the run waited for an earlier one", false)
		return err
	})
}

// retried decides how a run of a schedule comes back to work by hand: beside no
// other one, unless its policy allows that. It returns the schedule for whose run it has to wait, or 0.
func retried(ctx context.Context, tx pgx.Tx, id uuid.UUID) (waits int64, err error) {
	var d Due
	err = tx.QueryRow(ctx, `
		SELECT s.id, s.overlap, d.last_run, d.failures FROM runs r JOIN schedules s ON s.id = r.schedule JOIN schedule_due d ON d.schedule = s.id
		WHERE r.id = $1 AND r.backfill IS NULL FOR UPDATE OF d`, id).Scan(&d.Schedule.ID, &d.Schedule.Overlap, &d.lastRun, &d.Failures)
	if isMissing(err) || d.Schedule.Overlap == task.OverlapAllowAll {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	list := []Due{d}
	if err := lookBack(ctx, tx, list); err != nil {
		return 0, err
	}
	d = list[0]
	if d.LastRunActive && *d.lastRun != id || d.Waiting > 0 {
		return d.Schedule.ID, nil
	}
	_, err = tx.Exec(ctx, `UPDATE schedule_due SET last_run = $2 WHERE schedule = $1`, d.Schedule.ID, id)
	return 0, err
}
