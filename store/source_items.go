package store

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// NewItem is one piece of work that a source has listed.
type NewItem struct {
	Key      string
	Task     string          // "": it has a chain
	Params   json.RawMessage // nil: the task's own
	Chain    json.RawMessage // nil: that of the task
	Priority *int            // nil: that of the task
	Refused  string          // why it gets no run; "": it may get one
}

// SourceAnswer is what a poll gave.
type SourceAnswer struct {
	Items  []NewItem // the keys differ
	Remark string    // what was wrong with it, though it could be used
}

// Taken counts what became of items.
type Taken struct {
	Started  int
	Refused  int
	Known    int // those whose key is under way, or whose outcome the source did not know of when it was asked
	Requeued int // started again, as the source has asked
	Recorded int
	Parcels  []Parcel
}

// itemStart is an item that is to get a run, or a refusal.
type itemStart struct {
	NewItem
	attempt int
	again   bool // the source wants it to be run once more
	wait    time.Duration
	at      time.Time // not before; zero: now
	run     *uuid.UUID
}

// AcceptItems starts a run for each item of a poll whose key is not known, and
// records the poll, in one transaction: each attempt of a key has one run,
// however often a poll is repeated.
func (s *Store) AcceptItems(ctx context.Context, term int64, turn SourceTurn, answer SourceAnswer) (Taken, error) {
	view, err := s.viewOf(ctx, answer.Items)
	if err != nil {
		return Taken{}, err
	}
	var taken Taken
	err = s.sourceTx(ctx, term, turn, func(tx pgx.Tx, src task.Source, version int64) error {
		taken = Taken{}
		if !sameRun(src.PollRun, turn.PollRun) {
			return errSourceChanged
		}
		known, err := knownItems(ctx, tx, src.Name, answer.Items)
		if err != nil {
			return err
		}
		var starts []*itemStart
		for _, item := range answer.Items {
			before := known[item.Key]
			if before.attempt > 0 && (before.recordedAt == nil || !before.recordedAt.Before(turn.At)) {
				taken.Known++
				continue
			}
			starts = append(starts, &itemStart{NewItem: item, attempt: before.attempt + 1})
		}
		if err := s.startItems(ctx, tx, view, src, starts, &taken); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE sources SET poll_run = NULL, failures = 0, error = $2, listed = $3, polled_at = clock_timestamp(),
			next_poll_at = CASE WHEN version <> $4 OR next_poll_at > $5 THEN next_poll_at WHEN loop THEN clock_timestamp() + every_ms * interval '1 millisecond' END
			WHERE name = $1`, src.Name, clean(answer.Remark), len(answer.Items), turn.Version, turn.At.Add(time.Millisecond))
		return err
	})
	return taken, err
}

// viewOf looks at the tasks that items name.
func (s *Store) viewOf(ctx context.Context, items []NewItem) (*laneView, error) {
	runs := make([]NewRun, len(items))
	for i, item := range items {
		runs[i].Task = item.Task
	}
	return s.lookAtLanes(ctx, s.pool, runs)
}

// knownItem is an item whose key was listed before. While it is not recorded the
// same key is the same work. Nor is it new when it was recorded after the source was
// asked: then the list may be from before the source knew of that.
type knownItem struct {
	attempt    int
	recordedAt *time.Time
}

func knownItems(ctx context.Context, tx pgx.Tx, source string, items []NewItem) (map[string]knownItem, error) {
	keys := make([]string, len(items))
	for i, item := range items {
		keys[i] = item.Key
	}
	rows, err := tx.Query(ctx, `SELECT key, attempt, recorded_at FROM source_items WHERE source = $1 AND key = ANY ($2)`, source, keys)
	if err != nil {
		return nil, err
	}
	known := make(map[string]knownItem, len(items))
	var key string
	var k knownItem
	_, err = pgx.ForEachRow(rows, []any{&key, &k.attempt, &k.recordedAt}, func() error { known[key] = k; return nil })
	return known, err
}

// startItems inserts the runs of the items and the rows of all of them. An item
// whose run cannot be accepted is refused with the reason and hinders no other.
func (s *Store) startItems(ctx context.Context, tx pgx.Tx, view *laneView, src task.Source, starts []*itemStart, taken *Taken) error {
	if len(starts) == 0 {
		return nil
	}
	infos, err := generate(ctx, tx, src, task.SourceItemPrefix+src.Name, time.Duration(task.DefaultTimeout), chainsOf(starts))
	if err != nil {
		return err
	}
	var runs []NewRun
	var wanted []*itemStart
	for _, start := range starts {
		if start.Refused != "" {
			continue
		}
		runs, wanted = append(runs, runOf(view, src, start, infos)), append(wanted, start)
	}
	runs, wanted, keys := s.refuseItems(view, runs, wanted)
	accepted := make([]Accepted, len(runs))
	for i, id := range s.ids.mint(view.now, len(runs)) {
		accepted[i] = Accepted{ID: id}
	}
	if err := takeKeys(ctx, tx, view, runs, keys, accepted); err != nil {
		return err
	}
	ended, err := endedDuplicates(ctx, tx, wanted, accepted)
	if err != nil {
		return err
	}
	plan := newInsertion(view)
	for i, start := range wanted {
		if id := accepted[i].ID; ended[id] {
			start.Refused = duplicateReason(*keys[i].Dedupe, id)
			taken.Started, taken.Refused = taken.Started-1, taken.Refused+1
			continue
		}
		start.run = &accepted[i].ID
		if !accepted[i].Duplicate {
			runs[i].Trace = s.trace(accepted[i].ID)
			plan.add(accepted[i].ID, runs[i], keyAt(keys, i))
		}
	}
	if !plan.empty() {
		if err := plan.write(ctx, tx); err != nil {
			return err
		}
	}
	taken.Parcels = append(taken.Parcels, plan.parcels()...)
	taken.Started, taken.Refused = taken.Started+len(wanted), taken.Refused+len(starts)-len(wanted)
	return writeItems(ctx, tx, src.Name, starts)
}

// endedDuplicates returns the runs by which dedupe answers items that are to be run
// once more, and that have ended: such an item would have ended again at once.
func endedDuplicates(ctx context.Context, tx pgx.Tx, starts []*itemStart, accepted []Accepted) (map[uuid.UUID]bool, error) {
	made, ended := map[uuid.UUID]bool{}, map[uuid.UUID]bool{}
	for _, a := range accepted {
		if !a.Duplicate {
			made[a.ID] = true
		}
	}
	var ids []uuid.UUID
	for i, start := range starts {
		if id := accepted[i].ID; start.again && accepted[i].Duplicate && !made[id] {
			ended[id], ids = true, append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	low, high := bounds(ids)
	rows, err := tx.Query(ctx, `SELECT id FROM runs WHERE id = ANY ($1) AND id BETWEEN $2 AND $3 AND finished_at IS NULL`, ids, low, high)
	if err != nil {
		return nil, err
	}
	var id uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error { delete(ended, id); return nil })
	return ended, err
}

func chainsOf(starts []*itemStart) (chains []string) {
	seen := map[string]bool{}
	for _, start := range starts {
		if chain := string(start.Chain); start.Refused == "" && chain != "" && !seen[chain] {
			seen[chain] = true
			chains = append(chains, chain)
		}
	}
	return chains
}

// runOf is the run of an item: of its task, but in a lane whose workers have the
// source's tag, and with the item's priority.
func runOf(view *laneView, src task.Source, start *itemStart, infos map[string]*taskInfo) NewRun {
	run := NewRun{Task: start.Task, Params: start.Params, At: start.at}
	var info taskInfo
	if start.Chain != nil {
		run.Task, info = task.SourceItemPrefix+src.Name, *infos[string(start.Chain)]
	} else {
		var known bool
		if info, known = view.tasks[start.Task]; !known {
			return run
		}
		if src.Runtime != "" {
			parts := strings.Split(info.lane, "+")
			info.lane = task.Lane(parts[0], append(parts[1:], src.Runtime))
		}
	}
	if start.Priority != nil {
		info.priority = int32(*start.Priority)
	}
	run.as = &info
	return run
}

// refuseItems marks the items whose runs cannot be accepted and returns the others.
func (s *Store) refuseItems(view *laneView, runs []NewRun, wanted []*itemStart) ([]NewRun, []*itemStart, []LimitKeys) {
	keys, refused := s.keysOf(view, runs)
	if refused == nil {
		return runs, wanted, keys
	}
	var goodRuns []NewRun
	var good []*itemStart
	for i, start := range wanted {
		if reason := refused.Reasons[i]; reason != nil {
			start.Refused = reason.Error()
			continue
		}
		goodRuns, good = append(goodRuns, runs[i]), append(good, start)
	}
	keys, _ = s.keysOf(view, goodRuns) // by the new indexes
	return goodRuns, good, keys
}

func writeItems(ctx context.Context, tx pgx.Tx, source string, starts []*itemStart) error {
	n := len(starts)
	keys, tasks, reasons := make([]string, n), make([]string, n), make([]string, n)
	attempts, priorities := make([]int32, n), make([]*int32, n)
	waits := make([]float64, n) // of items that are refused once more, so that a source that insists is not told without a pause
	params, chains, runs := make([]*string, n), make([]*string, n), make([]*uuid.UUID, n)
	for i, start := range starts {
		keys[i], attempts[i], reasons[i] = start.Key, int32(start.attempt), clean(start.Refused)
		tasks[i] = clean(start.Task)
		if start.again {
			waits[i] = max(time.Second, start.wait).Seconds()
		}
		if start.Chain != nil {
			tasks[i] = task.SourceItemPrefix + source
		}
		params[i], chains[i], runs[i] = nullText(string(start.Params)), nullText(string(start.Chain)), start.run
		if start.Priority != nil {
			p := int32(*start.Priority)
			priorities[i] = &p
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO source_items AS t (source, key, attempt, state, task, params, chain, priority, run, reason, record_at, ended_at)
		SELECT $1, key, attempt, CASE WHEN run IS NULL THEN 'refused' ELSE 'running' END, task, params::json, chain::json, priority, run, reason,
			CASE WHEN run IS NULL THEN clock_timestamp() + wait * interval '1 second' END, CASE WHEN run IS NULL THEN clock_timestamp() END
		FROM unnest($2::text[], $3::int[], $4::text[], $5::text[], $6::text[], $7::int[], $8::uuid[], $9::text[], $10::float8[])
			AS i(key, attempt, task, params, chain, priority, run, reason, wait)
		ON CONFLICT (source, key) DO UPDATE SET attempt = excluded.attempt, state = excluded.state, task = excluded.task, params = excluded.params,
			chain = excluded.chain, priority = excluded.priority, run = excluded.run, reason = excluded.reason, record_at = excluded.record_at,
			ended_at = excluded.ended_at, result = NULL, record_run = NULL, tries = 0, error = '', started_at = clock_timestamp(), recorded_at = NULL`,
		source, keys, attempts, tasks, params, chains, priorities, runs, reasons, waits)
	return err
}

// ItemOutcome is what a source is to be told of an item.
type ItemOutcome struct {
	Key        string
	Attempt    int
	Task       string
	Run        *uuid.UUID
	State      task.State      // that the run ended in; "" when the item was refused
	Outcome    json.RawMessage // nil: the run has none, or is no longer kept
	Reason     string
	StartedAt  *time.Time
	FinishedAt *time.Time
	Tries      int
}

// ItemsToRecord returns items that the source is to be told of, in the order in
// which they fell due and no more than limit: together at most size bytes of
// outcomes, or a single item. One that has failed thrice comes alone, so that it
// keeps no other from being recorded. An item whose run was
// retried before it could be recorded is put back to running.
func (s *Store) ItemsToRecord(ctx context.Context, term int64, turn SourceTurn, limit, size int) ([]ItemOutcome, error) {
	page, err := s.dueItems(ctx, turn.Name, limit)
	if err == nil && len(page) > 0 {
		page, err = s.withOutcomes(ctx, page, size)
	}
	if err != nil {
		return nil, wrap(err, "read the ended items of source "+turn.Name)
	}
	var list, again []ItemOutcome
	for _, item := range page {
		if item.retried {
			again = append(again, item.ItemOutcome)
		} else {
			list = append(list, item.ItemOutcome)
		}
	}
	return list, s.reopenItems(ctx, term, turn, again)
}

// dueItem is an item that the source is to be told of.
type dueItem struct {
	ItemOutcome
	state   task.SourceItemState
	retried bool // its run goes again
}

func (s *Store) dueItems(ctx context.Context, source string, limit int) ([]dueItem, error) {
	rows, err := s.pool.Query(ctx, `SELECT key, attempt, task, run, coalesce(result, CASE WHEN state = 'ended' THEN 'failed' ELSE '' END), reason, tries, state
		FROM source_items WHERE source = $1 AND record_at <= (SELECT clock_timestamp()) ORDER BY record_at, key LIMIT $2`, source, limit)
	if err != nil {
		return nil, err
	}
	page, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i dueItem, err error) {
		return i, row.Scan(&i.Key, &i.Attempt, &i.Task, &i.Run, &i.State, &i.Reason, &i.Tries, &i.state)
	})
	for n, item := range page {
		if item.Tries >= 3 {
			return page[:max(n, 1)], err
		}
	}
	return page, err
}

// withOutcomes returns the first of the items with what their runs have left, as
// many as have together at most size bytes.
func (s *Store) withOutcomes(ctx context.Context, page []dueItem, size int) ([]dueItem, error) {
	runs, others, ids := make([]*uuid.UUID, len(page)), make([]int64, len(page)), []uuid.UUID{}
	for i, item := range page {
		runs[i], others[i] = item.Run, int64(len(item.Key)+500)
		if item.Run != nil {
			ids = append(ids, *item.Run)
		}
	}
	low, high := bounds(ids)
	rows, err := s.bulk.Query(ctx, `SELECT kept, outcome, reason, started_at, finished_at FROM (
			SELECT i.n, r.id IS NOT NULL AS kept, r.outcome::text AS outcome, coalesce(r.reason, '') AS reason, r.started_at, r.finished_at,
				sum(coalesce(octet_length(r.outcome::text), 0) + i.bytes) OVER (ORDER BY i.n) AS bytes
			FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS i(run, bytes, n)
				LEFT JOIN runs r ON r.id = i.run AND r.id = ANY ($3) AND r.id BETWEEN $4 AND $5) x
		WHERE n = 1 OR bytes <= $6 ORDER BY n`, runs, others, ids, low, high, size)
	if err != nil {
		return nil, err
	}
	n := 0
	var kept bool
	var outcome *string
	var reason string
	var started, finished *time.Time
	_, err = pgx.ForEachRow(rows, []any{&kept, &outcome, &reason, &started, &finished}, func() error {
		item := &page[n]
		n++
		item.StartedAt, item.FinishedAt, item.retried = started, finished, kept && finished == nil
		if outcome != nil {
			item.Outcome = json.RawMessage(*outcome)
		}
		switch {
		case item.state == task.ItemEnded && !kept:
			item.Reason = "its run is no longer kept"
		case item.Reason == "":
			item.Reason = reason
		}
		return nil
	})
	return page[:n], err
}

func (s *Store) reopenItems(ctx context.Context, term int64, turn SourceTurn, items []ItemOutcome) error {
	if len(items) == 0 {
		return nil
	}
	return s.sourceTx(ctx, term, turn, func(tx pgx.Tx, _ task.Source, _ int64) error { return reopen(ctx, tx, turn.Name, items) })
}

// reopen puts ended items back to running, whose runs go again.
func reopen(ctx context.Context, tx pgx.Tx, source string, items []ItemOutcome) error {
	keys, attempts := keysOfItems(items)
	_, err := tx.Exec(ctx, `UPDATE source_items t SET state = 'running', result = NULL, ended_at = NULL, record_at = NULL, record_run = NULL
		FROM unnest($2::text[], $3::int[]) AS i(key, attempt) WHERE t.source = $1 AND t.key = i.key AND t.attempt = i.attempt AND t.state = 'ended'`,
		source, keys, attempts)
	return err
}

func keysOfItems(items []ItemOutcome) (keys []string, attempts []int32) {
	for _, item := range items {
		keys, attempts = append(keys, item.Key), append(attempts, int32(item.Attempt))
	}
	return keys, attempts
}

// ItemsOfRecord returns the items that the run under way tells the source of,
// without their outcomes.
func (s *Store) ItemsOfRecord(ctx context.Context, turn SourceTurn) ([]ItemOutcome, error) {
	rows, err := s.pool.Query(ctx, `SELECT key, attempt FROM source_items WHERE source = $1 AND record_at IS NOT NULL AND record_run = $2 ORDER BY record_at, key`, turn.Name, turn.RecordRun)
	if err != nil {
		return nil, wrap(err, "read the items that source "+turn.Name+" is told of")
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i ItemOutcome, err error) { return i, row.Scan(&i.Key, &i.Attempt) })
	return list, wrap(err, "read the items that source "+turn.Name+" is told of")
}

// RecordItems notes that the source has been told of items, and starts those
// again that it wants to be run once more, by key, after the given wait.
func (s *Store) RecordItems(ctx context.Context, term int64, turn SourceTurn, items []ItemOutcome, again map[string]time.Duration) (Taken, error) {
	var requeued []string
	for key := range again {
		requeued = append(requeued, key)
	}
	stored, err := s.storedItems(ctx, turn, requeued)
	if err != nil {
		return Taken{}, err
	}
	items, retried, err := s.splitRetried(ctx, turn, items)
	if err != nil {
		return Taken{}, err
	}
	listed := make([]NewItem, len(stored))
	for i, start := range stored {
		listed[i] = start.NewItem
	}
	view, err := s.viewOf(ctx, listed)
	if err != nil {
		return Taken{}, err
	}
	var taken Taken
	err = s.sourceTx(ctx, term, turn, func(tx pgx.Tx, src task.Source, _ int64) error {
		taken = Taken{}
		if !sameRun(src.RecordRun, turn.RecordRun) {
			return errSourceChanged
		}
		if len(retried) > 0 {
			if err := reopen(ctx, tx, src.Name, retried); err != nil {
				return err
			}
		}
		keys, attempts := keysOfItems(items)
		rows, err := tx.Query(ctx, `UPDATE source_items t SET state = 'recorded', recorded_at = clock_timestamp(), record_at = NULL, record_run = NULL, error = '',
				params = NULL, chain = NULL
			FROM unnest($2::text[], $3::int[]) AS i(key, attempt) WHERE t.source = $1 AND t.key = i.key AND t.attempt = i.attempt AND t.record_at IS NOT NULL
			RETURNING t.key, t.attempt`, src.Name, keys, attempts)
		if err != nil {
			return err
		}
		done := map[string]int{}
		var key string
		var attempt int
		if _, err := pgx.ForEachRow(rows, []any{&key, &attempt}, func() error { done[key] = attempt; return nil }); err != nil {
			return err
		}
		taken.Recorded = len(done)
		var starts []*itemStart
		for _, start := range stored {
			if done[start.Key] != start.attempt {
				continue // it has come again meanwhile
			}
			next := itemStart{NewItem: start.NewItem, attempt: start.attempt + 1, again: true}
			if wait := again[start.Key]; wait > 0 {
				next.wait, next.at = wait, view.now.Add(wait)
			}
			starts = append(starts, &next)
		}
		if err := s.startItems(ctx, tx, view, src, starts, &taken); err != nil {
			return err
		}
		taken.Requeued, taken.Started = taken.Started, 0
		_, err = tx.Exec(ctx, `UPDATE sources SET record_run = NULL, record_at = NULL, record_failures = 0, record_error = '' WHERE name = $1
			AND (record_run IS NOT NULL OR record_at IS NOT NULL OR record_failures > 0)`, src.Name)
		return err
	})
	return taken, err
}

// splitRetried parts items from those whose runs were retried while the source was
// told of them: it is told again when they end.
func (s *Store) splitRetried(ctx context.Context, turn SourceTurn, items []ItemOutcome) (ended, retried []ItemOutcome, err error) {
	keys, _ := keysOfItems(items)
	rows, err := s.pool.Query(ctx, `SELECT key, run FROM source_items WHERE source = $1 AND key = ANY ($2) AND record_at IS NOT NULL AND run IS NOT NULL`, turn.Name, keys)
	if err != nil {
		return nil, nil, wrap(err, "read items of source "+turn.Name)
	}
	runOf := map[string]uuid.UUID{}
	var ids []uuid.UUID
	var key string
	var run uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&key, &run}, func() error { runOf[key], ids = run, append(ids, run); return nil }); err != nil {
		return nil, nil, wrap(err, "read items of source "+turn.Name)
	}
	if len(ids) == 0 {
		return items, nil, nil
	}
	open, err := s.unfinished(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	for _, item := range items {
		if open[runOf[item.Key]] {
			retried = append(retried, item)
		} else {
			ended = append(ended, item)
		}
	}
	return ended, retried, nil
}

// storedItems reads what items that are to be run once more consist of. One that
// names no work is refused once more, for the same reason.
func (s *Store) storedItems(ctx context.Context, turn SourceTurn, keys []string) ([]itemStart, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	rows, err := s.pool.Query(ctx, `SELECT key, attempt, CASE WHEN chain IS NULL THEN task ELSE '' END, params::text, chain::text, priority,
			CASE WHEN state = 'refused' AND task = '' THEN reason ELSE '' END FROM source_items
		WHERE source = $1 AND key = ANY ($2) AND record_at IS NOT NULL ORDER BY key`, turn.Name, keys)
	if err != nil {
		return nil, wrap(err, "read items of source "+turn.Name)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i itemStart, err error) {
		var params, chain *string
		if err = row.Scan(&i.Key, &i.attempt, &i.Task, &params, &chain, &i.Priority, &i.Refused); err != nil {
			return i, err
		}
		if params != nil {
			i.Params = json.RawMessage(*params)
		}
		if chain != nil {
			i.Chain = json.RawMessage(*chain)
		}
		return i, nil
	})
	return list, wrap(err, "read items of source "+turn.Name)
}

// FailRecord notes that the source could not be told of items. Each is told
// again after a wait that grows to five minutes, and so is the source.
func (s *Store) FailRecord(ctx context.Context, term int64, turn SourceTurn, items []ItemOutcome, problem string) error {
	const wait = `clock_timestamp() + interval '1 second' * (0.75 + random() / 2) * least(300, power(2, least(TRIES, 20)))`
	return s.sourceTx(ctx, term, turn, func(tx pgx.Tx, src task.Source, _ int64) error {
		if !sameRun(src.RecordRun, turn.RecordRun) {
			return errSourceChanged
		}
		keys, attempts := keysOfItems(items)
		if _, err := tx.Exec(ctx, `UPDATE source_items t SET tries = t.tries + 1, error = $4, record_run = NULL, record_at = `+strings.ReplaceAll(wait, "TRIES", "t.tries")+`
			FROM unnest($2::text[], $3::int[]) AS i(key, attempt) WHERE t.source = $1 AND t.key = i.key AND t.attempt = i.attempt AND t.record_at IS NOT NULL`,
			src.Name, keys, attempts, clean(problem)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE sources SET record_run = NULL, record_failures = record_failures + 1, record_error = $2, record_at = `+
			strings.ReplaceAll(wait, "TRIES", "record_failures")+` WHERE name = $1`, src.Name, clean(problem))
		return err
	})
}
