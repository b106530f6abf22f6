package store

import (
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

const (
	treeChildren = 20  // shown of one run, those that failed first
	treeRuns     = 500 // shown at all
)

// RunTree returns a run with its children and theirs, as far as they can be
// shown at a glance: of many children the counts per state and the first few,
// those that failed before the others, and those that few are like before those that many are.
func (s *Store) RunTree(ctx context.Context, id uuid.UUID) (task.RunNode, error) {
	var root task.RunNode
	err := s.pool.QueryRow(ctx, `SELECT id, task, state, coalesce(parent_path, ''), child_index, coalesce(reason, ''), created_at, finished_at
		FROM runs WHERE id = $1`, id).Scan(&root.ID, &root.Task, &root.State, &root.Path, &root.Index, &root.Reason, &root.CreatedAt, &root.FinishedAt)
	if isMissing(err) {
		return root, noRun(id)
	}
	if err != nil {
		return root, wrap(err, "read the tree of run "+id.String())
	}
	level, shown := []*task.RunNode{&root}, 1
	for depth := 0; len(level) > 0 && depth <= MaxDepth; depth++ {
		if err := s.treeCounts(ctx, level); err != nil {
			return root, err
		}
		if shown >= treeRuns {
			break
		}
		if level, err = s.treeLevel(ctx, level, treeRuns-shown); err != nil {
			return root, err
		}
		shown += len(level)
	}
	return root, nil
}

func nodeIDs(nodes []*task.RunNode) ([]uuid.UUID, map[uuid.UUID]*task.RunNode, uuid.UUID) {
	ids, byID := make([]uuid.UUID, len(nodes)), make(map[uuid.UUID]*task.RunNode, len(nodes))
	for i, n := range nodes {
		ids[i], byID[n.ID] = n.ID, n
	}
	low, _ := bounds(ids)
	return ids, byID, low
}

func (s *Store) treeCounts(ctx context.Context, nodes []*task.RunNode) error {
	ids, byID, low := nodeIDs(nodes)
	rows, err := s.pool.Query(ctx, `SELECT parent, state, count(*) FROM runs WHERE parent = ANY ($1) AND id > $2 GROUP BY 1, 2`, ids, low)
	if err != nil {
		return wrap(err, "count children")
	}
	var parent uuid.UUID
	var state task.State
	var n int
	_, err = pgx.ForEachRow(rows, []any{&parent, &state, &n}, func() error {
		node := byID[parent]
		if node.Counts == nil {
			node.Counts = map[task.State]int{}
		}
		node.Counts[state] = n
		node.More += n
		return nil
	})
	return wrap(err, "count children")
}

// treeLevel reads the children to show of a level and returns them.
func (s *Store) treeLevel(ctx context.Context, nodes []*task.RunNode, room int) (level []*task.RunNode, err error) {
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n *task.RunNode) bool { return n.More == 0 })
	if len(nodes) == 0 {
		return nil, nil
	}
	ids, byID, low := nodeIDs(nodes)
	rows, err := s.pool.Query(ctx, `
		SELECT c.* FROM unnest($1::uuid[]) AS p CROSS JOIN LATERAL (
			SELECT r.parent, r.id, r.task, r.state, coalesce(r.parent_path, ''), r.child_index, coalesce(r.reason, ''), r.created_at, r.finished_at
			FROM runs r WHERE r.parent = p AND r.id > $2
			ORDER BY r.state NOT IN ('failed', 'timed_out', 'quarantined'), count(*) OVER (PARTITION BY r.task, r.parent_path, r.state),
				r.child_index NULLS FIRST, r.id LIMIT $3) c`,
		ids, low, treeChildren)
	if err != nil {
		return nil, wrap(err, "read children")
	}
	var parent uuid.UUID
	var n task.RunNode
	_, err = pgx.ForEachRow(rows, []any{&parent, &n.ID, &n.Task, &n.State, &n.Path, &n.Index, &n.Reason, &n.CreatedAt, &n.FinishedAt}, func() error {
		if room > 0 {
			room--
			byID[parent].More--
			byID[parent].Children = append(byID[parent].Children, n)
		}
		return nil
	})
	for _, node := range nodes {
		for i := range node.Children {
			level = append(level, &node.Children[i])
		}
	}
	return level, wrap(err, "read children")
}
