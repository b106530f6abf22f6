package store

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// MaxDepth bounds how deep runs may start runs: a task whose name is computed
// can start itself, which nobody sees before.
const MaxDepth = 20

// Scopes of holds that children have until they end.
const (
	scopeChildren     = "children"
	scopeChildrenStop = "children-stop" // the others are cancelled when it fails
)

// Parent says which run starts another as its child, and how.
type Parent struct {
	Run           uuid.UUID
	Path          string // of the parent's item
	InheritCancel bool   // it is cancelled with the parent
	Group         string // of the children that the parent waits for; "": it waits for none
	Stop          bool   // the others of the group are cancelled when it fails
	Limit         int    // of the group at once; 0: any number

	// Of a child that runs a part of the parent's own chain.
	Entry    json.RawMessage // nil: it runs its task's chain
	Revision int64
	Release  int64
}

// keys are the limits that a new run has: its task's own, or, when it runs a
// part of its parent's chain, that of its siblings; its task's were those of the parent.
func (p *Parent) keys(own LimitKeys) LimitKeys {
	if p == nil || p.Entry == nil {
		return own
	}
	if p.Limit == 0 {
		return LimitKeys{}
	}
	key := "children:" + p.Group
	return LimitKeys{Concurrency: &key}
}

// index is that of the element that a child was spawned for. It stands in a
// column of its own: the element itself may be a text that Postgres cannot read.
func (p *Parent) index() *int32 {
	var entry struct {
		Index *int32 `json:"index"`
	}
	if p.Entry == nil || json.Unmarshal(p.Entry, &entry) != nil {
		return nil
	}
	return entry.Index
}

// family gathers what the children among new runs have beyond other runs.
type family struct {
	ids, parents []uuid.UUID
	paths        []string
	inherit      []bool
	entries      []*string
	releases     []*int64
	groups       []*string
	indexes      []*int32
	scopes       []string
	limits       []*int32
	limited      bool
}

// lockParents keeps the parents of new runs from being cancelled until the
// children are there, so that a cancellation finds them or comes first. It
// returns nil when no run has a parent.
func lockParents(ctx context.Context, tx pgx.Tx, runs []NewRun) (*family, error) {
	var ids []uuid.UUID
	for i := range runs {
		if runs[i].Parent != nil {
			ids = append(ids, runs[i].Parent.Run)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	ids = slices.Compact(ids)
	low, high := bounds(ids)
	alive, depth := map[uuid.UUID]bool{}, map[uuid.UUID]int{}
	batch := &pgx.Batch{}
	batch.Queue(`SELECT id, finished_at IS NULL AND NOT cancel_requested FROM runs WHERE id = ANY ($1) AND id BETWEEN $2 AND $3
		ORDER BY id FOR SHARE`, ids, low, high).Query(func(rows pgx.Rows) error {
		var id uuid.UUID
		var ok bool
		_, err := pgx.ForEachRow(rows, []any{&id, &ok}, func() error { alive[id] = ok; return nil })
		return err
	})
	batch.Queue(levelsAbove, ids, low, high, MaxDepth).Query(func(rows pgx.Rows) error {
		var id uuid.UUID
		var levels int
		_, err := pgx.ForEachRow(rows, []any{&id, &levels}, func() error { depth[id] = levels; return nil })
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, err
	}
	refused := &RefusedRuns{Reasons: map[int]error{}}
	for i := range runs {
		parent := runs[i].Parent
		switch {
		case parent == nil:
		case !alive[parent.Run]:
			refused.Reasons[i] = task.Errorf(task.CodeConflict, "run %s has ended or is being cancelled: it starts no children", parent.Run)
		case depth[parent.Run] >= MaxDepth:
			refused.Reasons[i] = task.Errorf(task.CodeInvalid, "task %s would be started %d levels deep: at most %d are possible", runs[i].Task, depth[parent.Run]+1, MaxDepth).
				Fix("look for tasks that start each other: `catena runs tree %s`", parent.Run)
		}
	}
	if len(refused.Reasons) > 0 {
		return nil, refused
	}
	return &family{}, nil
}

// Each parent is looked up by its own id, in its own partition: a join would read all.
const levelsAbove = `WITH RECURSIVE up AS (
		SELECT id AS leaf, parent, 1 AS depth FROM runs WHERE id = ANY ($1) AND id BETWEEN $2 AND $3
		UNION ALL
		SELECT up.leaf, r.parent, up.depth + 1 FROM up CROSS JOIN LATERAL (SELECT parent FROM runs WHERE id = up.parent OFFSET 0) r WHERE up.depth <= $4
	) SELECT leaf, max(depth) FROM up GROUP BY leaf`

// add takes a run that is inserted.
func (f *family) add(id uuid.UUID, p *Parent, info *taskInfo) {
	if p == nil {
		return
	}
	f.ids, f.parents, f.paths = append(f.ids, id), append(f.parents, p.Run), append(f.paths, clean(p.Path))
	f.inherit, f.entries = append(f.inherit, p.InheritCancel), append(f.entries, nullText(string(p.Entry)))
	f.groups, f.indexes = append(f.groups, nullText(p.Group)), append(f.indexes, p.index())
	scope := scopeChildren
	if p.Stop {
		scope = scopeChildrenStop
	}
	f.scopes = append(f.scopes, scope)
	var release *int64
	if p.Entry != nil {
		info.revision, release = p.Revision, &p.Release
	}
	f.releases = append(f.releases, release)
	var limit *int32
	if p.Limit > 0 {
		n := int32(p.Limit)
		limit, f.limited = &n, true
	}
	f.limits = append(f.limits, limit)
}

// queue writes what the children have beyond other runs.
func (f *family) queue(batch *pgx.Batch) {
	if f == nil || len(f.ids) == 0 {
		return
	}
	low, high := bounds(f.ids)
	batch.Queue(`UPDATE runs r SET parent = i.parent, parent_path = i.path, inherit_cancel = i.inherit, entry = i.entry::json,
			child_group = i.children, child_index = i.index, release = coalesce(i.release, r.release), held = CASE WHEN i.children IS NOT NULL THEN true ELSE r.held END, concurrency_limit = i.most
		FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::boolean[], $5::text[], $6::bigint[], $7::text[], $10::int[], $11::int[])
			AS i(id, parent, path, inherit, entry, release, children, most, index)
		WHERE r.id = i.id AND r.id = ANY ($1) AND r.id BETWEEN $8 AND $9`,
		f.ids, f.parents, f.paths, f.inherit, f.entries, f.releases, f.groups, low, high, f.limits, f.indexes)
	batch.Queue(`INSERT INTO holds (run, scope, key) SELECT id, scope, children FROM unnest($1::uuid[], $2::text[], $3::text[])
		AS i(id, scope, children) WHERE children IS NOT NULL`, f.ids, f.scopes, f.groups)
	if f.limited {
		batch.Queue(`UPDATE ready SET concurrency_limit = i.most FROM unnest($1::uuid[], $2::int[]) AS i(id, most)
			WHERE ready.run = ANY ($1) AND ready.run = i.id AND i.most IS NOT NULL`, f.ids, f.limits)
	}
}

// A child that fails has the others of its group cancelled, where it says so.
// It is looked up before its end, which deletes its hold.
const stopSiblings = `
	WITH locked AS MATERIALIZED (
		SELECT r.id, r.parent FROM runs r JOIN unnest($1::uuid[], $2::int[]) AS i(id, fence) ON r.id = i.id
		WHERE r.id = ANY ($1) AND r.id BETWEEN $3 AND $4 AND r.fence = i.fence AND r.finished_at IS NULL AND r.parent IS NOT NULL
		ORDER BY r.id FOR NO KEY UPDATE OF r
	)
	INSERT INTO child_cancels (parent, children, by)
	SELECT DISTINCT l.parent, h.key, 'a sibling that failed' FROM locked l JOIN holds h ON h.run = l.id
	WHERE h.run = ANY ($1) AND h.scope = 'children-stop' ORDER BY 1, 2 ON CONFLICT DO NOTHING`

func queueStops(batch *pgx.Batch, endings []Ending) {
	var failed []uuid.UUID
	var fences []int32
	for _, e := range endings {
		if e.Held && e.State.Terminal() && e.State != task.StateSucceeded {
			failed, fences = append(failed, e.Run), append(fences, e.Fence)
		}
	}
	if len(failed) > 0 {
		low, high := bounds(failed)
		batch.Queue(stopSiblings, failed, fences, low, high)
	}
}

// endHolds deletes what runs occupied that have ended otherwise than by their
// worker, and has the others of a group cancelled likewise.
const endHolds = `
	WITH ended AS MATERIALIZED (
		SELECT r.id, r.parent, r.state FROM runs r WHERE r.id = ANY ($1) AND r.id BETWEEN $2 AND $3 AND r.finished_at IS NOT NULL
	), gone AS (
		DELETE FROM holds h USING ended e WHERE h.run = e.id AND h.run = ANY ($1) RETURNING h.scope, h.key, e.parent, e.state
	)` + stopOthers

// What follows a statement that deleted holds (gone).
const stopOthers = `
	INSERT INTO child_cancels (parent, children, by)
	SELECT DISTINCT parent, key, 'a sibling that failed' FROM gone WHERE scope = 'children-stop' AND state <> 'succeeded' AND parent IS NOT NULL
	ORDER BY 1, 2 ON CONFLICT DO NOTHING`

func queueRelease(batch *pgx.Batch, runs []uuid.UUID) {
	if len(runs) == 0 {
		return
	}
	low, high := bounds(runs)
	batch.Queue(endHolds, runs, low, high)
}

// queueStop has the children of a group cancelled if one has failed already.
func queueStop(batch *pgx.Batch, parent uuid.UUID, group string) {
	batch.Queue(`INSERT INTO child_cancels (parent, children, by)
		SELECT $1, $2, 'a sibling that failed' WHERE EXISTS (SELECT 1 FROM runs c WHERE c.parent = $1 AND c.id > $1 AND c.child_group = $2
			AND c.finished_at IS NOT NULL AND c.state <> 'succeeded') ON CONFLICT DO NOTHING`, parent, group)
}

// queueChildCancels has the children of runs cancelled, as far as they inherit it.
func queueChildCancels(batch *pgx.Batch, parents []uuid.UUID, by string) {
	low, _ := bounds(parents)
	batch.Queue(`INSERT INTO child_cancels (parent, children, by)
		SELECT p, '', $2 FROM unnest($1::uuid[]) AS p
		WHERE EXISTS (SELECT 1 FROM runs c WHERE c.parent = p AND c.id > $3 AND c.inherit_cancel AND c.finished_at IS NULL)
		ORDER BY p ON CONFLICT DO NOTHING`, parents, clean(by), low)
}

// queueCancelled adds what follows the cancellation of runs that no worker
// held: their waits and holds end, and their children are cancelled.
func queueCancelled(batch *pgx.Batch, ids []uuid.UUID, by string) {
	low, high := bounds(ids)
	batch.Queue(`UPDATE waits SET outcome = '{"success":false,"reason":"the run was cancelled"}', ended_at = clock_timestamp()
		WHERE run = ANY ($1) AND run BETWEEN $2 AND $3 AND outcome IS NULL`, ids, low, high)
	queueRelease(batch, ids)
	queueChildCancels(batch, ids, by)
}

const (
	cancelPage  = 500 // children that are cancelled at once
	cancelUnder = 50  // of them that a worker may hold
)

// CancelChildren cancels the next children of runs that were cancelled, a
// bounded number at once. more reports that there are others.
func (s *Store) CancelChildren(ctx context.Context, term int64) (more bool, err error) {
	if err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM child_cancels)`).Scan(&more); err != nil || !more {
		return false, wrap(err, "look for children to cancel")
	}
	err = s.inTx(ctx, "cancel children", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		var parent uuid.UUID
		var group, by string
		err := tx.QueryRow(ctx, `SELECT parent, children, by FROM child_cancels ORDER BY asked_at, parent LIMIT 1`).Scan(&parent, &group, &by)
		if isMissing(err) {
			more = false
			return nil
		}
		if err != nil {
			return err
		}
		left, err := cancelSome(ctx, tx, parent, group, by)
		if err == nil && !left {
			_, err = tx.Exec(ctx, `DELETE FROM child_cancels WHERE parent = $1 AND children = $2`, parent, group)
		}
		return err
	})
	return more, err
}

// cancelSome cancels children that have not ended; false when there is none.
func cancelSome(ctx context.Context, tx pgx.Tx, parent uuid.UUID, group, by string) (some bool, err error) {
	which, args := `c.inherit_cancel`, []any{parent, cancelPage}
	if group != "" {
		which, args = `c.id IN (SELECT h.run FROM holds h WHERE h.scope IN ('children', 'children-stop') AND h.key = $3)`, append(args, group)
	}
	rows, err := tx.Query(ctx, `SELECT c.id, c.state IN ('queued', 'waiting') FROM runs c
		WHERE c.parent = $1 AND c.id > $1 AND c.finished_at IS NULL AND NOT c.cancel_requested AND `+which+` ORDER BY c.id LIMIT $2`, args...)
	if err != nil {
		return false, err
	}
	var free, held []uuid.UUID
	var id uuid.UUID
	var loose bool
	_, err = pgx.ForEachRow(rows, []any{&id, &loose}, func() error {
		if loose {
			free = append(free, id)
		} else {
			held = append(held, id)
		}
		return nil
	})
	if err != nil || len(free)+len(held) == 0 {
		return false, err
	}
	_, err = cancelRuns(ctx, tx, append(free, held[:min(len(held), cancelUnder)]...), by, false)
	return err == nil, err
}
