package store

import (
	"context"
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
				CASE WHEN g % 500 = 3 THEN 'rare' WHEN g % 4 = 1 THEN 'broken' ELSE 'common' END, 1,
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
	good, bad := []task.State{task.StateSucceeded}, []task.State{task.StateFailed, task.StateCancelled}
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			_, err := s.pool.Exec(ctx, `ANALYZE`)
			require.NoError(t, err)
		}
		for name, st := range map[string]struct {
			sql  string
			args []any
		}{
			"all":                 {walkStatement(walkPage), []any{uuid.Nil, uuid.Max, 50, task.States[:]}},
			"succeeded":           {walkStatement(walkPage), []any{uuid.Nil, uuid.Max, firstPage, good}},
			"of a common task":    {walkStatement(taskPage), []any{uuid.Nil, uuid.Max, 50, good, "common"}},
			"of a rare task":      {walkStatement(taskPage), []any{uuid.Nil, uuid.Max, firstPage, good, "rare"}},
			"of no task":          {walkStatement(taskPage), []any{uuid.Nil, uuid.Max, firstPage, good, "none"}},
			"since":               {walkStatement(taskPage), []any{idFloor(today.Add(-3 * day)), uuid.Max, firstPage, good, "rare"}},
			"failed":              {failedStatement(failedPage), []any{uuid.Nil, uuid.Max, bad, 50}},
			"failed of a task":    {failedStatement(failedTaskPage), []any{uuid.Nil, uuid.Max, bad, 50, "common"}},
			"expired":             {expiredPage, []any{"rare", uuid.Nil, uuid.Max, time.Now().Add(-20 * day), deleteLimit}},
			"ids of many days":    {runColumns + runsByID + `WHERE r.state = ANY ($2) AND ($3 = '' OR r.task = $3) ORDER BY r.id DESC`, []any{rare, bad, "rare"}},
			"ids of nobody's day": {runColumns + runsByID + `WHERE r.state = ANY ($2) AND ($3 = '' OR r.task = $3) ORDER BY r.id DESC`, []any{[]uuid.UUID{uuid.Max}, bad, ""}},
		} {
			rows, err := s.pool.Query(ctx, "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) "+st.sql, st.args...)
			require.NoError(t, err, name)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err, name)
			plan := strings.Join(lines, "\n")
			for _, line := range lines {
				if strings.Contains(line, "(never executed)") {
					continue
				}
				require.NotContains(t, line, "Seq Scan on runs", "%s, analyzed %v:\n%s", name, analyzed, plan)
				require.NotContains(t, line, "Seq Scan on failed_runs", "%s, analyzed %v:\n%s", name, analyzed, plan)
				// A page is 1,000 rows: nothing reads more.
				require.NotRegexp(t, `actual rows=(100[1-9]|10[1-9]\d|1[1-9]\d\d|[2-9]\d{3}|\d{5})|Removed by Filter: \d{4}`, line,
					"%s, analyzed %v:\n%s", name, analyzed, plan)
			}
		}
	}
}
