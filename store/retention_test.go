package store_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

const days = 24 * time.Hour

// past makes n ended runs of a task that were made and ended so long ago, each
// with a step, a log line and, unless they succeeded, a row in failed_runs.
func (f *fixture) past(name string, n int, ago time.Duration, state task.State) []uuid.UUID {
	f.t.Helper()
	at := time.Now().Add(-ago)
	for _, table := range []string{"runs", "steps", "run_logs"} {
		f.exec(`DO $$ DECLARE d date := '` + at.UTC().Format(time.DateOnly) + `'; t text := '` + table + `'; BEGIN
			EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', t || to_char(d, '_YYYYMMDD'), t,
				catena_id_floor(d::timestamp AT TIME ZONE 'UTC'), catena_id_floor((d + 1)::timestamp AT TIME ZONE 'UTC')); END $$`)
	}
	rows, err := f.Pool().Query(context.Background(), `INSERT INTO runs (id, task, revision, state, priority, queue, created_at, finished_at)
		SELECT overlay(catena_id_floor($3)::text placing right(gen_random_uuid()::text, 17) from 20)::uuid, $1, 1, $4, 5, 'default', $3, $3
		FROM generate_series(1, $2) RETURNING id`, name, n, at, string(state))
	require.NoError(f.t, err)
	var ids []uuid.UUID
	for rows.Next() {
		var id uuid.UUID
		require.NoError(f.t, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(f.t, rows.Err())
	f.exec(`INSERT INTO steps (run, iteration, path, attempt, outcome, started_at, finished_at) SELECT i, 0, '0', 1, '{"success":true}', now(), now() FROM unnest($1::uuid[]) i`, ids)
	f.exec(`INSERT INTO run_logs (run, seq, at, level, message) SELECT i, 1, now(), 'info', 'x' FROM unnest($1::uuid[]) i`, ids)
	return ids
}

// await makes runs children of one that waits for some of them.
func (f *fixture) await(some, others []uuid.UUID) {
	f.t.Helper()
	w := f.worker()
	p := f.claimOne(w)
	f.write(store.Batch{Worker: w, Endings: []store.Ending{parked(p, childrenPark("open"))}})
	f.exec(`UPDATE runs SET parent = $1, child_group = CASE WHEN id = ANY ($2) THEN 'open' ELSE 'over' END WHERE id = ANY ($2) OR id = ANY ($3)`, p.ID, some, others)
}

func (f *fixture) count(table, column string, ids []uuid.UUID) (n int) {
	f.t.Helper()
	require.NoError(f.t, f.Pool().QueryRow(context.Background(), `SELECT count(*) FROM `+table+` WHERE `+column+` = ANY($1)`, ids).Scan(&n))
	return n
}

func (f *fixture) left(ids []uuid.UUID) int {
	f.t.Helper()
	n := f.count("runs", "id", ids)
	require.Equal(f.t, n, f.count("steps", "run", ids))
	require.LessOrEqual(f.t, f.count("run_logs", "run", ids), 2*n, "one line each, and one of a retry by hand")
	return n
}

// retain does what the leader does.
func (f *fixture) retain(r store.Retention) (dropped []string, deleted int) {
	f.t.Helper()
	ctx := context.Background()
	dropped, err := f.DropExpired(ctx, f.term, r, time.Now())
	require.NoError(f.t, err)
	list, err := f.Expired(ctx, r, time.Now())
	require.NoError(f.t, err)
	for _, e := range list {
		for more := true; more; {
			var n int
			n, e, more, err = f.DeleteExpired(ctx, f.term, e)
			require.NoError(f.t, err)
			deleted += n
		}
	}
	return dropped, deleted
}

func TestRetention(t *testing.T) {
	t.Parallel()
	month := store.Retention{Runs: 30 * days, Logs: 30 * days}
	keeping := func(name string, keep time.Duration) task.Definition {
		return task.Definition{Name: name, Chain: json.RawMessage(`["nop"]`), Keep: task.Duration(keep)}
	}
	for name, test := range map[string]struct {
		make func(f *fixture) (gone, kept []uuid.UUID)
		drop bool // whether a partition of runs goes
	}{
		"a partition whose runs are all past their time is dropped": {func(f *fixture) (gone, kept []uuid.UUID) {
			return append(f.past("demo", 3, 40*days, task.StateSucceeded), f.past("demo", 3, 40*days, task.StateFailed)...), f.past("demo", 3, 20*days, task.StateFailed)
		}, true},
		"a task that keeps its runs for less": {func(f *fixture) (gone, kept []uuid.UUID) {
			f.apply(keeping("short", 2*days))
			return f.past("short", 1100, 3*days, task.StateFailed), append(f.past("short", 3, days, task.StateSucceeded), f.past("demo", 3, 3*days, task.StateSucceeded)...)
		}, false},
		"a task that keeps its runs for longer holds the partition, not the others' runs": {func(f *fixture) (gone, kept []uuid.UUID) {
			f.apply(keeping("long", 90*days), keeping("short", 2*days))
			gone = append(f.past("demo", 600, 40*days, task.StateTimedOut), f.past("short", 3, 40*days, task.StateSucceeded)...)
			gone = append(gone, f.past("deleted-task", 3, 40*days, task.StateSucceeded)...)
			return gone, f.past("long", 3, 40*days, task.StateFailed)
		}, false},
		"a longer time that has passed too": {func(f *fixture) (gone, kept []uuid.UUID) {
			f.apply(keeping("long", 90*days))
			return f.past("long", 3, 100*days, task.StateFailed), nil
		}, true},
		"an old run that lives": {func(f *fixture) (gone, kept []uuid.UUID) {
			gone, kept = f.past("demo", 3, 40*days, task.StateSucceeded), f.past("demo", 1, 40*days, task.StateSucceeded)
			f.exec(`UPDATE runs SET state = 'queued', finished_at = NULL WHERE id = $1`, kept[0])
			return gone, kept
		}, false},
		"an old run that ended late": {func(f *fixture) (gone, kept []uuid.UUID) {
			gone, kept = f.past("demo", 3, 40*days, task.StateSucceeded), f.past("demo", 1, 40*days, task.StateSucceeded)
			f.exec(`UPDATE runs SET finished_at = now() - interval '1 day' WHERE id = $1`, kept[0])
			return gone, kept
		}, false},
		"an old run that was retried by hand": {func(f *fixture) (gone, kept []uuid.UUID) {
			gone, kept = f.past("demo", 3, 40*days, task.StateSucceeded), f.past("demo", 1, 40*days, task.StateFailed)
			f.exec(`UPDATE runs SET revision = (SELECT revision FROM tasks WHERE name = 'demo') WHERE id = $1`, kept[0])
			_, err := f.RetryRun(context.Background(), kept[0], "", "test")
			require.NoError(f.t, err)
			return gone, kept
		}, false},
		"children whose parent waits for their siblings": {func(f *fixture) (gone, kept []uuid.UUID) {
			f.apply(keeping("short", 2*days))
			kept = append(f.past("short", 2, 40*days, task.StateFailed), f.past("short", 2, 3*days, task.StateSucceeded)...)
			gone = append(f.past("short", 3, 40*days, task.StateSucceeded), f.past("short", 3, 3*days, task.StateSucceeded)...)
			f.await(kept, gone)
			return gone, kept
		}, false},
		"a day of children whose parent waits for their siblings": {func(f *fixture) (gone, kept []uuid.UUID) {
			kept = f.past("demo", 2, 40*days, task.StateFailed)
			f.await(kept, nil)
			return nil, kept
		}, false},
		"children that nobody waits for any more": {func(f *fixture) (gone, kept []uuid.UUID) {
			gone = f.past("demo", 2, 40*days, task.StateFailed)
			f.await(nil, gone)
			return gone, nil
		}, true},
		"no task can keep its runs for a moment only": {func(f *fixture) (gone, kept []uuid.UUID) {
			f.apply(keeping("short", 2*days))
			f.exec(`UPDATE tasks SET keep_ms = 1 WHERE name = 'short'`)
			return f.past("short", 3, 3*time.Hour, task.StateFailed), f.past("short", 3, 30*time.Minute, task.StateFailed)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			gone, kept := test.make(f)
			dropped, _ := f.retain(month)
			require.Zero(t, f.left(gone))
			require.Zero(t, f.count("failed_runs", "run", gone))
			require.Equal(t, len(kept), f.left(kept))
			runs := slices.ContainsFunc(dropped, func(name string) bool { return strings.HasPrefix(name, "runs_") })
			require.Equal(t, test.drop, runs, dropped)
			again, deleted := f.retain(month)
			require.Empty(t, again)
			require.Zero(t, deleted)
		})
	}
}

func TestLogsGoAtTheirOwnTime(t *testing.T) {
	t.Parallel()
	f := open(t)
	ids := f.past("demo", 3, 10*days, task.StateSucceeded)
	dropped, _ := f.retain(store.Retention{Runs: 30 * days, Logs: 7 * days})
	require.Len(t, dropped, 1)
	require.Equal(t, len(ids), f.count("runs", "id", ids))
	require.Zero(t, f.count("run_logs", "run", ids))
}

// Statements that look into every partition hold the parent's lock while they
// wait for a partition's.
func TestPartitionsDropUnderLoad(t *testing.T) {
	t.Parallel()
	f := open(t)
	for d := range 6 {
		f.past("demo", 50, time.Duration(40+d)*days, task.StateSucceeded)
	}
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				_, _ = f.Pool().Exec(ctx, `UPDATE runs SET attempt = attempt WHERE created_at > clock_timestamp() - interval '30 days'`)
			}
		})
	}
	dropped, err := f.DropExpired(context.Background(), f.term, store.Retention{Runs: 30 * days, Logs: 30 * days}, time.Now())
	stop()
	all.Wait()
	require.NoError(t, err)
	require.Len(t, dropped, 3*6)
}

func TestRetentionIsTheLeadersAlone(t *testing.T) {
	t.Parallel()
	f := open(t)
	ids := f.past("demo", 3, 40*days, task.StateFailed)
	_, err := f.DropExpired(context.Background(), f.term-1, store.Retention{Runs: days, Logs: days}, time.Now())
	require.True(t, store.StaleTerm(err), err)
	_, _, _, err = f.DeleteExpired(context.Background(), f.term-1, store.Expired{Task: "demo", To: uuid.Max, Before: time.Now()})
	require.True(t, store.StaleTerm(err), err)
	require.Equal(t, 3, f.left(ids))
}

func TestKeepOfATask(t *testing.T) {
	t.Parallel()
	f := open(t)
	def := task.Definition{Name: "kept", Chain: json.RawMessage(`["nop"]`), Keep: task.Duration(90 * days)}
	require.Equal(t, "created", f.apply(def)[0].Change)
	before, err := f.Task(context.Background(), "kept")
	require.NoError(t, err)
	require.Equal(t, def.Keep, before.Keep)
	require.Equal(t, "unchanged", f.apply(def)[0].Change)
	def.Keep = 0
	require.Equal(t, "updated", f.apply(def)[0].Change)
	after, err := f.Task(context.Background(), "kept")
	require.NoError(t, err)
	require.Zero(t, after.Keep)
	require.Equal(t, before.Revision, after.Revision, "how long runs are kept is no matter of a run")
}

// Whoever ends a run without success, by whatever statement, failed_runs says so.
func TestFailedRunsFollowTheState(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	worker := f.worker()
	c := f.claimOne(worker)
	state := func() (s string) {
		err := f.Pool().QueryRow(ctx, `SELECT coalesce((SELECT task || ' ' || state FROM failed_runs WHERE run = $1), '')`, c.ID).Scan(&s)
		require.NoError(t, err)
		return s
	}
	end := succeeded(c)
	end.State = task.StateFailed
	f.write(store.Batch{Worker: worker, Endings: []store.Ending{end}})
	require.Equal(t, "demo failed", state())
	_, err := f.RetryRun(ctx, c.ID, "", "test")
	require.NoError(t, err)
	require.Empty(t, state())
	_, err = f.CancelRun(ctx, c.ID, "me", false)
	require.NoError(t, err)
	require.Equal(t, "demo cancelled", state())
	f.exec(`UPDATE runs SET state = 'quarantined' WHERE id = $1`, c.ID)
	require.Equal(t, "demo quarantined", state())
	f.exec(`UPDATE runs SET state = 'succeeded' WHERE id = $1`, c.ID)
	require.Empty(t, state())
}
