package node

import (
	"context"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/server"
	"github.com/catena-run/catena/task"
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

// RunWorker runs a worker until ctx ends and it has drained.
func RunWorker(ctx context.Context, cfg configs.Config, o WorkerOptions) error {
	log := newLog(cfg, o.Err)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// Signs of life neither wait for a slow database nor end before the drain does.
	reports := newReporter(o.Supervised, stop)
	defer reports.close()
	living, dead := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	defer serving.Wait()
	defer dead()
	serving.Go(func() { reports.alive(living) })
	limitWorker(cfg, log)
	serving.Go(func() {
		guardMemory(living, cfg, log, func(reason string) { reports.send(master.Report{Memory: reason}) })
	})
	err := runWorker(ctx, stop, cfg, o, log, reports, &serving)
	if err != nil {
		reports.send(master.Report{Failed: err.Error()})
	}
	return err
}

// runWorker connects the parts of a worker and runs it.
func runWorker(ctx context.Context, stop context.CancelFunc, cfg configs.Config, o WorkerOptions, log *logrus.Logger,
	reports *reporter, serving *sync.WaitGroup,
) error {
	b, err := openBase(ctx, cfg, log)
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
	w, err := worker.New(worker.Config{
		Queues: cfg.Worker.Queues, Tags: cfg.Worker.Tags, Slots: cfg.Worker.Slots, DrainTimeout: time.Duration(cfg.Worker.DrainTimeout),
		CancelGrace: cancelGrace(cfg), KillGrace: time.Duration(cfg.Worker.KillGrace),
		LogLimit: int64(cfg.Worker.LogLimit), MaxOutcome: int(cfg.Script.MaxOutput), Version: o.Version, Master: o.Master, Slot: o.slot(),
	}, worker.Deps{
		Store: b.store, Queue: b.queue, Packages: pkgstore.NewCache(b.packages, int64(cfg.Packages.CacheSize)),
		Scripts: engine, Dispatch: b.dispatch, Log: log, RSS: memory.rss, CPU: memory.cpu, Leave: func(string) { stop() },
		Session: func(epoch int64, id string) { reports.send(master.Report{Epoch: epoch, ID: id}) },
		Observe: func(task.State, time.Duration) { reports.runs.Add(1) },
	})
	if err != nil {
		return err
	}
	reports.watch(w)
	shared, err := server.Inherit(o.Listeners, listenerFD)
	if err != nil {
		return err
	}
	if len(shared) > 0 {
		serving.Go(func() {
			if err := server.New(sharedConfig(cfg.Server, cfg.Worker.DrainTimeout, o.Version), log).Serve(ctx, shared); err != nil {
				log.WithError(err).Error("the shared server ended")
			}
		})
	}
	defer stop() // the shared server; before waiting for it
	return w.Run(ctx)
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
