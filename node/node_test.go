package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/node"
	"github.com/catena-run/catena/task"
)

// TestMain is also the worker process that a node starts from its own binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		os.Exit(work())
	}
	goleak.VerifyTestMain(m, servertest.LeakOptions()...)
}

func work() int {
	if os.Args[2] == node.ReadonlyFlag {
		if err := node.ReadonlyRun(context.Background(), os.Stdin, os.Stdout, os.Stderr); err != nil {
			return 4
		}
		return 0
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 1
	}
	cfg, err := configs.Load(configs.Source{File: "standard input", Text: text})
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	kinds := ""
	if i := slices.Index(os.Args, "--shared-listeners"); i > 0 {
		kinds = os.Args[i+1]
	}
	err = node.RunWorker(ctx, cfg, node.WorkerOptions{Options: node.Options{Version: "test", Out: io.Discard, Err: os.Stderr},
		Supervised: true, Master: os.Args[3], Listeners: kinds})
	if err != nil {
		return 3
	}
	return 0
}

// output is a buffer that two goroutines may use.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// config is a cluster of its own on the servers of the tests.
func config(t *testing.T) configs.Config {
	t.Helper()
	c := configs.Default()
	c.Postgres.URL, c.Redis.URL = servertest.EmptyPostgresURL(t), servertest.Redis(t)
	c.Cluster.Name = servertest.RedisNamespace(t)
	c.Master.Admin, c.Server.HTTP, c.Master.Workers = "127.0.0.1:0", "127.0.0.1:0", 1
	return c
}

// dev is a running dev.
type dev struct {
	node.DevFile
	*client.Client
	log  *output
	stop context.CancelFunc
	done chan error
}

func startDev(t *testing.T, cfg configs.Config, data string) *dev {
	t.Helper()
	d := &dev{log: &output{}, done: make(chan error, 1)}
	out := &output{}
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.done <- node.RunDev(ctx, cfg, node.DevOptions{Options: node.Options{Version: "test", Out: out, Err: d.log}, Data: data, JSON: true})
	}()
	t.Cleanup(func() {
		stop()
		<-ended
		if t.Failed() {
			t.Log(d.log.String())
		}
	})
	require.Eventually(t, func() bool { return json.Unmarshal([]byte(out.String()), &d.DevFile) == nil }, time.Minute, 10*time.Millisecond)
	var err error
	d.Client, err = client.New(client.Config{Server: d.Admin, Token: d.Token})
	require.NoError(t, err)
	return d
}

func (d *dev) run(t *testing.T, name string) {
	t.Helper()
	_, err := d.ApplyTasks(t.Context(), client.ApplyRequest{Files: []client.File{{Name: "a.yaml", Content: "name: " + name + "\nchain: [[nop]]\n"}}})
	require.NoError(t, err)
	run, err := d.StartRun(t.Context(), name, client.RunRequest{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		got, err := d.Run(t.Context(), run.ID)
		return err == nil && got.State == task.StateSucceeded
	}, 30*time.Second, 10*time.Millisecond)
}

func TestTwoDevsInOneProcess(t *testing.T) {
	t.Parallel()
	firstData, secondData := t.TempDir(), t.TempDir()
	first, second := startDev(t, config(t), firstData), startDev(t, config(t), secondData)
	require.NotEqual(t, first.Admin, second.Admin)
	require.NotEqual(t, first.HTTP, second.HTTP)
	first.run(t, "one")
	second.run(t, "two")
	_, err := second.Task(t.Context(), "one")
	require.Equal(t, task.CodeNotFound, task.CodeOf(err), "they share nothing")
	answer, err := http.Get(first.HTTP + "/status")
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusOK, answer.StatusCode)
	http.DefaultClient.CloseIdleConnections()

	var again output
	err = node.RunDev(t.Context(), config(t), node.DevOptions{Options: node.Options{Out: &again, Err: &again}, Data: firstData})
	require.Equal(t, task.CodeConflict, task.CodeOf(err), "%v", err)
	require.Contains(t, err.Error(), firstData)
	require.Contains(t, err.Error(), " already: http://")
	require.Empty(t, again.String(), "nothing was started")
	require.FileExists(t, filepath.Join(firstData, node.DevFileName), "the first one's file stays")

	first.stop()
	require.NoError(t, <-first.done)
	require.NoFileExists(t, filepath.Join(firstData, node.DevFileName))
	second.run(t, "three")
	restarted := startDev(t, config(t), firstData)
	restarted.run(t, "four")
}

func TestAnAddressInUseIsToldFirst(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	for key, change := range map[string]func(*configs.Config, string){
		"master.admin": func(c *configs.Config, a string) { c.Master.Admin = a },
		"server.http":  func(c *configs.Config, a string) { c.Server.HTTP = a },
	} {
		cfg := configs.Default()
		cfg.Master.Admin, cfg.Server.HTTP = "127.0.0.1:0", "127.0.0.1:0"
		// Nothing answers here: whoever connects first tells of that instead.
		cfg.Postgres.URL, cfg.Redis.URL = "postgres://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1/0"
		change(&cfg, taken.Addr().String())
		var log output
		o := node.Options{Version: "test", Out: &log, Err: &log}
		for name, err := range map[string]error{
			"master": node.RunMaster(t.Context(), cfg, o),
			"dev":    node.RunDev(t.Context(), cfg, node.DevOptions{Options: o, Data: t.TempDir()}),
		} {
			require.Equal(t, task.CodeUnavailable, task.CodeOf(err), "%s: %v", name, err)
			require.Contains(t, err.Error(), key)
			require.Contains(t, err.Error(), taken.Addr().String()+" is in use")
			require.Contains(t, err.Error(), "choose another address")
			require.Empty(t, log.String())
		}
	}
}

func TestAMasterWithoutItsDatabaseSaysSo(t *testing.T) {
	t.Parallel()
	cfg := configs.Default()
	cfg.Master.Admin, cfg.Server.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Postgres.URL, cfg.Redis.URL = "postgres://nobody:secret@127.0.0.1:1/none", "redis://127.0.0.1:1/0"
	var log output
	err := node.RunMaster(t.Context(), cfg, node.Options{Version: "test", Out: &log, Err: &log})
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err), "%v", err)
	require.Contains(t, err.Error(), "check that Postgres runs")
	require.NotContains(t, err.Error()+log.String(), "secret")
}

// The limit of the configuration is the limit of a push.
func TestPushLimitIsConfigured(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Packages.MaxSize = 64 * configs.KiB
	cfg.Master.Workers = 0
	d := startDev(t, cfg, t.TempDir())
	_, err := d.Push(t.Context(), bytes.NewReader(make([]byte, 20<<20)), "live")
	require.Equal(t, task.CodeTooLarge, task.CodeOf(err), "%v", err)
}

// A master that stops answers those who wait for a run at once.
func TestStoppingAnswersWaiters(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Master.Workers = 0
	d := startDev(t, cfg, t.TempDir())
	_, err := d.ApplyTasks(t.Context(), client.ApplyRequest{Files: []client.File{{Name: "a.yaml", Content: "name: demo\nchain: [[nop]]\n"}}})
	require.NoError(t, err)
	run, err := d.StartRun(t.Context(), "demo", client.RunRequest{})
	require.NoError(t, err)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.Admin+"/api/v1/runs/"+run.ID.String()+"?wait=50s", nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+d.Token)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	waited := make(chan error, 1)
	go func() {
		answer, err := transport.RoundTrip(request)
		if err == nil {
			err = answer.Body.Close()
		}
		waited <- err
	}()
	require.Never(t, func() bool { return len(waited) > 0 }, 300*time.Millisecond, 20*time.Millisecond, "it waits")
	began := time.Now()
	d.stop()
	require.NoError(t, <-d.done)
	require.Less(t, time.Since(began), 4*time.Second)
	require.NoError(t, <-waited, "with an answer, not a cut connection")
}
