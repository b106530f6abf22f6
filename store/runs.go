package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

const runColumns = `SELECT r.id, r.task, r.revision, r.state, r.attempt, r.losses, coalesce(r.reason, ''), r.outcome::text, r.params::text,
	r.queue, r.priority, r.schedule, r.packages::text, coalesce(w.id, ''), r.cancel_requested, r.created_at, r.available_at,
	r.started_at, r.finished_at, r.due_at, r.retried_at, coalesce(r.retried_by, ''), r.tail::text, r.parent, coalesce(r.parent_path, ''),
	r.cancel_requested_at, r.interrupted_at, r.killed_at, r.trace `

const fromRuns = `FROM runs r LEFT JOIN workers w ON w.epoch = r.worker `

func scanRun(row pgx.CollectableRow) (r task.Run, err error) {
	var outcome, params, packages, tail, trace *string
	err = row.Scan(&r.ID, &r.Task, &r.Revision, &r.State, &r.Attempt, &r.Losses, &r.Reason, &outcome, &params,
		&r.Queue, &r.Priority, &r.Schedule, &packages, &r.Worker, &r.CancelRequested, &r.CreatedAt, &r.AvailableAt,
		&r.StartedAt, &r.FinishedAt, &r.DueAt, &r.RetriedAt, &r.RetriedBy, &tail, &r.Parent, &r.ParentPath,
		&r.CancelAskedAt, &r.InterruptedAt, &r.KilledAt, &trace)
	if err != nil {
		return r, err
	}
	if r.State.Terminal() {
		r.AvailableAt = nil // it speaks of the next attempt
	}
	r.TraceID = traceID(trace)
	if params != nil {
		r.Params = json.RawMessage(*params)
	}
	for _, part := range []struct {
		text *string
		into any
	}{{outcome, &r.Outcome}, {packages, &r.Packages}, {tail, &r.Steps}} {
		if part.text == nil {
			continue
		}
		if err := json.Unmarshal([]byte(*part.text), part.into); err != nil {
			return r, fmt.Errorf("run %s: %w", r.ID, err)
		}
	}
	r.PackageVersion = firstPackage(packages)
	return r, nil
}

// traceID returns the 32 digits after the version of a traceparent.
func traceID(trace *string) string {
	if trace == nil || len(*trace) < 35 {
		return ""
	}
	return (*trace)[3:35]
}

// firstPackage reads name@digest of the first member of the packages object,
// which the worker writes in the order of first use.
func firstPackage(object *string) string {
	if object == nil {
		return ""
	}
	d := json.NewDecoder(strings.NewReader(*object))
	_, _ = d.Token() // {
	name, _ := d.Token()
	digest, _ := d.Token()
	if name, ok := name.(string); ok {
		return fmt.Sprintf("%s@%v", name, digest)
	}
	return ""
}

// Run returns one run with its steps, or a not_found error.
func (s *Store) Run(ctx context.Context, id uuid.UUID) (task.Run, error) {
	list, err := s.readRuns(ctx, fromRuns+`WHERE r.id = $1`, id)
	if err != nil {
		return task.Run{}, err
	}
	if len(list) == 0 {
		return task.Run{}, noRun(id)
	}
	return list[0], s.addSteps(ctx, list)
}

func noRun(id uuid.UUID) error {
	return task.Errorf(task.CodeNotFound, "there is no run %s", id).Fix("`catena runs list` shows those that are kept")
}

// mergeSteps joins committed steps with those of the tail, which win: they are
// of the last attempt.
func mergeSteps(rows, tail []task.Step) []task.Step {
	key := func(s task.Step) string { return strconv.Itoa(s.Iteration) + "/" + s.Path }
	last := make(map[string]bool, len(tail))
	for _, s := range tail {
		last[key(s)] = true
	}
	all := make([]task.Step, 0, len(rows)+len(tail))
	for _, s := range rows {
		if !last[key(s)] {
			all = append(all, s)
		}
	}
	all = append(all, tail...)
	slices.SortStableFunc(all, func(a, b task.Step) int {
		return cmp.Or(cmp.Compare(a.Iteration, b.Iteration), cmp.Compare(len(a.Path), len(b.Path)), strings.Compare(a.Path, b.Path))
	})
	return all
}

// Finished returns those of the runs that have ended, with their states.
func (s *Store) Finished(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]task.State, error) {
	low, high := bounds(ids)
	rows, err := s.pool.Query(ctx, `SELECT id, state FROM runs WHERE id = ANY($1) AND id BETWEEN $2 AND $3 AND finished_at IS NOT NULL`, ids, low, high)
	if err != nil {
		return nil, wrap(err, "look for finished runs")
	}
	done := map[uuid.UUID]task.State{}
	var id uuid.UUID
	var state task.State
	_, err = pgx.ForEachRow(rows, []any{&id, &state}, func() error { done[id] = state; return nil })
	return done, wrap(err, "look for finished runs")
}

// RetryRun puts a run that did not succeed back to queued with a fresh retry
// budget and the package versions of now. from names the step to go on at, by
// path or name; the outcomes of the steps before it are reused. "" goes on
// after the last step that succeeded. by is recorded with the run and in its log.
func (s *Store) RetryRun(ctx context.Context, id uuid.UUID, from, by string) (task.Run, error) {
	if err := s.retryRun(ctx, id, from, by); err != nil {
		return task.Run{}, err
	}
	return s.Run(ctx, id)
}

// A retry at once would leave the children of before to themselves, and have the
// new ones cancelled.
var errChildrenLeft = errors.New("its children are still being cancelled")

func (s *Store) retryRun(ctx context.Context, id uuid.UUID, from, by string) error {
	// Its logs may have been dropped before the run itself.
	if err := s.ensurePartition(ctx, "run_logs", timeOf(id).UTC().Truncate(day)); err != nil {
		return err
	}
	return s.inTx(ctx, "retry run "+id.String(), func(tx pgx.Tx) error {
		waits, err := retried(ctx, tx, id)
		if err != nil {
			return err
		}
		var state task.State
		var tail *string
		err = tx.QueryRow(ctx, `SELECT state, tail::text FROM runs WHERE id = $1 FOR NO KEY UPDATE`, id).Scan(&state, &tail)
		if isMissing(err) {
			return noRun(id)
		}
		if err != nil {
			return err
		}
		if !state.Terminal() || !state.CanBecome(task.StateQueued) {
			return task.Errorf(task.CodeConflict, "run %s is %s", id, state).Fix("only a run that ended without success can be retried; start a new one with `catena task run`")
		}
		var cancelling bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM child_cancels WHERE parent = $1)`, id).Scan(&cancelling); err != nil {
			return err
		}
		if cancelling {
			return task.Errorf(task.CodeConflict, "run %s: %w", id, errChildrenLeft).Fix("try again in a moment")
		}
		kept, next, err := keepSteps(ctx, tx, id, tail, from)
		if err != nil {
			return err
		}
		return requeueByHand(ctx, tx, id, kept, next, by, waits)
	})
}

// keepSteps decides which steps a retried run goes on after, and names the one
// that it goes on at: "" when there is none yet.
func keepSteps(ctx context.Context, tx pgx.Tx, id uuid.UUID, tail *string, from string) (kept []task.Step, next string, err error) {
	committed, err := readSteps(ctx, tx, []uuid.UUID{id})
	if err != nil {
		return nil, "", err
	}
	var last []task.Step
	if tail != nil {
		if err := json.Unmarshal([]byte(*tail), &last); err != nil {
			return nil, "", err
		}
	}
	all := mergeSteps(committed[id], last)
	if from == "" {
		n := slices.IndexFunc(all, func(s task.Step) bool { return s.Outcome == nil || !s.Outcome.Success })
		if n < 0 {
			return all, "", nil
		}
		return all[:n], stepName(all[n]), nil
	}
	n := slices.IndexFunc(all, func(s task.Step) bool { return s.Path == from || s.Name == from })
	if n < 0 {
		names := make([]string, len(all))
		for i, s := range all {
			names[i] = stepName(s)
		}
		return nil, "", task.Errorf(task.CodeInvalid, "run %s has made no step %q", id, from).At("from").
			Fix("name one of its steps: %s", strings.Join(names, ", "))
	}
	return all[:n], stepName(all[n]), nil
}

func stepName(s task.Step) string { return strings.TrimSuffix(s.Path+" "+s.Name, " ") }

// A child whose parent waits for its group still is one of those again that it waits for.
const rejoinGroup = `
	WITH open AS (
		SELECT c.id, c.child_group FROM runs c JOIN waits w ON w.run = c.parent
		WHERE c.id = $1 AND c.child_group IS NOT NULL AND w.kind = 'children' AND w.outcome IS NULL AND w.detail->>'group' = c.child_group
		FOR SHARE OF w
	)
	INSERT INTO holds (run, scope, key)
	SELECT id, CASE WHEN EXISTS (SELECT 1 FROM holds h WHERE h.scope = 'children-stop' AND h.key = o.child_group) THEN 'children-stop' ELSE 'children' END, child_group
	FROM open o ON CONFLICT DO NOTHING`

func requeueByHand(ctx context.Context, tx pgx.Tx, id uuid.UUID, kept []task.Step, next, by string, waits int64) error {
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM steps WHERE run = $1`, id)
	batch.Queue(`DELETE FROM waits WHERE run = $1`, id)
	for _, st := range kept {
		outcome, err := json.Marshal(st.Outcome)
		if err != nil {
			return err
		}
		batch.Queue(`INSERT INTO steps (run, iteration, path, name, attempt, outcome, vars, started_at, finished_at)
			VALUES ($1, $2, $3, $4, $5, $6::text::json, $7::text::json, $8, $9)`, id, st.Iteration, st.Path, st.Name, st.Attempt,
			string(outcome), nullText(string(st.Vars)), st.StartedAt, st.FinishedAt)
	}
	batch.Queue(`UPDATE runs SET state = 'queued', attempt = 1, kills = 0, fence = fence + 1, parcel = NULL, release = NULL,
		cancel_requested = false, cancel_requested_at = NULL, interrupted_at = NULL, killed_at = NULL, outcome = NULL, reason = NULL, tail = NULL, started_at = NULL, finished_at = NULL,
		available_at = NULL, retried_at = clock_timestamp(), retried_by = $2 WHERE id = $1`, id, clean(by))
	line := "retried by " + by
	if next != "" {
		line += " from step " + next
	} else if len(kept) > 0 {
		line += " after step " + stepName(kept[len(kept)-1])
	}
	// The fence that no attempt has places the line between the attempts before and after.
	batch.Queue(`INSERT INTO run_logs (run, seq, at, level, message)
		SELECT id, fence::bigint << 32, clock_timestamp(), 'info', $2 FROM runs WHERE id = $1`, id, []byte(line))
	batch.Queue(`DELETE FROM cancels WHERE run = $1`, id)
	batch.Queue(rejoinGroup, id)
	batch.Queue(`INSERT INTO ready (run, lane, priority, revision, task, available_at, rank, hold, rate_key, concurrency_key, concurrency_limit, schedule)
		SELECT id, coalesce(lane, queue), priority, revision, task, clock_timestamp(), `+ranked+`, CASE WHEN $2 > 0 THEN 'buffered' ELSE `+openHold+` END,
			rate_key, concurrency_key, concurrency_limit, nullif($2, 0)
		FROM runs WHERE id = $1`, id, waits)
	return tx.SendBatch(ctx, batch).Close()
}
