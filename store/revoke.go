package store

import (
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// revokeLimit is how many parcels one transaction takes back.
const revokeLimit = 200

// quarantineAfter is how many workers a run may kill while it is alone in the
// suspect lane.
const quarantineAfter = 3

// Revoked is a run that was taken back from a worker that is gone.
type Revoked struct {
	ID     uuid.UUID
	Task   string
	State  task.State // queued, cancelled or quarantined
	Worker int64
}

type lostParcel struct {
	id      int64
	lane    string
	runs    []uuid.UUID
	worker  int64
	counted bool       // its worker died rather than being stopped or killed
	guilty  *uuid.UUID // the run for which its worker was killed
	memory  string     // what the worker was killed for; "": something else
}

// Revoke takes back the claimed parcels of workers that are no longer live, a
// bounded number at once: each unfinished run gets a new fence and goes to its
// queue's suspect lane with its retry budget untouched. It keeps its place of a
// concurrency limit and takes a new token of a rate limit. A run that was alone
// there when its worker died, or for which its worker was killed, for the third
// time, is quarantined.
// more reports that further parcels wait.
func (s *Store) Revoke(ctx context.Context, term int64) (revoked []Revoked, more bool, err error) {
	err = s.inTx(ctx, "revoke parcels of lost workers", func(tx pgx.Tx) error {
		revoked, more = nil, false
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		parcels, err := lostParcels(ctx, tx)
		if err != nil || len(parcels) == 0 {
			return err
		}
		more = len(parcels) == revokeLimit
		revoked, err = revokeRuns(ctx, tx, parcels)
		return err
	})
	return revoked, more, err
}

func lostParcels(ctx context.Context, tx pgx.Tx) ([]lostParcel, error) {
	rows, err := tx.Query(ctx, `
		SELECT p.id, p.lane, p.runs, p.worker, coalesce(w.state = 'lost' AND NOT w.killed, false), w.guilty,
			coalesce(CASE WHEN w.killed THEN w.reason END, '')
		FROM parcels p LEFT JOIN workers w ON w.epoch = p.worker
		WHERE p.state = 'claimed' AND coalesce(w.state NOT IN ('active', 'draining'), true)
		ORDER BY p.id LIMIT $1 FOR UPDATE OF p SKIP LOCKED`, revokeLimit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p lostParcel, err error) {
		err = row.Scan(&p.id, &p.lane, &p.runs, &p.worker, &p.counted, &p.guilty, &p.memory)
		return p, err
	})
}

// The runs are locked in id order first, as steps do.
const revokeStatement = `
	WITH p AS (SELECT * FROM unnest($1::bigint[], $2::boolean[], $3::bigint[], $8::uuid[], $9::text[]) AS p(id, kills, worker, guilty, memory)
	), locked AS MATERIALIZED (
		SELECT r.id, r.parcel FROM runs r WHERE r.id = ANY ($4) AND r.id BETWEEN $5 AND $6 AND r.parcel = ANY ($1)
			AND r.state IN ('dispatched', 'running') ORDER BY r.id FOR NO KEY UPDATE
	), blamed AS (
		SELECT l.id, p.worker, (p.kills OR coalesce(l.id = p.guilty, false))::int AS kills,
			CASE WHEN l.id = p.guilty THEN p.memory ELSE '' END AS memory FROM locked l JOIN p ON p.id = l.parcel
	), u AS (
		UPDATE runs r SET fence = r.fence + 1, losses = r.losses + 1, kills = r.kills + p.kills, parcel = NULL, worker = p.worker, held = CASE WHEN r.held IS NOT NULL THEN true END,
			state = CASE WHEN r.cancel_requested THEN 'cancelled' WHEN r.kills + p.kills >= $7 THEN 'quarantined' ELSE 'queued' END,
			finished_at = CASE WHEN r.cancel_requested OR r.kills + p.kills >= $7 THEN clock_timestamp() END,
			reason = CASE WHEN r.cancel_requested THEN 'cancelled on request; its worker was lost'
				WHEN r.kills + p.kills >= $7 AND p.memory <> '' THEN 'quarantined: it has cost ' || r.kills + p.kills || ' workers, the last because of its memory: ' || p.memory
				WHEN p.memory <> '' THEN 'its worker was killed for the memory that this run took: ' || p.memory
				WHEN r.kills + p.kills >= $7 THEN 'quarantined: its worker died ' || r.kills + p.kills || ' times while it ran alone'
				ELSE 'its worker was lost' END,
			available_at = clock_timestamp()
		FROM blamed p WHERE r.id = p.id AND r.id = ANY ($4) AND r.id BETWEEN $5 AND $6
		RETURNING r.id, r.task, r.state, coalesce(r.lane, r.queue) AS lane, r.priority, r.revision, p.worker, r.created_at, r.rate_key
	), queued AS (
		INSERT INTO ready (run, lane, priority, revision, task, available_at, rank, hold, rate_key)
		SELECT id, 'suspect:' || lane, priority, revision, task, clock_timestamp(), ` + ranked + `,
			CASE WHEN rate_key IS NULL THEN '' ELSE 'limited' END, rate_key FROM u WHERE state = 'queued'
	)
	SELECT id, task, state, worker FROM u`

func revokeRuns(ctx context.Context, tx pgx.Tx, parcels []lostParcel) ([]Revoked, error) {
	ids, kills, workers := make([]int64, len(parcels)), make([]bool, len(parcels)), make([]int64, len(parcels))
	guilty, memory := make([]*uuid.UUID, len(parcels)), make([]string, len(parcels))
	var runs []uuid.UUID
	for i, p := range parcels {
		ids[i], kills[i], workers[i], guilty[i] = p.id, p.counted && Suspect(p.lane), p.worker, p.guilty
		memory[i] = p.memory
		runs = append(runs, p.runs...)
	}
	slices.SortFunc(runs, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	low, high := bounds(runs)
	settings := &pgx.Batch{}
	setBulkPlans(settings)
	if err := tx.SendBatch(ctx, settings).Close(); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, revokeStatement, ids, kills, workers, runs, low, high, quarantineAfter, guilty, memory)
	if err != nil {
		return nil, err
	}
	revoked, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Revoked])
	if err != nil {
		return nil, err
	}
	var over []uuid.UUID
	for _, r := range revoked {
		if r.State.Terminal() {
			over = append(over, r.ID)
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(keepPlaces, ids, runs, low, high)
	if len(over) > 0 {
		queueRelease(batch, over)
	}
	beginWindow(batch, ids) // a claim may not have come that far
	batch.Queue(`DELETE FROM parcels WHERE id = ANY($1)`, ids)
	return revoked, tx.SendBatch(ctx, batch).Close()
}
