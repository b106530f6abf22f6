package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSweepKeepsUp(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.exec(`INSERT INTO run_keys (task, key, run, expires_at)
		SELECT 'demo', 'k' || i, gen_random_uuid(), clock_timestamp() + CASE WHEN i > 25000 THEN 1 ELSE -1 END * interval '1 hour' FROM generate_series(1, 25010) i`)
	f.exec(`INSERT INTO audit (actor, action, at) SELECT 'ann', 'test', clock_timestamp() - CASE WHEN i > 12000 THEN 1 ELSE 400 END * interval '1 day'
		FROM generate_series(1, 12007) i`)
	turns := 0
	for more := true; more; turns++ {
		var err error
		more, err = f.Sweep(ctx, f.term, 365*24*time.Hour)
		require.NoError(t, err)
	}
	require.Equal(t, 3, turns, "bounded turns")
	require.EqualValues(t, 10, f.scalar(`SELECT count(*) FROM run_keys`))
	require.EqualValues(t, 7, f.scalar(`SELECT count(*) FROM audit`))
	_, err := f.Sweep(ctx, f.term-1, time.Hour)
	require.Error(t, err, "an earlier leader sweeps no more")
}

func TestRevisionsThatNoRunHasAreRemoved(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	revision := func() int64 { return f.scalar(`SELECT revision FROM tasks WHERE name = 'demo'`) }
	edit := func(note string) int64 {
		f.exec(`UPDATE tasks SET params = json_build_object('note', $1::text) WHERE name = 'demo'`, note)
		return revision()
	}
	ages := func(id int64, days int) {
		f.exec(`UPDATE task_revisions SET created_at = clock_timestamp() - $2 * interval '1 day' WHERE id = $1`, id, days)
	}
	gone, inherited, last, recent, current := revision(), edit("a"), edit("b"), edit("c"), edit("d")
	ages(gone, 100)
	ages(inherited, 90)
	ages(last, 80) // replaced by recent a moment ago
	ids, _ := f.submit(2)
	f.exec(`UPDATE runs SET revision = $1, parent = $2 WHERE id = $3`, inherited, ids[0], ids[1])
	f.exec(`INSERT INTO task_costs (revision, micros) VALUES ($1, 5), ($2, 5)`, gone, current)

	more, err := f.PruneRevisions(ctx, f.term)
	require.NoError(t, err)
	require.False(t, more)
	_, err = f.Revisions(ctx, []int64{inherited, last, recent, current})
	require.NoError(t, err, "a child has its parent's, and what was replaced lately may be a run's")
	_, err = f.Revisions(ctx, []int64{gone})
	require.Error(t, err)
	require.Equal(t, current, f.scalar(`SELECT revision FROM task_costs`))
	_, err = f.PruneRevisions(ctx, f.term-1)
	require.Error(t, err, "an earlier leader removes nothing")
}

// Revisions that children keep fill more than one turn.
func TestRevisionsBehindThoseThatAreKeptAreRemoved(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	first := f.scalar(`SELECT revision FROM tasks WHERE name = 'demo'`)
	for _, note := range []string{"last", "now"} {
		f.exec(`INSERT INTO task_revisions SELECT (r).* FROM (SELECT jsonb_populate_record(t, jsonb_build_object('id', nextval('task_revision_ids'))) AS r
			FROM task_revisions t, generate_series(1, 10000) WHERE t.id = $1 AND $2 = 'last') s`, first, note)
		f.exec(`UPDATE tasks SET params = json_build_object('note', $1::text) WHERE name = 'demo'`, note)
	}
	f.exec(`UPDATE task_revisions SET created_at = clock_timestamp() - interval '100 days'`)
	ids, _ := f.submit(1)
	f.exec(`INSERT INTO runs SELECT (r).* FROM (SELECT jsonb_populate_record(o, jsonb_build_object('id', uuid_in(overlay(overlay(o.id::text
			placing lpad(to_hex(t.id), 8, '0') from 29) placing 'ffff' from 20)::cstring), 'revision', t.id, 'parent', o.id)) AS r
		FROM runs o, task_revisions t WHERE o.id = $1 AND t.id BETWEEN $2 AND $2 + 10000) s`, ids[0], first)
	turns := 0
	for more := true; more; turns++ {
		var err error
		more, err = f.PruneRevisions(ctx, f.term)
		require.NoError(t, err)
	}
	require.Equal(t, 2, turns)
	require.EqualValues(t, 10_002, f.scalar(`SELECT count(*) FROM task_revisions`), "without the one that no run has")
	more, err := f.PruneRevisions(ctx, f.term)
	require.NoError(t, err)
	require.True(t, more, "from the beginning")
}
