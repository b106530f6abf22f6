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
	"github.com/catena-run/catena/task"
)

// Listings must stay with the indexes, before and after Postgres knows the
// tables: 30 days, a common task, a rare one, and today without statistics.
func TestPlansOfListings(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, err := Open(ctx, Config{URL: servertest.PostgresURL(t)})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	today := time.Now().UTC().Truncate(day)
	for d := range 30 {
		require.NoError(t, s.ensurePartition(ctx, "runs", today.Add(-time.Duration(d)*day)))
	}
	for d := 29; d >= 0; d-- {
		_, err := s.pool.Exec(ctx, `INSERT INTO runs (id, task, revision, state, priority, queue, created_at, finished_at)
			SELECT overlay(catena_id_floor($1)::text placing right(gen_random_uuid()::text, 17) from 20)::uuid,
				CASE WHEN g % 500 = 3 THEN 'rare' WHEN g % 4 = 1 THEN 'broken' ELSE 'a-common' END, 1,
				CASE WHEN g % 4 = 1 OR g % 10 = 0 THEN 'failed' ELSE 'succeeded' END, 5, 'default', $1, $1
			FROM generate_series(1, $2::int) g`, today.Add(-time.Duration(d)*day), map[bool]int{true: 5000, false: 1000}[d == 0])
		require.NoError(t, err)
		if d == 1 {
			_, err := s.pool.Exec(ctx, `ANALYZE`)
			require.NoError(t, err)
		}
	}
	rows, err := s.pool.Query(ctx, `SELECT id FROM runs WHERE task = 'rare'`)
	require.NoError(t, err)
	rare, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(t, err)
	list := func(states ...task.State) string {
		texts := make([]string, len(states))
		for i, state := range states {
			texts[i] = string(state)
		}
		return "'{" + strings.Join(texts, ",") + "}'"
	}
	texts := make([]string, len(rare))
	for i, id := range rare {
		texts[i] = id.String()
	}
	quoted := func(id uuid.UUID) string { return "'" + id.String() + "'" }
	good, bad, ids := list(task.StateSucceeded), list(task.StateFailed, task.StateCancelled), "'{"+strings.Join(texts, ",")+"}'"
	zero, end, since := quoted(uuid.Nil), quoted(uuid.Max), quoted(idFloor(today.Add(-3*day)))
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			_, err := s.pool.Exec(ctx, `ANALYZE`)
			require.NoError(t, err)
		}
		for name, st := range map[string]struct {
			sql  string
			args []string
		}{
			"all":              {walkStatement(walkPage, 50), []string{zero, end, list(task.States[:]...)}},
			"succeeded":        {walkStatement(walkPage, firstPage), []string{zero, end, good}},
			"of a common task": {walkStatement(taskPage, 50), []string{zero, end, good, "'a-common'"}},
			"of a rare task":   {walkStatement(taskPage, firstPage), []string{zero, end, good, "'rare'"}},
			"of no task":       {walkStatement(taskPage, firstPage), []string{zero, end, good, "'none'"}},
			"since":            {walkStatement(taskPage, firstPage), []string{since, end, good, "'rare'"}},
			"failed":           {failedStatement(failedPage, 50), []string{zero, end, bad}},
			"failed of a task": {failedStatement(failedTaskPage, 50), []string{zero, end, bad, "'a-common'"}},
			"longer":           {longer, []string{zero, end, "1", "1"}},
			"expired":          {expiredPage, []string{"'rare'", zero, end, "'2026-01-01'"}},
			"ids":              {runColumns + runsByID + `WHERE r.state = ANY ($2) AND ($3 = '' OR r.task = $3) ORDER BY r.id DESC`, []string{ids, bad, "'rare'"}},
		} {
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				mustStayWithIndexes(ctx, t, s, fmt.Sprintf("%s, analyzed %v, %s", name, analyzed, mode), mode, st.sql, st.args)
			}
		}
	}
}

func mustStayWithIndexes(ctx context.Context, t *testing.T, s *Store, name, mode, sql string, args []string) {
	t.Helper()
	tx, err := s.pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(ctx)) }()
	statements := []string{"SET LOCAL plan_cache_mode = " + mode, "PREPARE listing AS " + sql}
	if !strings.Contains(sql, "OFFSET 0") {
		for setting, value := range indexPlans {
			statements = append(statements, "SET LOCAL "+setting+" = "+value)
		}
	}
	for _, st := range statements {
		_, err = tx.Exec(ctx, st, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, name)
	}
	rows, err := tx.Query(ctx, "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE listing("+strings.Join(args, ", ")+")", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err, name)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err, name)
	_, err = tx.Exec(ctx, "DEALLOCATE listing")
	require.NoError(t, err)
	plan := strings.Join(lines, "\n")
	for _, line := range lines {
		if strings.Contains(line, "(never executed)") {
			continue
		}
		require.NotContains(t, line, "Seq Scan on runs", "%s:\n%s", name, plan)
		require.NotContains(t, line, "Seq Scan on failed_runs", "%s:\n%s", name, plan)
		// A page is 1,000 rows: nothing reads more.
		require.NotRegexp(t, `actual rows=(100[1-9]|10[1-9]\d|1[1-9]\d\d|[2-9]\d{3}|\d{5})|Removed by Filter: \d{4}`, line, "%s:\n%s", name, plan)
	}
}
