package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// catchUpBatch is how many rows of catch_ups one transaction looks at.
const catchUpBatch = 500

type catchUp struct {
	Due
	id    int64
	count int64 // due times left
}

// Behind is the cheap look for due times to catch up.
func (s *Store) Behind(ctx context.Context) (behind bool, err error) {
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM catch_ups)`).Scan(&behind)
	return behind, wrap(err, "look for due times to catch up")
}

// CatchUp makes up for due times that passed while nobody was there, oldest
// first and with at most so many runs. decide is told how many are left; the fires of its
// decision cover due times from DueAt to at most Until, and Next names the first that they
// do not cover.
func (s *Store) CatchUp(ctx context.Context, term int64, runs int, decide func(due Due, now time.Time, runs int) Decision) (Fired, error) {
	for {
		fired, err := s.catchUpOnce(ctx, term, runs, decide)
		var missing errNoDay
		if !errors.As(err, &missing) {
			return fired, err
		}
		if err := s.ensureFireDay(ctx, missing.at); err != nil {
			return Fired{}, err
		}
	}
}

func (s *Store) catchUpOnce(ctx context.Context, term int64, runs int, decide func(Due, time.Time, int) Decision) (fired Fired, err error) {
	err = s.inTx(ctx, "catch up", func(tx pgx.Tx) error {
		fired = Fired{}
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		list, due, err := lockCatchUps(ctx, tx)
		if err != nil || len(list) == 0 {
			return err
		}
		if err := s.addCalendars(ctx, tx, due); err != nil {
			return err
		}
		f, err := s.newFiring(ctx, tx, due)
		if err != nil {
			return err
		}
		rest := &pgx.Batch{}
		taken := 0
		for i, d := range due {
			if len(f.wanted) >= runs {
				break
			}
			taken++
			if _, there := f.view.tasks[d.Schedule.Task]; !there {
				continue
			}
			decision := decide(d, f.view.now, runs-len(f.wanted))
			if err := s.includeCaughtUp(f, d, decision); err != nil {
				return err
			}
			if err := s.queueRest(rest, list[i], decision); err != nil {
				return err
			}
		}
		if err := s.writeCaughtUp(ctx, tx, f, rest); err != nil {
			return err
		}
		fired = f.fired(taken)
		return nil
	})
	return fired, err
}

// lockCatchUps takes the oldest rows, one of each schedule, whose row of
// schedule_due it locks as well.
func lockCatchUps(ctx context.Context, tx pgx.Tx) (list []catchUp, due []Due, err error) {
	rows, err := tx.Query(ctx, `
		SELECT `+dueColumns+`, c.id, c.next_at, c.last_at, c.count
		FROM catch_ups c JOIN schedules s ON s.id = c.schedule JOIN tasks t ON t.name = s.task JOIN schedule_due d ON d.schedule = c.schedule
		WHERE s.planned = s.version ORDER BY c.next_at, c.id LIMIT $1 FOR UPDATE OF d, c SKIP LOCKED`, catchUpBatch)
	if err != nil {
		return nil, nil, err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c catchUp, err error) {
		err = scanDue(row, &c.Due, &c.id, &c.DueAt, &c.Until, &c.count)
		return c, err
	})
	seen := map[int64]bool{}
	for _, c := range all {
		if !seen[c.Schedule.ID] {
			seen[c.Schedule.ID] = true
			list, due = append(list, c), append(due, c.Due)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return list, due, lookBack(ctx, tx, due)
}

// includeCaughtUp leaves the next due time and the newest row of the ledger alone.
func (s *Store) includeCaughtUp(f *firing, d Due, decision Decision) error {
	d.openFire = nil
	row := dueRow{schedule: d.Schedule.ID, lastRun: d.active(), failures: d.Failures}
	if err := s.includeFires(f, d, decision, &row); err != nil {
		return err
	}
	if decision.Invalid != "" {
		f.invalid[d.Schedule.ID] = decision.Invalid
	}
	f.includeCancel(d, decision)
	f.next = append(f.next, row)
	return nil
}

// queueRest keeps what the decision leaves for another turn.
func (s *Store) queueRest(batch *pgx.Batch, c catchUp, decision Decision) error {
	left := c.count
	for _, fire := range decision.Fires {
		left -= fire.Count
	}
	if decision.Next == nil || decision.Next.After(c.Until) || left <= 0 {
		batch.Queue(`DELETE FROM catch_ups WHERE id = $1`, c.id)
		return nil
	}
	if !s.days.has(decision.Next.UTC().Truncate(day)) {
		return errNoDay{*decision.Next}
	}
	batch.Queue(`UPDATE catch_ups SET next_at = $2, count = $3 WHERE id = $1`, c.id, *decision.Next, left)
	return nil
}

func (s *Store) writeCaughtUp(ctx context.Context, tx pgx.Tx, f *firing, rest *pgx.Batch) error {
	if err := s.start(ctx, tx, f); err != nil {
		return err
	}
	if err := cancelEarlier(ctx, tx, f.cancels); err != nil {
		return err
	}
	if !f.runs.empty() {
		if err := f.runs.write(ctx, tx); err != nil {
			return err
		}
	}
	n := len(f.next)
	ids, last, failures := make([]int64, n), make([]pgtype.UUID, n), make([]int32, n)
	for i, row := range f.next {
		ids[i], last[i], failures[i] = row.schedule, nullID(f.lastOf(row)), int32(row.failures)
	}
	rest.Queue(`UPDATE schedule_due d SET last_run = i.last_run, failures = i.failures
		FROM unnest($1::bigint[], $2::uuid[], $3::int[]) AS i(id, last_run, failures) WHERE d.schedule = i.id`, ids, last, failures)
	queueFires(rest, f.fires)
	f.queueInvalid(rest)
	return tx.SendBatch(ctx, rest).Close()
}
