package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/catena-run/catena/api"
	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/dashboard"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/migrations"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

// adminHandler builds the admin API with its probes and metrics. stop ends what
// runs behind it.
func (m *masterNode) adminHandler(o Options) (mux *http.ServeMux, stop func(), err error) {
	authenticator, err := auth.New(tokens{m.store}, auth.Config{})
	if err != nil {
		return nil, nil, err
	}
	poller := api.NewPoller(m.store, api.PollerConfig{})
	probes := m.probes()
	probes.AddReady("master", func(context.Context) error {
		if m.draining.Load() {
			return task.Errorf(task.CodeUnavailable, "it drains")
		}
		return nil
	})
	metrics, requests := m.masterMetrics(o.Version)
	handler, err := api.New(api.Deps{
		Tasks: m.store, Calendars: m.store, Sources: m.store, Waits: m.store, Runs: m.store, Records: m.store, Fleet: m.store, Backfills: m.store, Backfiller: scheduler.NewBackfills(m.store),
		Submitter: m.dispatch, Waiter: poller, Packages: m.packages,
		Tokens: m.store, Authenticator: authenticator, Audit: m.store, Doctor: m.doctor, Readonly: newReadonlyRuns(m.base, o.Err),
		Variable: os.LookupEnv,
		Live:     probes.Live(), Ready: probes.Ready(),
		Traces: m.traces, Metrics: metrics, Observe: requests.observe, Log: m.log,
	}, api.Config{Version: o.Version, Package: packageConfig(m.cfg).Limits(), MaxEvent: api.MaxEvent(int64(m.cfg.Script.MaxOutput)), EventKeep: time.Duration(m.cfg.Retention.Events)})
	if err != nil {
		return nil, nil, err
	}
	return withDashboard(handler), poller.Close, nil
}

// instances are what the liveness endpoints of a master tell of: itself and the
// workers of the cluster.
func (m *masterNode) instances(ctx context.Context) ([]instance, error) {
	workers, err := m.store.Instances(ctx)
	if err != nil {
		return nil, err
	}
	list := []instance{{id: m.name, kind: instanceMaster, alive: true}}
	for _, w := range workers {
		list = append(list, instance{id: w.ID, kind: instanceWorker, alive: w.Alive})
	}
	return list, nil
}

// withDashboard gives the paths of the API to handler and all others to the dashboard.
func withDashboard(handler http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	for _, path := range []string{"/api", "/api/", "/livez", "/readyz", "/metrics"} {
		mux.Handle(path, handler)
	}
	mux.Handle("/", dashboard.Handler())
	return mux
}

// doctor looks at everything that a working cluster needs.
func (m *masterNode) doctor(ctx context.Context) []api.Check {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	checks := []api.Check{m.checkPostgres(ctx)}
	if !checks[0].OK {
		return append(checks, m.checkRedis(ctx))
	}
	return append(checks, m.checkSchema(ctx), m.checkPartitions(ctx), m.checkClock(ctx), m.checkRedis(ctx), m.checkLeader(ctx), m.checkWorkers(ctx), m.checkLanes(ctx))
}

func finding(name string, err error, format string, args ...any) api.Check {
	if err == nil {
		return api.Check{Name: name, OK: true, Detail: fmt.Sprintf(format, args...)}
	}
	c := api.Check{Name: name, Detail: err.Error()}
	var e *task.Error
	if errors.As(err, &e) {
		c.Detail, c.Remedy = e.Message, e.Remedy
	}
	return c
}

func (m *masterNode) checkPostgres(ctx context.Context) api.Check {
	began := time.Now()
	var version string
	err := m.store.Pool().QueryRow(ctx, `SHOW server_version`).Scan(&version)
	if err != nil {
		err = task.Errorf(task.CodeUnavailable, "postgres does not answer: %w", err).Fix("check that it runs and postgres.url is right")
	}
	return finding("postgres", err, "version %s, answered in %v", version, time.Since(began).Round(10*time.Microsecond))
}

func (m *masterNode) checkSchema(ctx context.Context) api.Check {
	return finding("schema", migrations.Check(ctx, m.store.Pool()), "version %d", migrations.Version())
}

func (m *masterNode) checkPartitions(ctx context.Context) api.Check {
	return finding("partitions", m.store.CheckPartitions(ctx), "today's and tomorrow's are there")
}

func (m *masterNode) checkClock(ctx context.Context) api.Check {
	sent := time.Now()
	now, err := m.store.Now(ctx)
	clock := m.master.Clock()
	if err == nil {
		clock.Add(sent, time.Now(), now)
	}
	offset, within, _ := clock.Offset()
	if err == nil && offset.Abs() > healthcheck.ClockLimit {
		err = task.Errorf(task.CodeInternal, "this master's clock is %v from the database's", offset.Round(time.Millisecond)).
			Fix("synchronise the clocks; due times follow the database's")
	}
	if err == nil {
		err = m.checkWorkerClocks(ctx)
	}
	return finding("clock", err, "%v from the database's, to within %v", offset.Round(10*time.Microsecond), within.Round(10*time.Microsecond))
}

func (m *masterNode) checkWorkerClocks(ctx context.Context) error {
	workers, err := m.store.Workers(ctx, false)
	for _, w := range workers {
		if w.ClockOffset == nil || math.Abs(*w.ClockOffset) <= float64(healthcheck.ClockLimit.Milliseconds()) {
			continue
		}
		return task.Errorf(task.CodeInternal, "the clock of worker %s on %s is %.0f ms from the database's", w.ID, w.Host, *w.ClockOffset).
			Fix("synchronise the clock of that host; times of runs and logs are those of the worker")
	}
	return err
}

func (m *masterNode) checkRedis(ctx context.Context) api.Check {
	info, err := m.queue.Check(ctx)
	if err == nil && info.Problem() != "" {
		err = task.Errorf(task.CodeInvalid, "%s", info.Problem())
	}
	return finding("redis", err, "version %s at %s, %s, answered in %v", info.Version, info.Addr, info.MaxMemoryPolicy, info.Latency.Round(10*time.Microsecond))
}

func (m *masterNode) checkLeader(ctx context.Context) api.Check {
	lease, err := m.store.Leader(ctx)
	if err == nil {
		now, clockErr := m.store.Now(ctx)
		if clockErr == nil && lease.ExpiresAt.Before(now) {
			err = task.Errorf(task.CodeUnavailable, "nobody leads: the lease of %s ended at %s", lease.Holder, lease.ExpiresAt.Format(time.RFC3339)).
				Fix("check the masters' logs; at least one needs master.leader: true")
		}
	}
	return finding("leader", err, "%s, term %d since %s", lease.Holder, lease.Term, lease.ElectedAt.Format(time.RFC3339))
}

func (m *masterNode) checkWorkers(ctx context.Context) api.Check {
	workers, err := m.store.Workers(ctx, false)
	if err == nil && len(workers) == 0 {
		err = task.Errorf(task.CodeUnavailable, "no worker is alive").Fix("start one with `catena worker --config FILE`, or set master.workers")
	}
	return finding("workers", err, "%d alive", len(workers))
}

// checkLanes finds runs that wait for workers that nobody has started.
func (m *masterNode) checkLanes(ctx context.Context) api.Check {
	waits, err := m.store.UnservedLanes(ctx)
	if err == nil && len(waits) > 0 {
		texts := make([]string, len(waits))
		for i, w := range waits {
			texts[i] = fmt.Sprintf("%s (%d runs)", w.Lane, w.Runs)
		}
		err = task.Errorf(task.CodeUnavailable, "runs wait in lanes that no live worker serves: %s", strings.Join(texts, ", ")).
			Fix("start a worker with the queue and the tags in the lane's name, queue+tag+tag (worker.queues, worker.tags), or correct the tasks")
	}
	return finding("lanes", err, "every run that waits has workers")
}
