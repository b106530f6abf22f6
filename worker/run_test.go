package worker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/worker"
)

const twoSteps = "chain:\n  - {call: 'pkg:m?one', as: first}\n  - {call: 'pkg:m?two', as: second}\n"

func TestEachStepIsCommittedBeforeTheNextBegins(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/two")
	digest := c.push(imports+out.get("one", "/one", `{n: 1}`)+out.get("two", "/two", `{n: 2}`), out.URL, "m?one", "m?two")
	c.apply("name: demo\n" + twoSteps)
	c.work(nil)
	id := c.submit("demo")
	out.await(t, "/two")
	require.Equal(t, 1, c.count(`SELECT count(*) FROM steps WHERE run = $1 AND outcome::text LIKE '%"n":1%'`, id))
	running := c.until(id, task.StateRunning)
	require.Len(t, running.Steps, 1)
	require.NotEmpty(t, running.Worker)
	out.open("/two")
	run := c.until(id, task.StateSucceeded)
	require.JSONEq(t, `{"n":2}`, text(run.Outcome.Data))
	require.Len(t, run.Steps, 2)
	require.Equal(t, "first", run.Steps[0].Name)
	require.Equal(t, "pkg@"+digest, run.PackageVersion)
	require.Equal(t, 1, run.Attempt)
	require.Zero(t, run.Losses)
	require.Equal(t, []int{1, 1}, []int{out.count("/one"), out.count("/two")})
	require.Eventually(t, func() bool { return c.count(`SELECT count(*) FROM parcels`) == 0 }, patience, time.Millisecond)
}

func TestNotDurableWritesNoStepBeforeTheEnd(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/two")
	c.push(imports+out.get("one", "/one", `{n: 1}`)+out.get("two", "/two", `{n: 2}`), out.URL, "m?one", "m?two")
	c.apply("name: demo\ndurable: false\n" + twoSteps)
	c.work(nil)
	id := c.submit("demo")
	out.await(t, "/two")
	require.Zero(t, c.count(`SELECT count(*) FROM steps`))
	out.open("/two")
	run := c.until(id, task.StateSucceeded)
	require.Len(t, run.Steps, 2, "they end with the run")
	require.Zero(t, c.count(`SELECT count(*) FROM steps`))
}

func TestRetryWithBackoff(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.push(`export function main(_: any, ctx: any) { if (ctx.run.attempt < 3) throw new Error("not yet"); return ctx.run.attempt }`, "", "m?main")
	c.apply("name: demo\nchain: [{call: 'pkg:m?main'}]\nretry: {attempts: 3, backoff: 150ms, factor: 2}\n")
	c.apply("name: hopeless\nchain: [{call: 'pkg:nothing?main'}]\nretry: {attempts: 2, backoff: 10ms}\n")
	c.work(nil)
	run := c.finished("demo")
	require.Equal(t, task.StateSucceeded, run.State, run.Reason)
	require.Equal(t, "3", text(run.Outcome.Data))
	require.Equal(t, 3, run.Attempt)
	require.Empty(t, run.Reason)
	require.GreaterOrEqual(t, run.FinishedAt.Sub(run.CreatedAt), 450*time.Millisecond, "150 ms and 300 ms between the attempts")
	logs, err := c.store.Logs(t.Context(), run.ID, 0, 100)
	require.NoError(t, err)
	require.Len(t, logs, 2)
	require.Contains(t, logs[0].Message, "attempt 1 of 3: ")
	require.Contains(t, logs[1].Message, "not yet")
	run = c.finished("hopeless")
	require.Equal(t, task.StateFailed, run.State)
	require.Equal(t, 2, run.Attempt)
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.push(`export function main() { for (;;); }`, "", "m?main")
	c.apply("name: busy\nchain: [{call: 'pkg:m?main'}]\ntimeout: 200ms\n---\nname: idle\nchain: [{do: [{delay: 1h}]}]\ntimeout: 200ms\n")
	c.work(nil)
	for _, name := range []string{"busy", "idle"} {
		run := c.finished(name)
		require.Equal(t, task.StateTimedOut, run.State, run.Reason)
		require.Contains(t, run.Reason, "timed out after 200ms")
		require.False(t, run.Outcome.Success)
		require.Less(t, run.FinishedAt.Sub(*run.StartedAt), 3*time.Second)
	}
}

func TestCancelWhileRunning(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/one")
	c.push(imports+`export async function one(_: any, ctx: any) { await http.get("`+out.URL+`/one", {signal: ctx.signal}) }`, out.URL, "m?one")
	c.apply("name: demo\nchain: [{call: 'pkg:m?one'}, {log: never}]\nretry: {attempts: 5}\n")
	c.work(nil)
	id := c.submit("demo")
	out.await(t, "/one")
	began := time.Now()
	_, err := c.store.CancelRun(t.Context(), id, "a person", false)
	require.NoError(t, err)
	run := c.until(id, task.StateCancelled)
	require.Less(t, time.Since(began), 2*time.Second, "code that listens needs no grace")
	require.Equal(t, "cancelled by a person", run.Reason)
	require.NotNil(t, run.CancelAskedAt)
	require.Nil(t, run.InterruptedAt)
	require.Equal(t, 1, run.Attempt)
	require.Equal(t, 1, out.count("/one"))
}

// A request to cancel is told again and again; it does not reach the run once
// somebody has put it back to work.
func TestARetriedRunIsNotCancelledByTheRequestBefore(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply("name: demo\nchain: [{do: [{delay: 1500ms}]}]\n")
	c.work(nil)
	id := c.submit("demo")
	c.until(id, task.StateRunning)
	_, err := c.store.CancelRun(t.Context(), id, "ann", false)
	require.NoError(t, err)
	c.until(id, task.StateCancelled)
	run, err := c.store.RetryRun(t.Context(), id, "", "ann")
	require.NoError(t, err)
	require.False(t, run.CancelRequested)
	require.Eventually(t, func() bool { return c.get(id).State.Terminal() }, patience, 5*time.Millisecond)
	require.Equal(t, task.StateSucceeded, c.get(id).State)

	c.exec(`UPDATE runs SET state = 'cancelled' WHERE id = $1`, id)
	_, err = c.store.RetryRun(t.Context(), id, "0", "ann")
	require.NoError(t, err)
	c.until(id, task.StateRunning)
	_, err = c.store.CancelRun(t.Context(), id, "ann", false)
	require.NoError(t, err)
	c.until(id, task.StateCancelled)
}

func TestLogLimit(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.push(`export function main() { for (let i = 0; i < 100; i++) console.log(String(i).padEnd(100, ".")); console.log("x".repeat(50000)); }`, "", "m?main")
	c.apply("name: demo\nchain: [{call: 'pkg:m?main'}]\n")
	c.work(func(cfg *worker.Config, _ *worker.Deps, _ *script.Config) { cfg.LogLimit = 1050 })
	run := c.finished("demo")
	require.Equal(t, task.StateSucceeded, run.State, run.Reason)
	logs, err := c.store.Logs(t.Context(), run.ID, 0, 1000)
	require.NoError(t, err)
	require.Len(t, logs, 11)
	require.True(t, strings.HasPrefix(logs[9].Message, "9."))
	require.Equal(t, "warn", logs[10].Level)
	require.Contains(t, logs[10].Message, "limit of 1050 bytes")
}

func TestDrainGivesBackWithoutBurningAnAttempt(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/two")
	c.push(imports+out.get("one", "/one", "1")+out.get("two", "/two", "2"), out.URL, "m?one", "m?two")
	c.apply("name: demo\n" + twoSteps)
	first := c.work(func(cfg *worker.Config, _ *worker.Deps, _ *script.Config) { cfg.DrainTimeout = 100 * time.Millisecond })
	id := c.submit("demo")
	out.await(t, "/two")
	first.end()
	require.NoError(t, first.err)
	run := c.get(id)
	require.Contains(t, []task.State{task.StateQueued, task.StateDispatched}, run.State)
	require.Equal(t, 1, c.count(`SELECT count(*) FROM workers WHERE state = 'stopped'`))
	out.open("/two")
	c.work(nil)
	run = c.until(id, task.StateSucceeded)
	require.Equal(t, 1, run.Attempt)
	require.Zero(t, run.Losses)
	require.Equal(t, []int{1, 2}, []int{out.count("/one"), out.count("/two")}, "the committed step is not repeated")
}

func TestDrainLetsRunsFinish(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/one")
	c.push(imports+out.get("one", "/one", "1"), out.URL, "m?one")
	c.apply("name: demo\nchain: [{call: 'pkg:m?one'}]\n")
	w := c.work(nil)
	id := c.submit("demo")
	out.await(t, "/one")
	w.stop()
	require.Eventually(t, func() bool { return c.count(`SELECT count(*) FROM workers WHERE state = 'draining'`) == 1 }, patience, time.Millisecond)
	late := c.submit("demo")
	out.open("/one")
	w.end()
	require.Equal(t, task.StateSucceeded, c.get(id).State)
	require.Contains(t, []task.State{task.StateQueued, task.StateDispatched}, c.get(late).State, "nothing more is taken")
}

// Runs that wait behind a long one in a claimed parcel go elsewhere.
func TestBacklogIsReleased(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/one")
	c.push(imports+`export async function main(input: any) { if (input.block) await http.get("`+out.URL+`/one"); return 1 }`, out.URL, "m?main")
	c.apply("name: demo\nchain: [{call: 'pkg:m?main', with: {block: \"${params.block}\"}}]\nparams: {block: false}\n")
	c.exec(`INSERT INTO task_costs (revision, micros) SELECT revision, 1 FROM tasks`)
	single := func(cfg *worker.Config, _ *worker.Deps, _ *script.Config) { cfg.Slots = 1 }
	c.work(single)
	ids := make([]uuid.UUID, 10)
	runs := make([]store.NewRun, len(ids))
	for i := range runs {
		runs[i] = store.NewRun{Task: "demo"}
	}
	runs[0].Params = []byte(`{"block": true}`)
	accepted, parcels, err := c.store.InsertRuns(t.Context(), runs)
	require.NoError(t, err)
	require.Len(t, parcels, 1, "all of them are in one parcel")
	c.dispatch.Enqueue(t.Context(), parcels)
	out.await(t, "/one")
	c.work(single)
	for _, a := range accepted[1:] {
		run := c.until(a.ID, task.StateSucceeded)
		require.Equal(t, 1, run.Attempt)
		require.Zero(t, run.Losses)
	}
	require.Equal(t, task.StateRunning, c.get(accepted[0].ID).State)
	out.open("/one")
	c.until(accepted[0].ID, task.StateSucceeded)
	require.Equal(t, 1, out.count("/one"))
}

func TestARevokedWorkerBeginsAnew(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/one")
	c.push(imports+out.get("one", "/one", "1"), out.URL, "m?one")
	c.apply("name: demo\nchain: [{call: 'pkg:m?one'}]\n")
	w := c.work(nil)
	id := c.submit("demo")
	out.await(t, "/one")
	old := w.sessions()[0]
	c.exec(`UPDATE workers SET state = 'lost', ended_at = clock_timestamp() WHERE epoch = $1`, old)
	out.await(t, "/one")
	require.Len(t, w.sessions(), 2, "it has registered again")
	out.open("/one")
	run := c.until(id, task.StateSucceeded)
	require.Equal(t, 1, run.Attempt, "a loss burns no attempt")
	require.Equal(t, 1, run.Losses)
	require.Equal(t, 2, out.count("/one"))
	require.Equal(t, 1, c.count(`SELECT count(*) FROM workers WHERE epoch = $1 AND state = 'lost'`, old), "its end does not hide the loss")
}

// A run keeps the versions that were live when it was dispatched first, on
// whichever worker it goes on.
func TestARunKeepsItsPackageVersion(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/one", "/two")
	source := func(version string) string {
		return imports + out.get("one", "/one", `"`+version+`"`) + out.get("two", "/two", `"`+version+`"`)
	}
	old := c.push(source("old"), out.URL, "m?one", "m?two")
	c.apply("name: demo\n" + twoSteps)
	first := c.work(nil)
	id := c.submit("demo")
	out.await(t, "/one")
	c.push(source("new"), out.URL, "m?one", "m?two")
	out.open("/one")
	out.await(t, "/two")
	require.Equal(t, 1, c.count(`SELECT count(*) FROM steps WHERE run = $1`, id))
	first.stop() // and while it drains, it is given up
	c.exec(`UPDATE workers SET state = 'lost', ended_at = clock_timestamp() WHERE epoch = $1`, first.sessions()[0])
	first.end()
	c.work(nil)
	out.await(t, "/two")
	out.open("/two")
	run := c.until(id, task.StateSucceeded)
	require.Equal(t, `"old"`, text(run.Outcome.Data))
	require.Equal(t, "pkg@"+old, run.PackageVersion)
	require.Equal(t, []int{1, 2}, []int{out.count("/one"), out.count("/two")}, "the committed step is not repeated")
	require.Equal(t, `"new"`, text(c.finished("demo").Outcome.Data))
}

func TestARepeatedStepStartsATaskOnce(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/two")
	c.push(imports+out.get("two", "/two", "2"), out.URL, "m?two")
	c.apply("name: child\nchain: [[nop]]\n---\nname: demo\nchain:\n  - do:\n      - task: child\n      - call: 'pkg:m?two'\n")
	first := c.work(func(cfg *worker.Config, _ *worker.Deps, _ *script.Config) { cfg.DrainTimeout = 50 * time.Millisecond })
	id := c.submit("demo")
	out.await(t, "/two")
	first.end()
	c.work(nil)
	out.await(t, "/two")
	out.open("/two")
	c.until(id, task.StateSucceeded)
	require.Equal(t, 2, out.count("/two"), "the step ran twice")
	require.Equal(t, 1, c.count(`SELECT count(*) FROM runs WHERE task = 'child'`))
	require.Eventually(t, func() bool {
		return c.count(`SELECT count(*) FROM runs WHERE task = 'child' AND state = 'succeeded'`) == 1
	}, patience, time.Millisecond)
}

// Without a package cache, whatever calls a package panics.
func TestAPanicFailsOneRun(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply("name: alone\nchain: [{call: 'pkg:m?main'}]\n---\nname: branch\nchain: [{parallel: [{call: 'pkg:m?main'}, {delay: 10ms}]}]\n---\nname: good\nchain: [[nop]]\n")
	w := c.work(func(_ *worker.Config, deps *worker.Deps, _ *script.Config) { deps.Packages = (*pkgstore.Cache)(nil) })
	for _, name := range []string{"alone", "branch"} {
		run := c.finished(name)
		require.Equal(t, task.StateFailed, run.State)
		require.Contains(t, run.Reason, "the worker has a fault")
	}
	require.Equal(t, task.StateSucceeded, c.finished("good").State)
	require.Len(t, w.sessions(), 1)
	require.Contains(t, c.log.String(), "stack")
}

// What bad code does ends its run with a reason, and nothing else.
func TestBadCode(t *testing.T) {
	t.Parallel()
	c := start(t)
	functions := map[string]struct{ code, reason string }{
		"loops":     {`for (;;);`, "timed out after 3s"},
		"awaits":    {`for (;;) await null`, "timed out after 3s"},
		"allocates": {`const a = []; for (;;) a.push(new Uint8Array(1e6))`, "memory limit"},
		"recurses":  {`const f = (n: number): number => 1 + f(n); return f(1)`, "recursion limit"},
		"huge":      {`const s = "x".repeat(1e6); return Array.from({length: 100}, () => s)`, "too large: about 95.4 MiB"},
		"oversize":  {`return "x".repeat(1.5e6)`, "too large: about 1.4 MiB"},
		"unsettled": {`return new Promise(() => {})`, "never"},
		"throws":    {`throw 42`, "42"},
		"nothing":   {`throw undefined`, "undefined"},
		"rejects":   {`return Promise.reject({a: 1})`, "a"},
		"proxy":     {`throw new Proxy({}, {get() { throw 1 }})`, ""},
		"good":      {`return "fine"`, ""},
	}
	var source, exports []string
	var file strings.Builder
	for name, f := range functions {
		source = append(source, "export async function "+name+"() { "+f.code+" }")
		exports = append(exports, "m?"+name)
		fmt.Fprintf(&file, "name: %s\nchain: [{call: 'pkg:m?%s'}]\n---\n", name, name)
	}
	c.push(strings.Join(source, "\n"), "", exports...)
	for name, call := range map[string]string{"no-package": "gone:m?main", "no-module": "pkg:gone?main", "no-function": "pkg:m?gone"} {
		fmt.Fprintf(&file, "name: %s\nchain: [{call: '%s'}]\n---\n", name, call)
	}
	fmt.Fprint(&file, "name: unknown-task\nchain: [{task: gone}]\n")
	c.apply(file.String())
	w := c.work(func(_ *worker.Config, _ *worker.Deps, limits *script.Config) {
		limits.Timeout, limits.HeapLimit, limits.MaxAlloc = 3*time.Second, 128<<20, 64<<20
	})
	reasons := map[string]string{
		"no-package": "package gone has no live version.*catena pkg push", "no-module": "does not export gone\\?main.*exports",
		"no-function": "does not export m\\?gone.*exports", "unknown-task": `there is no task "gone".*catena task`,
	}
	for name, f := range functions {
		reasons[name] = f.reason
	}
	delete(reasons, "good")
	for name, reason := range reasons {
		run := c.finished(name)
		require.Equal(t, task.StateFailed, run.State, "%s: %s", name, run.Reason)
		require.Regexp(t, reason, run.Reason, name)
		require.NotEmpty(t, run.Reason, name)
		require.Less(t, len(run.Reason), 2000, name)
		require.NotEmpty(t, run.Outcome.CallStack, name)
		require.Equal(t, task.StateSucceeded, c.finished("good").State, "the worker survives %s", name)
	}
	require.Len(t, w.sessions(), 1)
	require.NotContains(t, c.log.String(), "fault of the worker")
}

// A value that the database refuses fails its run and no neighbour.
func TestOddValues(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.push(`export function nul() { return "a\u0000b\ud800" }
export function log() { console.log("a\u0000b\ud800"); return 1 }
export function fail() { throw new Error("a\u0000b\ud800") }`, "", "m?nul", "m?log", "m?fail")
	c.apply("name: odd\nchain: [{call: 'pkg:m?nul', as: a}, {call: 'pkg:m?log'}, {set: {kept: \"${steps.a.data}\"}}, {call: 'pkg:m?nul'}]\n---\nname: fails\nchain: [{call: 'pkg:m?fail'}]\n")
	c.work(nil)
	run := c.finished("odd")
	require.Equal(t, task.StateSucceeded, run.State, run.Reason)
	run = c.finished("fails")
	require.Equal(t, task.StateFailed, run.State)
	require.Contains(t, run.Reason, "a")
}
