package pkgstore

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/task"
)

func newStore(t testing.TB) (*Store, *pgxpool.Pool) {
	t.Helper()
	pool := servertest.Postgres(t)
	return New(pool, Config{DeleteGrace: time.Nanosecond}), pool
}

// hello is a package whose main returns the number.
func hello(t testing.TB, name string, number int) *Content {
	return contentOf(t, ManifestFile, "name: "+name+"\ndescription: says a number\nexports: [say]\n",
		"say.ts", fmt.Sprintf("export const main = (): number => %d\n", number))
}

func push(t testing.TB, s *Store, c *Content, channel string) PushResult {
	t.Helper()
	r, err := s.Push(t.Context(), c, channel, "ann")
	require.NoError(t, err)
	return r
}

func count(t testing.TB, pool *pgxpool.Pool, table string) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
	return n
}

func TestPush(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	ctx := t.Context()
	one, two := hello(t, "hello", 1), hello(t, "hello", 2)
	require.Equal(t, PushResult{Name: "hello", Digest: one.Digest(), Created: true, Channel: "live", Release: 1}, push(t, s, one, ""))
	require.Equal(t, PushResult{Name: "hello", Digest: one.Digest(), Channel: "live", Release: 1}, push(t, s, one, "live"), "the same content again")
	require.Equal(t, 1, count(t, pool, "releases"))
	require.Equal(t, int64(2), push(t, s, two, "").Release)
	back := push(t, s, one, "")
	require.Equal(t, PushResult{Name: "hello", Digest: one.Digest(), Channel: "live", Release: 3}, back)
	require.Equal(t, int64(4), push(t, s, two, "beta").Release)

	v, err := s.Load(ctx, one.Digest())
	require.NoError(t, err)
	require.Equal(t, "hello", v.Name)
	got, err := run(t, v.Modules["say"], "main")
	require.NoError(t, err)
	require.Equal(t, int64(1), got.Export())

	list, err := s.List(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, task.PackageVersion{
		Name: "hello", Digest: one.Digest(), Description: "says a number", Size: one.Size(), Files: 2,
		Channels: []string{"live"}, PushedBy: "ann", CreatedAt: list[0].CreatedAt,
	}, list[0])
	all, err := s.Versions(ctx, "hello")
	require.NoError(t, err)
	require.Equal(t, []string{two.Digest(), one.Digest()}, []string{all[0].Digest, all[1].Digest})
	require.Equal(t, []string{"beta"}, all[0].Channels)
	version, manifest, err := s.Show(ctx, "hello", Selector{Channel: "beta"})
	require.NoError(t, err)
	require.Equal(t, two.Digest(), version.Digest)
	require.Equal(t, []string{"say?main"}, manifest.Exports)
	history, err := s.Releases(ctx, "hello")
	require.NoError(t, err)
	require.Equal(t, []int64{4, 3, 2, 1}, []int64{history[0].ID, history[1].ID, history[2].ID, history[3].ID})
	require.Equal(t, "ann", history[0].By)
	files, err := s.Files(ctx, "hello", Selector{})
	require.NoError(t, err)
	require.Equal(t, one.Files(), files)
	archive, err := s.Archive(ctx, "hello", Selector{Digest: Short(two.Digest())})
	require.NoError(t, err)
	require.Equal(t, two.Digest(), archive.Digest())
	diff, err := s.Diff(ctx, "hello", "", "beta")
	require.NoError(t, err)
	require.Contains(t, diff, "-export const main = (): number => 1\n+export const main = (): number => 2\n")
	release, err := newest(ctx, s)
	require.NoError(t, err)
	require.Equal(t, int64(4), release)
}

func TestNotFound(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	ctx := t.Context()
	push(t, s, hello(t, "hello", 1), "")
	_, _, err := s.Show(ctx, "nothing", Selector{})
	requireError(t, err, task.CodeNotFound, "", "no package nothing")
	_, err = s.Versions(ctx, "nothing")
	requireError(t, err, task.CodeNotFound, "", "no package nothing")
	_, err = s.Releases(ctx, "nothing")
	requireError(t, err, task.CodeNotFound, "", "no package nothing")
	_, err = s.Files(ctx, "hello", Selector{Channel: "stage"})
	requireError(t, err, task.CodeNotFound, "", "no channel stage")
	_, err = s.Archive(ctx, "hello", Selector{Digest: "sha256:0"})
	requireError(t, err, task.CodeNotFound, "", "no version sha256:0")
	_, err = s.Load(ctx, "sha256:00")
	requireError(t, err, task.CodeNotFound, "", "sha256:00 is not in the database", "catena pkg push DIR")
	_, err = s.Push(ctx, hello(t, "hello", 1), "Not A Channel", "")
	requireError(t, err, task.CodeInvalid, "channel", "cannot name a channel")
	require.ErrorContains(t, s.Delete(ctx, "nothing", "", ""), "no package nothing")
	_, err = s.Rollback(ctx, "nothing", "", "")
	requireError(t, err, task.CodeNotFound, "", "no package nothing")
}

func TestPushesAtOnce(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	var wg sync.WaitGroup
	results := make([]PushResult, 12)
	for i := range results {
		c := hello(t, "hello", i%3) // each content four times
		wg.Go(func() { results[i], _ = s.Push(t.Context(), c, "", "") })
	}
	wg.Wait()
	created := 0
	for _, r := range results {
		require.NotZero(t, r.Release)
		if r.Created {
			created++
		}
	}
	require.Equal(t, 3, created)
	require.Equal(t, 3, count(t, pool, "package_versions"))
	history, err := s.Releases(t.Context(), "hello")
	require.NoError(t, err)
	for i, r := range history {
		require.Equal(t, int64(len(history)-i), r.ID, "ids have no gap")
		require.False(t, i > 0 && r.Digest == history[i-1].Digest, "no release without a change")
	}
}

// TestPushIsAtomic cuts a push off while it waits inside its transaction.
func TestPushIsAtomic(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	blocker, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = blocker.Exec(t.Context(), `LOCK TABLE releases IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := s.Push(t.Context(), hello(t, "hello", 1), "", "")
		done <- err
	}()
	var pid int
	require.Eventually(t, func() bool {
		return pool.QueryRow(t.Context(), `
			SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%FROM releases%'`).Scan(&pid) == nil
	}, 20*time.Second, 5*time.Millisecond)
	_, err = pool.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, pid)
	require.NoError(t, err)
	require.Equal(t, task.CodeUnavailable, task.CodeOf(<-done))
	require.NoError(t, blocker.Rollback(t.Context()))
	require.Zero(t, count(t, pool, "package_versions"))
	require.Zero(t, count(t, pool, "releases"))
	require.True(t, push(t, s, hello(t, "hello", 1), "").Created)
}

func TestPushFailsWhole(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	_, err := s.Push(t.Context(), contentOf(t, ManifestFile, "name: bad", "a.ts", "let = = 1"), "", "")
	requireError(t, err, task.CodeInvalid, "a.ts:1:7")
	require.Zero(t, count(t, pool, "package_versions"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Push(ctx, hello(t, "hello", 1), "", "")
	require.Equal(t, task.CodeCancelled, task.CodeOf(err))
}

func TestPromoteAndRollback(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	ctx := t.Context()
	digests := map[string]string{}
	names := map[string]string{}
	for i, name := range []string{"A", "B", "C", "D"} {
		digests[name] = push(t, s, hello(t, "hello", i), "stage").Digest
		names[digests[name]] = name
	}
	promote := func(version, want string) {
		t.Helper()
		r, err := s.Promote(ctx, "hello", version, "live", "bob")
		require.NoError(t, err)
		require.Equal(t, want, names[r.Digest])
		require.Equal(t, "promote", r.Action)
		require.False(t, r.At.IsZero())
	}
	rollback := func(want string) {
		t.Helper()
		r, err := s.Rollback(ctx, "hello", "live", "bob")
		if want == "" {
			requireError(t, err, task.CodeConflict, "", "no earlier version")
			return
		}
		require.NoError(t, err)
		require.Equal(t, want, names[r.Digest])
		require.Equal(t, "rollback", r.Action)
	}
	promote(digests["A"], "A")
	rollback("")
	promote(Short(digests["B"]), "B")
	promote(digests["C"][:len("sha256:")+10], "C")
	rollback("B")
	rollback("A")
	rollback("")
	promote("stage", "D") // history is now A D
	rollback("A")
	promote(digests["B"], "B")
	promote(digests["C"], "C")
	rollback("B")
	promote(digests["D"], "D") // A B D
	require.NoError(t, s.Delete(ctx, "hello", digests["C"], ""))
	rollback("B")
	promote(digests["D"], "D")
	require.NoError(t, s.Delete(ctx, "hello", digests["B"], ""))
	rollback("A") // B is gone and passed over
	before, err := newest(ctx, s)
	require.NoError(t, err)
	r, err := s.Promote(ctx, "hello", digests["A"], "", "")
	require.NoError(t, err)
	require.Equal(t, before, r.ID, "it points there already")

	_, err = s.Promote(ctx, "hello", "s", "live", "")
	requireError(t, err, task.CodeNotFound, "", "no channel s")
	_, err = s.Promote(ctx, "hello", digests["B"], "live", "")
	requireError(t, err, task.CodeNotFound, "", "no version")
}

func TestAmbiguousPrefix(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	for i := range 17 { // sixteen first digits: two of them must share one
		push(t, s, hello(t, "hello", i), "stage")
	}
	var conflicts int
	for _, digit := range "0123456789abcdef" {
		if _, err := s.Promote(t.Context(), "hello", "sha256:"+string(digit), "live", ""); task.CodeOf(err) == task.CodeConflict {
			require.ErrorContains(t, err, "more than one digest")
			conflicts++
		}
	}
	require.NotZero(t, conflicts)
}

func addRun(t testing.TB, pool *pgxpool.Pool, release int64, state task.State) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	_, err := pool.Exec(t.Context(), `CREATE TABLE IF NOT EXISTS runs_test PARTITION OF runs DEFAULT`)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `
		INSERT INTO runs (id, task, revision, state, priority, queue, release, created_at, finished_at)
		VALUES ($1, 't', 1, $2, 5, 'default', $3, now(), CASE WHEN $4 THEN now() END)`, id, state, release, state.Terminal())
	require.NoError(t, err)
	return id
}

func TestDeleteVersion(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	ctx := t.Context()
	one, two, three := hello(t, "hello", 1), hello(t, "hello", 2), hello(t, "hello", 3)
	push(t, s, one, "")                  // release 1
	push(t, s, hello(t, "other", 1), "") // 2
	push(t, s, two, "")                  // 3
	push(t, s, three, "")                // 4
	requireError(t, s.Delete(ctx, "hello", three.Digest(), ""), task.CodeConflict, "", "channel live points at it")

	late := New(pool, Config{})
	requireError(t, late.Delete(ctx, "hello", two.Digest(), ""), task.CodeConflict, "", "less than 1m0s ago")

	addRun(t, pool, 2, task.StateSucceeded)
	for _, state := range []task.State{task.StateQueued, task.StateDispatched, task.StateRunning, task.StateWaiting} {
		id := addRun(t, pool, 2, state)
		requireError(t, s.Delete(ctx, "hello", one.Digest(), ""), task.CodeConflict, "", id.String())
		_, err := pool.Exec(ctx, `UPDATE runs SET state = 'failed', finished_at = now() WHERE id = $1`, id)
		require.NoError(t, err)
	}
	addRun(t, pool, 3, task.StateRunning)
	require.NoError(t, s.Delete(ctx, "hello", one.Digest(), ""))
	_, err := s.Load(ctx, one.Digest())
	requireError(t, err, task.CodeNotFound, "", one.Digest(), "was deleted")
	list, err := s.Versions(ctx, "hello")
	require.NoError(t, err)
	require.Len(t, list, 2)
	history, err := s.Releases(ctx, "hello")
	require.NoError(t, err)
	require.Equal(t, one.Digest(), history[len(history)-1].Digest, "the history keeps it")
	require.True(t, push(t, s, one, "").Created, "a push brings it back")
	_, err = s.Load(ctx, one.Digest())
	require.NoError(t, err)
}

func TestDeletePackage(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	ctx := t.Context()
	c := hello(t, "hello", 1)
	push(t, s, c, "")
	push(t, s, c, "beta")
	require.NoError(t, s.Delete(ctx, "hello", "", "ann"))
	list, err := s.List(ctx)
	require.NoError(t, err)
	require.Empty(t, list)
	_, err = NewCache(s, 0).Resolve(ctx, "hello", 4)
	requireError(t, err, task.CodeNotFound, "", "package hello has no live version (release 4)", "catena pkg push DIR")
	requireError(t, s.Delete(ctx, "hello", "", "ann"), task.CodeNotFound, "", "no package")
	r, err := s.Rollback(ctx, "hello", "", "ann")
	require.NoError(t, err)
	require.Equal(t, c.Digest(), r.Digest, "a removed channel comes back")
}

func TestDependencies(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	ctx := t.Context()
	old := hello(t, "numbers", 7)
	push(t, s, old, "")
	user := contentOf(t, ManifestFile, "name: user\nexports: [a]", "a.ts", `import { main as n } from "pkg:numbers/say"; export const main = () => n() * 10`)
	push(t, s, user, "")
	push(t, s, hello(t, "numbers", 8), "")
	v, err := s.Load(ctx, user.Digest())
	require.NoError(t, err)
	require.Equal(t, []Dependency{{Name: "numbers", Digest: old.Digest()}}, v.Manifest.Dependencies)
	got, err := run(t, v.Modules["a"], "main")
	require.NoError(t, err)
	require.Equal(t, int64(70), got.Export())
	requireError(t, s.Delete(ctx, "numbers", old.Digest(), ""), task.CodeConflict, "", "of user was built from it")

	outer := contentOf(t, ManifestFile, "name: outer", "b.ts", `import { main as n } from "pkg:user/a"; export const main = () => n() + 1`)
	v, err = s.Load(ctx, push(t, s, outer, "").Digest)
	require.NoError(t, err)
	got, err = run(t, v.Modules["b"], "main")
	require.NoError(t, err)
	require.Equal(t, int64(71), got.Export(), "what was built stays built from the version it recorded")

	_, err = s.Push(ctx, contentOf(t, ManifestFile, "name: x\ndependencies: [nothing]"), "", "")
	requireError(t, err, task.CodeNotFound, ManifestFile, "dependency nothing", "no package nothing")
}
