package node_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/node"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// ask returns the status and the text of an answer.
func ask(t require.TestingT, url string) (int, string) {
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

type instanceInfo struct {
	ClientID       string
	LivenessCode   int
	ServiceType    string
	ServiceRealm   string
	ServiceVersion int
}

// TestLivenessEndpoints: off unless told, on the admin address without a token,
// and a worker that falls silent is told of.
func TestLivenessEndpoints(t *testing.T) {
	t.Parallel()
	defer http.DefaultClient.CloseIdleConnections()
	cfg := config(t)
	cfg.Health.Liveness = true
	d := startDev(t, cfg, t.TempDir())
	base := d.Admin + "/api/v1"
	var instances map[string]instanceInfo
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		instances = nil
		code, text := ask(c, base+"/instances")
		require.Equal(c, http.StatusOK, code)
		require.NoError(c, json.Unmarshal([]byte(text), &instances))
		require.Len(c, instances, 2)
	}, 20*time.Second, 50*time.Millisecond)
	worker := ""
	for id, i := range instances {
		require.Equal(t, healthcheck.Healthy, i.LivenessCode)
		require.Equal(t, "N/A", i.ClientID)
		require.Equal(t, cfg.Cluster.Name, i.ServiceRealm)
		require.Equal(t, 1, i.ServiceVersion)
		if i.ServiceType == "catena.worker" {
			worker = id
		} else {
			require.Equal(t, "catena.master", i.ServiceType)
		}
		code, text := ask(t, base+"/instances/"+id+"/liveness")
		require.Equal(t, http.StatusOK, code)
		require.Equal(t, "ok", text)
	}
	code, text := ask(t, base+"/liveness")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "ok", text)
	code, text = ask(t, base+"/instances/nobody/liveness")
	require.Equal(t, http.StatusNotFound, code)
	require.Equal(t, "404 Not Found", text)
	code, _ = ask(t, base+"/tasks")
	require.Equal(t, http.StatusUnauthorized, code, "the API itself wants a token")
	code, text = ask(t, d.Admin+"/readyz")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "ok\npostgres: ok\nmaster: ok\nredis: ok\n", text)

	// A worker of which nothing was heard for some ticks.
	conn, err := pgx.Connect(t.Context(), cfg.Postgres.URL)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `INSERT INTO workers (id, host, pid, version, queues, slots, rss, tick)
		SELECT 'silent', 'h', 1, 'v', '{*}', 1, 1, tick - 3 FROM cluster`)
	require.NoError(t, err)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		code, text := ask(c, base+"/instances/silent/liveness")
		require.Equal(c, http.StatusInternalServerError, code)
		require.Equal(c, "error", text)
		code, _ = ask(c, base+"/liveness")
		require.Equal(c, http.StatusInternalServerError, code)
	}, 10*time.Second, 50*time.Millisecond)
	code, _ = ask(t, base+"/instances/"+worker+"/liveness")
	require.Equal(t, http.StatusOK, code)
}

func TestLivenessIsOffByDefault(t *testing.T) {
	t.Parallel()
	defer http.DefaultClient.CloseIdleConnections()
	cfg := config(t)
	cfg.Master.Workers = 0
	d := startDev(t, cfg, t.TempDir())
	for _, path := range healthcheck.LivenessPaths() {
		code, _ := ask(t, d.Admin+path)
		require.Equal(t, http.StatusNotFound, code, path)
	}
}

// server is a LivenessServer of a program that embeds a node.
type livenessLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *livenessLog) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *livenessLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

func (l *livenessLog) Start(context.Context) error                { l.add("start"); return nil }
func (l *livenessLog) Stop(context.Context) error                 { l.add("stop"); return nil }
func (l *livenessLog) SetAggregate(healthcheck.AggregateProvider) {}
func (l *livenessLog) RegisterInstance(i healthcheck.Instance) {
	code, err := i.Liveness(context.Background(), i.ID)
	if err == nil && code == 203 {
		l.add("instance")
	}
}
func (l *livenessLog) UnregisterInstance(string) {}
func (l *livenessLog) RegisterService(_, _ string, s healthcheck.Service) {
	l.add("service " + s.Type)
}
func (l *livenessLog) UnregisterService(string, string) {}

// TestLivenessOfAnEmbeddingProgram: a server and providers of its own.
func TestLivenessOfAnEmbeddingProgram(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Master.Workers, cfg.Health.Liveness = 0, true
	ctx, stop := context.WithCancel(t.Context())
	var log output
	var told livenessLog
	ended := make(chan error, 1)
	_, err := node.MigrateUp(t.Context(), cfg, &log)
	require.NoError(t, err)
	go func() {
		ended <- node.RunMaster(ctx, cfg, node.Options{Version: "test", Out: &log, Err: &log, Liveness: node.Liveness{
			Server: &told, Instance: healthcheck.InstanceFunc(func(string) int { return 203 }),
		}})
	}()
	require.Eventually(t, func() bool { return told.text() == "start\ninstance\nservice catena.master" }, 20*time.Second, 20*time.Millisecond, told.text())
	stop()
	require.NoError(t, <-ended, log.String())
	require.Equal(t, "start\ninstance\nservice catena.master\nstop", told.text())
}

// TestAWorkerAlone has its own probes, metrics and liveness endpoints.
func TestAWorkerAlone(t *testing.T) {
	t.Parallel()
	defer http.DefaultClient.CloseIdleConnections()
	cfg := config(t)
	cfg.Master.Workers = 0
	startDev(t, cfg, t.TempDir())
	cfg.Worker.Admin, cfg.Health.Liveness = "127.0.0.1:0", true
	cfg.Log.Format = "json"
	cfg.Health.Timeout = task.Duration(time.Second)
	base, stop, ended := startWorker(t, cfg)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		code, text := ask(c, base+"/readyz")
		require.Equal(c, http.StatusOK, code, text)
		require.Equal(c, "ok\npostgres: ok\nwork: ok\nredis: ok\n", text)
		code, text = ask(c, base+"/api/v1/instances")
		require.Equal(c, http.StatusOK, code)
		require.Equal(c, 1, strings.Count(text, "catena.worker"), text)
		code, text = ask(c, base+"/api/v1/liveness")
		require.Equal(c, http.StatusOK, code, text)
	}, 20*time.Second, 50*time.Millisecond)
	code, _ := ask(t, base+"/livez")
	require.Equal(t, http.StatusOK, code)
	found := families(t, scrape(t, base+"/metrics"))
	require.InDelta(t, 32, value(found["catena_slots"]), 0)
	require.NotNil(t, found["go_goroutines"])
	stop()
	require.NoError(t, <-ended)
}

// startWorker runs a worker alone and returns the base of its own address.
func startWorker(t *testing.T, cfg configs.Config) (base string, stop func(), ended chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	log := &output{}
	ended = make(chan error, 1)
	go func() {
		ended <- node.RunWorker(ctx, cfg, node.WorkerOptions{Options: node.Options{Version: "test", Out: log, Err: log}})
	}()
	address := regexp.MustCompile(`"address":"([^"]+)"`)
	require.Eventually(t, func() bool {
		if match := address.FindStringSubmatch(log.String()); match != nil {
			base = "http://" + match[1]
		}
		return base != ""
	}, 20*time.Second, 20*time.Millisecond, log)
	return base, cancel, ended
}

// Lines of parts that do not know the worker carry its id as well.
func TestLinesOfAWorkerCarryItsID(t *testing.T) {
	t.Parallel()
	var out output
	log := telemetry.Setup(telemetry.Config{Format: telemetry.FormatJSON}, &out)
	log.AddHook(node.NewSessionField("host-1-abc"))
	entry := log.WithField("run", "r1")
	entry.Warn("stopped a call")
	require.Contains(t, out.String(), `"worker":"host-1-abc"`)
	require.Contains(t, out.String(), `"run":"r1"`)
	require.NotContains(t, entry.Data, "worker")
	log.WithField("worker", "another").Warn("of another")
	require.Contains(t, out.String(), `"worker":"another"`)
}
