package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/devservers"
	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// patience bounds every wait for something that takes moments when all is well.
const patience = 60 * time.Second

// cluster is a set of real processes on servers of its own.
type cluster struct {
	t        *testing.T
	postgres *devservers.Postgres
	redis    *devservers.Redis
	recorder *recorder
	env      []string
	path     string   // of the program, for masters
	settings []string // --set of every process
	token    string
	site     *site // whose certificates the masters serve; nil: no TLS

	mu      sync.Mutex
	masters []*node
	workers []*program // those that run alone
	turn    int
}

// node is a master with the address of its API.
type node struct {
	*program
	admin  string // address of its API
	client *client.Client
	http   string // address of the shared server
	https  string // the same with TLS; "" without
}

// newCluster starts the servers and prepares the database; settings are
// path=value pairs for all processes.
func newCluster(t *testing.T, settings ...string) *cluster {
	t.Helper()
	bin, dir := binary(t), servertest.Dir(t)
	log := logrus.New()
	log.SetLevel(logrus.WarnLevel)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := &cluster{t: t, path: bin, recorder: newRecorder(t), settings: append([]string{"worker.maxMemory=0"}, settings...)}
	var err error
	c.postgres, err = devservers.StartPostgres(ctx, devservers.PostgresConfig{DataDir: filepath.Join(dir, "postgres"), Log: log})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.postgres.Stop(context.Background()) })
	c.redis, err = devservers.StartRedis(ctx, devservers.RedisConfig{DataDir: filepath.Join(dir, "redis"), Log: log})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.redis.Stop(context.Background()) })
	c.env = []string{"CATENA_POSTGRES_URL=" + c.postgres.URL, "CATENA_REDIS_URL=" + c.redis.URL, "CATENA_LOG_FORMAT=json"}
	c.run(bin, "migrate", "up")
	var made struct{ Token string }
	require.NoError(t, json.Unmarshal(c.run(bin, "token", "create", "--role", "admin", "--json"), &made))
	require.NotEmpty(t, made.Token)
	c.token = made.Token
	return c
}

// run runs a command to its end and returns its standard output.
func (c *cluster) run(bin string, args ...string) []byte {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(withoutSettings(os.Environ()), c.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(c.t, err, "catena %v: %s", args, &stderr)
	return out
}

func (c *cluster) args(command string, settings ...string) []string {
	args := []string{command}
	for _, s := range append(append([]string{}, c.settings...), settings...) {
		args = append(args, "--set", s)
	}
	return args
}

// launch starts a master on free ports without waiting for it.
func (c *cluster) launch(workers int, settings ...string) *program {
	c.t.Helper()
	settings = append([]string{"master.admin=127.0.0.1:0", "server.http=127.0.0.1:0", fmt.Sprintf("master.workers=%d", workers)}, settings...)
	return startAs(c.t, c.path, "a master", c.env, c.args("master", settings...)...)
}

// startMaster starts a master and waits until its API is up.
func (c *cluster) startMaster(workers int, settings ...string) *node {
	c.t.Helper()
	https := ""
	if c.site != nil {
		https = closedAddress(c.t)
		settings = append(settings, "server.https="+https, "server.certificate="+c.site.certificate, "server.key="+c.site.key)
	}
	m := c.adopt(c.launch(workers, settings...))
	m.https = https
	c.mu.Lock()
	defer c.mu.Unlock()
	c.masters = append(c.masters, m)
	return m
}

// adopt waits until a launched master is up.
func (c *cluster) adopt(p *program) *node {
	c.t.Helper()
	var up []logLine
	c.eventually(func() bool {
		up = p.log.find(`"master is up"`)
		return len(up) > 0 || !p.alive()
	}, "%s does not come up", p.name)
	require.NotEmpty(c.t, up, "a master ended at its start:\n%s", p.log.tail(20))
	api, err := client.New(client.Config{Server: "http://" + up[0].Admin, Token: c.token, Retries: -1, Timeout: 10 * time.Second})
	require.NoError(c.t, err)
	return &node{program: p, admin: "http://" + up[0].Admin, client: api, http: up[0].HTTP}
}

func (c *cluster) startWorker() *program {
	c.t.Helper()
	w := start(c.t, "a worker", c.env, c.args("worker")...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.workers = append(c.workers, w)
	return w
}

// pid is that of the master, or of the newest successor that it handed over to.
func (m *node) pid() int {
	if said := m.log.find(`"handed over"`); len(said) > 0 {
		return said[len(said)-1].Successor
	}
	return m.child.PID()
}

// kill is kill -9; it returns when the process is gone.
func (m *node) kill() {
	pid := m.pid()
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for exists(pid) {
		time.Sleep(time.Millisecond) // no child of this process: there is nothing else to wait for
	}
}

// replaceMaster kills a master with its workers and starts another.
func (c *cluster) replaceMaster(old *node, workers int) {
	c.t.Helper()
	old.kill()
	c.mu.Lock()
	for i, m := range c.masters {
		if m == old {
			c.masters = append(c.masters[:i:i], c.masters[i+1:]...)
		}
	}
	c.mu.Unlock()
	c.startMaster(workers)
}

// api returns the client of one master after the other.
func (c *cluster) api() *client.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn++
	return c.masters[c.turn%len(c.masters)].client
}

func (c *cluster) eventually(holds func() bool, format string, args ...any) {
	c.t.Helper()
	c.within(patience, holds, format, args...)
}

func (c *cluster) within(limit time.Duration, holds func() bool, format string, args ...any) {
	c.t.Helper()
	deadline := time.Now().Add(limit)
	for !holds() {
		if time.Now().After(deadline) {
			require.FailNow(c.t, "not within "+limit.String(), append([]any{format}, args...)...)
		}
		pace(c.t.Context(), 20*time.Millisecond)
	}
}

// pace lets some time pass between two polls or two events of a scenario.
func pace(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// ask calls one master after the other until one answers. Only for calls that
// may be repeated.
func ask[T any](ctx context.Context, c *cluster, do func(context.Context, *client.Client) (T, error)) (T, error) {
	deadline := time.Now().Add(2 * patience)
	for {
		answer, err := do(ctx, c.api())
		switch task.CodeOf(err) {
		case task.CodeUnavailable, task.CodeTimeout:
			if err != nil && ctx.Err() == nil && time.Now().Before(deadline) {
				pace(ctx, 50*time.Millisecond)
				continue
			}
		}
		return answer, err
	}
}

func must[T any](c *cluster, do func(context.Context, *client.Client) (T, error)) T {
	c.t.Helper()
	answer, err := ask(c.t.Context(), c, do)
	require.NoError(c.t, err)
	return answer
}

// push stores the package and the tasks of the fault tests.
func (c *cluster) push() {
	c.t.Helper()
	dir := c.t.TempDir()
	for _, name := range []string{"catena.yaml", "work.ts"} {
		text, err := os.ReadFile(filepath.Join("testdata/faults", name))
		require.NoError(c.t, err)
		text = bytes.ReplaceAll(text, []byte("127.0.0.1"), []byte(c.recorder.host))
		require.NoError(c.t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	content, err := pkgstore.ReadDir(dir, pkgstore.Limits{})
	require.NoError(c.t, err)
	must(c, func(ctx context.Context, api *client.Client) (client.PushResult, error) {
		var archive bytes.Buffer
		if err := content.WriteArchive(&archive); err != nil {
			return client.PushResult{}, err
		}
		return api.Push(ctx, &archive, "")
	})
	text, err := os.ReadFile("testdata/faults.yaml")
	require.NoError(c.t, err)
	c.apply(string(text))
}

// apply creates or changes tasks; RECORDER stands for the recorder's address.
func (c *cluster) apply(text string) {
	c.t.Helper()
	text = strings.ReplaceAll(text, "RECORDER", c.recorder.url)
	must(c, func(ctx context.Context, api *client.Client) (client.ApplyResult, error) {
		return api.ApplyTasks(ctx, client.ApplyRequest{Files: []client.File{{Name: "tasks.yaml", Content: text}}})
	})
}

// live returns the workers that the cluster holds for alive.
func (c *cluster) live() []task.Worker {
	list, err := ask(c.t.Context(), c, func(ctx context.Context, api *client.Client) ([]task.Worker, error) { return api.Workers(ctx, false) })
	require.NoError(c.t, err)
	return list
}

// awaitWorkers waits until exactly n workers live, the dead ones noticed.
func (c *cluster) awaitWorkers(n int) {
	c.t.Helper()
	c.eventually(func() bool {
		list := c.live()
		fresh := 0
		for _, w := range list {
			if w.State == task.WorkerActive && exists(w.PID) {
				fresh++
			}
		}
		return fresh == n && len(list) == n
	}, "there are not %d workers", n)
}

// leader returns the master that leads.
func (c *cluster) leader() *node {
	c.t.Helper()
	var found *node
	c.eventually(func() bool {
		holder := c.text(`SELECT holder FROM leader WHERE expires_at > clock_timestamp()`)
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, m := range c.masters {
			if strings.Contains(holder, fmt.Sprintf("-%d-", m.pid())) {
				found = m
			}
		}
		return found != nil
	}, "no master leads")
	return found
}

// text asks the database for one value, "" when there is none.
func (c *cluster) text(sql string, args ...any) (value string) {
	conn, err := pgx.Connect(c.t.Context(), c.postgres.URL)
	if err != nil {
		return ""
	}
	defer conn.Close(context.Background())
	_ = conn.QueryRow(c.t.Context(), sql, args...).Scan(&value)
	return value
}

// start accepts a run and returns it.
func (c *cluster) start(name, params string) task.Run {
	c.t.Helper()
	key := fmt.Sprintf("%s-%d", c.t.Name(), time.Now().UnixNano())
	return must(c, func(ctx context.Context, api *client.Client) (client.Started, error) {
		return api.StartRun(ctx, name, client.RunRequest{Key: key, Params: json.RawMessage(params)})
	}).Run
}

// result waits for the end of a run.
func (c *cluster) result(run task.Run) task.Run {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	ended, err := ask(ctx, c, func(ctx context.Context, api *client.Client) (task.Run, error) { return api.WaitRun(ctx, run.ID) })
	require.NoError(c.t, err)
	return ended
}

// executing waits until a run's step was seen so often by the recorder.
func (c *cluster) executing(run task.Run, step, times int) {
	c.t.Helper()
	c.eventually(func() bool { return c.recorder.count(run.ID, step) >= times }, "step %d of run %s has not begun %d times", step, run.ID, times)
}

// stopPostgres is an immediate shutdown: the server recovers from its log at
// the next start.
func (c *cluster) stopPostgres() {
	c.t.Helper()
	done := c.postgres.Done()
	require.NoError(c.t, c.postgres.Kill(syscall.SIGQUIT))
	<-done
}

func (c *cluster) startPostgres() {
	c.t.Helper()
	require.NoError(c.t, c.postgres.Restart(c.t.Context()))
}

func (c *cluster) stopRedis() {
	c.t.Helper()
	done := c.redis.Done()
	require.NoError(c.t, c.redis.Kill(syscall.SIGKILL))
	<-done
}

func (c *cluster) startRedis() {
	c.t.Helper()
	require.NoError(c.t, c.redis.Restart(c.t.Context()))
}
