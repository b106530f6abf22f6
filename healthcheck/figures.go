// Package healthcheck measures processes, decides when a worker is to be
// replaced, and answers probes over HTTP.
//
// It only looks and says: ending a process is the supervisor's work, and what a
// probe asks is given by who knows the thing.
package healthcheck

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v3/process"

	"github.com/catena-run/catena/task"
)

// Figures is what is known of a worker process at one moment.
type Figures struct {
	Worker    string // its id; it spreads the workers' ages
	PID       int
	RSS       uint64        // resident memory in bytes
	CPU       float64       // share of one core since the figures before, 1.5: one and a half cores
	CPUTime   time.Duration // user and system, since the process began
	OpenFiles int           // 0 where the system does not tell
	Threads   int
	StartedAt time.Time
	BeatAt    time.Time // the last sign of life; filled in by the supervisor
	BusySince bool      // it has used the CPU since then; filled in by the supervisor
	Runs      int64     // executed so far; filled in by the supervisor
	// Late is how long ago the time limit of LateRun was over, which still goes on;
	// filled in by the supervisor.
	Late    time.Duration
	LateRun string
}

// Meter reads the figures of one process. It may be used from several goroutines.
type Meter struct {
	worker  string
	process *process.Process
	started time.Time

	mu      sync.Mutex
	lastCPU time.Duration
	lastAt  time.Time
}

// NewMeter finds the process pid. The meter notices when another process gets
// the same number later.
func NewMeter(ctx context.Context, worker string, pid int) (*Meter, error) {
	p, err := process.NewProcessWithContext(ctx, int32(pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	created, err := p.CreateTimeWithContext(ctx)
	if err != nil {
		return nil, gone(pid, err)
	}
	started := time.UnixMilli(created)
	return &Meter{worker: worker, process: p, started: started, lastAt: started}, nil
}

// NewSelfMeter measures this process.
func NewSelfMeter(ctx context.Context, worker string) (*Meter, error) {
	return NewMeter(ctx, worker, os.Getpid())
}

// Read measures now. A process that has ended gives an error with
// task.CodeNotFound.
func (m *Meter) Read(ctx context.Context) (Figures, error) {
	pid := int(m.process.Pid)
	alive, err := m.process.IsRunningWithContext(ctx)
	if err != nil || !alive {
		return Figures{}, gone(pid, err)
	}
	memory, err := m.process.MemoryInfoWithContext(ctx)
	if err != nil {
		return Figures{}, gone(pid, err)
	}
	times, err := m.process.TimesWithContext(ctx)
	if err != nil {
		return Figures{}, gone(pid, err)
	}
	f := Figures{Worker: m.worker, PID: pid, RSS: memory.RSS, StartedAt: m.started,
		CPUTime: time.Duration((times.User + times.System) * float64(time.Second))}
	f.CPU = m.share(f.CPUTime, time.Now())
	// Not every system tells these of another user's process; they decide nothing.
	if n, err := m.process.NumFDsWithContext(ctx); err == nil {
		f.OpenFiles = int(n)
	}
	if n, err := m.process.NumThreadsWithContext(ctx); err == nil {
		f.Threads = int(n)
	}
	return f, nil
}

// share is the CPU used since the reading before, or since the start.
func (m *Meter) share(total time.Duration, now time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	used, wall := total-m.lastCPU, now.Sub(m.lastAt)
	m.lastCPU, m.lastAt = total, now
	if wall <= 0 || used < 0 {
		return 0
	}
	return float64(used) / float64(wall)
}

func gone(pid int, err error) error {
	if err == nil {
		err = process.ErrorProcessNotRunning
	}
	return task.Errorf(task.CodeNotFound, "cannot measure the process: %w", err).At(fmt.Sprintf("pid %d", pid))
}
