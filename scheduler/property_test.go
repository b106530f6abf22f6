package scheduler_test

import (
	"context"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// cutter passes connections on to Postgres and cuts one at the statement it is
// told: before the server gets it, or when the server answers it.
type cutter struct {
	listener net.Listener
	target   string
	all      sync.WaitGroup

	mu    sync.Mutex
	after int // statements until the cut; 0: none
	late  bool
	open  map[net.Conn]bool
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{listener: l, target: target, open: map[net.Conn]bool{}}
	c.all.Go(c.accept)
	t.Cleanup(func() {
		_ = l.Close()
		c.mu.Lock()
		for conn := range c.open {
			_ = conn.Close()
		}
		c.mu.Unlock()
		c.all.Wait()
	})
	return c
}

func (c *cutter) arm(after int, late bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after, c.late = after, late
}

// struck counts a statement and tells whether it is the one.
func (c *cutter) struck() (now, late bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.after == 0 {
		return false, false
	}
	c.after--
	return c.after == 0, c.late
}

func (c *cutter) keep(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[conn] = true
}

func (c *cutter) drop(conns ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
		delete(c.open, conn)
	}
}

func (c *cutter) accept() {
	for {
		in, err := c.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		c.keep(in)
		c.keep(out)
		cut := make(chan struct{})
		c.all.Go(func() { c.forward(in, out, cut) })
		c.all.Go(func() { c.back(in, out, cut) })
	}
}

// forward takes what one read gives for a statement, as a client sends what it
// waits for in one write.
func (c *cutter) forward(in, out net.Conn, cut chan struct{}) {
	defer c.drop(in, out)
	buffer := make([]byte, 1<<20)
	for {
		n, err := in.Read(buffer)
		if err != nil {
			return
		}
		now, late := c.struck()
		if now && !late {
			return
		}
		if now {
			close(cut)
		}
		if _, err := out.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (c *cutter) back(in, out net.Conn, cut chan struct{}) {
	defer c.drop(in, out)
	buffer := make([]byte, 1<<16)
	for {
		n, err := out.Read(buffer)
		if err != nil {
			return
		}
		select {
		case <-cut:
			return
		default:
		}
		if _, err := in.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// world is a scheduler whose database has a clock of the test's and whose
// connections break on demand.
type world struct {
	*fixture
	r      *rapid.T
	cutter *cutter
	direct *store.Store // never cut
}

func newWorld(t *testing.T) *world {
	direct := servertest.PostgresURL(t)
	address, err := url.Parse(direct)
	require.NoError(t, err)
	cutter := newCutter(t, address.Host)
	query := address.Query()
	// The schema before the built-in one: its clock_timestamp is the one that is found.
	query.Set("search_path", "public,pg_catalog")
	address.RawQuery = query.Encode()
	s, err := store.Open(t.Context(), store.Config{URL: address.String()})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	_, err = s.Pool().Exec(t.Context(), `
		CREATE TABLE test_clock (ahead interval NOT NULL);
		INSERT INTO test_clock VALUES ('0');
		CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
			AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM public.test_clock'`)
	require.NoError(t, err)
	address.Host = cutter.listener.Addr().String()
	w := &world{fixture: startOn(t, address.String()), cutter: cutter, direct: s}
	return w
}

func (w *world) sql(sql string, args ...any) {
	_, err := w.direct.Pool().Exec(context.Background(), sql, args...)
	require.NoError(w.r, err, sql)
}

func (w *world) one(into any, sql string, args ...any) {
	require.NoError(w.r, w.direct.Pool().QueryRow(context.Background(), sql, args...).Scan(into), sql)
}

func (w *world) number(sql string, args ...any) (n int) {
	w.one(&n, sql, args...)
	return n
}

// advance moves the clock, and makes the partitions of the day it comes to.
func (w *world) advance(by time.Duration) {
	w.sql(`UPDATE test_clock SET ahead = ahead + $1::interval`, by)
	require.NoError(w.r, w.direct.EnsurePartitions(context.Background()))
	w.lead()
}

// lead has another master take over, as after a crash or a lease that ran out.
func (w *world) lead() {
	w.sql(`UPDATE leader SET expires_at = '-infinity'`)
	lease, won, err := w.direct.Campaign(context.Background(), "test")
	require.NoError(w.r, err)
	require.True(w.r, won)
	w.term = lease.Term
}

// turn does a duty, which a crash may end at any statement.
func (w *world) turn(name string, duty func(context.Context, int64) (bool, error)) {
	crashes := rapid.IntRange(0, 2).Draw(w.r, "crash") == 0
	if crashes {
		w.cutter.arm(rapid.IntRange(1, 25).Draw(w.r, "at statement"), rapid.Bool().Draw(w.r, "done"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var err error
	for more, n := true, 0; more && n < 20; n++ {
		if more, err = duty(ctx, w.term); err != nil {
			break
		}
	}
	w.cutter.arm(0, false)
	if !crashes {
		require.NoError(w.r, err, name)
	}
	if err != nil {
		w.lead()
	}
}

// planned is a schedule with what is expected of it.
type planned struct {
	id       int64
	name     string
	schedule task.Schedule
	versions []version
	loose    bool // more runs may wait than the policy says: some were retried by hand
}

type version struct {
	spec   scheduler.Spec
	since  time.Time // due times after it are this version's
	unseen bool      // it was edited again before a leader had seen it: nobody owes its due times
}

var crons = []string{"@every 1s", "@every 7s", "@every 1m", "*/10 * * * * *", "* * * * *", "*/20 * * * *"}

func (w *world) newSchedule(kind int) *planned {
	p := &planned{name: "t-" + uuid.NewString()}
	r := w.r
	p.schedule = task.Schedule{Cron: rapid.SampledFrom(crons).Draw(r, "cron"), Overlap: rapid.SampledFrom(task.Overlaps[:]).Draw(r, "overlap"),
		Buffer: rapid.IntRange(1, 3).Draw(r, "buffer"), PauseOnFailure: rapid.IntRange(0, 2).Draw(r, "pause on failure")}
	window := task.Duration(rapid.SampledFrom([]time.Duration{0, 30 * time.Second, 10 * time.Minute, time.Hour}).Draw(r, "catch up"))
	w.sql(`INSERT INTO tasks (name, chain) VALUES ($1, '["nop"]')`, p.name)
	w.one(&p.id, `INSERT INTO schedules (task, cron, overlap, buffer, pause_on_failure, catch_up_ms) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id`,
		p.name, p.schedule.Cron, string(p.schedule.Overlap), p.schedule.Buffer, p.schedule.PauseOnFailure, time.Duration(window).Milliseconds())
	w.noteVersion(p)
	return p
}

func (w *world) noteVersion(p *planned) {
	spec, err := scheduler.Parse(p.schedule)
	require.NoError(w.r, err)
	v := version{spec: spec}
	w.one(&v.since, `SELECT updated_at FROM schedules WHERE id = $1`, p.id)
	p.versions = append(p.versions, v)
}

// act does one random thing.
func (w *world) act(p *planned) {
	r := w.r
	switch action := rapid.IntRange(0, 12).Draw(r, "action"); action {
	case 0:
		w.advance(time.Duration(rapid.IntRange(0, 20_000).Draw(r, "ms")) * time.Millisecond)
	case 1:
		w.advance(time.Duration(rapid.IntRange(0, 5*3600).Draw(r, "seconds")) * time.Second)
	case 2, 3, 4:
		w.turn("fire", w.Fire)
	case 5:
		w.turn("open", w.OpenBuffered)
	case 6:
		w.turn("catch up", w.CatchUp)
	case 7, 8:
		w.endOne(p)
	case 9:
		w.cancelOne(p)
	case 10:
		w.retryOne(p)
	case 11:
		w.pause(p)
	case 12:
		w.edit(p)
	}
	w.checkPolicy(p)
}

// anyRun picks a run of the schedule for which the condition holds.
func (w *world) anyRun(p *planned, where string) (id uuid.UUID, there bool) {
	var ids []uuid.UUID
	rows, err := w.direct.Pool().Query(context.Background(), `SELECT id FROM runs r WHERE schedule = $1 AND `+where+` ORDER BY id LIMIT 20`, p.id)
	require.NoError(w.r, err)
	for rows.Next() {
		require.NoError(w.r, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(w.r, rows.Err())
	if len(ids) == 0 {
		return id, false
	}
	return rapid.SampledFrom(ids).Draw(w.r, "run"), true
}

const notBuffered = `finished_at IS NULL AND NOT EXISTS (SELECT 1 FROM ready w WHERE w.run = r.id AND w.hold = 'buffered')`

func (w *world) endOne(p *planned) {
	id, there := w.anyRun(p, notBuffered)
	if !there {
		return
	}
	state := rapid.SampledFrom([]task.State{task.StateSucceeded, task.StateFailed, task.StateTimedOut}).Draw(w.r, "end")
	w.sql(`DELETE FROM ready WHERE run = $1`, id)
	w.sql(`UPDATE runs SET state = $2, finished_at = clock_timestamp(), parcel = NULL WHERE id = $1`, id, string(state))
}

func (w *world) cancelOne(p *planned) {
	if id, there := w.anyRun(p, `finished_at IS NULL`); there {
		_, err := w.direct.CancelRun(context.Background(), id, "the test", rapid.Bool().Draw(w.r, "at once"))
		require.NoError(w.r, err)
	}
}

func (w *world) retryOne(p *planned) {
	if id, there := w.anyRun(p, `state IN ('failed', 'cancelled', 'timed_out')`); there {
		_, err := w.direct.RetryRun(context.Background(), id, "", "the test")
		require.NoError(w.r, err)
		p.loose = true
	}
}

func (w *world) pause(p *planned) {
	ctx := context.Background()
	var err error
	switch rapid.IntRange(0, 3).Draw(w.r, "pause") {
	case 0:
		_, err = w.direct.PauseTask(ctx, p.name, "holidays")
	case 1:
		_, err = w.direct.PauseSchedule(ctx, p.name, p.id, "for now")
	case 2:
		_, err = w.direct.ResumeTask(ctx, p.name)
	case 3:
		_, err = w.direct.ResumeSchedule(ctx, p.name, p.id)
	}
	require.NoError(w.r, err)
}

// edit changes the times or the policy.
func (w *world) edit(p *planned) {
	if rapid.Bool().Draw(w.r, "policy") {
		if p.schedule.Overlap == task.OverlapAllowAll {
			return // what it started side by side is nobody's fault
		}
		p.loose = true
		p.schedule.Overlap = rapid.SampledFrom(task.Overlaps[:5]).Draw(w.r, "new policy")
		w.sql(`UPDATE schedules SET overlap = $2 WHERE id = $1`, p.id, string(p.schedule.Overlap))
		return
	}
	cron := rapid.SampledFrom(crons).Draw(w.r, "new cron")
	if cron == p.schedule.Cron {
		return
	}
	p.schedule.Cron = cron
	w.one(&p.versions[len(p.versions)-1].unseen, `SELECT planned IS DISTINCT FROM version FROM schedules WHERE id = $1`, p.id)
	w.sql(`UPDATE schedules SET cron = $2 WHERE id = $1`, p.id, cron)
	w.noteVersion(p)
	if rapid.Bool().Draw(w.r, "planned at once") {
		w.turn("plan", w.Catalogue)
	}
}

// checkPolicy wants no two runs side by side but where that is the policy.
func (w *world) checkPolicy(p *planned) {
	if p.schedule.Overlap == task.OverlapAllowAll {
		return
	}
	require.LessOrEqual(w.r, w.number(`SELECT count(*) FROM runs r WHERE schedule = $1 AND `+notBuffered, p.id), 1, "two runs side by side")
	most := map[task.Overlap]int{task.OverlapBufferOne: 1, task.OverlapBufferAll: p.schedule.Buffer, task.OverlapCancelOther: 1, task.OverlapTerminateOther: 1}
	if !p.loose {
		require.LessOrEqual(w.r, w.number(`SELECT count(*) FROM ready WHERE schedule = $1 AND hold = 'buffered'`, p.id), most[p.schedule.Overlap])
	}
}

// settle has everything done that is due, without a crash.
func (w *world) settle() {
	ctx := context.Background()
	for deadline := time.Now().Add(30 * time.Second); ; {
		for _, duty := range []func(context.Context, int64) (bool, error){w.Catalogue, w.Fire, w.CatchUp} {
			for more := true; more; {
				var err error
				more, err = duty(ctx, w.term)
				require.NoError(w.r, err)
			}
		}
		next, now, err := w.direct.NextDue(ctx)
		require.NoError(w.r, err)
		left := w.number(`SELECT (SELECT count(*) FROM catch_ups) + (SELECT count(*) FROM schedules WHERE planned IS DISTINCT FROM version)`)
		if left == 0 && (next == nil || next.After(now)) {
			return
		}
		require.True(w.r, time.Now().Before(deadline), "%d rows are left, %v is due", left, next)
	}
}

// checkLedger compares the ledger with the due times that the specs name.
func (w *world) checkLedger(p *planned) {
	var next time.Time
	w.one(&next, `SELECT due_at FROM schedule_due WHERE schedule = $1`, p.id)
	rows, err := w.direct.Fires(context.Background(), store.FireFilter{Task: p.name, Limit: 10_000})
	require.NoError(w.r, err)
	slices.Reverse(rows)
	at := 0
	covered := map[int]int64{}
	for i, v := range p.versions {
		if v.unseen {
			continue
		}
		end := next.Add(-1)
		if i+1 < len(p.versions) {
			end = p.versions[i+1].since
		}
		for due, ok := v.spec.Next(v.since); ok && !due.After(end); due, ok = v.spec.Next(due) {
			for at < len(rows) && rows[at].LastDueAt.Before(due) {
				at++
			}
			require.Less(w.r, at, len(rows), "nothing covers %s", due)
			require.False(w.r, rows[at].DueAt.After(due), "nothing covers %s; %s follows", due, rows[at].DueAt)
			covered[at]++
		}
	}
	for i, row := range rows {
		if i > 0 {
			require.True(w.r, row.DueAt.After(rows[i-1].LastDueAt), "%s is covered twice: %v %v", row.DueAt, rows[i-1], row)
		}
		if !strings.Contains(row.Reason, "the schedule was edited before what was due") {
			require.Equal(w.r, covered[i], row.Count, "row %v", row)
		}
		require.Equal(w.r, row.Outcome.HasRun(), row.Run != nil)
	}
	require.Zero(w.r, w.number(`SELECT count(*) FROM runs r WHERE schedule = $1
		AND (SELECT count(*) FROM fires f WHERE f.run = r.id AND f.schedule = r.schedule AND f.due_at = r.due_at) <> 1`, p.id), "a run without its due time")
	require.Zero(w.r, w.number(`SELECT count(*) FROM fires f WHERE schedule = $1 AND run IS NOT NULL
		AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = f.run)`, p.id), "a due time without its run")
}

// TestEachDueTimeIsCoveredOnceWhateverHappens: random schedules, policies,
// pauses, edits, ends of runs, clocks, and crashes of the leader at any statement.
func TestEachDueTimeIsCoveredOnceWhateverHappens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	enough := time.Now().Add(20 * time.Second)
	rapid.Check(t, func(r *rapid.T) {
		if os.Getenv("CATENA_TEST_FAULTS") != "long" && time.Now().After(enough) {
			return
		}
		w.r = r
		w.lead()
		var list []*planned
		for i := range rapid.IntRange(1, 2).Draw(r, "schedules") {
			list = append(list, w.newSchedule(i))
		}
		w.turn("plan", w.Catalogue)
		for range rapid.IntRange(5, 25).Draw(r, "steps") {
			w.act(rapid.SampledFrom(list).Draw(r, "schedule"))
		}
		w.settle()
		for _, p := range list {
			w.checkPolicy(p)
			w.checkLedger(p)
		}
		w.sql(`DELETE FROM tasks`)
		w.sql(`DELETE FROM ready`)
	})
}
