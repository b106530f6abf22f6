package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/server"
	"github.com/catena-run/catena/source"
)

// hangAfter is how many health checks a supervised worker may leave unanswered,
// fewer than three.
const hangAfter = 2.8

// lateMargin is how long after its time limit a run may go on, beyond all that
// its worker does to end it.
const lateMargin = 30 * time.Second

// masterNode is a running master.
type masterNode struct {
	*base
	*listeners
	name      string // in the leader's row and those of its workers
	master    *master.Master
	scheduler *scheduler.Scheduler
	sources   *source.Sources
	draining  atomic.Bool
}

func (m *masterNode) close() {
	m.base.close()
	m.listeners.close()
}

// RunMaster runs a master until ctx ends and its workers have drained.
func RunMaster(ctx context.Context, cfg configs.Config, o Options) error {
	log := newLog(cfg, o)
	given, err := handedOver()
	if err != nil {
		return err
	}
	l, err := listen(cfg, given)
	if err != nil {
		return err
	}
	defer l.close()
	m, err := newMaster(ctx, cfg, o, log, l)
	if err != nil {
		return err
	}
	defer m.close()
	log.WithFields(logrus.Fields{"admin": m.admin.Addr().String(), "http": m.shared.Address(server.KindHTTP), "workers": cfg.Master.Workers}).Info("master is up")
	ctx, end := context.WithCancel(ctx)
	defer end()
	var tending sync.WaitGroup
	defer tending.Wait()
	defer end() // before waiting
	tending.Go(func() { m.awaitHandOver(ctx, o, end) })
	tending.Go(func() { m.announce(ctx) })
	return m.run(ctx, o)
}

// announce tells whoever started this process that it works: a service
// manager, or the master that hands over to it.
func (m *masterNode) announce(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-m.master.Ready():
	}
	if err := lifecycle.Notify(lifecycle.NotifyReady); err != nil {
		m.log.WithError(err).Warn("cannot tell the service manager that the master works")
	}
	lifecycle.ForgetParent() // it ends now
}

// newMaster connects the parts of a master that answers on l.
func newMaster(ctx context.Context, cfg configs.Config, o Options, log logrus.FieldLogger, l *listeners) (m *masterNode, err error) {
	b, err := openBase(ctx, cfg, log, about{"catena-master", o.Version})
	if err != nil {
		return nil, err
	}
	m = &masterNode{base: b, listeners: l}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if err := b.store.EnsurePartitions(ctx); err != nil {
		return nil, err
	}
	m.warnAboutRedis(ctx)
	host, _ := os.Hostname()
	name := fmt.Sprintf("%s-%d-%s", host, os.Getpid(), uuid.NewString()[:8])
	m.name = name
	m.scheduler = scheduler.New(scheduler.Config{CatchUpRate: cfg.Master.CatchUpRate}, b.store, b.dispatch, log)
	m.sources = source.New(source.Config{Lookup: os.LookupEnv}, b.store, b.dispatch, log)
	m.master = master.New(master.Config{
		Name: name, Lead: cfg.Master.Leader,
		Retention: master.Retention{
			Runs: time.Duration(cfg.Retention.Runs), Logs: time.Duration(cfg.Retention.Logs), Audit: time.Duration(cfg.Retention.Audit),
		},
		Host: host, PID: os.Getpid(), Version: o.Version, Admin: l.admin.Addr().String(), Settings: cfg.Common(),
		Supervision: master.Supervision{
			Workers: cfg.Master.Workers, DrainTimeout: time.Duration(cfg.Worker.DrainTimeout),
			CheckEvery: time.Duration(cfg.Master.HealthCheckInterval), Policy: policy(cfg),
			Cgroups: cgroups(cfg, log), HardMemory: hardLimit(cfg),
			Verbose: master.Verbose{Checks: cfg.Log.HealthChecks, Reports: cfg.Log.WorkerMessages, QuietRestarts: !cfg.Log.WorkerRestarts},
			Command: func(slot int) *exec.Cmd { return m.workerCommand(slot, name, o) },
		},
		Scaling: master.Scaling{Most: cfg.Master.MaxWorkers, UpAfter: time.Duration(cfg.Master.ScaleUpAfter), DownAfter: time.Duration(cfg.Master.ScaleDownAfter)},
		Queues:  cfg.Worker.Queues, Tags: cfg.Worker.Tags, Slots: cfg.Worker.Slots,
	}, master.Deps{
		Store: b.store, Queue: b.queue, Dispatch: b.dispatch, Log: log,
		Scheduler: m.scheduler, Sources: m.sources,
	})
	return m, nil
}

func policy(cfg configs.Config) healthcheck.Policy {
	ttl := time.Duration(cfg.Worker.TTL)
	return healthcheck.Policy{MaxMemory: uint64(cfg.Worker.MaxMemory), MaxRuns: int64(cfg.Worker.MaxRuns), TTL: ttl, Jitter: ttl / 10,
		HangAfter: time.Duration(hangAfter * float64(cfg.Master.HealthCheckInterval)),
		LateAfter: time.Duration(cfg.Worker.CancelGrace+cfg.Worker.KillGrace+cfg.Worker.DrainTimeout) + lateMargin}
}

// cgroups gives each worker a cgroup of its own where that is possible.
func cgroups(cfg configs.Config, log logrus.FieldLogger) *lifecycle.Cgroups {
	if cfg.Master.Cgroups == "off" || cfg.Worker.MaxMemory == 0 || max(cfg.Master.Workers, cfg.Master.MaxWorkers) == 0 {
		return nil
	}
	c, err := lifecycle.NewCgroups()
	if err != nil {
		log.WithError(err).Debug("workers get no cgroups of their own")
		return nil
	}
	return c
}

func (m *masterNode) warnAboutRedis(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	info, err := m.queue.Check(ctx)
	if err != nil {
		m.log.WithError(err).Warn("the queue cannot be reached: runs are accepted and wait until it can")
		return
	}
	if problem := info.Problem(); problem != "" {
		m.log.Warn("redis: " + problem)
	}
	if epoch, err := m.queue.Epoch(ctx); err != nil || epoch == "" {
		return // whoever leads notes the cluster
	}
	if err := m.queue.Join(ctx); err != nil {
		m.log.WithError(err).Debug("redis")
	}
}

// workerCommand starts this same binary as a worker, also when another one has
// been put in its place meanwhile. Its configuration goes
// through its standard input, so that secrets are in no argument and no file.
func (m *masterNode) workerCommand(slot int, name string, o Options) *exec.Cmd {
	binary, err := os.Executable()
	if err != nil {
		m.log.WithError(err).Error("cannot find this program to start workers with")
	}
	args := []string{"worker", "--supervised-by", name}
	if kinds := m.shared.Kinds(); kinds != "" {
		args = append(args, "--shared-listeners", kinds)
	}
	cmd := exec.Command(binary, args...)
	if runtime.GOOS == "linux" {
		cmd.Path = "/proc/self/exe"
	}
	text, err := m.cfg.YAML()
	if err != nil {
		m.log.WithError(err).Error("cannot write the workers' configuration")
	}
	cmd.Stdin = bytes.NewReader(text)
	cmd.Stdout, cmd.Stderr = o.Err, o.Err
	cmd.Env = append(withoutSettings(os.Environ()), fmt.Sprintf("%s=%d", master.SlotVariable, slot))
	cmd.ExtraFiles = slices.Clone(m.shared.Files())
	// Its own group: a Ctrl-C reaches the master, which drains its workers.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// withoutSettings drops the variables that are settings: they are in the
// configuration that the worker is given.
func withoutSettings(environ []string) []string {
	kept := environ[:0:0]
	for _, v := range environ {
		if !bytes.HasPrefix([]byte(v), []byte(configs.EnvPrefix)) {
			kept = append(kept, v)
		}
	}
	return kept
}

func (m *masterNode) run(ctx context.Context, o Options) error {
	handler, stopAPI, err := m.adminHandler(o)
	if err != nil {
		return err
	}
	defer stopAPI()
	if m.cfg.Health.Liveness {
		defer m.newLiveness(o.Liveness, m.health, handler, m.instances).start(ctx)()
	}
	admin := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	drains, drained := context.WithCancel(context.WithoutCancel(ctx)) // until the workers have ended
	defer drained()
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := admin.Serve(m.admin); err != nil && !errors.Is(err, http.ErrServerClosed) {
			m.log.WithError(err).Error("the admin API ended")
		}
	})
	serving.Go(func() {
		<-ctx.Done()
		m.draining.Store(true)
		m.sayDrain(drains)
	})
	err = m.master.Run(ctx)
	drained()
	stopAPI() // requests that wait for runs answer, so that the server need not wait for them
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := admin.Shutdown(closing); err != nil {
		_ = admin.Close()
	}
	serving.Wait()
	return err
}
