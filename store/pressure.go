package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Bounds of what one turn looks at in one group, and of what it ends in all.
const (
	pressWaiting = 1000
	pressHolders = 5000
	pressEnds    = 500 // runs that wait
	pressVictims = 100 // runs under way
)

// victim is a run under way that is cancelled to make room.
type victim struct {
	id uuid.UUID
	by string
}

// press applies the strategies other than waiting to groups that have reached
// their limit.
func (a *admitting) press(ctx context.Context, tx pgx.Tx) error {
	pressed := 0
	for _, t := range a.tasks {
		c := t.limits.Concurrency
		if c == nil || c.Strategy == "" || c.Strategy == task.StrategyQueueFairly {
			continue
		}
		for _, g := range t.groups {
			if g.place == nil || g.limit != nil {
				continue
			}
			if pressed == admitPressure {
				a.more = true
				return nil
			}
			waiting, err := a.waiting(ctx, tx, t, g)
			if err != nil || len(waiting) == 0 {
				if err != nil {
					return err
				}
				continue
			}
			pressed++
			if c.Strategy == task.StrategyRejectNew {
				err = a.reject(ctx, tx, t, g, waiting)
			} else {
				err = a.supersede(ctx, tx, t, g, waiting)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// waiting lists the runs of a group that were not admitted, in order.
func (a *admitting) waiting(ctx context.Context, tx pgx.Tx, t *limitedTask, g *limitGroup) ([]uuid.UUID, error) {
	limit := min(max(g.place.free, 0), pressHolders) + pressWaiting
	rows, err := tx.Query(ctx, `SELECT run FROM ready WHERE hold = 'limited' AND lane = $1 AND task = $2 AND limit_keys = $3
		ORDER BY rank, run LIMIT $4`, a.lane, t.name, g.keys, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// reject ends the new runs for which there is no place. One that has run before
// waits for its next attempt as any other does.
func (a *admitting) reject(ctx context.Context, tx pgx.Tx, t *limitedTask, g *limitGroup, waiting []uuid.UUID) error {
	keep := min(max(g.place.free, 0), len(waiting))
	g.place.free -= keep // they wait for room or a token
	fresh, err := notStarted(ctx, tx, waiting[keep:])
	if err != nil {
		return err
	}
	return a.endWaiting(ctx, tx, fresh, rejectReason(t.limits.Concurrency, *g.concurrency), "the rejection of its parent")
}

func rejectReason(c *task.Concurrency, key string) string {
	return fmt.Sprintf("rejected: %s, and the strategy is reject-new", reachedText(c, key))
}

func reachedText(c *task.Concurrency, key string) string {
	if c.Key == "" {
		return fmt.Sprintf("the concurrency limit of %d is reached", c.Limit)
	}
	return fmt.Sprintf("the concurrency limit of %d is reached for the key %q", c.Limit, key)
}

// supersede lets only the newest runs of a key live, as many as the limit,
// whether they are under way or wait: one that waits may be the older, as after
// a retry.
func (a *admitting) supersede(ctx context.Context, tx pgx.Tx, t *limitedTask, g *limitGroup, waiting []uuid.UUID) error {
	limit := placeKey{limitScope(t.name), *g.concurrency}
	rows, err := tx.Query(ctx, `SELECT run FROM `+limitHolders+` ORDER BY run LIMIT $4`, limit.scope, limit.key, limit.number().bytes(), pressHolders)
	if err != nil {
		return err
	}
	holders, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return err
	}
	if holders, err = notEnding(ctx, tx, holders); err != nil {
		return err
	}
	waits := make(map[uuid.UUID]bool, len(waiting))
	for _, id := range waiting {
		waits[id] = true
	}
	all := sortedIDs(append(slices.Clone(waiting), holders...))
	by := "a newer run of the same key (cancel-running)"
	var old []uuid.UUID
	for _, id := range all[:max(len(all)-g.place.limit, 0)] {
		switch {
		case waits[id]:
			old = append(old, id)
		case len(a.victims) == pressVictims:
			a.more = true
		default:
			a.victims = append(a.victims, victim{id, by})
		}
	}
	return a.endWaiting(ctx, tx, old, "cancelled by "+by, by)
}

// sortedIDs sorts runs by their ids, the oldest first.
func sortedIDs(ids []uuid.UUID) []uuid.UUID {
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// notEnding leaves out the runs that were asked to end already.
func notEnding(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (rest []uuid.UUID, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	low, high := bounds(ids)
	rows, err := tx.Query(ctx, `SELECT id FROM runs WHERE id = ANY($1) AND id BETWEEN $2 AND $3 AND (cancel_requested OR finished_at IS NOT NULL)`,
		ids, low, high)
	if err != nil {
		return nil, err
	}
	ending := map[uuid.UUID]bool{}
	var id uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { ending[id] = true; return nil }); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if !ending[id] {
			rest = append(rest, id)
		}
	}
	return rest, nil
}

// notStarted leaves out the runs that have had an attempt.
func notStarted(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) ([]uuid.UUID, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	low, high := bounds(ids)
	rows, err := tx.Query(ctx, `SELECT id FROM runs WHERE id = ANY($1) AND id BETWEEN $2 AND $3
		AND attempt = 1 AND started_at IS NULL AND retried_at IS NULL`, ids, low, high)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}

// endWaiting ends runs that wait in ready as cancelled, as far as the turn may.
// by is what cancels their children.
func (a *admitting) endWaiting(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, reason, by string) error {
	if left := pressEnds - a.ends; len(ids) > left {
		ids, a.more = ids[:left], true
	}
	if len(ids) == 0 {
		return nil
	}
	a.ends += len(ids)
	locked, err := lockReady(ctx, tx, ids, holdLimited)
	if err != nil || len(locked) == 0 {
		return err
	}
	ids = ids[:0:0]
	for id := range locked {
		ids = append(ids, id)
	}
	ids = sortedIDs(ids)
	low, high := bounds(ids)
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE runs SET state = 'cancelled', cancel_requested = true, cancel_requested_at = clock_timestamp(), fence = fence + 1, parcel = NULL, reason = $2,
		finished_at = clock_timestamp() WHERE id = ANY($1) AND id BETWEEN $3 AND $4 AND state = 'queued'`, ids, clean(reason), low, high)
	batch.Queue(`DELETE FROM ready WHERE run = ANY($1)`, ids)
	queueCancelled(batch, ids, by)
	return tx.SendBatch(ctx, batch).Close()
}

// cancelVictims asks runs under way to end. Each is a transaction of its own,
// so that a run that is being written holds up nobody else.
func (s *Store) cancelVictims(ctx context.Context, term int64, victims []victim) error {
	for _, v := range victims {
		err := s.inTx(ctx, "cancel run "+v.id.String(), func(tx pgx.Tx) error {
			if err := holdTerm(ctx, tx, term); err != nil {
				return err
			}
			return cancelOne(ctx, tx, v.id, v.by, false)
		})
		if code := task.CodeOf(err); err != nil && code != task.CodeConflict && code != task.CodeNotFound {
			return err // else it has ended by itself
		}
	}
	return nil
}
