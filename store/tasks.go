package store

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Applied says what an apply did, or would do, to one task, calendar or source.
type Applied struct {
	Kind   string `json:"kind,omitempty"` // calendar, source; "": task
	Name   string `json:"name"`
	Change string `json:"change"` // created updated unchanged
}

// ApplyTasks makes the given tasks and their schedules as defined, all or none.
// The definitions must have been validated; a schedule that did not change
// keeps its id, its ledger and its next due time.
func (s *Store) ApplyTasks(ctx context.Context, defs []task.Definition, dryRun bool) ([]Applied, error) {
	return s.Apply(ctx, Documents{Tasks: defs}, dryRun)
}

// Documents are what task files hold, validated.
type Documents struct {
	Calendars []task.NamedCalendar
	Tasks     []task.Definition
	Sources   []task.SourceDefinition
}

// Apply makes the given calendars, then the tasks as ApplyTasks does, then the sources, all or none.
func (s *Store) Apply(ctx context.Context, documents Documents, dryRun bool) (results []Applied, err error) {
	calendars, defs, sources := slices.Clone(documents.Calendars), slices.Clone(documents.Tasks), slices.Clone(documents.Sources)
	slices.SortFunc(sources, func(a, b task.SourceDefinition) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(calendars, func(a, b task.NamedCalendar) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(defs, func(a, b task.Definition) int { // one lock order for two applies at once
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	rollback := errors.New("dry run")
	err = s.inTx(ctx, "apply tasks", func(tx pgx.Tx) error {
		results = results[:0]
		for _, c := range calendars {
			change, err := applyCalendar(ctx, tx, c)
			if err != nil {
				return wrap(err, "apply calendar "+c.Name)
			}
			results = append(results, Applied{Kind: "calendar", Name: c.Name, Change: change})
		}
		for _, def := range defs {
			change, err := applyTask(ctx, tx, def.Normalize())
			if err != nil {
				return wrap(err, "apply task "+def.Name)
			}
			results = append(results, Applied{Name: def.Name, Change: change})
		}
		for _, source := range sources {
			change, err := applySource(ctx, tx, source.Normalize())
			if err != nil {
				return wrap(err, "apply source "+source.Name)
			}
			results = append(results, Applied{Kind: "source", Name: source.Name, Change: change})
		}
		if dryRun {
			return rollback
		}
		return nil
	})
	if errors.Is(err, rollback) {
		err = nil
	}
	return results, err
}

func applyTask(ctx context.Context, tx pgx.Tx, def task.Definition) (change string, err error) {
	retry, err := json.Marshal(def.Retry)
	if err != nil {
		return "", err
	}
	rate, concurrency, dedupe := limitTexts(def.Limits())
	var before, after int64
	var description string
	err = tx.QueryRow(ctx, `SELECT revision, description FROM tasks WHERE name = $1 FOR UPDATE`, def.Name).Scan(&before, &description)
	created := errors.Is(err, pgx.ErrNoRows)
	if err != nil && !created {
		return "", err
	}
	// A plain UPDATE where the task is there: an upsert would run the insert's
	// trigger too, which makes a revision.
	statement := `UPDATE tasks SET description = $2, chain = $3::text::json, params = $4::text::json, timeout_ms = $5,
		retry = $6::text::json, queue = $7, priority = $8, durable = $9,
		tags = $10, rate = $11::text::json, concurrency = $12::text::json, dedupe = $13::text::json WHERE name = $1 RETURNING revision`
	if created {
		statement = `INSERT INTO tasks (name, description, chain, params, timeout_ms, retry, queue, priority, durable, tags, rate, concurrency, dedupe)
			VALUES ($1, $2, $3::text::json, $4::text::json, $5, $6::text::json, $7, $8, $9,
				$10, $11::text::json, $12::text::json, $13::text::json) ON CONFLICT (name) DO NOTHING RETURNING revision`
	}
	err = tx.QueryRow(ctx, statement,
		def.Name, def.Description, string(def.Chain), string(def.Params), time.Duration(def.Timeout).Milliseconds(),
		string(retry), def.Queue, *def.Priority, *def.Durable,
		append([]string{}, def.Tags...), rate, concurrency, dedupe).Scan(&after)
	if created && isMissing(err) {
		return applyTask(ctx, tx, def) // somebody made it meanwhile
	}
	if err != nil {
		return "", err
	}
	if _, err := tx.Exec(ctx, `UPDATE tasks SET checked = revision, invalid = '' WHERE name = $1`, def.Name); err != nil {
		return "", err
	}
	kept, err := applyKeep(ctx, tx, def)
	if err != nil {
		return "", err
	}
	moved, err := applySchedules(ctx, tx, def)
	switch {
	case err != nil:
		return "", err
	case created:
		return "created", nil
	case before != after || kept || moved || description != def.Description:
		return "updated", nil
	}
	return "unchanged", nil
}

func applySchedules(ctx context.Context, tx pgx.Tx, def task.Definition) (changed bool, err error) {
	there, err := schedulesOf(ctx, tx, def.Name)
	if err != nil {
		return false, err
	}
	for _, want := range def.Schedule {
		same := slices.IndexFunc(there, func(have task.Schedule) bool { return sameTimes(have, want) })
		if same >= 0 {
			moved, err := applyPolicy(ctx, tx, there[same].ID, want)
			if err != nil {
				return false, err
			}
			changed = changed || moved
			there = slices.Delete(there, same, same+1)
			continue
		}
		changed = true
		if err := insertSchedule(ctx, tx, def.Name, want); err != nil {
			return false, err
		}
	}
	for _, gone := range there {
		changed = true
		if _, err := tx.Exec(ctx, `DELETE FROM schedules WHERE id = $1`, gone.ID); err != nil {
			return false, err
		}
	}
	return changed, nil
}

func nullText(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func schedulesOf(ctx context.Context, tx pgx.Tx, name string) ([]task.Schedule, error) {
	rows, err := tx.Query(ctx, scheduleColumns+`WHERE s.task = $1 ORDER BY s.id`, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanSchedule)
}

const taskColumns = `SELECT name, description, chain::text, params::text, timeout_ms, retry::text, queue, priority, durable,
	tags, rate::text, concurrency::text, dedupe::text, paused, note, revision, CASE WHEN checked = revision THEN invalid ELSE '' END, created_at, updated_at, keep_ms FROM tasks `

func scanTask(row pgx.CollectableRow) (t task.Task, err error) {
	var chain, params, retry string
	var rate, concurrency, dedupe *string
	var timeout int64
	var keep *int64
	var priority int
	var durable bool
	err = row.Scan(&t.Name, &t.Description, &chain, &params, &timeout, &retry, &t.Queue, &priority, &durable,
		&t.Tags, &rate, &concurrency, &dedupe, &t.Paused, &t.Note, &t.Revision, &t.Invalid, &t.CreatedAt, &t.UpdatedAt, &keep)
	if err != nil {
		return t, err
	}
	t.Chain, t.Params = json.RawMessage(chain), json.RawMessage(params)
	t.Timeout = task.Duration(milliseconds(timeout))
	if keep != nil {
		t.Keep = task.Duration(milliseconds(*keep))
	}
	t.Priority, t.Durable = &priority, &durable
	if t.Retry, err = parseRetry(retry); err != nil && t.Invalid == "" {
		t.Invalid = err.Error()
	}
	limits, err := parseLimits(rate, concurrency, dedupe)
	if err != nil && t.Invalid == "" {
		t.Invalid = err.Error()
	}
	t.Rate, t.Concurrency, t.Dedupe = limits.Rate, limits.Concurrency, limits.Dedupe
	return t, nil
}

// parseRetry reads a retry that may have been written by hand.
func parseRetry(text string) (r task.Retry, err error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return task.Retry{}, task.Errorf(task.CodeInvalid, "%w", err).At("retry").
			Fix(`write {"attempts": 3, "backoff": "2s", "factor": 2, "max": "10m", "jitter": 0.2}`)
	}
	return r, nil
}

// milliseconds is a duration; what does not fit is the longest there is.
func milliseconds(n int64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
}

// Task returns one task with its schedules, or a not_found error.
func (s *Store) Task(ctx context.Context, name string) (task.Task, error) {
	if !storable(name) {
		return task.Task{}, s.unknownTask(ctx, name)
	}
	tasks, err := s.tasks(ctx, `WHERE name = $1`, name)
	if err != nil {
		return task.Task{}, err
	}
	if len(tasks) == 0 {
		return task.Task{}, s.unknownTask(ctx, name)
	}
	return tasks[0], nil
}

// Tasks returns all tasks by name, with their schedules.
func (s *Store) Tasks(ctx context.Context) ([]task.Task, error) { return s.tasks(ctx, `ORDER BY name`) }

func noTask(name string) *task.Error {
	if source := task.SourceOf(name); source != "" {
		return task.Errorf(task.CodeNotFound, "there is no task %q: runs of this name belong to the source %s", name, source).Fix("`catena source show %s` shows it", source)
	}
	return task.Errorf(task.CodeNotFound, "there is no task %q", name).Fix("`catena task list` shows them; `catena task apply -f FILE` makes one")
}

func (s *Store) tasks(ctx context.Context, where string, args ...any) ([]task.Task, error) {
	rows, err := s.pool.Query(ctx, taskColumns+where, args...)
	if err != nil {
		return nil, wrap(err, "read tasks")
	}
	tasks, err := pgx.CollectRows(rows, scanTask)
	if err != nil {
		return nil, wrap(err, "read tasks")
	}
	index := make(map[string]int, len(tasks))
	names := make([]string, len(tasks))
	for i := range tasks {
		index[tasks[i].Name], names[i] = i, tasks[i].Name
	}
	rows, err = s.pool.Query(ctx, scheduleColumns+`WHERE s.task = ANY($1) ORDER BY s.id`, names)
	if err != nil {
		return nil, wrap(err, "read schedules")
	}
	schedules, err := pgx.CollectRows(rows, scanSchedule)
	for _, sc := range schedules {
		t := &tasks[index[sc.Task]]
		t.Schedule = append(t.Schedule, sc)
	}
	return tasks, wrap(err, "read schedules")
}

// PauseTask keeps the task from starting new runs. Runs that were accepted
// wait; due times are recorded as paused.
func (s *Store) PauseTask(ctx context.Context, name, note string) (task.Task, error) {
	return s.setPaused(ctx, name, true, note)
}

// ResumeTask ends a pause.
func (s *Store) ResumeTask(ctx context.Context, name string) (task.Task, error) {
	return s.setPaused(ctx, name, false, "")
}

func (s *Store) setPaused(ctx context.Context, name string, paused bool, note string) (task.Task, error) {
	if !storable(name) {
		return task.Task{}, s.unknownTask(ctx, name)
	}
	tag, err := s.pool.Exec(ctx, `UPDATE tasks SET paused = $2, note = $3 WHERE name = $1`, name, paused, clean(note))
	if err != nil {
		return task.Task{}, wrap(err, "pause or resume task "+name)
	}
	if tag.RowsAffected() == 0 {
		return task.Task{}, s.unknownTask(ctx, name)
	}
	return s.Task(ctx, name)
}

// DeleteTask removes a task and its schedules. Runs that were accepted keep
// their revision and go on; the ledger and the history stay.
func (s *Store) DeleteTask(ctx context.Context, name string) error {
	if !storable(name) {
		return s.unknownTask(ctx, name)
	}
	tag, err := s.pool.Exec(ctx, `DELETE FROM tasks WHERE name = $1`, name)
	if err == nil && tag.RowsAffected() == 0 {
		return s.unknownTask(ctx, name)
	}
	return wrap(err, "delete task "+name)
}

// UncheckedTasks returns tasks whose last change nobody has validated yet, such
// as rows written by SQL. Invalid tells what is wrong with a row already at
// reading it.
func (s *Store) UncheckedTasks(ctx context.Context, limit int) ([]task.Task, error) {
	return s.tasks(ctx, `WHERE checked IS DISTINCT FROM revision ORDER BY name LIMIT $1`, limit)
}

// MarkTaskChecked records the verdict on a revision; invalid "" means good. A
// task that has changed since is left for the next look.
func (s *Store) MarkTaskChecked(ctx context.Context, name string, revision int64, invalid string) error {
	_, err := s.pool.Exec(ctx, `UPDATE tasks SET checked = revision, invalid = $3 WHERE name = $1 AND revision = $2`,
		name, revision, clean(invalid))
	return wrap(err, "record the check of task "+name)
}

// Revisions returns the given revisions by id; a missing one is a not_found error.
func (s *Store) Revisions(ctx context.Context, ids []int64) (map[int64]task.Revision, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, task, chain::text, params::text, timeout_ms, retry::text, queue, priority, durable
		FROM task_revisions WHERE id = ANY($1)`, ids)
	if err != nil {
		return nil, wrap(err, "read task revisions")
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r task.Revision, err error) {
		var chain, params, retry string
		var timeout int64
		if err = row.Scan(&r.ID, &r.Task, &chain, &params, &timeout, &retry, &r.Queue, &r.Priority, &r.Durable); err != nil {
			return r, err
		}
		r.Chain, r.Params, r.Timeout = json.RawMessage(chain), json.RawMessage(params), milliseconds(timeout)
		r.Retry, _ = parseRetry(retry) // the task is flagged
		return r, nil
	})
	if err != nil {
		return nil, wrap(err, "read task revisions")
	}
	revisions := make(map[int64]task.Revision, len(list))
	for _, r := range list {
		revisions[r.ID] = r
	}
	for _, id := range ids {
		if _, ok := revisions[id]; !ok {
			return nil, task.Errorf(task.CodeNotFound, "task revision %d is gone", id)
		}
	}
	return revisions, nil
}
