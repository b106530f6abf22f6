package store

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
)

// The hot statements must find 500 runs by index in their own partition, also
// while Postgres knows nothing about that partition, and join them with their
// values in linear time.
func TestPlansOfTheHotStatements(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, err := Open(ctx, Config{URL: servertest.PostgresURL(t)})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.EnsurePartitions(ctx))
	for d := range 25 {
		at := time.Now().UTC().Truncate(day).Add(-time.Duration(d+2) * day)
		require.NoError(t, s.ensurePartition(ctx, "runs", at))
		require.NoError(t, s.ensurePartition(ctx, "steps", at))
	}
	const n = 500
	_, err = s.pool.Exec(ctx, `INSERT INTO tasks (name, chain) VALUES ('demo', '["nop"]')`)
	require.NoError(t, err)
	runs := make([]NewRun, 4*n)
	for i := range runs {
		runs[i].Task = "demo"
	}
	accepted, _, err := s.InsertRuns(ctx, runs)
	require.NoError(t, err)
	_, err = s.pool.Exec(ctx, `UPDATE runs SET state = 'dispatched', fence = 1`)
	require.NoError(t, err)
	_, err = s.pool.Exec(ctx, `DELETE FROM ready`)
	require.NoError(t, err)
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = accepted[i].ID
	}
	low, high := bounds(ids)
	fill := func(value string) string { return "'{" + strings.TrimSuffix(strings.Repeat(value+",", n), ",") + "}'" }
	texts := make([]string, n)
	for i, id := range ids {
		texts[i] = id.String()
	}
	list := "'{" + strings.Join(texts, ",") + "}'"
	at, span := fill(`"2026-01-01T00:00:00Z"`), fmt.Sprintf("'%s', '%s'", low, high)
	object := fill(`"{}"`)

	for name, st := range map[string]struct{ sql, args string }{
		"finish":      {endRuns, strings.Join([]string{list, fill("1"), fill("succeeded"), object, fill("x"), object, fill(`"[]"`), "1", at, span}, ", ")},
		"finish_held": {endHeldRuns, strings.Join([]string{list, fill("1"), fill("succeeded"), object, fill("x"), object, fill(`"[]"`), "1", at, span}, ", ")},
		"keep":        {keepPlaces, strings.Join([]string{"'{1,2}'", list, span}, ", ")},
		"clear":       {clearPlaces, strings.Join([]string{"'{1,2}'", list, span}, ", ")},
		"requeue": {requeue, strings.Join([]string{list, fill("1"), fill("2"), fill("0"), object, fill("x"), object, "1", at, span,
			fill("NULL")}, ", ")},
		"step":     {insertSteps, strings.Join([]string{list, fill("1"), fill("0"), fill("0"), fill("n"), fill("1"), object, object, at, at, span}, ", ")},
		"dispatch": {dispatchStatement, strings.Join([]string{list, fill("7"), span}, ", ")},
	} {
		plan := explain(ctx, t, s, name, st.sql, st.args)
		require.NotContains(t, plan, "Seq Scan on runs", name)
		if name != "keep" && name != "clear" { // they unnest the runs of each parcel
			require.NotContains(t, plan, "Nested Loop", name)
		}
		require.NotContains(t, plan, "Bitmap Heap Scan on runs", "%s would lock in the order on disk", name)
		require.Regexp(t, `Subplans Removed: \d\d|\(never executed\)`, plan, "%s looks into every partition:\n%s", name, plan)
	}
}

// What the leader and supervisors ask now and then looks into few partitions,
// however many there are.
func TestPlansOfTheRareStatements(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, err := Open(ctx, Config{URL: servertest.PostgresURL(t)})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.EnsurePartitions(ctx))
	for d := range 25 {
		require.NoError(t, s.ensurePartition(ctx, "runs", time.Now().UTC().Truncate(day).Add(-time.Duration(d+2)*day)))
	}
	for _, sql := range []string{
		`INSERT INTO tasks (name, chain) VALUES ('demo', '["nop"]')`,
		`INSERT INTO workers (id, host, pid, version, queues, slots, tick) VALUES ('w', 'h', 1, 'v', '{*}', 1, 0)`,
	} {
		_, err = s.pool.Exec(ctx, sql)
		require.NoError(t, err)
	}
	accepted, parcels, err := s.InsertRuns(ctx, []NewRun{{Task: "demo"}})
	require.NoError(t, err)
	id := accepted[0].ID
	child, _, err := s.InsertRuns(ctx, []NewRun{{Task: "demo", Parent: &Parent{Run: id, Path: "0"}}})
	require.NoError(t, err)
	_, err = s.Claim(ctx, 1, parcels[0].ID, parcels[0].DispatchNo)
	require.NoError(t, err)

	_, err = s.pool.Exec(ctx, `INSERT INTO holds (run, scope, key, taken_at) VALUES ($1, 'limit:demo', '*', '2026-01-01')`, child[0].ID)
	require.NoError(t, err)

	one := fmt.Sprintf("'{%s}', '%s', '%s'", child[0].ID, child[0].ID, child[0].ID)
	for name, st := range map[string]struct{ sql, args string }{
		"above": {levelsAbove, one + ", 20"},
		"kill":  {killWorker, "1, 'memory'"},
		"ended": {endedRuns, one},
		"holds": {sweptHolds, one},
	} {
		plan := explain(ctx, t, s, name, st.sql, st.args)
		touched := 0
		for line := range strings.Lines(plan) {
			if strings.Contains(line, " on runs_") && !strings.Contains(line, "never executed") {
				touched++
			}
		}
		require.LessOrEqual(t, touched, 4, "%s looks into too many partitions:\n%s", name, plan)
		require.Positive(t, touched, plan)
	}
}

func explain(ctx context.Context, t *testing.T, s *Store, name, sql, args string) string {
	t.Helper()
	tx, err := s.bulk.Begin(ctx)
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(ctx)) }()
	_, err = tx.Exec(ctx, "PREPARE "+name+" AS "+sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err, name)
	rows, err := tx.Query(ctx, "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE "+name+"("+args+")", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err, name)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err, name)
	_, err = tx.Exec(ctx, "DEALLOCATE "+name)
	require.NoError(t, err)
	return strings.Join(lines, "\n")
}
