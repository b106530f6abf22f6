package store

import (
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"time"

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
// waits for the lock only for a moment: without it its runs wait in ready, as ever.

// directPatience is how long an insertion waits for the locks of its tasks.
const directPatience = "500ms"

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
		h := fnv.New64a()
		_, _ = h.Write([]byte("catena limits of " + name)) // never fails
		locks[i] = int64(h.Sum64())
	}
	slices.Sort(locks)
	return slices.Compact(locks)
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
	p.candidates = slices.DeleteFunc(p.candidates, func(c candidate) bool { return p.view.lanes[p.view.tasks[c.task].lane].direct() == 0 })
	if len(p.candidates) == 0 {
		return nil
	}
	look := newDirectLook(p)
	if locked, err := look.read(ctx, tx); err != nil || !locked {
		return err
	}
	slices.SortStableFunc(p.candidates, func(a, b candidate) int { return a.round - b.round })
	granted := map[int]bool{}
	for _, c := range p.candidates {
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
		p.grant(c, token != nil)
	}
	p.unwait(granted)
	return nil
}

// grant makes a candidate a run that was dispatched.
func (p *insertion) grant(c candidate, rated bool) {
	p.states[c.at], p.fences[c.at], p.releases[c.at] = string(task.StateDispatched), 1, &p.view.release
	info := p.view.tasks[c.task]
	if c.keys.Concurrency != nil {
		yes := true
		p.held[c.at] = &yes
		p.holders = append(p.holders, p.ids[c.at])
		p.scopes, p.holdKeys = append(p.scopes, limitScope(c.task)), append(p.holdKeys, *c.keys.Concurrency)
	}
	if rated {
		p.rated = append(p.rated, ratedRun{c.at, c.task, *c.keys.Rate, time.Duration(info.limits.Rate.Per)})
	}
}

// ratedRun is a run that has taken a token.
type ratedRun struct {
	at        int
	task, key string
	per       time.Duration
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
	if len(p.holders) > 0 {
		rows := &rowSet{}
		rows.array("run", "uuid", p.holders)
		rows.together(of("scope", "text", p.scopes))
		rows.together(of("key", "text", p.holdKeys))
		batch.Queue(rows.insert("holds", ""), rows.args...)
	}
	uses := newTokenUses()
	for _, r := range p.rated {
		uses.add(*p.parcelIDs[r.at], r.task, r.key, r.per)
	}
	uses.queue(batch)
}

// directLook is what the candidates of an insertion find under the locks.
type directLook struct {
	tasks   map[string]taskInfo
	names   []string
	places  placeSet
	blocked map[string]bool // groups of which runs wait already
	waiting map[string]bool // lanes in which limited runs wait
	list    []candidate
}

func newDirectLook(p *insertion) *directLook {
	look := &directLook{tasks: p.view.tasks, places: placeSet{}, blocked: map[string]bool{}, waiting: map[string]bool{}, list: p.candidates}
	for _, c := range look.list {
		look.names = append(look.names, c.task)
		limits := look.tasks[c.task].limits // a key is there only with its limit
		if key := c.keys.Concurrency; key != nil {
			look.places.limited(placeKey{limitScope(c.task), *key}, limits.Concurrency.Limit)
		}
		if key := c.keys.Rate; key != nil {
			look.places.limited(placeKey{c.task, *key}, limits.Rate.Limit)
		}
	}
	slices.Sort(look.names)
	look.names = slices.Compact(look.names)
	return look
}

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

// read takes the locks and counts; false means that somebody else has them.
func (l *directLook) read(ctx context.Context, tx pgx.Tx) (locked bool, err error) {
	lanes := make([]string, len(l.names))
	for i, name := range l.names {
		lanes[i] = l.tasks[name].lane
	}
	var crowded []string // tasks of which limited runs wait
	batch := &pgx.Batch{}
	batch.Queue(`SAVEPOINT locks`)
	batch.Queue(`SET LOCAL lock_timeout = '` + directPatience + `'`)
	batch.Queue(`SELECT pg_advisory_xact_lock_shared($1)`, int64(admitLock))
	batch.Queue(lockTasks, taskLocks(l.names))
	batch.Queue(`SET LOCAL lock_timeout TO DEFAULT`)
	batch.Queue(`RELEASE SAVEPOINT locks`)
	batch.Queue(keepIndexes)
	batch.Queue(`SELECT i.task, i.lane, EXISTS (SELECT 1 FROM ready r WHERE r.hold = 'limited' AND r.lane = i.lane AND r.task = i.task)
		FROM unnest($1::text[], $2::text[]) AS i(task, lane)
		WHERE EXISTS (SELECT 1 FROM ready r WHERE r.hold = 'limited' AND r.lane = i.lane)`, l.names, lanes).Query(func(rows pgx.Rows) error {
		var name, lane string
		var itself bool
		_, err := pgx.ForEachRow(rows, []any{&name, &lane, &itself}, func() error {
			l.waiting[lane] = true
			if itself {
				crowded = append(crowded, name)
			}
			return nil
		})
		return err
	})
	l.places.queueCounts(batch)
	err = tx.SendBatch(ctx, batch).Close()
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55P03" { // lock_not_available
		_, err = tx.Exec(ctx, `ROLLBACK TO SAVEPOINT locks`)
		return false, err
	}
	if err != nil || len(crowded) == 0 {
		return err == nil, err
	}
	return true, l.readWaiting(ctx, tx, crowded)
}

// keepIndexes is orderedScans in one statement.
const keepIndexes = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
	set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)`

// readWaiting finds the groups of which runs wait already.
func (l *directLook) readWaiting(ctx context.Context, tx pgx.Tx, crowded []string) error {
	var lanes, names, joined, groups []string
	for _, c := range l.list {
		if c.round == 0 && slices.Contains(crowded, c.task) {
			lanes, names = append(lanes, l.tasks[c.task].lane), append(names, c.task)
			joined, groups = append(joined, c.keys.joined()), append(groups, c.group)
		}
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
