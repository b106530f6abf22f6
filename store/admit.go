package store

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Admission lets runs of tasks with limits start, as far as places, tokens and
// the lane's room allow, in the leader's turns, one after the
// other, each a transaction that counts and takes. A run that need not wait may
// start without a turn (see insertion.admit): both hold the lock of the task meanwhile, and
// whoever ends a run only gives places back, so that a count is never too low.
//
// Runs that wait for the same form a group: a lane, a task and the keys of its
// limits. A turn looks at the first run of each group and never at those behind
// it, however many they are.

// Bounds of one turn in one lane.
const (
	admitTasks    = 200  // tasks
	admitGroups   = 1000 // groups, shared by the tasks
	admitLeast    = 20   // groups of a task, however many tasks there are
	admitFewest   = 50   // groups, however little room there is
	admitPressure = 50   // groups whose strategy is to reject or to cancel
)

// admission is what the leader's process remembers between turns: where the
// next one goes on. It is a matter of fairness only.
type admission struct {
	tokens atomic.Int64 // the parcel up to which tokens were looked at

	mu   sync.Mutex
	turn int
	tour map[string]tour // by lane and task
}

// tour says how far the groups of a task in a lane have been looked at.
type tour struct {
	after string // the keys of the last group that had its turn
	some  bool   // since the tour began, one was admitted

	perParcel float64 // of a lane: runs in a parcel, last time
	filled    bool    // of a lane: the room was used up, last time
}

// maxTours bounds the memory; a tour that is forgotten begins anew.
const maxTours = 10_000

func (a *admission) next() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn++
	return a.turn
}

func (a *admission) get(lane, name string) tour {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tour[lane+"\x1f"+name]
}

func (a *admission) set(lane, name string, t tour) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tour == nil || len(a.tour) >= maxTours {
		a.tour = map[string]tour{}
	}
	a.tour[lane+"\x1f"+name] = t
}

// Admit takes one turn in each lane where limited runs wait and returns the
// parcels to enqueue. more reports that a further turn may admit more at once.
func (s *Store) Admit(ctx context.Context, term int64) (parcels []Parcel, more bool, err error) {
	lanes, err := s.lanesInNeed(ctx, holdLimited)
	if err != nil {
		return nil, false, err
	}
	turn := s.admission.next()
	for lane, info := range lanes {
		room := info.room()
		if info.waiting { // runs without limits wait for the same room: half of it is theirs
			room = (room + turn%2) / 2
		}
		if room == 0 {
			continue
		}
		a := &admitting{store: s, lane: lane, room: room}
		if err := s.inTx(ctx, "admit runs of lane "+lane, func(tx pgx.Tx) error { return a.once(ctx, tx, term) }); err != nil {
			return parcels, more, err
		}
		a.remember()
		parcels, more = append(parcels, a.pack.list()...), more || a.more
		if err := s.cancelVictims(ctx, term, a.victims); err != nil {
			return parcels, more, err
		}
	}
	return parcels, more, nil
}

// admitting is one turn in one lane.
type admitting struct {
	store *Store
	lane  string
	room  int

	tasks   []*limitedTask
	places  placeSet
	pack    packer
	more    bool
	tours   map[string]tour
	victims []victim
	ends    int  // waiting runs that were ended
	filled  bool // the room is used up
}

// limitedTask is a task with waiting runs, with its limits in force.
type limitedTask struct {
	name   string
	paused bool
	limits task.Limits

	groups []*limitGroup // in the order of their turns
	from   string        // the tour went on behind these keys
	cut    bool          // there are further groups
	end    bool          // the tour reached its end
	at     int           // the group whose turn is next
	last   string        // the last group that was given something
	given  int
}

// limitGroup is a group, seen by the first of its runs.
type limitGroup struct {
	keys        string
	rate        *string
	concurrency *string
	limit       *int // of the concurrency, instead of the task's
	revision    int64
	rank        time.Time
	micros      float64

	place, token *places
	given        int
}

// Advisory locks of a turn. An older binary takes admitLock for itself alone.
const (
	admitLock = 0x6361746e61646d // "catnadm": shared by all who lock the tasks that they look at
	turnLock  = 0x6361746e74726e // "catntrn": two turns of one process never overlap
)

// orderedScans keep the planner from reading whole tables of which it knows
// nothing yet, where an index gives the first rows at once.
var orderedScans = []string{"enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"}

func (a *admitting) once(ctx context.Context, tx pgx.Tx, term int64) error {
	a.tasks, a.places, a.pack, a.more, a.victims = nil, placeSet{}, packer{}, false, nil
	a.tours, a.filled, a.ends = map[string]tour{}, false, 0
	if err := holdTerm(ctx, tx, term); err != nil {
		return err
	}
	batch := &pgx.Batch{}
	batch.Queue(`SELECT pg_advisory_xact_lock($1)`, int64(turnLock))
	batch.Queue(`SELECT pg_advisory_xact_lock_shared($1)`, int64(admitLock))
	for _, name := range orderedScans {
		batch.Queue("SET LOCAL " + name + " = off")
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	if err := a.findTasks(ctx, tx); err != nil || len(a.tasks) == 0 {
		return err
	}
	names := make([]string, len(a.tasks))
	for i, t := range a.tasks {
		names[i] = t.name
	}
	if _, err := tx.Exec(ctx, lockTasks, taskLocks(names)); err != nil {
		return err
	}
	if err := a.findGroups(ctx, tx); err != nil {
		return err
	}
	if err := a.count(ctx, tx); err != nil {
		return err
	}
	total := a.allot()
	if err := a.admit(ctx, tx, total); err != nil {
		return err
	}
	a.plan(total)
	return a.press(ctx, tx)
}

// findTasks lists the tasks of the lane that have limited runs. Those of paused
// tasks stay where they are.
func (a *admitting) findTasks(ctx context.Context, tx pgx.Tx) error {
	after := a.store.admission.get(a.lane, "").after
	rows, err := tx.Query(ctx, limitedTasks, a.lane, after, admitTasks)
	if err != nil {
		return err
	}
	defer rows.Close()
	n, last := 0, ""
	for rows.Next() {
		t := &limitedTask{}
		var rate, concurrency *string
		if err := rows.Scan(&t.name, &t.paused, &rate, &concurrency); err != nil {
			return err
		}
		n, last = n+1, t.name
		if t.paused {
			continue
		}
		// What cannot be read is no limit: the task is flagged and has no new runs.
		t.limits, _ = parseLimits(rate, concurrency, nil)
		a.tasks = append(a.tasks, t)
	}
	if n < admitTasks {
		last = "" // next time from the beginning
	}
	a.more = n == admitTasks || after != ""
	a.tours[""] = tour{after: last}
	return rows.Err()
}

const limitedTasks = `
	WITH RECURSIVE t AS (
		(SELECT task, 1 AS n FROM ready WHERE hold = 'limited' AND lane = $1 AND task > $2 ORDER BY task LIMIT 1)
		UNION ALL
		SELECT (SELECT r.task FROM ready r WHERE r.hold = 'limited' AND r.lane = $1 AND r.task > t.task ORDER BY r.task LIMIT 1), t.n + 1
		FROM t WHERE t.task IS NOT NULL AND t.n < $3
	)
	SELECT t.task, coalesce(k.paused, false), k.rate::text, k.concurrency::text FROM t LEFT JOIN tasks k ON k.name = t.task WHERE t.task IS NOT NULL`

// limitedGroups walks the groups of a task by index jumps.
const limitedGroups = `
	WITH RECURSIVE g AS (
		(SELECT limit_keys, rate_key, concurrency_key, concurrency_limit, revision, rank, 1 AS n FROM ready
			WHERE hold = 'limited' AND lane = $1 AND task = $2 AND limit_keys > $3 AND limit_keys <= $4 ORDER BY limit_keys, rank, run LIMIT 1)
		UNION ALL
		SELECT f.*, g.n + 1 FROM g CROSS JOIN LATERAL (
			SELECT r.limit_keys, r.rate_key, r.concurrency_key, r.concurrency_limit, r.revision, r.rank FROM ready r
			WHERE r.hold = 'limited' AND r.lane = $1 AND r.task = $2 AND r.limit_keys > g.limit_keys AND r.limit_keys <= $4
			ORDER BY r.limit_keys, r.rank, r.run LIMIT 1) f
		WHERE g.n < $5
	)
	SELECT g.limit_keys, g.rate_key, g.concurrency_key, g.concurrency_limit, g.revision, g.rank, coalesce(c.micros, 0)
	FROM g LEFT JOIN task_costs c ON c.revision = g.revision ORDER BY g.n`

// lastKeys is behind all keys.
const lastKeys = "\U0010FFFF"

// findGroups goes on with each task's tour, and begins it anew where it ended.
func (a *admitting) findGroups(ctx context.Context, tx pgx.Tx) error {
	each := max(a.window()/len(a.tasks), admitLeast)
	batch := &pgx.Batch{}
	for _, t := range a.tasks {
		t.from = a.store.admission.get(a.lane, t.name).after
		a.queueGroups(batch, t, t.from, lastKeys, each)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	batch = &pgx.Batch{}
	for _, t := range a.tasks {
		t.end = len(t.groups) < each
		t.cut = !t.end
		if t.end && t.from != "" {
			a.queueGroups(batch, t, "", t.from, each-len(t.groups))
		}
	}
	if batch.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, batch).Close()
}

// window is how many groups to look at: no more than may find room, when the
// room was what ended the last turn.
func (a *admitting) window() int {
	last := a.store.admission.get(a.lane, "")
	if !last.filled {
		return admitGroups
	}
	return min(max(int(2*last.perParcel*float64(a.room)), admitFewest), admitGroups)
}

func (a *admitting) queueGroups(batch *pgx.Batch, t *limitedTask, after, until string, limit int) {
	batch.Queue(limitedGroups, a.lane, t.name, after, until, limit).Query(func(rows pgx.Rows) error {
		found := 0
		for rows.Next() {
			g := &limitGroup{}
			if err := rows.Scan(&g.keys, &g.rate, &g.concurrency, &g.limit, &g.revision, &g.rank, &g.micros); err != nil {
				return err
			}
			found++
			t.groups = append(t.groups, g)
		}
		t.cut = t.cut || found == limit
		return rows.Err()
	})
}

// count finds what the groups' limits leave.
func (a *admitting) count(ctx context.Context, tx pgx.Tx) error {
	for _, t := range a.tasks {
		for _, g := range t.groups {
			limit := g.limit
			if c := t.limits.Concurrency; limit == nil && c != nil {
				limit = &c.Limit
			}
			if g.concurrency != nil && limit != nil {
				g.place = a.places.limited(placeKey{limitScope(t.name), *g.concurrency}, *limit)
			}
			if r := t.limits.Rate; g.rate != nil && r != nil {
				g.token = a.places.limited(placeKey{t.name, *g.rate}, r.Limit)
			}
		}
	}
	batch := &pgx.Batch{}
	a.places.queueCounts(batch)
	queueMayPack(batch, &a.pack.packs)
	return tx.SendBatch(ctx, batch).Close()
}

// allot decides how many runs of each group start: the groups of a task take
// turns; among the tasks the one goes first whose next run ranks first.
func (a *admitting) allot() (total int) {
	budget := float64(a.room) * parcelMicros
	for total < fillLimit {
		var next *limitedTask
		for _, t := range a.tasks {
			if t.turn() && (next == nil || t.groups[t.at].rank.Before(next.groups[next.at].rank)) {
				next = t
			}
		}
		if next == nil {
			return total
		}
		g := next.groups[next.at]
		cost := g.micros
		if cost <= 0 || Suspect(a.lane) {
			cost = parcelMicros
		}
		if budget -= cost; budget < 0 && total > 0 {
			a.filled = true
			return total
		}
		g.place.take()
		g.token.take()
		g.given++
		next.given++
		next.last = g.keys
		next.at++
		total++
	}
	return total
}

// turn moves to the next group that may have another run, if there is one.
func (t *limitedTask) turn() bool {
	for range t.groups {
		if t.at >= len(t.groups) {
			t.at = 0
		}
		if g := t.groups[t.at]; g.place.open() && g.token.open() {
			return true
		}
		t.at++
	}
	return false
}

// plan says where the tours go on and whether to go on at once.
func (a *admitting) plan(total int) {
	for _, t := range a.tasks {
		before := a.store.admission.get(a.lane, t.name)
		next := tour{some: before.some || t.given > 0}
		switch {
		case t.last != "":
			next.after = t.last
		case len(t.groups) > 0 && t.cut:
			next.after = t.groups[len(t.groups)-1].keys
		}
		if t.end && t.given == 0 {
			a.more = a.more && next.some
			next.some = false
		} else if t.cut {
			a.more = true
		}
		a.tours[t.name] = next
	}
	a.more = a.more || total == fillLimit
	lane := a.tours[""]
	lane.filled, lane.perParcel = a.filled, float64(total)/float64(a.room)
	a.tours[""] = lane
}

func (a *admitting) remember() {
	for name, t := range a.tours {
		a.store.admission.set(a.lane, name, t)
	}
}

// admitRun is a run that was chosen to start.
type admitRun struct {
	id     uuid.UUID
	round  int
	micros float64
	task   *limitedTask
	group  *limitGroup
}

// place is what the run takes, also when no limit is in force: one may be again
// before it ends.
func (r *admitRun) place() *placeKey {
	if r.group.concurrency == nil {
		return nil
	}
	return &placeKey{limitScope(r.task.name), *r.group.concurrency}
}

// admit packs the first runs of each group, as many as were given, and lets
// them go.
func (a *admitting) admit(ctx context.Context, tx pgx.Tx, total int) error {
	if total == 0 {
		return nil
	}
	chosen, err := a.choose(ctx, tx)
	if err != nil {
		return err
	}
	var ids []uuid.UUID
	for _, r := range chosen {
		if !a.pack.put(a.lane, r.id, r.micros, a.room) {
			break
		}
		if place := r.place(); place != nil {
			a.pack.hold(a.lane, r.id, place.number())
		}
		ids = append(ids, r.id)
	}
	chosen = chosen[:len(ids)]
	locked, err := lockReady(ctx, tx, ids, holdLimited)
	if err != nil {
		return err
	}
	a.pack.keep(locked)
	chosen = slices.DeleteFunc(chosen, func(r admitRun) bool { return !locked[r.id] })
	a.giveBack(chosen)
	a.more = a.more || len(chosen) > 0 && len(chosen) < total // some groups had fewer runs than places
	if len(chosen) == 0 {
		return nil
	}
	homes, err := a.pack.write(ctx, tx)
	if err != nil {
		return err
	}
	return a.write(ctx, tx, chosen, homes)
}

// giveBack frees the places that no run has taken after all.
func (a *admitting) giveBack(chosen []admitRun) {
	for _, r := range chosen {
		r.group.given--
	}
	for _, t := range a.tasks {
		for _, g := range t.groups {
			if g.place != nil {
				g.place.free += g.given
			}
			g.given = 0
		}
	}
}

// firstOfGroups reads a bounded number of rows of each group, since LIMIT
// takes no column; admitting.choose groups them by how many they need.
const firstOfGroups = `
	SELECT i.at, r.run, r.n, coalesce(c.micros, 0)
	FROM unnest($2::int[], $3::text[], $4::text[], $5::int[]) AS i(at, task, keys, given)
	CROSS JOIN LATERAL (SELECT f.run, f.revision, row_number() OVER (ORDER BY f.rank, f.run) AS n FROM (
		SELECT run, revision, rank FROM ready WHERE hold = 'limited' AND lane = $1 AND task = i.task AND limit_keys = i.keys
		ORDER BY rank, run LIMIT $6) f) r
	LEFT JOIN task_costs c ON c.revision = r.revision WHERE r.n <= i.given`

// choose reads the runs, in the order in which they take turns. Groups that
// were given up to 1, 2, 4, ... runs are read together.
func (a *admitting) choose(ctx context.Context, tx pgx.Tx) (chosen []admitRun, err error) {
	type class struct {
		at, given   []int32
		tasks, keys []string
	}
	classes := map[int]*class{}
	var all []admitRun
	for _, t := range a.tasks {
		for _, g := range t.groups {
			if g.given == 0 {
				continue
			}
			size := 1
			for size < g.given {
				size *= 2
			}
			c := classes[size]
			if c == nil {
				c = &class{}
				classes[size] = c
			}
			c.at, c.given = append(c.at, int32(len(all))), append(c.given, int32(g.given))
			c.tasks, c.keys = append(c.tasks, t.name), append(c.keys, g.keys)
			all = append(all, admitRun{task: t, group: g})
		}
	}
	batch := &pgx.Batch{}
	for size, c := range classes {
		batch.Queue(firstOfGroups, a.lane, c.at, c.tasks, c.keys, c.given, size).Query(func(rows pgx.Rows) error {
			var at int
			var r admitRun
			_, err := pgx.ForEachRow(rows, []any{&at, &r.id, &r.round, &r.micros}, func() error {
				r.task, r.group = all[at].task, all[at].group
				chosen = append(chosen, r)
				return nil
			})
			return err
		})
	}
	err = tx.SendBatch(ctx, batch).Close()
	slices.SortStableFunc(chosen, func(x, y admitRun) int { return x.round - y.round })
	return chosen, err
}

const admitStatement = `
	UPDATE runs r SET state = 'dispatched', parcel = i.parcel, fence = r.fence + 1, held = CASE WHEN i.held THEN true ELSE coalesce(r.held, i.held) END,
		release = coalesce(r.release, (SELECT coalesce(max(id), 0) FROM releases))
	FROM unnest($1::uuid[], $2::bigint[], $3::boolean[]) AS i(id, parcel, held)
	WHERE r.id = i.id AND r.id = ANY ($1) AND r.id BETWEEN $4 AND $5 AND r.state = 'queued'`

// write dispatches the runs and takes their places and tokens.
func (a *admitting) write(ctx context.Context, tx pgx.Tx, chosen []admitRun, homes map[uuid.UUID]int64) error {
	ids, parcels, held := make([]uuid.UUID, len(chosen)), make([]int64, len(chosen)), make([]*bool, len(chosen))
	var holders []holder
	uses := tokenUses{packs: a.pack.packs}
	for i, r := range chosen {
		ids[i], parcels[i] = r.id, homes[r.id]
		if place := r.place(); place != nil {
			held[i], holders = new(bool), append(holders, holder{i, r.id, *place})
		}
		if r.group.token != nil {
			uses.list = append(uses.list, tokenUse{parcels[i], r.id, placeKey{r.task.name, *r.group.rate}, r.group.token.number, time.Duration(r.task.limits.Rate.Per)})
		}
	}
	holders = a.pack.loose(holders)
	for _, h := range holders {
		*held[h.at] = true
	}
	low, high := bounds(ids)
	batch := &pgx.Batch{}
	batch.Queue("SET LOCAL enable_hashjoin = on")
	setBulkPlans(batch)
	batch.Queue(admitStatement, ids, parcels, held, low, high)
	batch.Queue(`DELETE FROM ready WHERE run = ANY($1)`, ids)
	queueHolds(batch, holders)
	uses.queue(batch)
	return tx.SendBatch(ctx, batch).Close()
}
