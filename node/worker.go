package node

import (
	"context"
	"maps"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/server"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
	"github.com/catena-run/catena/worker"
)

// listenerFD is the descriptor of the first shared listener in a supervised worker.
const listenerFD = master.ReportFD + 1

// WorkerOptions of a worker process.
type WorkerOptions struct {
	Options
	Supervised bool   // a master started it: it reports on master.ReportFD
	Master     string // who that is
	Listeners  string // kinds of the shared listeners, which are on the descriptors after that
}

// slot is which of its master's places this worker fills; nil where the master
// does not tell.
func (o WorkerOptions) slot() *int {
	slot, err := strconv.Atoi(os.Getenv(master.SlotVariable))
	if err != nil || !o.Supervised {
		return nil
	}
	return &slot
}

// workerProcess holds what the parts of a worker process share.
type workerProcess struct {
	cfg     configs.Config
	options WorkerOptions
	log     logrus.FieldLogger
	session *sessionField
	reports *reporter
	stop    context.CancelFunc
	serving sync.WaitGroup
}

// RunWorker runs a worker until ctx ends and it has drained.
func RunWorker(ctx context.Context, cfg configs.Config, o WorkerOptions) error {
	p := &workerProcess{cfg: cfg, options: o, log: newLog(cfg, o.Options), session: &sessionField{}}
	if own, ok := p.log.(*logrus.Logger); ok && o.Log == nil {
		own.AddHook(p.session)
	}
	ctx, p.stop = context.WithCancel(ctx)
	defer p.stop()
	// Signs of life neither wait for a slow database nor end before the drain does.
	p.reports = newReporter(o.Supervised, p.log, p.stop)
	defer p.reports.close()
	living, dead := context.WithCancel(context.WithoutCancel(ctx))
	defer p.serving.Wait()
	defer dead()
	p.serving.Go(func() { p.reports.alive(living) })
	limitWorker(cfg, p.log)
	p.serving.Go(func() {
		guardMemory(living, cfg, p.log, func(reason string) { p.reports.send(master.Report{Memory: reason}) })
	})
	err := p.run(ctx)
	if err != nil {
		p.reports.send(master.Report{Failed: err.Error()})
	}
	return err
}

// run connects the parts of a worker and runs it.
func (p *workerProcess) run(ctx context.Context) error {
	cfg, o, log := p.cfg, p.options, p.log
	b, err := openBase(ctx, cfg, log, about{"catena-worker", o.Version})
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.belongs(ctx); err != nil {
		return err
	}
	engine := script.New(scriptConfig(cfg), log)
	defer engine.Close()
	memory := newMemory(ctx)
	cache := pkgstore.NewCache(b.packages, int64(cfg.Packages.CacheSize))
	clock := &healthcheck.Clock{}
	var epoch atomic.Int64
	w, err := worker.New(worker.Config{
		Queues: cfg.Worker.Queues, Tags: cfg.Worker.Tags, Slots: cfg.Worker.Slots, DrainTimeout: time.Duration(cfg.Worker.DrainTimeout),
		CancelGrace: cancelGrace(cfg), KillGrace: time.Duration(cfg.Worker.KillGrace),
		LogLimit: int64(cfg.Worker.LogLimit), MaxOutcome: int(cfg.Script.MaxOutput), Version: o.Version, Master: o.Master, Slot: o.slot(),
	}, worker.Deps{
		Store: b.store, Queue: b.queue, Packages: cache,
		Scripts: engine, Dispatch: b.dispatch, Traces: b.traces, Log: log, RSS: memory.rss, CPU: memory.cpu, Leave: func(string) { p.stop() },
		Clock: clock, Cluster: p.reports.cluster,
		Session: func(e int64, id string) {
			epoch.Store(e)
			p.session.id.Store(&id)
			p.reports.send(master.Report{Epoch: e, ID: id})
		},
		Observe: func(task.State, time.Duration) { p.reports.runs.Add(1) },
	})
	if err != nil {
		return err
	}
	answers := server.New(sharedConfig(cfg.Server, cfg.Worker.DrainTimeout, o.Version), log)
	registry := telemetry.NewRegistry(o.Version)
	b.registerBase(registry, "worker")
	registry.MustRegister(w.Metrics(), engine.Metrics(), cache.Metrics(), answers.Metrics())
	p.reports.tells(registry)
	if !o.Supervised {
		registry.MustRegister(workerClock(clock))
		done, err := b.serveWorkerAdmin(ctx, o, w, registry, func() int64 { return epoch.Load() })
		if err != nil {
			return err
		}
		defer done()
	}
	p.reports.watch(w)
	shared, err := server.Inherit(o.Listeners, listenerFD)
	if err != nil {
		return err
	}
	if len(shared) > 0 {
		p.serving.Go(func() {
			if err := answers.Serve(ctx, shared); err != nil {
				log.WithError(err).Error("the shared server ended")
			}
		})
	}
	defer p.stop() // the shared server; before waiting for it
	return w.Run(ctx)
}

// sessionField adds the id of this worker to the lines of parts that do not know
// it, such as the engine of package code.
type sessionField struct{ id atomic.Pointer[string] }

// Levels are all.
func (*sessionField) Levels() []logrus.Level { return logrus.AllLevels }

// Fire adds the field.
func (f *sessionField) Fire(entry *logrus.Entry) error {
	if id := f.id.Load(); id != nil && entry.Data["worker"] == nil {
		data := maps.Clone(entry.Data) // lines may share it
		data["worker"] = *id
		entry.Data = data
	}
	return nil
}

// cancelGrace maps none to what the worker takes for none.
func cancelGrace(cfg configs.Config) time.Duration {
	if cfg.Worker.CancelGrace == 0 {
		return -1
	}
	return time.Duration(cfg.Worker.CancelGrace)
}

// memory measures this process at most once a second.
type memory struct {
	ctx   context.Context
	meter *healthcheck.Meter

	mu   sync.Mutex
	last int64
	load float64
	at   time.Time
}

func newMemory(ctx context.Context) *memory {
	meter, _ := healthcheck.NewSelfMeter(ctx, "") // without it the figure is 0
	return &memory{ctx: ctx, meter: meter}
}

func (m *memory) rss() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read()
	return m.last
}

// cpu is the share of one core.
func (m *memory) cpu() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read()
	return m.load
}

func (m *memory) read() {
	if m.meter == nil || time.Since(m.at) < 900*time.Millisecond {
		return
	}
	if f, err := m.meter.Read(context.WithoutCancel(m.ctx)); err == nil {
		m.last, m.load, m.at = int64(f.RSS), f.CPU, time.Now()
	}
}
