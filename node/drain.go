package node

import (
	"context"
	"time"

	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/worker"
)

const (
	drainLook = 20 * time.Millisecond // pause between two looks at the workers
	// drainPatience is how long the workers may take to say what they still run.
	drainPatience = time.Second
)

// sayDrain tells whoever asked the master to end why it does not yet. The number
// is that which the workers told when they began to drain: what they told before
// is up to a second old. It says nothing once they have ended.
func (m *masterNode) sayDrain(ctx context.Context) {
	if max(m.cfg.Master.Workers, m.cfg.Master.MaxWorkers) == 0 {
		return
	}
	looking, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	ticker := time.NewTicker(drainLook)
	defer ticker.Stop()
	running, told := 0, false
	for !told || running == 0 {
		workers, err := m.store.Workers(looking, false)
		if err == nil {
			running, told = runsOf(workers, m.name)
		}
		select {
		case <-ticker.C:
			continue
		case <-looking.Done():
		}
		break
	}
	if ctx.Err() == nil {
		if !told {
			running = 0
		}
		m.log.Warn(worker.DrainNotice(running, time.Duration(m.cfg.Worker.DrainTimeout)))
	}
}

// runsOf counts the runs of a master's workers, and reports whether all of these
// have said what they run since they began to drain.
func runsOf(workers []task.Worker, master string) (running int, told bool) {
	told = true
	for _, w := range workers {
		if w.Master == master {
			running += w.Running
			told = told && w.State == task.WorkerDraining
		}
	}
	return running, told
}
