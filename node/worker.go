package node

import (
	"context"
	"encoding/json"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

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
	b, err := openBase(ctx, cfg, log, about{"catena-worker", o.Version})
	if err != nil {
		return err
	}
	defer b.close()

	engine := script.New(scriptConfig(cfg), log)
	defer engine.Close()
	memory := newMemory(ctx)
	w, err := worker.New(worker.Config{
		Queues: cfg.Worker.Queues, Tags: cfg.Worker.Tags, Slots: cfg.Worker.Slots, DrainTimeout: time.Duration(cfg.Worker.DrainTimeout),
		CancelGrace: cancelGrace(cfg), KillGrace: time.Duration(cfg.Worker.KillGrace),
		LogLimit: int64(cfg.Worker.LogLimit), MaxOutcome: int(cfg.Script.MaxOutput), Version: o.Version, Master: o.Master,
	}, worker.Deps{
		Store: b.store, Queue: b.queue, Packages: pkgstore.NewCache(b.packages, int64(cfg.Packages.CacheSize)),
		Scripts: engine, Dispatch: b.dispatch, Traces: b.traces, Log: log, RSS: memory.rss,
		Session: func(epoch int64, id string) { reports.send(master.Report{Epoch: epoch, ID: id}) },
		Observe: func(task.State, time.Duration) { reports.runs.Add(1) },
	})
	if err != nil {
		return err
	}
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
	at   time.Time
}

func newMemory(ctx context.Context) *memory {
	meter, _ := healthcheck.NewSelfMeter(ctx, "") // without it the figure is 0
	return &memory{ctx: ctx, meter: meter}
}

func (m *memory) rss() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.meter == nil || time.Since(m.at) < 900*time.Millisecond {
		return m.last
	}
	if f, err := m.meter.Read(context.WithoutCancel(m.ctx)); err == nil {
		m.last, m.at = int64(f.RSS), time.Now()
	}
	return m.last
}

// reporter tells the supervising master of sessions and heartbeats. When the
// master is gone it stops the worker.
type reporter struct {
	runs atomic.Int64 // executed

	mu   sync.Mutex
	file *os.File
	gone context.CancelFunc
}

func newReporter(supervised bool, gone context.CancelFunc) *reporter {
	r := &reporter{gone: gone}
	if supervised {
		syscall.CloseOnExec(master.ReportFD) // its end tells the master that this process is gone
		r.file = os.NewFile(master.ReportFD, "reports")
	}
	return r
}

func (r *reporter) send(report master.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return
	}
	if err := json.NewEncoder(r.file).Encode(report); err != nil {
		r.gone()
	}
}

// alive gives a sign of life each second, whatever the database does: only a
// process that is stuck or stopped as a whole falls silent.
func (r *reporter) alive(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			r.send(master.Report{Alive: true, Runs: r.runs.Load()})
		}
	}
}

func (r *reporter) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		_ = r.file.Close() // only this process's end
		r.file = nil
	}
}
