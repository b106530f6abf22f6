package node

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// metricsEvery is how many signs of life lie between two reports of metrics.
const metricsEvery = 5

// reporter tells the supervising master of sessions, heartbeats and metrics, and
// hears from it of the cluster. When the master is gone it stops the worker.
type reporter struct {
	runs    atomic.Int64 // executed
	figures atomic.Pointer[task.ClusterFigures]
	log     logrus.FieldLogger

	mu       sync.Mutex
	registry prometheus.Gatherer // nil: there is none yet
	file     *os.File
	gone     context.CancelFunc
	hearing  sync.WaitGroup
}

func newReporter(supervised bool, log logrus.FieldLogger, gone context.CancelFunc) *reporter {
	r := &reporter{gone: gone, log: log}
	if !supervised {
		return r
	}
	syscall.CloseOnExec(master.ReportFD)                // its end tells the master that this process is gone
	_ = syscall.SetNonblock(int(master.ReportFD), true) // else closing would wait for the master to say something
	r.file = os.NewFile(master.ReportFD, "reports")
	file := r.file
	r.hearing.Go(func() { r.hear(file) })
	return r
}

// hear takes in what the master says until the connection ends. A master of an
// earlier version says nothing.
func (r *reporter) hear(file *os.File) {
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var w master.Word
		if json.Unmarshal(lines.Bytes(), &w) == nil && w.Cluster != nil {
			r.figures.Store(w.Cluster)
		}
	}
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

func (r *reporter) send(report master.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(report)
}

func (r *reporter) write(report master.Report) {
	if r.file == nil {
		return
	}
	if err := json.NewEncoder(r.file).Encode(report); err != nil {
		r.gone()
	}
}

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

// alive gives a sign of life each second, whatever the database does: only a
// process that is stuck or stopped as a whole falls silent.
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
		_ = r.file.Close() // only this process's end
		r.file = nil
	}
	r.mu.Unlock()
	r.hearing.Wait()
}
