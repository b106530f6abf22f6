package node

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/worker"
)

// reporter tells the supervising master of sessions and signs of life, and
// answers its probes. When the master is gone it stops the worker.
type reporter struct {
	runs   atomic.Int64 // executed
	worker atomic.Pointer[worker.Worker]

	mu   sync.Mutex
	file *os.File
	gone context.CancelFunc

	reading sync.WaitGroup
}

func newReporter(supervised bool, gone context.CancelFunc) *reporter {
	r := &reporter{gone: gone}
	if !supervised {
		return r
	}
	syscall.CloseOnExec(master.ReportFD) // its end tells the master that this process is gone
	_ = syscall.SetNonblock(master.ReportFD, true)
	r.file = os.NewFile(master.ReportFD, "reports")
	// The master is told why the process crashes, beside the standard error.
	_ = debug.SetCrashOutput(r.file, debug.CrashOptions{})
	r.reading.Go(func() { r.answer(r.file) })
	return r
}

// watch has probes look at the worker.
func (r *reporter) watch(w *worker.Worker) { r.worker.Store(w) }

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

// answer answers probes until the channel is closed. A master that sends none
// is served by alive.
func (r *reporter) answer(file *os.File) {
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var p master.Probe
		if json.Unmarshal(lines.Bytes(), &p) != nil || p.Probe == 0 {
			continue
		}
		report := master.Report{Probe: p.Probe, Runs: r.runs.Load()}
		if w := r.worker.Load(); w != nil {
			progress := w.Progress()
			report.Running = progress.Running
			if progress.Late > 0 {
				report.LateRun, report.LateMS = progress.LateRun.String(), progress.Late.Milliseconds()
			}
		}
		r.send(report)
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
	file := r.file
	r.file = nil
	r.mu.Unlock()
	if file != nil {
		_ = debug.SetCrashOutput(nil, debug.CrashOptions{})
		_ = file.Close() // only this process's end
	}
	r.reading.Wait()
}
