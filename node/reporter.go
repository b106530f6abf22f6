package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
	"github.com/catena-run/catena/worker"
)

// metricsEvery is how many signs of life lie between two reports of metrics.
const metricsEvery = 5

// reporter tells the supervising master of sessions, signs of life and metrics,
// answers its probes and hears from it of the cluster. When the master is gone it stops the worker.
type reporter struct {
	runs    atomic.Int64 // executed
	worker  atomic.Pointer[worker.Worker]
	figures atomic.Pointer[task.ClusterFigures]
	log     logrus.FieldLogger
	gone    context.CancelFunc
	hearing sync.WaitGroup

	mu       sync.Mutex
	registry prometheus.Gatherer // nil: there is none yet
	file     *os.File
	cut      bool // the last report was cut off
}

// reportWithin is how long a master that does not read may hold up a report, which is then lost.
const reportWithin = time.Second

func newReporter(supervised bool, log logrus.FieldLogger, gone context.CancelFunc) *reporter {
	r := &reporter{gone: gone, log: log}
	if !supervised {
		return r
	}
	syscall.CloseOnExec(master.ReportFD)           // its end tells the master that this process is gone
	_ = syscall.SetNonblock(master.ReportFD, true) // else closing would wait for the master to say something
	r.file = os.NewFile(master.ReportFD, "reports")
	// The master is told why the process crashes, beside the standard error.
	_ = debug.SetCrashOutput(r.file, debug.CrashOptions{})
	file := r.file
	r.hearing.Go(func() { r.hear(file) })
	return r
}

// watch has probes look at the worker.
func (r *reporter) watch(w *worker.Worker) { r.worker.Store(w) }

// tells makes the registry part of the reports.
func (r *reporter) tells(registry prometheus.Gatherer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.registry = registry
}

func (r *reporter) metrics() []byte {
	r.mu.Lock()
	registry := r.registry
	r.mu.Unlock()
	if registry == nil {
		return nil
	}
	encoded, err := telemetry.EncodeFamilies(registry)
	if err != nil {
		r.log.WithError(err).Debug("some metrics cannot be told")
	}
	return encoded
}

func (r *reporter) send(report master.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(report)
}

func (r *reporter) write(report master.Report) {
	if r.file == nil {
		return
	}
	text, err := json.Marshal(report)
	if err != nil {
		r.log.WithError(err).Error("cannot write a report")
		return
	}
	if r.cut {
		text = append([]byte{'\n'}, text...)
	}
	if err = r.file.SetWriteDeadline(time.Now().Add(reportWithin)); err == nil {
		_, err = r.file.Write(append(text, '\n'))
	}
	r.cut = errors.Is(err, os.ErrDeadlineExceeded)
	if err != nil && !r.cut {
		r.gone()
	}
}

// hear takes in what the master says, and answers its probes, until the
// connection ends. A master of an earlier version says nothing; alive serves it.
func (r *reporter) hear(file *os.File) {
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var w master.Word
		if json.Unmarshal(lines.Bytes(), &w) != nil {
			continue
		}
		if w.Cluster != nil {
			r.figures.Store(w.Cluster)
		}
		if w.Probe != 0 {
			r.send(r.answer(w.Probe))
		}
	}
}

func (r *reporter) answer(probe int64) master.Report {
	report := master.Report{Probe: probe, Runs: r.runs.Load(), Goroutines: runtime.NumGoroutine()}
	if w := r.worker.Load(); w != nil {
		progress := w.Progress()
		report.Running = progress.Running
		if progress.Late > 0 {
			report.LateRun, report.LateMS = progress.LateRun.String(), progress.Late.Milliseconds()
		}
	}
	return report
}

// cluster is what the master told last, as JSON; nil: nothing.
func (r *reporter) cluster() json.RawMessage {
	figures := r.figures.Load()
	if figures == nil {
		return nil
	}
	text, err := json.Marshal(figures)
	if err != nil {
		return nil
	}
	return text
}

// alive gives a sign of life each second, whatever the database does: only a
// process that hangs as a whole is silent.
func (r *reporter) alive(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			report := master.Report{Alive: true, Runs: r.runs.Load(), Goroutines: runtime.NumGoroutine()}
			if n%metricsEvery == 0 {
				report.Metrics = r.metrics()
			}
			r.send(report)
		}
	}
}

// close tells the last metrics and ends the connection.
func (r *reporter) close() {
	last := master.Report{Alive: true, Runs: r.runs.Load(), Metrics: r.metrics()}
	r.mu.Lock()
	r.write(last)
	if r.file != nil {
		_ = debug.SetCrashOutput(nil, debug.CrashOptions{})
		_ = r.file.Close() // only this process's end
		r.file = nil
	}
	r.mu.Unlock()
	r.hearing.Wait()
}
