package master_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func openStore(t *testing.T, url string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{URL: url})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// contender is a candidate that writes as fast as it can while it leads.
type contender struct {
	*master.Candidate
	store *store.Store
	stop  context.CancelFunc
	done  chan struct{}
}

func contend(t *testing.T, url, name string) *contender {
	t.Helper()
	s := openStore(t, url)
	c := &contender{store: s, done: make(chan struct{})}
	c.Candidate = master.NewCandidate(s, name, quiet(), func(ctx context.Context, term int64) {
		for ctx.Err() == nil {
			// The fence of the store decides; the row tells in which order terms wrote.
			if err := s.SetRedisEpoch(ctx, term, name); err != nil && store.StaleTerm(err) {
				return
			}
		}
	})
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	go func() {
		defer close(c.done)
		c.Run(ctx)
	}()
	t.Cleanup(func() { stop(); <-c.done })
	return c
}

func leads(t *testing.T, c *contender, within time.Duration) {
	t.Helper()
	require.Eventually(t, func() bool { return c.Term() != 0 }, within, 2*time.Millisecond)
}

// history makes a trigger note each write of a leader with the term that was
// in force when it committed.
func history(t *testing.T, s *store.Store) {
	t.Helper()
	_, err := s.Pool().Exec(t.Context(), `
		CREATE TABLE written (n bigserial, holder text, term bigint);
		CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO written (holder, term) SELECT NEW.redis_epoch, term FROM leader; RETURN NEW; END $$;
		CREATE TRIGGER note_write AFTER UPDATE OF redis_epoch ON cluster FOR EACH ROW EXECUTE FUNCTION note_write();`)
	require.NoError(t, err)
}

// soleWriters requires that each term had one writer and that terms only rose.
func soleWriters(t *testing.T, s *store.Store, terms int) {
	t.Helper()
	var seen, mixed, back int
	require.Eventually(t, func() bool { // the last leader may have led for a moment only
		return s.Pool().QueryRow(t.Context(), `SELECT count(DISTINCT term) FROM written`).Scan(&seen) == nil && seen >= terms
	}, patience, 5*time.Millisecond)
	require.NoError(t, s.Pool().QueryRow(t.Context(), `SELECT count(*) FROM (SELECT term FROM written GROUP BY term HAVING count(DISTINCT holder) > 1) x`).Scan(&mixed))
	require.NoError(t, s.Pool().QueryRow(t.Context(), `SELECT count(*) FROM (SELECT term < lag(term) OVER (ORDER BY n) AS b FROM written) x WHERE b`).Scan(&back))
	require.Zero(t, mixed, "two masters wrote in one term")
	require.Zero(t, back, "an older term wrote after a newer one")
}

func TestTheNextLeadsWhenTheFirstResigns(t *testing.T) {
	t.Parallel()
	url := servertest.PostgresURL(t)
	watch := openStore(t, url)
	history(t, watch)
	first := contend(t, url, "first")
	leads(t, first, 3*time.Second)
	second := contend(t, url, "second")
	term := first.Term()
	first.stop()
	<-first.done
	began := time.Now()
	leads(t, second, time.Second)
	require.Less(t, time.Since(began), time.Second)
	require.Greater(t, second.Term(), term)
	require.Zero(t, first.Term())
	soleWriters(t, watch, 1)
}

func TestALeaderWithoutItsDatabaseDistrustsItself(t *testing.T) {
	t.Parallel()
	url := servertest.PostgresURL(t)
	watch := openStore(t, url)
	history(t, watch)
	first := contend(t, url, "first")
	leads(t, first, 3*time.Second)
	second := contend(t, url, "second")
	require.Eventually(t, func() bool {
		var n int
		return watch.Pool().QueryRow(t.Context(), `SELECT count(*) FROM written`).Scan(&n) == nil && n > 0
	}, patience, 5*time.Millisecond)
	lost := time.Now()
	first.store.Close()
	var distrusted, took time.Duration
	for took == 0 && time.Since(lost) < 10*time.Second {
		if distrusted == 0 && first.Term() == 0 {
			distrusted = time.Since(lost)
		}
		if second.Term() != 0 {
			took = time.Since(lost)
			require.NotZero(t, distrusted, "nobody leads beside another who thinks to lead")
		}
		time.Sleep(time.Millisecond)
	}
	require.Positive(t, distrusted)
	require.LessOrEqual(t, distrusted, 3*time.Second+200*time.Millisecond)
	require.Positive(t, took)
	require.LessOrEqual(t, took, 6*time.Second)
	require.Eventually(t, func() bool {
		var n int
		return watch.Pool().QueryRow(t.Context(), `SELECT count(DISTINCT term) FROM written`).Scan(&n) == nil && n > 1
	}, patience, 5*time.Millisecond)
	soleWriters(t, watch, 2)
}

func TestLostConnectionsAloneEndNoTerm(t *testing.T) {
	t.Parallel()
	url := servertest.PostgresURL(t)
	watch := openStore(t, url)
	first := contend(t, url, "first")
	leads(t, first, 3*time.Second)
	term := first.Term()
	_, err := watch.Pool().Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	require.NoError(t, err)
	lease, err := watch.Leader(t.Context())
	for err != nil {
		lease, err = watch.Leader(t.Context())
	}
	require.Eventually(t, func() bool {
		now, err := watch.Leader(t.Context())
		return err == nil && now.ExpiresAt.After(lease.ExpiresAt)
	}, patience, 10*time.Millisecond, "it renews on new connections")
	require.Equal(t, term, first.Term())
}

// lead runs a whole master without workers.
func lead(t *testing.T) *store.Store {
	t.Helper()
	s := openStore(t, servertest.PostgresURL(t))
	leadOn(t, s)
	return s
}

func leadOn(t *testing.T, s *store.Store) {
	t.Helper()
	require.NoError(t, s.EnsurePartitions(t.Context()))
	q, err := queue.Open(queue.Config{URL: servertest.Redis(t), Namespace: servertest.RedisNamespace(t)}, quiet())
	require.NoError(t, err)
	t.Cleanup(func() { _ = q.Close() })
	d := dispatch.New(s, q, quiet())
	m := master.New(master.Config{Name: "test", Lead: true}, master.Deps{
		Store: s, Queue: q, Dispatch: d, Log: quiet(), Scheduler: scheduler.New(scheduler.DefaultConfig(), s, d, quiet()),
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx)
	}()
	t.Cleanup(func() { stop(); <-done })
	require.Eventually(t, m.Leads, patience, time.Millisecond)
}

func eventually(t *testing.T, s *store.Store, within time.Duration, sql string) {
	t.Helper()
	require.Eventually(t, func() bool {
		var yes bool
		require.NoError(t, s.Pool().QueryRow(t.Context(), sql).Scan(&yes))
		return yes
	}, within, 5*time.Millisecond, sql)
}

func TestRowsInsertedBySQLAreTakenUpWithinASecond(t *testing.T) {
	t.Parallel()
	s := lead(t)
	exec := func(sql string) {
		_, err := s.Pool().Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	exec(`INSERT INTO tasks (name, chain) VALUES ('good', '["nop"]'), ('bad', '[["fly"]]')`)
	exec(`INSERT INTO schedules (task, cron, overlap) VALUES ('good', '@every 1s', 'allow-all'), ('good', 'never', 'skip')`)
	eventually(t, s, time.Second, `SELECT count(*) FILTER (WHERE invalid <> '') = 1 AND bool_and(checked = revision) FROM tasks`)
	eventually(t, s, time.Second, `SELECT count(*) FILTER (WHERE invalid <> '') = 1 AND bool_and(planned = version) FROM schedules`)
	eventually(t, s, 3*time.Second, `SELECT count(*) >= 1 FROM runs WHERE task = 'good'`)
	exec(`UPDATE tasks SET chain = '["nop"]' WHERE name = 'bad'`)
	exec(`UPDATE schedules SET cron = '@every 1h' WHERE cron = 'never'`)
	eventually(t, s, time.Second, `SELECT bool_and(invalid = '' AND checked = revision) FROM tasks`)
	eventually(t, s, time.Second, `SELECT count(*) = 2 FROM schedule_due`)
	exec(`DELETE FROM schedules`)
	eventually(t, s, time.Second, `SELECT count(*) = 0 FROM schedule_due`)
}

func TestTheLeaderDoesItsDuties(t *testing.T) {
	t.Parallel()
	s := lead(t)
	_, err := s.ApplyTasks(t.Context(), []task.Definition{{Name: "demo", Chain: json.RawMessage(`["nop"]`)}}, false)
	require.NoError(t, err)
	accepted, _, err := s.InsertRuns(t.Context(), []store.NewRun{{Task: "demo"}})
	require.NoError(t, err)
	require.False(t, accepted[0].Duplicate)
	eventually(t, s, patience, `SELECT redis_epoch <> '' FROM cluster`)

	epoch, err := s.RegisterWorker(t.Context(), task.Worker{ID: "w", Host: "h", PID: 1, Version: "test", Queues: []string{"*"}, Slots: 4})
	require.NoError(t, err)
	eventually(t, s, patience, `SELECT count(*) = 1 FROM parcels WHERE state = 'unclaimed'`)
	_, err = s.Pool().Exec(t.Context(), `UPDATE parcels SET state = 'claimed', worker = $1`, epoch)
	require.NoError(t, err)
	// The worker says nothing more: five ticks later its run goes to the suspect lane.
	eventually(t, s, patience, `SELECT state = 'lost' FROM workers`)
	eventually(t, s, patience, `SELECT losses = 1 AND attempt = 1 FROM runs`)
	eventually(t, s, patience, `SELECT count(*) = 1 FROM ready WHERE lane = 'suspect:default'`)

	_, err = s.PauseTask(t.Context(), "demo", "")
	require.NoError(t, err)
	eventually(t, s, patience, `SELECT hold = 'paused' FROM ready`)
	_, err = s.ResumeTask(t.Context(), "demo")
	require.NoError(t, err)
	eventually(t, s, patience, `SELECT hold = '' FROM ready`)
}
