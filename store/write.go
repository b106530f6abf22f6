package store

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// StepRow is a step to commit.
type StepRow struct {
	Run   uuid.UUID
	Fence int32
	Step  task.Step
}

// Ending is the end of a run, or of an attempt when Requeue is set.
type Ending struct {
	Run       uuid.UUID
	Fence     int32
	State     task.State // a terminal state; queued when the run goes again
	Outcome   json.RawMessage
	Reason    string
	Packages  json.RawMessage // nil: none
	Tail      json.RawMessage // []task.Step that end with the run
	StartedAt time.Time
	Attempt   int           // of the next attempt, when it goes again
	After     time.Duration // how long to wait before that
	Lane      string        // it goes again in; "": its own
	Parcel    int64         // that it was claimed in
	Held      bool          // a place of a limit or a group ends with it
	Packed    bool          // it stands in the parcel, and no row of holds does
	Rated     bool          // it has taken a token of a rate limit
	Park      *Park         // what it waits for, when its state is waiting

	refused bool // it stands for one that the database did not take
}

// LogRow is a line of a run's log.
type LogRow struct {
	Run  uuid.UUID
	Line task.LogLine
}

// Batch is what a worker commits at once.
type Batch struct {
	Worker  int64
	Steps   []StepRow
	Endings []Ending
	Logs    []LogRow
	Stages  []StageRow
	Parcels []int64 // that are done once this is committed
}

// Rows counts what the batch writes and the database may refuse.
func (b *Batch) Rows() int { return len(b.Steps) + len(b.Endings) + len(b.Logs) }

// Written answers a Batch. Stale runs are no longer the worker's: nothing of
// them was written and they must be interrupted. Refused ones hold a value that
// the database does not take: such a step was not written, such an ending was
// replaced by a failure.
type Written struct {
	Stale   map[uuid.UUID]bool
	Refused map[uuid.UUID]error
}

// Write commits steps, endings and logs in one transaction. Every step and
// ending is checked against the run's fence, which log lines carry in their numbers; to repeat a batch after an unclear failure
// is safe. A value that the database refuses does not fail its neighbours.
func (s *Store) Write(ctx context.Context, b Batch) (Written, error) {
	out := Written{Stale: map[uuid.UUID]bool{}, Refused: map[uuid.UUID]error{}}
	return out, s.write(ctx, b, &out)
}

func (s *Store) write(ctx context.Context, b Batch, out *Written) error {
	for attempt := 0; ; attempt++ {
		written := map[uuid.UUID]bool{}
		err := s.writeOnce(ctx, b, written)
		switch {
		case err == nil:
			for _, row := range b.Steps {
				out.Stale[row.Run] = !written[row.Run]
			}
			for _, row := range b.Endings {
				out.Stale[row.Run] = !written[row.Run]
			}
			return nil
		case retriable(err) && attempt < 20:
			continue
		case dataError(err):
			return s.bisect(ctx, b, err, out)
		}
		return wrap(err, "commit steps and outcomes")
	}
}

// bisect finds the rows that the database refuses. A refused log line is
// dropped; a refused ending becomes a failure that says why, in the same
// transaction as its parcel; a refused step is the worker's to handle.
func (s *Store) bisect(ctx context.Context, b Batch, cause error, out *Written) error {
	if b.Rows() > 1 {
		first, rest := b.split()
		if err := s.write(ctx, first, out); err != nil {
			return err
		}
		return s.write(ctx, rest, out)
	}
	for _, row := range b.Steps {
		out.Refused[row.Run] = cause
	}
	if len(b.Endings) == 1 {
		e := b.Endings[0]
		if e.refused {
			return wrap(cause, "commit the end of run "+e.Run.String())
		}
		out.Refused[e.Run] = cause
		b.Endings = []Ending{e.refuse(cause)}
		return s.write(ctx, b, out)
	}
	return s.write(ctx, Batch{Worker: b.Worker, Stages: b.Stages, Parcels: b.Parcels}, out)
}

// split halves a batch of two rows or more: first by kind, then by count. The
// parcels are done with the second part.
func (b Batch) split() (first, rest Batch) {
	first, rest = Batch{Worker: b.Worker}, b
	switch {
	case len(b.Logs) > 0 && len(b.Logs) < b.Rows():
		first.Logs, rest.Logs = b.Logs, nil
	case len(b.Steps) > 0 && len(b.Endings) > 0:
		first.Steps, rest.Steps = b.Steps, nil
	default:
		i, j, k := len(b.Logs)/2, len(b.Steps)/2, len(b.Endings)/2
		first.Logs, rest.Logs = b.Logs[:i], b.Logs[i:]
		first.Steps, rest.Steps = b.Steps[:j], b.Steps[j:]
		first.Endings, rest.Endings = b.Endings[:k], b.Endings[k:]
	}
	return first, rest
}

func (e Ending) refuse(cause error) Ending {
	reason := "the outcome cannot be stored: " + clean(cause.Error())
	outcome, _ := json.Marshal(task.Fail(reason)) // text marshals
	return Ending{Run: e.Run, Fence: e.Fence, State: task.StateFailed, Reason: reason, Outcome: outcome, StartedAt: e.StartedAt,
		Parcel: e.Parcel, Held: e.Held, Packed: e.Packed, Rated: e.Rated, refused: true}
}

// writeOnce sends everything in one round trip; without an explicit BEGIN the
// statements of a pgx batch are one transaction.
func (s *Store) writeOnce(ctx context.Context, b Batch, written map[uuid.UUID]bool) error {
	batch := &pgx.Batch{}
	note := func(rows pgx.Rows) error {
		var id uuid.UUID
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error { written[id] = true; return nil })
		return err
	}
	queueLogs(batch, b.Logs)
	queueStages(batch, b.Stages) // before the endings, which may raise the fence
	queueSteps(batch, b.allSteps(), note)
	queueStops(batch, b.Endings)
	queueEndings(batch, b, note)
	if len(b.Parcels) > 0 {
		batch.Queue(`DELETE FROM parcels WHERE id = ANY($1) AND worker = $2`, b.Parcels, b.Worker)
	}
	if batch.Len() == 0 {
		return nil
	}
	return s.bulk.SendBatch(ctx, batch).Close()
}

func queueLogs(batch *pgx.Batch, logs []LogRow) {
	if len(logs) == 0 {
		return
	}
	n := len(logs)
	runs, seqs, at := make([]uuid.UUID, n), make([]int64, n), make([]time.Time, n)
	levels, steps, messages := make([]string, n), make([]string, n), make([][]byte, n)
	for i, row := range logs {
		runs[i], seqs[i], at[i] = row.Run, row.Line.Seq, row.Line.At
		levels[i], steps[i], messages[i] = row.Line.Level, clean(row.Line.Step), []byte(row.Line.Message)
	}
	batch.Queue(`INSERT INTO run_logs (run, seq, at, level, step, message)
		SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::bytea[]) ON CONFLICT DO NOTHING`,
		runs, seqs, at, levels, steps, messages)
}

// A plain INSERT ... SELECT ... WHERE fence = would let a stale step through
// under read committed: the run is locked first, in id order.
const insertSteps = `
	WITH i AS (
		SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::text[], $6::int[], $7::text[], $8::text[],
			$9::timestamptz[], $10::timestamptz[])
			AS i(run, fence, iteration, path, name, attempt, outcome, vars, started_at, finished_at)
	), locked AS MATERIALIZED (
		SELECT r.id FROM runs r JOIN (SELECT DISTINCT run, fence FROM i) w ON r.id = w.run
		WHERE r.id BETWEEN $11 AND $12 AND r.fence = w.fence AND r.state IN ('dispatched', 'running')
		ORDER BY r.id FOR NO KEY UPDATE OF r
	)
	INSERT INTO steps AS s (run, iteration, path, name, attempt, outcome, vars, started_at, finished_at)
	SELECT i.run, i.iteration, i.path, i.name, i.attempt, i.outcome::json, i.vars::json, i.started_at, i.finished_at
	FROM i JOIN locked ON locked.id = i.run
	ON CONFLICT (run, iteration, path) DO UPDATE SET outcome = excluded.outcome, vars = excluded.vars, attempt = excluded.attempt,
		started_at = excluded.started_at, finished_at = excluded.finished_at
	RETURNING s.run`

func queueSteps(batch *pgx.Batch, steps []StepRow, note func(pgx.Rows) error) {
	if len(steps) == 0 {
		return
	}
	n := len(steps)
	runs, fences, iterations := make([]uuid.UUID, n), make([]int32, n), make([]int32, n)
	paths, names, attempts := make([]string, n), make([]string, n), make([]int32, n)
	outcomes, vars := make([]string, n), make([]*string, n)
	started, finished := make([]time.Time, n), make([]time.Time, n)
	for i, row := range steps {
		st := row.Step
		runs[i], fences[i], iterations[i] = row.Run, row.Fence, int32(st.Iteration)
		paths[i], names[i], attempts[i] = clean(st.Path), clean(st.Name), int32(st.Attempt)
		outcome, _ := json.Marshal(st.Outcome) // an outcome of marshalled parts always marshals
		outcomes[i], vars[i] = string(outcome), nullText(string(st.Vars))
		started[i], finished[i] = st.StartedAt, st.FinishedAt
	}
	low, high := bounds(runs)
	batch.Queue(insertSteps, runs, fences, iterations, paths, names, attempts, outcomes, vars, started, finished, low, high).Query(note)
}

// allPackages adds the packages of an attempt to those of the attempts before it,
// in the order of first use. A run that ends at its first attempt has none to add to.
const allPackages = `CASE WHEN r.packages IS NULL OR i.packages IS NULL THEN coalesce(i.packages::json, r.packages) ELSE (
		SELECT json_object_agg(name, digest ORDER BY use) FROM (
			SELECT name, (array_agg(digest ORDER BY use DESC))[1] AS digest, min(use) AS use FROM (
				SELECT key AS name, value AS digest, ordinality AS use FROM json_each_text(r.packages) WITH ORDINALITY
				UNION ALL SELECT key, value, 1000000 + ordinality FROM json_each_text(i.packages::json) WITH ORDINALITY) uses
			GROUP BY name) named) END`

// The end of a run and its last steps are one row. A plain UPDATE keeps the
// fence: after waiting for a lock Postgres checks it again. It locks in the order
// of the ids by its plan (bulkPlans): to lock first would write each row twice. The state of
// the answer's own earlier commit counts as written.
const endRuns = `
	UPDATE runs r SET state = i.state, outcome = i.outcome::json,
		reason = CASE WHEN i.state = 'cancelled' AND r.cancel_requested THEN replace(r.reason, 'cancel asked by', 'cancelled by') ELSE i.reason END, packages = ` + allPackages + `, tail = i.tail::json,
		started_at = coalesce(r.started_at, i.started_at), finished_at = coalesce(r.finished_at, clock_timestamp()), worker = $8
	FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $9::timestamptz[])
		AS i(id, fence, state, outcome, reason, packages, tail, started_at)
	WHERE r.id = i.id AND r.id = ANY ($1) AND r.id BETWEEN $10 AND $11 AND r.fence = i.fence
		AND (r.state IN ('dispatched', 'running') OR r.state = i.state)
	RETURNING r.id`

// The rows of what the runs occupied end with them.
const endHeldRuns = `WITH ended AS (` + endRuns + `
	), gone AS (DELETE FROM holds h USING ended e WHERE h.run = ANY ($1) AND h.run = e.id)
	SELECT id FROM ended`

// A run that goes again gets a new fence. If its own earlier commit did that
// already (fence + 1, same attempt) it counts as written but is not queued twice.
// A run that somebody asked to cancel meanwhile does not go again.
//
// A run of a task with limits gives its place back while it waits for its retry
// and when it has not started; else it keeps it, and takes only a new token.
const requeueRuns = `
	WITH i AS (
		SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[], $4::bigint[], $5::text[], $6::text[], $7::text[], $9::timestamptz[], $12::text[])
			AS i(id, fence, attempt, after_ms, outcome, reason, packages, started_at, lane)
	), u AS (
		UPDATE runs r SET state = CASE WHEN r.cancel_requested THEN 'cancelled' ELSE 'queued' END,
			finished_at = CASE WHEN r.cancel_requested THEN clock_timestamp() END,
			fence = r.fence + 1, attempt = i.attempt, parcel = NULL, held = CASE WHEN r.held IS NOT NULL THEN true END, outcome = i.outcome::json,
			reason = CASE WHEN r.cancel_requested THEN replace(r.reason, 'cancel asked by', 'cancelled by') ELSE i.reason END,
			packages = ` + allPackages + `, started_at = coalesce(r.started_at, i.started_at), worker = $8,
			available_at = clock_timestamp() + i.after_ms * interval '1 millisecond'
		FROM i WHERE r.id = i.id AND r.id = ANY ($1) AND r.id BETWEEN $10 AND $11 AND r.fence = i.fence AND r.state IN ('dispatched', 'running')
		RETURNING r.id, r.state, coalesce(i.lane, r.lane, r.queue) AS lane, r.priority, r.revision, r.task, r.available_at, i.after_ms,
			r.created_at, r.rate_key, r.concurrency_key, r.concurrency_limit, i.after_ms > 0 OR i.started_at IS NULL AS anew
	), queued AS (
		INSERT INTO ready (run, lane, priority, revision, task, hold, available_at, rank, rate_key, concurrency_key, concurrency_limit)
		SELECT id, lane, priority, revision, task,
			CASE WHEN after_ms > 0 THEN 'later' WHEN rate_key IS NOT NULL OR anew AND concurrency_key IS NOT NULL THEN 'limited' ELSE '' END,
			available_at, ` + ranked + `, rate_key, CASE WHEN anew THEN concurrency_key END, concurrency_limit FROM u WHERE state = 'queued'
	)REFUND
	SELECT id FROM u UNION ALL
	SELECT r.id FROM runs r JOIN i ON r.id = i.id
	WHERE r.id BETWEEN $10 AND $11 AND r.fence = i.fence + 1 AND r.attempt = i.attempt AND r.state IN ('queued', 'cancelled')`

// Runs that have not started give their tokens back.
const refundTokens = `, refunded AS (
		UPDATE rate_uses t SET tokens = greatest(t.tokens - n.count, 0)
		FROM (SELECT p.parcel, u.task, u.rate_key, count(*) FROM u JOIN unnest($1::uuid[], $13::bigint[]) AS p(id, parcel) ON p.id = u.id
			GROUP BY p.parcel, u.task, u.rate_key) n
		WHERE t.parcel = ANY ($13) AND t.parcel = n.parcel AND t.task = n.task AND t.key = n.rate_key
	), unpacked AS (UNPACKED WHERE t.parcel = ANY ($13))`

var (
	requeue         = strings.Replace(requeueRuns, "REFUND", "", 1)
	requeueRefunded = strings.Replace(requeueRuns, "REFUND", strings.Replace(refundTokens, "UNPACKED",
		strings.Replace(unpackedTokens, "UNUSED", "ARRAY(SELECT id FROM u)", 1), 1), 1)
)

// A run that goes again gives its place of a limit back while it waits for its
// retry and when it has not started; one that was cancelled meanwhile has ended,
// and has the others of its group cancelled likewise.
const releaseHolds = `
	WITH gone AS (
		DELETE FROM holds h USING unnest($1::uuid[], $2::int[], $3::boolean[]) AS i(id, fence, anew), runs r
		WHERE h.run = ANY ($1) AND h.run = i.id AND r.id = i.id AND r.id = ANY ($1) AND r.id BETWEEN $4 AND $5
			AND (r.finished_at IS NOT NULL OR i.anew AND r.state = 'queued' AND r.fence = i.fence + 1 AND h.scope LIKE 'limit:%'
				AND EXISTS (SELECT FROM ready q WHERE q.run = h.run AND q.concurrency_key IS NOT NULL)) -- else it was taken back, and keeps its place
		RETURNING h.scope, h.key, r.parent, r.state
	)` + stopOthers

func queueEndings(batch *pgx.Batch, b Batch, note func(pgx.Rows) error) {
	var again, refunded, over, held, parked []Ending
	for _, e := range b.Endings {
		switch {
		case e.State == task.StateWaiting:
			parked = append(parked, e)
		case e.State != task.StateQueued:
			over = append(over, e)
		case e.Rated && e.StartedAt.IsZero():
			refunded = append(refunded, e)
		default:
			again = append(again, e)
		}
		if e.Held && e.State == task.StateQueued {
			held = append(held, e)
		}
	}
	if len(parked) > 0 {
		queueParks(batch, b.Worker, parked, note)
	}
	if len(over) > 0 {
		c, statement := endingColumns(over), endRuns
		if slices.ContainsFunc(over, func(e Ending) bool { return e.Held && !e.Packed }) {
			statement = endHeldRuns
		}
		batch.Queue(statement, c.ids, c.fences, c.states, c.outcomes, c.reasons, c.packages, c.tails, b.Worker, c.started, c.low, c.high).Query(note)
	}
	if len(again) > 0 {
		c := endingColumns(again)
		batch.Queue(requeue, c.requeueArgs(b.Worker)...).Query(note)
	}
	if len(refunded) > 0 {
		c := endingColumns(refunded)
		batch.Queue(requeueRefunded, append(c.requeueArgs(b.Worker), c.parcels)...).Query(note)
	}
	queueLeaving(batch, b)
	if len(held) > 0 {
		c := endingColumns(held)
		batch.Queue(releaseHolds, c.ids, c.fences, c.anew, c.low, c.high)
	}
	queueAnswered(batch, b.Endings)
}

// queueAnswered deletes the requests to cancel runs that were given up, which
// heartbeats would go on telling. Those of runs that succeeded are swept.
func queueAnswered(batch *pgx.Batch, endings []Ending) {
	var ids []uuid.UUID
	var fences []int32
	for _, e := range endings {
		if e.State != task.StateSucceeded {
			ids, fences = append(ids, e.Run), append(fences, e.Fence)
		}
	}
	if len(ids) > 0 {
		batch.Queue(`DELETE FROM cancels c USING unnest($1::uuid[], $2::int[]) AS i(id, fence)
			WHERE c.run = ANY ($1) AND c.run = i.id AND c.fence = i.fence`, ids, fences)
	}
}

func (c endingArrays) requeueArgs(worker int64) []any {
	return []any{c.ids, c.fences, c.attempts, c.after, c.outcomes, c.reasons, c.packages, worker, c.started, c.low, c.high, c.lanes}
}

type endingArrays struct {
	ids                       []uuid.UUID
	fences, attempts          []int32
	after                     []int64
	states                    []string
	outcomes, packages, tails []*string
	reasons, lanes            []*string
	started                   []*time.Time
	parcels                   []int64
	anew                      []bool // it goes through admission again
	low, high                 uuid.UUID
}

func endingColumns(endings []Ending) endingArrays {
	slices.SortFunc(endings, func(a, b Ending) int { return slices.Compare(a.Run[:], b.Run[:]) })
	var c endingArrays
	for _, e := range endings {
		c.ids, c.fences, c.states = append(c.ids, e.Run), append(c.fences, e.Fence), append(c.states, string(e.State))
		c.attempts, c.after = append(c.attempts, int32(e.Attempt)), append(c.after, e.After.Milliseconds())
		c.outcomes, c.reasons = append(c.outcomes, nullText(string(e.Outcome))), append(c.reasons, nullText(clean(e.Reason)))
		c.packages, c.tails = append(c.packages, nullText(string(e.Packages))), append(c.tails, nullText(string(e.Tail)))
		c.lanes = append(c.lanes, nullText(e.Lane))
		var started *time.Time
		if !e.StartedAt.IsZero() {
			started = &e.StartedAt
		}
		c.started, c.parcels = append(c.started, started), append(c.parcels, e.Parcel)
		c.anew = append(c.anew, e.State == task.StateQueued && (e.After > 0 || started == nil))
	}
	c.low, c.high = bounds(c.ids)
	return c
}
