package store

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Claimed is a run as a worker gets it. Fence goes with every write.
type Claimed struct {
	ID        uuid.UUID
	Task      string
	Revision  int64
	Attempt   int
	Fence     int32
	Release   int64
	Params    json.RawMessage // nil: the task's own
	Schedule  *int64
	DueAt     *time.Time
	CreatedAt time.Time
	Held      bool        // a place of a limit or a group ends with it
	Packed    bool        // it stands in the parcel, and no row of holds does
	Rated     bool        // it has taken a token of a rate limit
	Done      []task.Step // committed steps to go on after
	Waits     []WaitEnded // of this attempt and what earlier ones have got; the last of an item counts
	Entry     json.RawMessage
	RetriedAt *time.Time // by hand
	Trace     string     // that it belongs to; "": it is not sampled
}

// Claim takes a parcel for a worker and returns its runs; none when the parcel
// was claimed by another, was enqueued again under a later number or is gone.
// Two statements in one transaction: the second sees the cancellations that the
// first had to wait for. Asking again after an unclear answer gives the same
// runs to the same worker, which must know what it holds already.
func (s *Store) Claim(ctx context.Context, epoch, parcel int64, dispatchNo int) ([]Claimed, error) {
	var runs []Claimed
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE parcels SET state = 'claimed', worker = $3, claimed_at = clock_timestamp()
		WHERE id = $1 AND dispatch_no = $2 AND state = 'unclaimed'
			AND EXISTS (SELECT 1 FROM workers WHERE epoch = $3 AND state = 'active')`, parcel, dispatchNo, epoch)
	batch.Queue(`
		WITH p AS MATERIALIZED (SELECT runs FROM parcels WHERE id = $1 AND dispatch_no = $2 AND worker = $3)
		SELECT id, task, revision, attempt, fence, coalesce(release, 0), params::text, schedule, due_at, created_at,
			held IS NOT NULL, coalesce(NOT held, false), rate_key IS NOT NULL, entry::text, retried_at, trace FROM runs
		WHERE id = ANY ((SELECT runs FROM p)::uuid[])
			AND id BETWEEN (SELECT runs[1] FROM p) AND (SELECT runs[cardinality(runs)] FROM p)
			AND parcel = $1 AND state IN ('dispatched', 'running')`, parcel, dispatchNo, epoch).
		Query(func(rows pgx.Rows) (err error) {
			runs, err = pgx.CollectRows(rows, scanClaimed)
			return err
		})
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, wrap(err, "claim a parcel")
	}
	if len(runs) == 0 {
		return nil, s.dropEmpty(ctx, epoch, parcel, dispatchNo)
	}
	if slices.ContainsFunc(runs, func(r Claimed) bool { return r.Rated }) {
		begin := &pgx.Batch{}
		beginWindow(begin, []int64{parcel})
		if err := s.pool.SendBatch(ctx, begin).Close(); err != nil {
			return nil, wrap(err, "begin the window of a rate limit")
		}
	}
	return runs, s.loadDone(ctx, runs)
}

// dropEmpty removes a claimed parcel whose runs were all cancelled before, which
// nobody would remove else while its worker lives, and its tokens.
func (s *Store) dropEmpty(ctx context.Context, epoch, parcel int64, dispatchNo int) error {
	_, err := s.pool.Exec(ctx, `WITH gone AS (DELETE FROM parcels WHERE id = $1 AND dispatch_no = $2 AND worker = $3 RETURNING id
		), packs AS (DELETE FROM token_packs u USING gone WHERE u.parcel = $1 AND u.parcel = gone.id AND u.back_at = 'infinity')
		DELETE FROM rate_uses u USING gone WHERE u.parcel = $1 AND u.parcel = gone.id AND u.back_at = 'infinity'`, parcel, dispatchNo, epoch)
	return wrap(err, "remove an empty parcel")
}

func scanClaimed(row pgx.CollectableRow) (r Claimed, err error) {
	var params, entry, trace *string
	err = row.Scan(&r.ID, &r.Task, &r.Revision, &r.Attempt, &r.Fence, &r.Release, &params, &r.Schedule, &r.DueAt, &r.CreatedAt, &r.Held, &r.Packed, &r.Rated,
		&entry, &r.RetriedAt, &trace)
	if trace != nil {
		r.Trace = *trace
	}
	if entry != nil {
		r.Entry = json.RawMessage(*entry)
	}
	if params != nil {
		r.Params = json.RawMessage(*params)
	}
	return r, err
}

// loadDone reads the committed steps of the runs that were dispatched before.
func (s *Store) loadDone(ctx context.Context, runs []Claimed) error {
	again := map[uuid.UUID]*Claimed{}
	var ids []uuid.UUID
	for i := range runs {
		if runs[i].Fence > 1 {
			again[runs[i].ID] = &runs[i]
			ids = append(ids, runs[i].ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	steps, err := readSteps(ctx, s.pool, ids)
	if err != nil {
		return err
	}
	for id, done := range steps {
		again[id].Done = done
	}
	return s.loadWaits(ctx, ids, again)
}

type reader interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// readSteps reads committed steps in the order in which they were made.
func readSteps(ctx context.Context, db reader, ids []uuid.UUID) (map[uuid.UUID][]task.Step, error) {
	low, high := bounds(ids)
	rows, err := db.Query(ctx, `SELECT run, iteration, path, name, attempt, outcome::text, vars::text, started_at, finished_at
		FROM steps WHERE run = ANY($1) AND run BETWEEN $2 AND $3 ORDER BY run, iteration, length(path), path`, ids, low, high)
	if err != nil {
		return nil, wrap(err, "read steps")
	}
	steps := map[uuid.UUID][]task.Step{}
	var run uuid.UUID
	var st task.Step
	var outcome string
	var vars *string
	_, err = pgx.ForEachRow(rows, []any{&run, &st.Iteration, &st.Path, &st.Name, &st.Attempt, &outcome, &vars, &st.StartedAt, &st.FinishedAt},
		func() error {
			step := st
			step.Outcome, step.Vars = new(task.Outcome), nil
			if vars != nil {
				step.Vars = json.RawMessage(*vars)
			}
			steps[run] = append(steps[run], step)
			return json.Unmarshal([]byte(outcome), step.Outcome)
		})
	return steps, wrap(err, "read steps")
}

// MarkRunning makes visible that runs have been running for a moment. It waits
// for nobody: a run whose end is being written needs no mark. It
// returns the runs whose fence has risen: the worker interrupts them.
func (s *Store) MarkRunning(ctx context.Context, epoch int64, ids []uuid.UUID, fences []int32, started []time.Time) (stale []uuid.UUID, err error) {
	low, high := bounds(ids)
	rows, err := s.bulk.Query(ctx, `
		WITH i AS (SELECT * FROM unnest($1::uuid[], $2::int[], $3::timestamptz[]) AS i(id, fence, started_at)
		), free AS MATERIALIZED (
			SELECT r.id FROM runs r JOIN i ON r.id = i.id WHERE r.id = ANY ($1) AND r.id BETWEEN $5 AND $6
				AND r.fence = i.fence AND r.state IN ('dispatched', 'running') FOR NO KEY UPDATE OF r SKIP LOCKED
		), marked AS (
			UPDATE runs r SET state = 'running', started_at = coalesce(r.started_at, i.started_at), worker = $4
			FROM i, free WHERE r.id = i.id AND r.id = free.id AND r.id BETWEEN $5 AND $6
		)
		SELECT i.id FROM i LEFT JOIN runs r ON r.id = i.id AND r.id BETWEEN $5 AND $6 WHERE r.fence IS DISTINCT FROM i.fence`, ids, fences, started, epoch, low, high)
	if err != nil {
		return nil, wrap(err, "mark runs as running")
	}
	stale, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	return stale, wrap(err, "mark runs as running")
}

// isMissing reports whether err is the absence of a row.
func isMissing(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// ClaimedBy lists the parcels that a worker has held for a while.
func (s *Store) ClaimedBy(ctx context.Context, epoch int64) ([]int64, error) {
	rows, err := s.pool.Query(ctx, `SELECT id FROM parcels WHERE worker = $1 AND state = 'claimed'
		AND claimed_at < clock_timestamp() - interval '10 seconds'`, epoch)
	if err != nil {
		return nil, wrap(err, "list claimed parcels")
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	return ids, wrap(err, "list claimed parcels")
}

// Disown gives parcels of a live worker to the reconciler, as if the worker
// that holds them were gone.
func (s *Store) Disown(ctx context.Context, epoch int64, parcels []int64) error {
	_, err := s.pool.Exec(ctx, `UPDATE parcels SET worker = 0 WHERE worker = $1 AND id = ANY($2)`, epoch, parcels)
	return wrap(err, "give parcels back")
}

// OfferAgain gives an unclaimed parcel a new number, so that it can be enqueued
// for another worker; false when it was claimed or renumbered meanwhile.
func (s *Store) OfferAgain(ctx context.Context, parcel int64, dispatchNo int) (p Parcel, ok bool, err error) {
	err = s.pool.QueryRow(ctx, `UPDATE parcels SET dispatch_no = dispatch_no + 1, dispatched_at = clock_timestamp()
		WHERE id = $1 AND dispatch_no = $2 AND state = 'unclaimed' RETURNING id, lane, dispatch_no`, parcel, dispatchNo).
		Scan(&p.ID, &p.Lane, &p.DispatchNo)
	if isMissing(err) {
		return p, false, nil
	}
	return p, err == nil, wrap(err, "offer a parcel again")
}

// WatchCancels calls wake whenever somebody asks to cancel a run of the worker
// with that epoch, until ctx ends or the connection does.
func (s *Store) WatchCancels(ctx context.Context, epoch int64, wake func()) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return wrap(err, "listen for cancel requests")
	}
	listener := conn.Hijack() // it ends with the listening state it carries
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = listener.Close(closing)
	}()
	if _, err := listener.Exec(ctx, `LISTEN catena_cancel`); err != nil {
		return wrap(err, "listen for cancel requests")
	}
	for {
		n, err := listener.WaitForNotification(ctx)
		if err != nil {
			return wrap(err, "listen for cancel requests")
		}
		if n.Payload == strconv.FormatInt(epoch, 10) {
			wake()
		}
	}
}
