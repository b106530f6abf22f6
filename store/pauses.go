package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Versioned is a schedule with the version of its times.
type Versioned struct {
	task.Schedule
	Version int64
}

// SchedulesOf lists the schedules of a task, or says that there is no such task.
func (s *Store) SchedulesOf(ctx context.Context, name string) ([]Versioned, error) {
	t, err := s.Task(ctx, name)
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `SELECT id, version FROM schedules WHERE task = $1`, name)
	if err != nil {
		return nil, wrap(err, "read schedules")
	}
	versions := map[int64]int64{}
	var id, version int64
	if _, err := pgx.ForEachRow(rows, []any{&id, &version}, func() error { versions[id] = version; return nil }); err != nil {
		return nil, wrap(err, "read schedules")
	}
	list := make([]Versioned, len(t.Schedule))
	for i, sc := range t.Schedule {
		list[i] = Versioned{Schedule: sc, Version: versions[sc.ID]}
	}
	return list, nil
}

// PauseSchedule keeps one schedule of a task from starting runs: its due times
// are recorded as paused. Runs that it made go on.
func (s *Store) PauseSchedule(ctx context.Context, name string, id int64, note string) (task.Task, error) {
	return s.setSchedulePaused(ctx, name, id, true, note)
}

// ResumeSchedule ends a pause and forgets the failures that led to it.
func (s *Store) ResumeSchedule(ctx context.Context, name string, id int64) (task.Task, error) {
	return s.setSchedulePaused(ctx, name, id, false, "")
}

func (s *Store) setSchedulePaused(ctx context.Context, name string, id int64, paused bool, note string) (task.Task, error) {
	err := s.inTx(ctx, "pause or resume a schedule", func(tx pgx.Tx) error {
		// The order in which firing takes them.
		if _, err := tx.Exec(ctx, `UPDATE schedule_due SET failures = CASE WHEN $2 THEN failures ELSE 0 END WHERE schedule = $1`, id, paused); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE schedules SET paused = $3, note = $4 WHERE id = $1 AND task = $2`, id, name, paused, clean(note))
		if err == nil && tag.RowsAffected() == 0 {
			return task.Errorf(task.CodeNotFound, "task %s has no schedule %d", name, id).At("schedule").Fix("`catena task show %s` lists them", name)
		}
		return err
	})
	if err != nil {
		return task.Task{}, err
	}
	return s.Task(ctx, name)
}
