package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/worker"
)

// TestMain is also a worker process of its own for one test.
func TestMain(m *testing.M) {
	if os.Getenv(envStuck) != "" {
		os.Exit(stuckProcess())
	}
	goleak.VerifyTestMain(m, servertest.LeakOptions()...)
}

const patience = 60 * time.Second

// cluster is everything that workers need, led by a loop of the test.
type cluster struct {
	t        *testing.T
	store    *store.Store
	queue    *queue.Asynq
	packages *pkgstore.Store
	dispatch *dispatch.Dispatcher
	log      *record

	url, redis, namespace string
}

// record keeps what is logged.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func start(t *testing.T) *cluster {
	t.Helper()
	url := servertest.PostgresURL(t)
	s, err := store.Open(t.Context(), store.Config{URL: url, Keys: dispatch.NewKeys()})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.EnsurePartitions(t.Context()))
	c := &cluster{t: t, store: s, log: &record{}, packages: pkgstore.New(s.Pool(), pkgstore.Config{}),
		url: url, redis: servertest.Redis(t), namespace: servertest.RedisNamespace(t)}
	log := logrus.New()
	log.SetOutput(c.log)
	c.queue, err = queue.Open(queue.Config{URL: c.redis, Namespace: c.namespace}, log)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.queue.Close() })
	c.dispatch = dispatch.New(s, c.queue, log)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.log.String())
		}
	})
	c.lead()
	return c
}

// lead does the leader's duties around dispatch until the test ends.
func (c *cluster) lead() {
	lease, won, err := c.store.Campaign(c.t.Context(), "test")
	require.NoError(c.t, err)
	require.True(c.t, won)
	ctx, stop := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	waits := dispatch.NewWaits(c.store)
	loop.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			_, _ = c.dispatch.RunOnce(ctx, lease.Term)
			_, _ = waits.RunOnce(ctx, lease.Term)
			_, _, _ = c.store.Revoke(ctx, lease.Term)
			if n%25 == 0 {
				_, _ = c.store.Tick(ctx)
				_ = c.dispatch.Reenqueue(ctx, lease.Term)
			}
		}
	})
	c.t.Cleanup(func() { stop(); loop.Wait() })
}

// running is a worker in this process.
type running struct {
	t    *testing.T
	stop context.CancelFunc
	done chan struct{}
	err  error
	made *worker.Worker

	mu     sync.Mutex
	epochs []int64
}

// work starts a worker; change may alter what it is made of.
func (c *cluster) work(change func(*worker.Config, *worker.Deps, *script.Config)) *running {
	c.t.Helper()
	w := &running{t: c.t, done: make(chan struct{})}
	log := logrus.New()
	log.SetOutput(c.log)
	cfg := worker.Config{Slots: 4, DrainTimeout: 5 * time.Second, Host: "test", Version: "test"}
	deps := worker.Deps{Store: c.store, Queue: c.queue, Packages: pkgstore.NewCache(c.packages, 1<<20), Dispatch: c.dispatch, Log: log,
		Session: func(epoch int64, _ string) { w.mu.Lock(); defer w.mu.Unlock(); w.epochs = append(w.epochs, epoch) }}
	limits := script.Config{HeapLimit: -1} // the tests of this process share its heap
	if change != nil {
		change(&cfg, &deps, &limits)
	}
	engine := script.New(limits, log)
	deps.Scripts = engine
	made, err := worker.New(cfg, deps)
	require.NoError(c.t, err)
	w.made = made
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	go func() {
		defer close(w.done)
		w.err = made.Run(ctx)
		engine.Close()
	}()
	c.t.Cleanup(w.end)
	require.Eventually(c.t, func() bool { return len(w.sessions()) > 0 }, patience, time.Millisecond)
	return w
}

func (w *running) sessions() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]int64{}, w.epochs...)
}

// end stops the worker and waits for it.
func (w *running) end() {
	w.stop()
	select {
	case <-w.done:
	case <-time.After(patience):
		w.t.Error("the worker did not end")
	}
}

// apply makes a task of the task file's text.
func (c *cluster) apply(text string) {
	c.t.Helper()
	files, err := chain.ParseTasks("test.yaml", []byte(text))
	require.NoError(c.t, err)
	defs := make([]task.Definition, len(files))
	for i, f := range files {
		defs[i] = f.Definition
	}
	_, err = c.store.ApplyTasks(c.t.Context(), defs, false)
	require.NoError(c.t, err)
}

// push makes a version of package pkg with one module m live. host may be
// called by its code.
func (c *cluster) push(source, host string, exports ...string) string {
	c.t.Helper()
	dir := c.t.TempDir()
	manifest := "name: pkg\ndescription: for a test\nexports: [" + strings.Join(exports, ", ") + "]\n"
	if host != "" {
		manifest += "permissions: {http: [\"" + strings.TrimPrefix(host, "http://") + "\"]}\n"
	}
	require.NoError(c.t, os.WriteFile(filepath.Join(dir, "catena.yaml"), []byte(manifest), 0o600))
	require.NoError(c.t, os.WriteFile(filepath.Join(dir, "m.ts"), []byte(source), 0o600))
	content, err := pkgstore.ReadDir(dir, pkgstore.Limits{})
	require.NoError(c.t, err)
	pushed, err := c.packages.Push(c.t.Context(), content, "live", "test")
	require.NoError(c.t, err)
	return pushed.Digest
}

func (c *cluster) submit(name string) uuid.UUID {
	c.t.Helper()
	got, err := c.dispatch.Submit(c.t.Context(), []dispatch.Request{{Task: name}})
	require.NoError(c.t, err)
	return got[0].ID
}

func (c *cluster) get(id uuid.UUID) task.Run {
	c.t.Helper()
	r, err := c.store.Run(c.t.Context(), id)
	require.NoError(c.t, err)
	return r
}

// until waits for a run to reach a state.
func (c *cluster) until(id uuid.UUID, states ...task.State) task.Run {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		r := c.get(id)
		for _, s := range states {
			if r.State == s {
				return r
			}
		}
		if r.State.Terminal() || time.Now().After(deadline) {
			require.FailNow(c.t, "the run took another way", "want %v, is %s: %s", states, r.State, r.Reason)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// finished runs a task to its end.
func (c *cluster) finished(name string) task.Run {
	c.t.Helper()
	id := c.submit(name)
	require.Eventually(c.t, func() bool { return c.get(id).State.Terminal() }, patience, 2*time.Millisecond)
	return c.get(id)
}

func (c *cluster) count(sql string, args ...any) (n int) {
	c.t.Helper()
	require.NoError(c.t, c.store.Pool().QueryRow(c.t.Context(), sql, args...).Scan(&n))
	return n
}

func (c *cluster) exec(sql string, args ...any) {
	c.t.Helper()
	_, err := c.store.Pool().Exec(c.t.Context(), sql, args...)
	require.NoError(c.t, err)
}

// outside is a server that package code calls: it tells of each call by its
// path and answers when the test says so.
type outside struct {
	*httptest.Server
	mu    sync.Mutex
	calls []string
	came  chan string
	gates map[string]chan struct{}
}

func newOutside(t *testing.T, gated ...string) *outside {
	o := &outside{came: make(chan string, 1000), gates: map[string]chan struct{}{}}
	for _, path := range gated {
		o.gates[path] = make(chan struct{})
	}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.calls = append(o.calls, r.URL.Path)
		gate := o.gates[r.URL.Path]
		o.mu.Unlock()
		o.came <- r.URL.Path
		if gate != nil {
			select {
			case <-gate:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, "ok")
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *outside) open(path string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.gates[path])
	delete(o.gates, path)
}

func (o *outside) count(path string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.calls {
		if p == path {
			n++
		}
	}
	return n
}

// await waits for a call of the path.
func (o *outside) await(t *testing.T, path string) {
	t.Helper()
	for {
		select {
		case got := <-o.came:
			if got == path {
				return
			}
		case <-time.After(patience):
			require.FailNow(t, "nobody called "+path)
		}
	}
}

// get is the source of a function that calls the server.
func (o *outside) get(function, path, result string) string {
	return fmt.Sprintf("export async function %s(input: any) { await http.get(%q); return %s }\n", function, o.URL+path, result)
}

const imports = `import { http } from "catena";` + "\n"

func text(raw json.RawMessage) string { return string(raw) }
