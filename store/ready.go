package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// fillLimit bounds how many runs one call moves from ready into parcels.
const fillLimit = 5000

// Fill moves ready runs into parcels, lane by lane, as far as the lanes have
// room, and returns the parcels to enqueue. more reports that it stopped at its
// bound rather than for want of room.
func (s *Store) Fill(ctx context.Context, term int64) (parcels []Parcel, more bool, err error) {
	lanes, err := s.lanesInNeed(ctx, holdNone)
	if err != nil {
		return nil, false, err
	}
	for lane, info := range lanes {
		if info.room() == 0 {
			continue
		}
		filled, full, err := s.fillLane(ctx, term, lane, info.room())
		if err != nil {
			return parcels, more, err
		}
		parcels, more = append(parcels, filled...), more || full
	}
	return parcels, more, nil
}

// lanesInNeed walks the distinct lanes of ready with that hold by index jumps;
// waiting says that open runs wait there.
func (s *Store) lanesInNeed(ctx context.Context, hold string) (map[string]laneInfo, error) {
	rows, err := s.pool.Query(ctx, strings.ReplaceAll(`
		WITH RECURSIVE l AS (
			(SELECT lane FROM ready WHERE hold = 'HOLD' ORDER BY lane LIMIT 1)
			UNION ALL
			SELECT (SELECT r.lane FROM ready r WHERE r.hold = 'HOLD' AND r.lane > l.lane ORDER BY r.lane LIMIT 1) FROM l WHERE l.lane IS NOT NULL
		)
		SELECT lane, `+laneSlots("l.lane")+`,
			(SELECT count(*) FROM parcels p WHERE p.lane = l.lane AND p.state = 'unclaimed'),
			EXISTS (SELECT 1 FROM ready r WHERE r.lane = l.lane AND r.hold = '')
		FROM l WHERE lane IS NOT NULL`, "HOLD", hold))
	if err != nil {
		return nil, wrap(err, "look at lanes")
	}
	lanes := map[string]laneInfo{}
	var lane string
	var info laneInfo
	_, err = pgx.ForEachRow(rows, []any{&lane, &info.slots, &info.open, &info.waiting}, func() error { lanes[lane] = info; return nil })
	return lanes, wrap(err, "look at lanes")
}

func (s *Store) fillLane(ctx context.Context, term int64, lane string, room int) (parcels []Parcel, full bool, err error) {
	limit := min(room*parcelRuns, fillLimit)
	err = s.inTx(ctx, "dispatch lane "+lane, func(tx pgx.Tx) error {
		parcels, full = nil, false
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		pack, taken, err := takeReady(ctx, tx, lane, room, limit)
		if err != nil || len(taken) == 0 {
			return err
		}
		homes, err := pack.write(ctx, tx)
		if err != nil {
			return err
		}
		full = len(taken) == limit
		parcels = pack.list()
		return dispatchRuns(ctx, tx, taken, homes)
	})
	return parcels, full, err
}

// takeReady packs ready runs in the order of their rank, which is their age and priority, as far as they fit,
// and then locks only those.
func takeReady(ctx context.Context, tx pgx.Tx, lane string, room, limit int) (pack packer, taken []uuid.UUID, err error) {
	rows, err := tx.Query(ctx, `
		SELECT r.run, coalesce(c.micros, 0)
		FROM ready r LEFT JOIN task_costs c ON c.revision = r.revision
		WHERE r.lane = $1 AND r.hold = '' AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.name = r.task AND t.paused)
		ORDER BY r.rank, r.run LIMIT $2`, lane, limit)
	if err != nil {
		return pack, nil, err
	}
	var id uuid.UUID
	var micros float64
	fits := true
	_, err = pgx.ForEachRow(rows, []any{&id, &micros}, func() error {
		if fits = fits && pack.put(lane, id, micros, room); fits {
			taken = append(taken, id)
		}
		return nil
	})
	if err != nil || len(taken) == 0 {
		return pack, taken, err
	}
	locked, err := lockReady(ctx, tx, taken, holdNone)
	pack.keep(locked)
	return pack, slices.DeleteFunc(taken, func(id uuid.UUID) bool { return !locked[id] }), err
}

// lockReady locks those of the runs that are still ready, leaving out what
// another transaction holds.
func lockReady(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, hold string) (map[uuid.UUID]bool, error) {
	rows, err := tx.Query(ctx, `SELECT run FROM ready WHERE run = ANY($1) AND hold = $2 FOR UPDATE SKIP LOCKED`, ids, hold)
	if err != nil {
		return nil, err
	}
	locked := make(map[uuid.UUID]bool, len(ids))
	var id uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error { locked[id] = true; return nil })
	return locked, err
}

const dispatchStatement = `
	UPDATE runs r SET state = 'dispatched', parcel = i.parcel, fence = r.fence + 1,
		release = coalesce(r.release, (SELECT coalesce(max(id), 0) FROM releases))
	FROM unnest($1::uuid[], $2::bigint[]) AS i(id, parcel)
	WHERE r.id = i.id AND r.id = ANY ($1) AND r.id BETWEEN $3 AND $4 AND r.state = 'queued'`

func dispatchRuns(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, homes map[uuid.UUID]int64) error {
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	parcels := make([]int64, len(ids))
	for i, id := range ids {
		parcels[i] = homes[id]
	}
	low, high := bounds(ids)
	batch := &pgx.Batch{}
	setBulkPlans(batch)
	batch.Queue(dispatchStatement, ids, parcels, low, high)
	batch.Queue(`DELETE FROM ready WHERE run = ANY($1)`, ids)
	return tx.SendBatch(ctx, batch).Close()
}

// OpenDue opens ready runs whose time has come, at most a few thousand at once,
// and returns how many.
func (s *Store) OpenDue(ctx context.Context, term int64) (opened int64, err error) {
	err = s.inTx(ctx, "release held runs", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			UPDATE ready SET hold = `+openHold+` WHERE run IN (
				SELECT run FROM ready WHERE hold = 'later' AND available_at <= (SELECT clock_timestamp())
				ORDER BY available_at LIMIT $1 FOR UPDATE SKIP LOCKED)`, fillLimit)
		opened = tag.RowsAffected()
		return err
	})
	return opened, err
}

// SyncPauses moves ready runs in and out of the hold of their task's pause.
func (s *Store) SyncPauses(ctx context.Context, term int64) error {
	return s.inTx(ctx, "hold and open runs of paused tasks", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		batch.Queue(`UPDATE ready SET hold = 'paused' WHERE run IN (
			SELECT r.run FROM tasks t JOIN ready r ON r.task = t.name AND r.hold = '' WHERE t.paused LIMIT $1 FOR UPDATE OF r SKIP LOCKED)`, fillLimit)
		batch.Queue(`UPDATE ready SET hold = `+openHold+` WHERE run IN (
			SELECT r.run FROM ready r WHERE r.hold = 'paused' AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.name = r.task AND t.paused)
			LIMIT $1 FOR UPDATE OF r SKIP LOCKED)`, fillLimit)
		return tx.SendBatch(ctx, batch).Close()
	})
}

// Stranded finds parcels that nobody claimed for too long, gives each a new
// number and returns them to be enqueued again: after two seconds at first and
// five later, since a lane may just be busy. There are few of them per slot.
func (s *Store) Stranded(ctx context.Context, term int64) ([]Parcel, error) {
	return s.renumber(ctx, term, `dispatched_at < clock_timestamp() - CASE WHEN dispatch_no = 1 THEN interval '2 seconds' ELSE interval '5 seconds' END`)
}

// AllUnclaimed gives unclaimed parcels that were numbered before the given time
// a new number, a bounded number at once, after the queue lost its content.
func (s *Store) AllUnclaimed(ctx context.Context, term int64, before time.Time) ([]Parcel, error) {
	return s.renumber(ctx, term, `dispatched_at < $1`, before)
}

func (s *Store) renumber(ctx context.Context, term int64, which string, args ...any) (parcels []Parcel, err error) {
	err = s.inTx(ctx, "renumber unclaimed parcels", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			UPDATE parcels SET dispatch_no = dispatch_no + 1, dispatched_at = clock_timestamp() WHERE id IN (
				SELECT id FROM parcels WHERE state = 'unclaimed' AND `+which+` ORDER BY id LIMIT 2000 FOR UPDATE SKIP LOCKED)
			RETURNING id, lane, dispatch_no`, args...)
		if err != nil {
			return err
		}
		parcels, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Parcel])
		return err
	})
	return parcels, err
}

// Pending is the dispatcher's cheap look.
func (s *Store) Pending(ctx context.Context) (p Pending, err error) {
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM ready WHERE hold = ''),
		EXISTS (SELECT 1 FROM ready WHERE hold = 'later' AND available_at <= (SELECT clock_timestamp())),
		EXISTS (SELECT 1 FROM ready WHERE hold = 'limited')`).Scan(&p.Open, &p.Due, &p.Limited)
	return p, wrap(err, "look for ready runs")
}

// Pending says which kinds of ready runs there are.
type Pending struct {
	Open    bool // wait for room only
	Due     bool // their time has come
	Limited bool // wait for a place or a token, or just for admission
}
