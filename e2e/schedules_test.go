package e2e

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestTwoMastersFireNothingTwice races two masters over 100 schedules that are
// due each second, and moves the lease from one to the other meanwhile.
func TestTwoMastersFireNothingTwice(t *testing.T) {
	length, change := 20*time.Second, 4*time.Second
	if os.Getenv("CATENA_TEST_FAULTS") == "long" {
		length, change = 5*time.Minute, 15*time.Second
	}
	c := newCluster(t)
	c.startMaster(0)
	c.startMaster(1)
	c.awaitWorkers(1)
	conn, err := pgx.Connect(t.Context(), c.postgres.URL)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	number := func(sql string, args ...any) (n int) {
		require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&n), sql)
		return n
	}
	const policies = `ARRAY['skip', 'buffer-one', 'buffer-all', 'allow-all']`
	_, err = conn.Exec(t.Context(), `INSERT INTO tasks (name, chain) SELECT 'race/' || i, '["nop"]' FROM generate_series(1, 100) i`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `INSERT INTO schedules (task, cron, overlap) SELECT 'race/' || i, '@every 1s', (`+policies+`)[1 + i % 4] FROM generate_series(1, 100) i`)
	require.NoError(t, err)

	began := time.Now()
	for changed := began; time.Since(began) < length; {
		if time.Since(changed) > change {
			changed = time.Now()
			// Its holder finds its term over and campaigns anew, as does the other.
			_, err := conn.Exec(t.Context(), `UPDATE leader SET term = term + 1, expires_at = '-infinity'`)
			require.NoError(t, err)
		}
		pace(t.Context(), 100*time.Millisecond)
		require.Zero(t, number(`SELECT count(*) FROM (
			SELECT r.schedule FROM runs r JOIN schedules s ON s.id = r.schedule WHERE s.overlap <> 'allow-all' AND r.finished_at IS NULL
				AND NOT EXISTS (SELECT 1 FROM ready w WHERE w.run = r.id AND w.hold = 'buffered')
			GROUP BY 1 HAVING count(*) > 1) double`), "two runs of a schedule side by side")
	}
	require.Greater(t, number(`SELECT term::int FROM leader`), 2, "the lease did not move")
	end := time.Now()
	c.eventually(func() bool {
		return number(`SELECT count(*) FROM schedule_due WHERE due_at <= $1`, end)+number(`SELECT count(*) FROM catch_ups`) == 0
	}, "the ledger does not reach the present")

	// Each row begins a second after the end of the one before, and the last ends before what is due next.
	gaps := number(`
		SELECT count(*) FROM (
			SELECT f.due_at, f.last_due_at, f.count, coalesce(lead(f.due_at) OVER w, d.due_at) AS next
			FROM fires f JOIN schedule_due d ON d.schedule = f.schedule WINDOW w AS (PARTITION BY f.schedule ORDER BY f.due_at)) l
		WHERE next <> last_due_at + interval '1 second' OR last_due_at <> due_at + (count - 1) * interval '1 second'`)
	require.Zero(t, gaps, "a due time is covered twice or not at all")
	least := int(length/time.Second) - 2
	require.Equal(t, 100, number(`SELECT count(*) FROM (SELECT schedule FROM fires GROUP BY 1 HAVING sum(count) >= $1) s`, least))
	require.Zero(t, number(`SELECT count(*) FROM runs r WHERE r.schedule IS NOT NULL AND (SELECT count(*) FROM fires f WHERE f.schedule = r.schedule AND f.due_at = r.due_at AND f.run = r.id) <> 1`))
	require.Zero(t, number(`SELECT count(*) FROM fires f WHERE f.run IS NOT NULL AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = f.run)`))
	t.Logf("%d due times, %d rows, %d runs, %d terms", number(`SELECT sum(count)::int FROM fires`), number(`SELECT count(*) FROM fires`),
		number(`SELECT count(*) FROM runs`), number(`SELECT term::int FROM leader`))
}
