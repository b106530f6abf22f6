package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// SourceTurn is a source of which something is due.
type SourceTurn struct {
	task.Source
	Version int64     // of the definition
	At      time.Time // when it was looked at, to the millisecond; what it answers is younger
	Poll    bool      // it is to be polled, or its poll_run has ended
	Record  bool      // it is to be told of items, or its record_run has ended
}

// dueSources gives those that have waited longest first.
const dueSources = `SELECT * FROM (SELECT ` + sourceColumns + `,
		s.name <> ALL ($1) AND CASE WHEN s.poll_run IS NULL THEN NOT s.paused AND coalesce(s.next_poll_at <= (SELECT clock_timestamp()), false)
			ELSE NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = s.poll_run AND r.finished_at IS NULL) END AS poll,
		s.name <> ALL ($2) AND CASE WHEN s.record_run IS NULL THEN coalesce(s.record_at <= (SELECT clock_timestamp()), true)
				AND coalesce(first.record_at <= (SELECT clock_timestamp()), false)
			ELSE NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = s.record_run AND r.finished_at IS NULL) END AS record, (SELECT clock_timestamp()) AS at,
		first.record_at AS first_record
	FROM sources s LEFT JOIN LATERAL (SELECT i.record_at FROM source_items i WHERE i.source = s.name AND i.record_at IS NOT NULL
		ORDER BY i.record_at LIMIT 1) first ON true) d
	WHERE d.poll OR d.record ORDER BY least(CASE WHEN d.poll THEN d.next_poll_at END, CASE WHEN d.record THEN d.first_record END) NULLS FIRST, d.name LIMIT $3`

// DueFilter leaves sources out of a look for due ones.
type DueFilter struct {
	NoPoll, NoRecord []string // names of sources that are not to be polled, or told
	Limit            int
}

// DueSources returns the sources of which something is due by the database
// clock. It writes nothing.
func (s *Store) DueSources(ctx context.Context, filter DueFilter) ([]SourceTurn, error) {
	rows, err := s.pool.Query(ctx, dueSources, notNil(filter.NoPoll), notNil(filter.NoRecord), filter.Limit)
	if err != nil {
		return nil, wrap(err, "look for due sources")
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t SourceTurn, err error) {
		t.Source, t.Version, err = scanSource(row, &t.Poll, &t.Record, &t.At, nil)
		if t.PollRun != nil {
			t.At = timeOf(*t.PollRun)
		}
		return t, err
	})
	return list, wrap(err, "look for due sources")
}

// notNil makes an empty array of nil, which would be NULL.
func notNil(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}

// errSourceChanged answers a write about a source that is gone, or whose call it
// speaks of is no longer the one under way.
var errSourceChanged = task.Errorf(task.CodeConflict, "the source has changed meanwhile")

// sourceTx runs work in a leader's transaction that holds the source's row, and
// tells whether it is still the same source.
func (s *Store) sourceTx(ctx context.Context, term int64, turn SourceTurn, work func(tx pgx.Tx, src task.Source, version int64) error) error {
	return s.inTx(ctx, "write what became of source "+turn.Name, func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		src, version, err := scanSource(tx.QueryRow(ctx, `SELECT `+sourceColumns+` FROM sources s WHERE s.name = $1 FOR NO KEY UPDATE`, turn.Name))
		if isMissing(err) {
			return errSourceChanged
		}
		if err != nil {
			return err
		}
		if !src.CreatedAt.Equal(turn.CreatedAt) {
			return errSourceChanged // it was deleted and made anew
		}
		return work(tx, src, version)
	})
}

func sameRun(a, b *uuid.UUID) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

// FailPoll records that a poll gave nothing. The source is polled again after a
// wait that grows from every to five minutes, or at once when that was asked for
// while it was polled.
func (s *Store) FailPoll(ctx context.Context, term int64, turn SourceTurn, problem string) error {
	return s.sourceTx(ctx, term, turn, func(tx pgx.Tx, src task.Source, version int64) error {
		if !sameRun(src.PollRun, turn.PollRun) || version != turn.Version {
			_, err := tx.Exec(ctx, `UPDATE sources SET poll_run = NULL WHERE name = $1 AND poll_run = $2`, turn.Name, turn.PollRun)
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE sources SET poll_run = NULL, failures = failures + 1, error = $2,
			next_poll_at = CASE WHEN next_poll_at > $3 THEN next_poll_at ELSE clock_timestamp() + interval '1 millisecond' * (0.75 + random() / 2)
				* least(greatest(300000, every_ms), greatest(every_ms, 1000) * power(2, least(failures, 20))) END WHERE name = $1`, turn.Name, clean(problem), turn.At.Add(time.Millisecond))
		return err
	})
}

// SourceCall starts the run of a source's own function.
type SourceCall struct {
	Chain   json.RawMessage
	Request json.RawMessage // its params
	Items   []ItemOutcome   // that it records; none: it polls
}

// CallSource starts the run that polls a source, or tells it of items.
func (s *Store) CallSource(ctx context.Context, term int64, turn SourceTurn, call SourceCall) ([]Parcel, error) {
	name := task.SourcePollPrefix + turn.Name
	view, err := s.lookAtLanes(ctx, s.pool, nil)
	if err != nil {
		return nil, err
	}
	var plan *insertion
	err = s.sourceTx(ctx, term, turn, func(tx pgx.Tx, src task.Source, version int64) error {
		plan = newInsertion(view)
		if version != turn.Version || len(call.Items) == 0 && src.PollRun != nil || len(call.Items) > 0 && src.RecordRun != nil {
			return errSourceChanged
		}
		infos, err := generate(ctx, tx, src, name, time.Duration(src.Timeout), []string{string(call.Chain)})
		if err != nil {
			return err
		}
		id := s.ids.mint(view.now, 1)[0]
		plan.add(id, NewRun{Task: name, Params: call.Request, as: infos[string(call.Chain)]}, LimitKeys{})
		if err := plan.write(ctx, tx); err != nil {
			return err
		}
		if len(call.Items) == 0 {
			_, err = tx.Exec(ctx, `UPDATE sources SET poll_run = $2 WHERE name = $1`, turn.Name, id)
			return err
		}
		keys, attempts := keysOfItems(call.Items)
		if _, err := tx.Exec(ctx, `UPDATE source_items t SET record_run = $4 FROM unnest($2::text[], $3::int[]) AS i(key, attempt)
			WHERE t.source = $1 AND t.key = i.key AND t.attempt = i.attempt AND t.record_at IS NOT NULL`, turn.Name, keys, attempts, id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE sources SET record_run = $2 WHERE name = $1`, turn.Name, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return plan.parcels(), nil
}

// generate returns what runs of chains that no task has need: a revision of
// each. It uses only the newest revision of the name again, so that pruning may
// take a replaced one for unused once the runs of its time are gone.
func generate(ctx context.Context, tx pgx.Tx, src task.Source, name string, timeout time.Duration, chains []string) (map[string]*taskInfo, error) {
	infos := map[string]*taskInfo{}
	if len(chains) == 0 {
		return infos, nil
	}
	lane := task.Lane(src.Queue, nil)
	if src.Runtime != "" {
		lane = task.Lane(src.Queue, []string{src.Runtime})
	}
	made := func(revision int64, chain string) {
		infos[chain] = &taskInfo{revision: revision, queue: src.Queue, lane: lane, priority: task.DefaultPriority}
	}
	var newest int64
	var chain, queue, newestLane string
	var ms int64
	err := tx.QueryRow(ctx, `SELECT id, chain::text, queue, lane, timeout_ms FROM task_revisions WHERE task = $1 ORDER BY id DESC LIMIT 1`, name).
		Scan(&newest, &chain, &queue, &newestLane, &ms)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	if err == nil && queue == src.Queue && newestLane == lane && ms == timeout.Milliseconds() {
		for _, c := range chains {
			if c == chain {
				made(newest, chain)
			}
		}
	}
	var missing []string
	for _, c := range chains {
		if infos[c] == nil {
			made(0, c)
			missing = append(missing, c)
		}
	}
	if len(missing) == 0 {
		return infos, nil
	}
	rows, err := tx.Query(ctx, `INSERT INTO task_revisions (id, task, chain, params, timeout_ms, retry, queue, priority, durable, lane)
		SELECT nextval('task_revision_ids'), $1, c::json, '{}', $3, '{}', $4, $5, true, $6 FROM unnest($2::text[]) AS c RETURNING id, chain::text`,
		name, missing, timeout.Milliseconds(), src.Queue, task.DefaultPriority, lane)
	if err != nil {
		return nil, err
	}
	var id int64
	_, err = pgx.ForEachRow(rows, []any{&id, &chain}, func() error { made(id, chain); return nil })
	return infos, err
}

// endPage is how many items EndItems looks at in one turn.
const endPage = 2000

// EndItems notes the ends of runs of items, up to endPage of them, from the run
// after on, and returns where to go on: the zero id when the last was seen.
func (s *Store) EndItems(ctx context.Context, term int64, after uuid.UUID) (next uuid.UUID, ended int64, err error) {
	rows, err := s.pool.Query(ctx, `SELECT run FROM source_items WHERE state = 'running' AND run > $1 ORDER BY run LIMIT $2`, after, endPage)
	if err != nil {
		return next, 0, wrap(err, "look for items that run")
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(ids) == 0 {
		return next, 0, wrap(err, "look for items that run")
	}
	if len(ids) == endPage {
		next = ids[endPage-1]
	}
	open, err := s.unfinished(ctx, ids)
	if err != nil {
		return next, 0, err
	}
	over := ids[:0]
	for _, id := range ids {
		if !open[id] {
			over = append(over, id)
		}
	}
	if len(over) == 0 {
		return next, 0, nil
	}
	low, high := bounds(over)
	err = s.inTx(ctx, "note ended items", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		if err := useBulkPlans(ctx, tx); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE source_items i SET state = 'ended', result = o.state, ended_at = coalesce(o.finished_at, clock_timestamp()), record_at = clock_timestamp()
			FROM (SELECT x.id, r.state, r.finished_at FROM unnest($1::uuid[]) AS x(id) LEFT JOIN runs r ON r.id = x.id AND r.id = ANY ($1) AND r.id BETWEEN $2 AND $3) o
			WHERE i.state = 'running' AND i.run = ANY ($1) AND i.run BETWEEN $2 AND $3 AND i.run = o.id AND (o.state IS NULL OR o.finished_at IS NOT NULL)`, over, low, high)
		ended = tag.RowsAffected()
		return err
	})
	return next, ended, err
}

// unfinished returns those of the runs that are there and have not ended.
func (s *Store) unfinished(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]bool, error) {
	low, high := bounds(ids)
	rows, err := s.bulk.Query(ctx, `SELECT id FROM runs WHERE id = ANY ($1) AND id BETWEEN $2 AND $3 AND finished_at IS NULL`, ids, low, high)
	if err != nil {
		return nil, wrap(err, "look at the runs of items")
	}
	open := make(map[uuid.UUID]bool, len(ids))
	var id uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error { open[id] = true; return nil })
	return open, wrap(err, "look at the runs of items")
}

// SweepItems forgets items that were recorded a week ago, a bounded number. It
// reports whether there is more.
func (s *Store) SweepItems(ctx context.Context, term int64) (more bool, err error) {
	err = s.inTx(ctx, "sweep items of sources", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM source_items WHERE ctid = ANY (ARRAY(SELECT ctid FROM source_items
			WHERE state = 'recorded' AND recorded_at < (SELECT clock_timestamp() - interval '7 days') ORDER BY recorded_at LIMIT $1 FOR UPDATE SKIP LOCKED))`, pruneBatch)
		more = tag.RowsAffected() == pruneBatch
		return err
	})
	return more, err
}

// SourceChanged reports whether err says that a source is gone, or that its call
// is no longer the one under way: what came of the call is then of no use.
func SourceChanged(err error) bool { return errors.Is(err, errSourceChanged) }
