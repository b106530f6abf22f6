package e2e

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/task"
)

const (
	suspension = 8 * time.Second       // longer than the cluster's patience with a silent worker
	slow       = 50 * time.Millisecond // what each packet to and from Postgres takes longer
)

// fault is something bad, or planned, that happens to the cluster.
type fault struct {
	name  string
	harm  history.Harm // what it may do to requests
	do    func(*trial)
	away  bool                // Postgres or Redis answers for a while not, or not as it should
	needs func(*trial) string // why it cannot happen here; nil or "": it can
}

func faults() []fault {
	return []fault{
		{name: "kill -9 of a supervised worker", harm: history.HarmBreaks, do: (*trial).killSupervised},
		{name: "kill -9 of a worker that runs alone", do: (*trial).killAlone},
		{name: "kill -9 of the leader", harm: history.HarmRefuses, do: func(tr *trial) { tr.killMaster(true) }},
		{name: "kill -9 of a follower", harm: history.HarmRefuses, do: func(tr *trial) { tr.killMaster(false) }},
		{name: "suspended supervised worker", harm: history.HarmBreaks, do: (*trial).suspendSupervised},
		{name: "suspended worker that runs alone", do: (*trial).suspendAlone},
		{name: "suspended leader", do: func(tr *trial) { tr.suspendMaster(true) }},
		{name: "suspended follower", do: func(tr *trial) { tr.suspendMaster(false) }},
		{name: "FLUSHALL", do: (*trial).flush},
		{name: "restart of Redis, empty", do: func(tr *trial) { tr.redisAway(time.Second) }},
		{name: "Redis 10 s away", away: true, do: func(tr *trial) { tr.redisAway(away) }},
		{name: "Redis 10 s hanging", away: true, do: (*trial).redisHangs},
		{name: "Redis read-only", away: true, do: (*trial).redisReadOnly},
		{name: "Redis out of memory", away: true, do: (*trial).redisFull},
		{name: "restart of Postgres", away: true, do: func(tr *trial) { tr.postgresAway(time.Second) }},
		{name: "Postgres 10 s away", away: true, do: func(tr *trial) { tr.postgresAway(away) }},
		{name: "Postgres 10 s slow", away: true, do: func(tr *trial) { tr.postgresSlow(away) }},
		{name: "all connections to Postgres killed", do: (*trial).killConnections},
		{name: "remote worker cut off", do: (*trial).partition, needs: func(tr *trial) string { return tr.without }},
		{name: "clock of the leader 60 s ahead", do: func(tr *trial) { tr.setClock(time.Minute) }, needs: clockNeeds},
		{name: "clock of the leader 60 s behind", do: func(tr *trial) { tr.setClock(-time.Minute) }, needs: clockNeeds},
		{name: "disk full for a worker's log", do: (*trial).fillDisk, needs: (*trial).diskNeeds},
		{name: "memory bomb in package code", do: func(tr *trial) { tr.harm("faults/bomb", 1) }},
		{name: "busy loops in package code", do: func(tr *trial) { tr.harm("faults/endless", 3) }},
		{name: "endless output of package code", do: func(tr *trial) { tr.harm("faults/talkative", 2) }},
		{name: "certificate renewed, then replaced by an expired one", do: (*trial).certificates},
		{name: "planned: a supervised worker told to stop", do: (*trial).stopSupervised},
		{name: "planned: a worker that runs alone replaced", do: (*trial).stopAlone},
		{name: "planned: the leader upgraded in place", do: func(tr *trial) { tr.upgrade(tr.aMaster(true)) }},
		{name: "planned: a follower upgraded in place", do: func(tr *trial) { tr.upgrade(tr.aMaster(false)) }},
	}
}

// shortFaults are groups that happen one after the other, each at once. No group
// has two losses, or keeps Redis away for so long that what lost its worker waits for it.
func shortFaults() (groups [][]fault) {
	byName := map[string]fault{}
	for _, f := range faults() {
		byName[f.name] = f
	}
	for _, names := range [][]string{
		{"kill -9 of a supervised worker", "FLUSHALL", "busy loops in package code"},
		{"suspended worker that runs alone", "suspended follower", "Redis out of memory", "clock of the leader 60 s ahead",
			"certificate renewed, then replaced by an expired one"},
		{"remote worker cut off", "planned: the leader upgraded in place", "endless output of package code"},
		{"all connections to Postgres killed", "planned: a supervised worker told to stop", "disk full for a worker's log"},
		{"kill -9 of the leader", "restart of Redis, empty"},
		{"restart of Postgres"},
	} {
		var group []fault
		for _, name := range names {
			group = append(group, byName[name])
		}
		groups = append(groups, group)
	}
	return groups
}

// aSupervised picks a supervised worker.
func (tr *trial) aSupervised() task.Worker {
	tr.t.Helper()
	var list []task.Worker
	tr.eventually(func() bool {
		list = slices.DeleteFunc(tr.live(), func(w task.Worker) bool { return w.Master == "" || w.State != task.WorkerActive || !exists(w.PID) })
		return len(list) > 0
	}, "there is no supervised worker")
	return list[tr.random(len(list))]
}

// replacement does something to a supervised worker and returns how long it
// took until another began its work in the same place.
func (tr *trial) replacement(do func(pid int)) time.Duration {
	tr.t.Helper()
	w, before := tr.aSupervised(), map[int64]bool{}
	for _, one := range tr.live() {
		before[one.Epoch] = true
	}
	began := time.Now()
	do(w.PID)
	var took time.Duration
	tr.eventually(func() bool {
		for _, one := range tr.live() {
			if one.Master == w.Master && !before[one.Epoch] && one.State == task.WorkerActive && exists(one.PID) {
				took = one.StartedAt.Sub(began)
				return true
			}
		}
		return false
	}, "worker %d is not replaced", w.PID)
	return took
}

func (tr *trial) killSupervised() {
	tr.t.Helper()
	took := tr.replacement(func(pid int) {
		tr.lost()
		require.NoError(tr.t, syscall.Kill(pid, syscall.SIGKILL))
	})
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.replaced = append(tr.replaced, took)
}

func (tr *trial) suspendSupervised() {
	tr.t.Helper()
	took := tr.replacement(func(pid int) {
		tr.lost()
		require.NoError(tr.t, syscall.Kill(pid, syscall.SIGSTOP))
	})
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.hung = append(tr.hung, took)
}

func (tr *trial) stopSupervised() {
	tr.t.Helper()
	tr.replacement(func(pid int) { require.NoError(tr.t, syscall.Kill(pid, syscall.SIGTERM)) })
}

func (tr *trial) killAlone() {
	tr.t.Helper()
	tr.lost()
	tr.cluster.workers[0].kill()
	tr.startAlone()
}

func (tr *trial) stopAlone() {
	tr.t.Helper()
	old := tr.cluster.workers[0]
	tr.startAlone()
	old.signal(tr.t, syscall.SIGTERM)
	require.Zero(tr.t, old.ended(tr.t, patience))
}

func (tr *trial) suspendAlone() {
	tr.t.Helper()
	tr.lost()
	tr.cluster.workers[0].signal(tr.t, syscall.SIGSTOP)
	pace(tr.t.Context(), suspension)
	tr.cluster.workers[0].signal(tr.t, syscall.SIGCONT)
}

// aMaster is the leader, or one that does not lead.
func (tr *trial) aMaster(leads bool) *node {
	tr.t.Helper()
	leader := tr.leader()
	if leads {
		return leader
	}
	for _, m := range tr.masters {
		if m != leader {
			return m
		}
	}
	require.FailNow(tr.t, "there is no follower")
	return nil
}

func (tr *trial) killMaster(leads bool) {
	tr.t.Helper()
	m := tr.aMaster(leads)
	tr.lost()
	tr.replaceMaster(m, supervised)
}

// suspendMaster stops a master. Its workers go on without it, and it must not take them
// for dead when it wakes up.
func (tr *trial) suspendMaster(leads bool) {
	tr.t.Helper()
	m := tr.aMaster(leads)
	ours := func() (epochs []int64) {
		for _, w := range tr.live() {
			if strings.Contains(w.Master, fmt.Sprintf("-%d-", m.pid())) {
				epochs = append(epochs, w.Epoch)
			}
		}
		return epochs
	}
	before := ours()
	require.Len(tr.t, before, supervised)
	require.NoError(tr.t, syscall.Kill(m.pid(), syscall.SIGSTOP))
	pace(tr.t.Context(), suspension)
	require.NoError(tr.t, syscall.Kill(m.pid(), syscall.SIGCONT))
	pace(tr.t.Context(), 2*time.Second) // in which it looks at its workers
	require.ElementsMatch(tr.t, before, ours(), "workers were replaced because their master was suspended")
}

// manage does something with Redis itself.
func (tr *trial) manage(do func(context.Context, *redis.Client) error) {
	tr.t.Helper()
	options, err := redis.ParseURL(tr.redis.URL)
	require.NoError(tr.t, err)
	admin := redis.NewClient(options)
	defer admin.Close()
	require.NoError(tr.t, do(tr.t.Context(), admin))
}

func (tr *trial) flush() {
	tr.t.Helper()
	tr.manage(func(ctx context.Context, admin *redis.Client) error { return admin.FlushAll(ctx).Err() })
}

func (tr *trial) redisAway(d time.Duration) {
	tr.t.Helper()
	tr.stopRedis()
	pace(tr.t.Context(), d)
	tr.startRedis()
}

func (tr *trial) redisHangs() {
	tr.t.Helper()
	require.NoError(tr.t, tr.redis.Kill(syscall.SIGSTOP))
	pace(tr.t.Context(), away)
	require.NoError(tr.t, tr.redis.Kill(syscall.SIGCONT))
}

// redisReadOnly makes it the replica of a server that is not there.
func (tr *trial) redisReadOnly() {
	tr.t.Helper()
	tr.manage(func(ctx context.Context, admin *redis.Client) error {
		return admin.ReplicaOf(ctx, "127.0.0.1", "1").Err()
	})
	pace(tr.t.Context(), tr.outage)
	tr.manage(func(ctx context.Context, admin *redis.Client) error { return admin.ReplicaOf(ctx, "NO", "ONE").Err() })
}

func (tr *trial) redisFull() {
	tr.t.Helper()
	tr.manage(func(ctx context.Context, admin *redis.Client) error {
		return admin.ConfigSet(ctx, "maxmemory", "1mb").Err()
	})
	pace(tr.t.Context(), tr.outage)
	tr.manage(func(ctx context.Context, admin *redis.Client) error {
		return admin.ConfigSet(ctx, "maxmemory", "0").Err()
	})
}

func (tr *trial) postgresAway(d time.Duration) {
	tr.t.Helper()
	tr.stopPostgres()
	pace(tr.t.Context(), d)
	tr.startPostgres()
}

func (tr *trial) postgresSlow(d time.Duration) {
	tr.link.delay.Store(int64(slow))
	pace(tr.t.Context(), d)
	tr.link.delay.Store(0)
}

func (tr *trial) killConnections() {
	tr.t.Helper()
	conn, err := pgx.Connect(tr.t.Context(), tr.postgres.URL)
	require.NoError(tr.t, err)
	defer conn.Close(context.Background())
	tag, err := conn.Exec(tr.t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'`)
	require.NoError(tr.t, err)
	require.Positive(tr.t, tag.RowsAffected())
}

func (tr *trial) partition() {
	tr.t.Helper()
	tr.lost()
	tr.island.cut()
	pace(tr.t.Context(), max(tr.outage, suspension))
	tr.island.join()
}

func clockNeeds(*trial) string {
	if runtime.GOARCH != "amd64" || os.Geteuid() != 0 {
		return "it needs root and amd64"
	}
	return ""
}

// setClock sets the wall clock of the leading master and back again.
func (tr *trial) setClock(by time.Duration) {
	tr.t.Helper()
	m := tr.aMaster(true)
	c, err := newClock(m.pid())
	require.NoError(tr.t, err)
	defer c.close()
	require.NoError(tr.t, c.shift(by))
	tr.eventually(func() bool { return math.Abs((m.ahead(tr.t) - by).Seconds()) < 10 }, "the master does not see the other time")
	pace(tr.t.Context(), max(tr.outage, 5*time.Second)) // longer than a lease
	require.NoError(tr.t, c.shift(0))
}

// ahead is how far the master's clock is ahead of this process's, by what its answers say.
func (m *node) ahead(t *testing.T) time.Duration {
	t.Helper()
	res, err := http.Get(m.admin + "/livez")
	require.NoError(t, err)
	defer res.Body.Close()
	date, err := http.ParseTime(res.Header.Get("Date"))
	require.NoError(t, err)
	return time.Until(date)
}

func (tr *trial) diskNeeds() string {
	var whole syscall.Statfs_t
	if err := syscall.Statfs(tr.disk.dir, &whole); err != nil {
		return err.Error()
	}
	if whole.Blocks*uint64(whole.Bsize) > 64<<20 {
		return "a small tmpfs cannot be mounted"
	}
	return ""
}

// fillDisk leaves no room for the worker's log, which goes on at the level debug.
func (tr *trial) fillDisk() {
	tr.t.Helper()
	filler := filepath.Join(tr.disk.dir, "filler")
	file, err := os.Create(filler)
	require.NoError(tr.t, err)
	for err == nil {
		_, err = file.Write(make([]byte, 1<<16))
	}
	require.ErrorIs(tr.t, err, syscall.ENOSPC)
	pace(tr.t.Context(), tr.outage)
	_, err = tr.disk.log.WriteString(strings.Repeat(".", 1<<16)) // it was full all the time
	require.ErrorIs(tr.t, err, syscall.ENOSPC)
	require.NoError(tr.t, file.Close())
	require.NoError(tr.t, os.Remove(filler))
	require.NoError(tr.t, tr.disk.log.Truncate(0))
	require.True(tr.t, tr.cluster.workers[0].alive(), "the worker ended with its log")
}

// harm has package code do harm and waits until its runs have ended, which they must
// in failure.
func (tr *trial) harm(name string, runs int) {
	tr.t.Helper()
	k := kind{task: name, states: []task.State{task.StateFailed, task.StateTimedOut, task.StateQuarantined}}
	ids := tr.load.submit(tr.t.Context(), k, runs)
	require.Len(tr.t, ids, runs)
	tr.awaitEnds(ids, 2*patience)
	for _, id := range ids {
		kept, err := strconv.Atoi(tr.text(`SELECT coalesce(sum(length(message)), 0)::text FROM run_logs WHERE run = $1`, id))
		require.True(tr.t, err != nil || kept <= 1<<20, "%d bytes of log are kept of a run", kept) // no answer: Postgres is away
	}
}

// certificates renews the certificate under requests, which take the new one, and
// puts an expired one in its place, which nobody must take.
func (tr *trial) certificates() {
	tr.t.Helper()
	var address string
	tr.cluster.mu.Lock()
	address = tr.masters[len(tr.masters)-1].https
	tr.cluster.mu.Unlock()
	fresh := tr.site.issue(24 * time.Hour)
	tr.eventually(func() bool { return tr.site.served(address) == fresh }, "the renewed certificate is not served")
	tr.site.issue(-time.Hour)
	for range 20 {
		pace(tr.t.Context(), 150*time.Millisecond)
		require.NotZero(tr.t, tr.site.served(address), "no valid certificate is served beside the expired file")
	}
	last := tr.site.issue(24 * time.Hour)
	tr.eventually(func() bool { return tr.site.served(address) == last }, "the certificate after the expired one is not served")
}
