package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Park is what a run waits for from the end of its stay at a worker on.
type Park struct {
	Kind      task.WaitKind
	Iteration int
	Path      string
	Name      string
	Key       string
	For       time.Duration // 0: for ever
	Detail    task.WaitDetail
	Stop      bool        // the other children are cancelled when one fails
	Steps     []task.Step // that were not committed one by one
}

// WaitEnded is a wait that is over, for the run that goes on.
type WaitEnded struct {
	Iteration int
	Path      string
	Since     time.Time
	Outcome   task.Outcome
}

// allSteps returns the steps of the batch with those of runs that park.
func (b *Batch) allSteps() []StepRow {
	steps := b.Steps
	for _, e := range b.Endings {
		if e.Park == nil {
			continue
		}
		for _, st := range e.Park.Steps {
			steps = append(steps[:len(steps):len(steps)], StepRow{Run: e.Run, Fence: e.Fence, Step: st})
		}
	}
	return steps
}

// A run that somebody asked to cancel meanwhile does not wait. That the wait
// stands there counts as written: only this attempt of the run could write it.
const parkRuns = `
	WITH i AS (
		SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[],
			$10::text[], $11::text[], $12::timestamptz[])
			AS i(id, fence, attempt, iteration, path, kind, name, key, for_ms, detail, packages, started_at)
	), u AS (
		UPDATE runs r SET state = CASE WHEN r.cancel_requested THEN 'cancelled' ELSE 'waiting' END,
			finished_at = CASE WHEN r.cancel_requested THEN clock_timestamp() END,
			reason = CASE WHEN r.cancel_requested THEN replace(r.reason, 'cancel asked by', 'cancelled by') END,
			fence = r.fence + 1, parcel = NULL, held = CASE WHEN r.held IS NOT NULL THEN true END, packages = i.packages::json, started_at = coalesce(r.started_at, i.started_at), worker = $13
		FROM i WHERE r.id = i.id AND r.id = ANY ($1) AND r.id BETWEEN $14 AND $15 AND r.fence = i.fence AND r.state IN ('dispatched', 'running')
		RETURNING r.id, r.state, r.task
	), w AS (
		INSERT INTO waits (run, attempt, iteration, path, kind, task, name, key, until, detail)
		SELECT i.id, i.attempt, i.iteration, i.path, i.kind, u.task, i.name, i.key,
			clock_timestamp() + i.for_ms * interval '1 millisecond', i.detail::json
		FROM u JOIN i ON i.id = u.id WHERE u.state = 'waiting'
		ON CONFLICT (run, attempt, iteration, path) DO UPDATE SET kind = excluded.kind, name = excluded.name, key = excluded.key,
			until = excluded.until, detail = excluded.detail, since = clock_timestamp(), outcome = NULL, event = NULL, ended_by = NULL, ended_at = NULL
	)
	SELECT id FROM u UNION ALL
	SELECT w.run FROM waits w JOIN i ON i.id = w.run AND i.attempt = w.attempt AND i.iteration = w.iteration AND i.path = w.path
	WHERE w.run = ANY ($1) AND w.run BETWEEN $14 AND $15`

// queueParks parks runs. An event that was sent before is taken at once; one
// that is sent at the same moment is found by MatchEvents.
func queueParks(batch *pgx.Batch, worker int64, parked []Ending, note func(pgx.Rows) error) {
	c := endingColumns(parked) // sorts
	n := len(parked)
	iterations, paths, kinds := make([]int32, n), make([]string, n), make([]string, n)
	names, keys, details, times := make([]*string, n), make([]*string, n), make([]string, n), make([]*int64, n)
	var events []uuid.UUID
	for i, e := range parked {
		p := e.Park
		iterations[i], paths[i], kinds[i] = int32(p.Iteration), clean(p.Path), string(p.Kind)
		names[i] = nullText(clean(p.Name))
		if p.Kind == task.WaitEvent {
			key := clean(p.Key)
			keys[i] = &key
			events = append(events, e.Run)
		}
		if p.For > 0 {
			ms := max(p.For.Milliseconds(), 1)
			times[i] = &ms
		}
		p.Detail.Late = clean(p.Detail.Late)
		detail, _ := json.Marshal(p.Detail) // texts and numbers marshal
		details[i] = string(detail)
	}
	batch.Queue(parkRuns, c.ids, c.fences, c.attempts, iterations, paths, kinds, names, keys, times, details, c.packages, c.started,
		worker, c.low, c.high).Query(note)
	if len(events) > 0 {
		low, high := bounds(events)
		batch.Queue(takeEvents, events, low, high)
	}
	for _, e := range parked {
		if e.Held { // it may have been cancelled instead
			queueRelease(batch, []uuid.UUID{e.Run})
		}
		if e.Park.Stop { // a child may have failed before all were there
			queueStop(batch, e.Run, e.Park.Detail.Group)
		}
	}
}

// What follows a statement that ended waits (w): their runs go on.
const resumeRuns = `, u AS (
		UPDATE runs r SET state = 'queued', fence = r.fence + 1, available_at = clock_timestamp()
		FROM w WHERE r.id = w.run AND r.id = ANY ($1) AND r.id BETWEEN $2 AND $3 AND r.state = 'waiting'
		RETURNING r.id, coalesce(r.lane, r.queue) AS lane, r.priority, r.revision, r.task, r.created_at
	), q AS (
		INSERT INTO ready (run, lane, priority, revision, task, available_at, rank)
		SELECT id, lane, priority, revision, task, clock_timestamp(), created_at - priority * interval '1 minute' FROM u
	)
	SELECT id FROM u`

// Runs are locked in id order, as everywhere; a wait that another transaction
// ended meanwhile is left alone.
const takeEvents = `
	WITH locked AS MATERIALIZED (
		SELECT r.id, r.created_at FROM runs r WHERE r.id = ANY ($1) AND r.id BETWEEN $2 AND $3 AND r.state = 'waiting'
		ORDER BY r.id FOR NO KEY UPDATE
	), m AS MATERIALIZED (
		SELECT o.run, o.attempt, o.iteration, o.path, e.*
		FROM waits o JOIN locked l ON l.id = o.run
		CROSS JOIN LATERAL (
			SELECT e.id AS event, e.data, e.sent_by, e.sent_at FROM events e
			WHERE e.name = o.name AND e.key = o.key AND e.sent_at >= l.created_at AND e.expires_at > (SELECT clock_timestamp())
				AND NOT EXISTS (SELECT 1 FROM waits x WHERE x.run = o.run AND x.event = e.id)
			ORDER BY e.sent_at, e.id LIMIT 1) e
		WHERE o.run = ANY ($1) AND o.run BETWEEN $2 AND $3 AND o.kind = 'event' AND o.outcome IS NULL
	), w AS (
		UPDATE waits w SET event = m.event, ended_by = m.sent_by, ended_at = clock_timestamp(),
			outcome = ('{"success":true' || CASE WHEN m.data IS NULL THEN '' ELSE ',"data":' || m.data::text END || ',"event":' || m.event
				|| ',"sent_by":' || to_json(m.sent_by) || ',"sent_at":' || to_json(m.sent_at) || '}')::json
		FROM m WHERE w.run = m.run AND w.attempt = m.attempt AND w.iteration = m.iteration AND w.path = m.path AND w.outcome IS NULL
		RETURNING w.run
	)` + resumeRuns

const endWaitsStatement = `
	WITH i AS (
		SELECT * FROM unnest($1::uuid[], $4::int[], $5::int[], $6::text[], $7::text[], $8::text[]) AS i(run, attempt, iteration, path, outcome, ended_by)
	), locked AS MATERIALIZED (
		SELECT r.id FROM runs r WHERE r.id = ANY ($1) AND r.id BETWEEN $2 AND $3 AND r.state = 'waiting' ORDER BY r.id FOR NO KEY UPDATE
	), w AS (
		UPDATE waits w SET outcome = i.outcome::json, ended_by = i.ended_by, ended_at = clock_timestamp()
		FROM i WHERE w.run = i.run AND w.attempt = i.attempt AND w.iteration = i.iteration AND w.path = i.path AND w.outcome IS NULL
			AND w.run = ANY ($1) AND w.run BETWEEN $2 AND $3 AND (SELECT count(*) FROM locked) >= 0
		RETURNING w.run
	)` + resumeRuns

// waitEnd ends one wait.
type waitEnd struct {
	run       uuid.UUID
	attempt   int32
	iteration int32
	path      string
	outcome   task.Outcome
	by        string
}

// endWaits ends waits that are still open and lets their runs go on; it
// returns those runs.
func endWaits(ctx context.Context, tx pgx.Tx, ends []waitEnd) ([]uuid.UUID, error) {
	if len(ends) == 0 {
		return nil, nil
	}
	n := len(ends)
	runs, attempts, iterations := make([]uuid.UUID, n), make([]int32, n), make([]int32, n)
	paths, outcomes, by := make([]string, n), make([]string, n), make([]string, n)
	for i, e := range ends {
		outcome, err := json.Marshal(e.outcome)
		if err != nil {
			return nil, err
		}
		runs[i], attempts[i], iterations[i] = e.run, e.attempt, e.iteration
		paths[i], outcomes[i], by[i] = e.path, string(outcome), clean(e.by)
	}
	low, high := bounds(runs)
	return resume(ctx, tx, endWaitsStatement, runs, low, high, attempts, iterations, paths, outcomes, by)
}

func resume(ctx context.Context, tx pgx.Tx, statement string, args ...any) ([]uuid.UUID, error) {
	if err := useBulkPlans(ctx, tx); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// loadWaits reads what the waits of this attempt of the runs ended with. An event
// or an approval that an earlier attempt has got comes to no item a second time.
func (s *Store) loadWaits(ctx context.Context, ids []uuid.UUID, into map[uuid.UUID]*Claimed) error {
	low, high := bounds(ids)
	rows, err := s.pool.Query(ctx, `SELECT run, attempt, iteration, path, kind, since, outcome::text FROM waits
		WHERE run = ANY($1) AND run BETWEEN $2 AND $3 AND outcome IS NOT NULL ORDER BY run, attempt`, ids, low, high)
	if err != nil {
		return wrap(err, "read waits")
	}
	var run uuid.UUID
	var attempt int
	var kind task.WaitKind
	var w WaitEnded
	var outcome string
	_, err = pgx.ForEachRow(rows, []any{&run, &attempt, &w.Iteration, &w.Path, &kind, &w.Since, &outcome}, func() error {
		c := into[run]
		ended := w
		ended.Outcome = task.Outcome{}
		if err := json.Unmarshal([]byte(outcome), &ended.Outcome); err != nil {
			return err
		}
		if c.Attempt == attempt || ended.Outcome.Success && (kind == task.WaitEvent || kind == task.WaitApproval) {
			c.Waits = append(c.Waits, ended)
		}
		return nil
	})
	return wrap(err, "read waits")
}

// showWaits adds what waiting runs wait for.
func (s *Store) showWaits(ctx context.Context, runs []task.Run) error {
	waiting := map[uuid.UUID]*task.Run{}
	var ids []uuid.UUID
	for i := range runs {
		if runs[i].State == task.StateWaiting {
			waiting[runs[i].ID] = &runs[i]
			ids = append(ids, runs[i].ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	low, high := bounds(ids)
	rows, err := s.pool.Query(ctx, `SELECT run, kind, path, iteration, coalesce(name, ''), coalesce(key, ''), since, until, detail::text FROM waits
		WHERE run = ANY($1) AND run BETWEEN $2 AND $3 AND outcome IS NULL`, ids, low, high)
	if err != nil {
		return wrap(err, "read waits")
	}
	var run uuid.UUID
	var w task.Waiting
	var detail *string
	_, err = pgx.ForEachRow(rows, []any{&run, &w.Kind, &w.Path, &w.Iteration, &w.Name, &w.Key, &w.Since, &w.Until, &detail}, func() error {
		wait := w
		wait.Detail = task.WaitDetail{}
		waiting[run].Wait = &wait
		if detail == nil {
			return nil
		}
		return json.Unmarshal([]byte(*detail), &wait.Detail)
	})
	return wrap(err, "read waits")
}
