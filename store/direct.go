package store

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/catena-run/catena/task"
)

// A new run of a task with limits takes its place and its token while it is
// inserted, where they are free, its lane has room and no run waits before it for the same.
// Everything else is left to the leader's turns (admitting), runs in another lane than
// their task's among it.
//
// Whoever counts and takes holds the lock of the task until its commit, a turn
// for all tasks that it looks at, so that a count is never too low. An insertion
// wants no lock for what others wait for already, and waits for its locks only for a
// moment: without them its runs wait in ready, as ever.

// Bounds of what one insertion starts at once; the rest is left to the leader.
const (
	directPatience = 100 * time.Millisecond // for all its locks together
	directTasks    = 50                     // tasks, each of them a lock
	directPlaces   = 1000                   // of a limit: they are counted under the lock
)

// candidate is a run of an insertion that may start at once.
type candidate struct {
	at    int // in the insertion
	task  string
	keys  LimitKeys
	group string
	round int // how many of its group stand before it
}

// taskLocks are the keys of the advisory locks of tasks, in the order in which
// they are taken.
func taskLocks(names []string) []int64 {
	locks := make([]int64, len(names))
	for i, name := range names {
		locks[i] = taskLock(name)
	}
	slices.Sort(locks)
	return slices.Compact(locks)
}

func taskLock(name string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("catena limits of " + name)) // never fails
	return int64(h.Sum64())
}

// lockTasks locks one after the other, in the order given: a function in the
// list of a SELECT is called in the order of its rows.
const lockTasks = `SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) AS k`

// wait is what a limited run is entered as, until admit has looked.
func (p *insertion) wait(run NewRun, keys LimitKeys) {
	if p.groups == nil {
		p.groups = map[string]int{}
	}
	group := run.Task + "\x1e" + keys.joined()
	p.candidates = append(p.candidates, candidate{at: len(p.ids) - 1, task: run.Task, keys: keys, group: group, round: p.groups[group]})
	p.groups[group]++
}

// admit lets candidates start, as far as places, tokens and room allow. The
// groups take turns, as they do in the turns of the leader.
func (p *insertion) admit(ctx context.Context, tx pgx.Tx) error {
	look := newDirectLook(p)
	if len(look.list) == 0 {
		return nil
	}
	if err := look.read(ctx, tx); err != nil {
		return err
	}
	p.packer.packs = look.packs
	slices.SortStableFunc(look.list, func(a, b candidate) int { return a.round - b.round })
	granted := map[int]bool{}
	for _, c := range look.list {
		info := p.view.tasks[c.task]
		place, token := look.of(c)
		room := p.view.lanes[info.lane].direct()
		if look.waiting[info.lane] { // half of it is for those that wait already
			room /= 2
		}
		if look.blocked[c.group] || !place.open() || !token.open() || !p.packer.put(info.lane, p.ids[c.at], info.micros, room) {
			look.blocked[c.group] = true // nobody of the group overtakes it
			continue
		}
		place.take()
		token.take()
		granted[c.at] = true
		p.grant(c, place, token)
	}
	p.unwait(granted)
	return nil
}

// grant makes a candidate a run that was dispatched.
func (p *insertion) grant(c candidate, place, token *places) {
	p.states[c.at], p.fences[c.at], p.releases[c.at] = string(task.StateDispatched), 1, &p.view.release
	info := p.view.tasks[c.task]
	if place != nil {
		p.held[c.at] = new(bool)
		p.holders = append(p.holders, holder{c.at, p.ids[c.at], placeKey{limitScope(c.task), *c.keys.Concurrency}})
		p.packer.hold(info.lane, p.ids[c.at], place.number)
	}
	if token != nil {
		p.rated = append(p.rated, ratedRun{c.at, placeKey{c.task, *c.keys.Rate}, token.number, time.Duration(info.limits.Rate.Per)})
	}
}

// holder is a run that has taken a place.
type holder struct {
	at    int // among those that start
	run   uuid.UUID
	place placeKey
}

// queueHolds writes a row for each holder.
func queueHolds(batch *pgx.Batch, holders []holder) {
	if len(holders) == 0 {
		return
	}
	ids, scopes, keys := make([]uuid.UUID, len(holders)), make([]string, len(holders)), make([]string, len(holders))
	for i, h := range holders {
		ids[i], scopes[i], keys[i] = h.run, h.place.scope, h.place.key
	}
	rows := &rowSet{}
	rows.array("run", "uuid", ids)
	rows.together(of("scope", "text", scopes))
	rows.together(of("key", "text", keys))
	batch.Queue(rows.insert("holds", "")+` ON CONFLICT (run, scope) DO UPDATE SET key = excluded.key, taken_at = excluded.taken_at`, rows.args...)
}

// ratedRun is a run that has taken a token.
type ratedRun struct {
	at     int
	limit  placeKey
	number keyNumber
	per    time.Duration
}

// unwait removes runs from those that wait.
func (p *insertion) unwait(granted map[int]bool) {
	waiting, holds := p.waiting[:0], p.holds[:0]
	for i, at := range p.waiting {
		if !granted[at] {
			waiting, holds = append(waiting, at), append(holds, p.holds[i])
		}
	}
	p.waiting, p.holds = waiting, holds
}

// queueGranted writes the places and tokens of those that start at once.
func (p *insertion) queueGranted(batch *pgx.Batch) {
	queueHolds(batch, p.holders)
	uses := tokenUses{packs: p.packer.packs}
	for _, r := range p.rated {
		uses.list = append(uses.list, tokenUse{*p.parcelIDs[r.at], p.ids[r.at], r.limit, r.number, r.per})
	}
	uses.queue(batch)
}

// directLook is what the candidates of an insertion find.
type directLook struct {
	tasks   map[string]taskInfo
	list    []candidate // those that may still start
	places  placeSet
	packs   bool
	blocked map[string]bool     // groups of which runs wait already
	waiting map[string]bool     // lanes in which limited runs wait
	crowded map[string][]string // tasks of which limited runs wait, with the lanes
}

// newDirectLook takes up the candidates that may start, of the first tasks.
func newDirectLook(p *insertion) *directLook {
	look := &directLook{tasks: p.view.tasks, places: placeSet{}, blocked: map[string]bool{}}
	taken := map[string]bool{}
	for _, c := range p.candidates {
		info := look.tasks[c.task]
		_, known := taken[c.task]
		if !known && len(taken) < directTasks {
			known = true
			taken[c.task] = p.view.lanes[info.lane].direct() > 0 && countable(info.limits)
		}
		if known && taken[c.task] {
			look.list = append(look.list, c)
		}
	}
	return look
}

// countable says whether few enough places and tokens are to be counted.
func countable(limits task.Limits) bool {
	return (limits.Concurrency == nil || limits.Concurrency.Limit <= directPlaces) && (limits.Rate == nil || limits.Rate.Limit <= directPlaces)
}

// names are the tasks of the candidates.
func (l *directLook) names() []string {
	names := make([]string, len(l.list))
	for i, c := range l.list {
		names[i] = c.task
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (l *directLook) drop(gone func(candidate) bool) { l.list = slices.DeleteFunc(l.list, gone) }

// of returns what the candidate needs; nil: it needs no such thing.
func (l *directLook) of(c candidate) (place, token *places) {
	if c.keys.Concurrency != nil {
		place = l.places[placeKey{limitScope(c.task), *c.keys.Concurrency}]
	}
	if c.keys.Rate != nil {
		token = l.places[placeKey{c.task, *c.keys.Rate}]
	}
	return place, token
}

// read looks for waiting runs, takes the locks of the tasks that are left, and
// counts. Candidates that must wait leave the list.
func (l *directLook) read(ctx context.Context, tx pgx.Tx) error {
	free := false // of a turn of an older binary
	batch := &pgx.Batch{}
	batch.Queue(keepIndexes)
	batch.Queue(`SELECT pg_try_advisory_xact_lock_shared($1)`, int64(admitLock)).QueryRow(func(row pgx.Row) error { return row.Scan(&free) })
	if err := l.readWaiting(ctx, tx, batch); err != nil {
		return err
	}
	if !free {
		l.list = nil
	}
	if len(l.list) == 0 {
		return nil
	}
	locks := taskLocks(l.names())
	each := max(directPatience/time.Duration(len(locks)), time.Millisecond)
	batch = &pgx.Batch{}
	batch.Queue(`SAVEPOINT locks`)
	batch.Queue(fmt.Sprintf(`SET LOCAL lock_timeout = '%dms'`, each.Milliseconds()))
	batch.Queue(lockTasks, locks)
	batch.Queue(`SET LOCAL lock_timeout TO DEFAULT`)
	batch.Queue(`RELEASE SAVEPOINT locks`)
	err := l.readPlaces(ctx, tx, batch)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "55P03" { // lock_not_available
		return err
	}
	if err := l.tryLocks(ctx, tx, locks); err != nil || len(l.list) == 0 {
		return err
	}
	return l.readPlaces(ctx, tx, &pgx.Batch{})
}

// tryLocks takes those locks that are free, after the patience was in vain.
func (l *directLook) tryLocks(ctx context.Context, tx pgx.Tx, locks []int64) error {
	if _, err := tx.Exec(ctx, `ROLLBACK TO SAVEPOINT locks`); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `SELECT k FROM unnest($1::bigint[]) AS k WHERE pg_try_advisory_xact_lock(k)`, locks)
	if err != nil {
		return err
	}
	locked, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	l.drop(func(c candidate) bool { return !slices.Contains(locked, taskLock(c.task)) })
	return err
}

// readPlaces counts what the limits leave, under the locks. A task that was
// changed since the insertion read it is left to the leader: its limits may be lower now.
func (l *directLook) readPlaces(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) error {
	clear(l.places)
	for _, c := range l.list {
		limits := l.tasks[c.task].limits // a key is there only with its limit
		if key := c.keys.Concurrency; key != nil {
			l.places.limited(placeKey{limitScope(c.task), *key}, limits.Concurrency.Limit)
		}
		if key := c.keys.Rate; key != nil {
			l.places.limited(placeKey{c.task, *key}, limits.Rate.Limit)
		}
	}
	names := l.names()
	revisions := make([]int64, len(names))
	for i, name := range names {
		revisions[i] = l.tasks[name].revision
	}
	var changed []string
	batch.Queue(changedTasks, names, revisions).Query(func(rows pgx.Rows) (err error) {
		changed, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	l.places.queueCounts(batch)
	queueMayPack(batch, &l.packs)
	if err := l.readWaiting(ctx, tx, batch); err != nil {
		return err
	}
	l.drop(func(c candidate) bool { return slices.Contains(changed, c.task) })
	return nil
}

const changedTasks = `SELECT i.task FROM unnest($1::text[], $2::bigint[]) AS i(task, revision)
	WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.name = i.task AND t.revision = i.revision AND NOT t.paused)`

// keepIndexes is orderedScans in one statement.
const keepIndexes = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
	set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)`

// waitingTasks walks the lanes in which limited runs wait, by index jumps.
const waitingTasks = `
	WITH RECURSIVE l AS (
		(SELECT lane FROM ready WHERE hold = 'limited' ORDER BY lane LIMIT 1)
		UNION ALL
		SELECT (SELECT r.lane FROM ready r WHERE r.hold = 'limited' AND r.lane > l.lane ORDER BY r.lane LIMIT 1) FROM l WHERE l.lane IS NOT NULL
	)
	SELECT l.lane, ARRAY(SELECT t FROM unnest($1::text[]) AS t WHERE EXISTS (SELECT FROM ready r WHERE r.hold = 'limited' AND r.lane = l.lane AND r.task = t))
	FROM l WHERE l.lane IS NOT NULL`

// readWaiting sends the batch and looks which runs wait before the candidates,
// in whichever lane. Where runs of a task have two limits, one that waits for the one may be
// overtaken at the other by a run of another group, so that none of the task starts.
func (l *directLook) readWaiting(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) error {
	l.waiting, l.crowded = map[string]bool{}, map[string][]string{}
	batch.Queue(waitingTasks, l.names()).Query(func(rows pgx.Rows) error {
		var lane string
		var names []string
		_, err := pgx.ForEachRow(rows, []any{&lane, &names}, func() error {
			l.waiting[lane] = true
			for _, name := range names {
				l.crowded[name] = append(l.crowded[name], lane)
			}
			return nil
		})
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil || len(l.crowded) == 0 {
		return err
	}
	l.drop(func(c candidate) bool {
		return c.keys.Rate != nil && c.keys.Concurrency != nil && l.crowded[c.task] != nil
	})
	if err := l.readGroups(ctx, tx); err != nil {
		return err
	}
	l.drop(func(c candidate) bool { return l.blocked[c.group] })
	return nil
}

// readGroups finds the groups of which runs wait already.
func (l *directLook) readGroups(ctx context.Context, tx pgx.Tx) error {
	var lanes, names, joined, groups []string
	for _, c := range l.list {
		if c.round > 0 {
			continue
		}
		for _, lane := range l.crowded[c.task] {
			lanes, names = append(lanes, lane), append(names, c.task)
			joined, groups = append(joined, c.keys.joined()), append(groups, c.group)
		}
	}
	if len(groups) == 0 {
		return nil
	}
	// LIMIT keeps the planner from joining all with all.
	rows, err := tx.Query(ctx, `SELECT i.n FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS i(lane, task, keys, n)
		CROSS JOIN LATERAL (SELECT FROM ready r WHERE r.hold = 'limited' AND r.lane = i.lane AND r.task = i.task AND r.limit_keys = i.keys LIMIT 1) r`,
		lanes, names, joined)
	if err != nil {
		return err
	}
	var n int
	_, err = pgx.ForEachRow(rows, []any{&n}, func() error { l.blocked[groups[n-1]] = true; return nil })
	return err
}
