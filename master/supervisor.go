package master

import (
	"context"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// ReportFD is the descriptor on which a supervised worker writes its Reports and
// reads its master's Words, a JSON object a line. A write that fails tells it
// that its master is gone.
const ReportFD = 3

// Report is what a supervised worker tells its master.
type Report struct {
	Epoch int64  `json:"epoch,omitempty"` // a new session began
	ID    string `json:"id,omitempty"`
	Alive bool   `json:"alive,omitempty"` // a sign of life, each second
	Runs  int64  `json:"runs,omitempty"`  // executed since the process began
	// Goroutines of the process, with a sign of life.
	Goroutines int `json:"goroutines,omitempty"`
	// Metrics of the process as telemetry.EncodeFamilies writes them, now and then and at its end.
	Metrics []byte `json:"metrics,omitempty"`
}

// Supervision says how many workers a master runs and when it replaces one.
type Supervision struct {
	Workers      int
	Policy       healthcheck.Policy
	CheckEvery   time.Duration // default 1s
	DrainTimeout time.Duration // for running work at a planned restart; default 30s
	KillAfter    time.Duration // beyond DrainTimeout, for the last commits; default 20s
	ReadyWithin  time.Duration // for a replacement to begin its work; default 20s
	// Command makes the command of a worker process. The supervisor adds the
	// report pipe as descriptor ReportFD.
	Command func(slot int) *exec.Cmd
}

const (
	restartAfter = 50 * time.Millisecond // the first restart; each further quick death doubles the wait
	restartMost  = 10 * time.Second
	steadyAfter  = 10 * time.Second // a worker that lived so long was no quick death
)

// death is the end of a worker process.
type death struct {
	epoch   int64
	worker  string
	planned bool // it was asked to go, and not for what it did
	memory  bool // it was told to go for its memory, and killed if need be
	reason  string
	cause   healthcheck.Cause // "": it was not the policy
}

// supervisor keeps the master's local workers running.
type supervisor struct {
	cfg  Supervision
	log  logrus.FieldLogger
	died func(death) // a worker process has ended

	ready     chan struct{}  // closed when each slot has had a worker at work
	unready   atomic.Int64   // slots that have had none
	wanted    chan int       // a new number of slots
	filled    atomic.Int64   // slots
	replacing chan struct{}  // holds a token while no planned replacement is under way
	draining  sync.WaitGroup // workers that have been replaced and still finish

	metrics *metrics
	sums    *telemetry.Aggregate                // of what the workers count
	figures atomic.Pointer[task.ClusterFigures] // for the workers; nil: not known yet
	mu      sync.Mutex
	slots   map[int]*process // the latest of each
}

func newSupervisor(cfg Supervision, log logrus.FieldLogger, metrics *metrics, died func(death)) *supervisor {
	for _, value := range []struct {
		given    *time.Duration
		fallback time.Duration
	}{
		{&cfg.CheckEvery, time.Second}, {&cfg.DrainTimeout, 30 * time.Second},
		{&cfg.KillAfter, 20 * time.Second}, {&cfg.ReadyWithin, 20 * time.Second},
	} {
		if *value.given == 0 {
			*value.given = value.fallback
		}
	}
	s := &supervisor{cfg: cfg, log: log, died: died, ready: make(chan struct{}), replacing: make(chan struct{}, 1), wanted: make(chan int, 1),
		metrics: metrics, sums: telemetry.NewAggregate(), slots: map[int]*process{}}
	s.replacing <- struct{}{}
	s.unready.Store(int64(cfg.Workers))
	if cfg.Workers == 0 {
		close(s.ready)
	}
	return s
}

// run keeps all slots filled until ctx ends; then it drains the workers and
// waits for their ends.
func (s *supervisor) run(ctx context.Context) {
	var slots sync.WaitGroup
	var stops []context.CancelFunc // of the slots that are filled
	for wanted := s.cfg.Workers; ; {
		for len(stops) < wanted {
			slot, stop := context.WithCancel(ctx)
			n := len(stops)
			stops = append(stops, stop)
			slots.Go(func() { s.keep(slot, n) })
		}
		for ; len(stops) > wanted; stops = stops[:len(stops)-1] {
			stops[len(stops)-1]()
		}
		s.filled.Store(int64(len(stops)))
		select {
		case <-ctx.Done():
			for _, stop := range stops {
				stop()
			}
			slots.Wait()
			s.draining.Wait()
			return
		case wanted = <-s.wanted:
		}
	}
}

// size is the number of slots.
func (s *supervisor) size() int { return int(s.filled.Load()) }

// resize sets the number of slots; a worker too many is drained.
func (s *supervisor) resize(n int) {
	select {
	case <-s.wanted: // a number that nobody has taken yet
	default:
	}
	s.wanted <- n
}

// keep runs one worker after another in a slot.
func (s *supervisor) keep(ctx context.Context, slot int) {
	log := s.log.WithField("slot", slot)
	wait := restartAfter
	begun := sync.OnceFunc(func() {
		if slot < s.cfg.Workers && s.unready.Add(-1) == 0 {
			close(s.ready)
		}
	})
	var next *process // has begun already, in place of the one before
	for ctx.Err() == nil || next != nil {
		began, p := time.Now(), next
		if p == nil {
			var err error
			if p, err = s.start(slot, log, begun); err != nil {
				log.WithError(err).Error("cannot start a worker")
			}
		}
		if p != nil {
			if next = p.watch(ctx); next != nil {
				continue
			}
		}
		if time.Since(began) > steadyAfter {
			wait = restartAfter
		} else if wait > restartAfter {
			log.WithField("wait", wait).Warn("workers die soon after their start; the next one waits")
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, restartMost)
	}
}

// replace starts a successor of p and waits until it works. It returns nil when
// the successor did not come to that; p then goes on.
func (s *supervisor) replace(ctx context.Context, p *process) *process {
	next, err := s.start(p.slot, p.log, func() {})
	if err != nil {
		p.log.WithError(err).Error("cannot start a replacement")
		return nil
	}
	late := time.NewTimer(s.cfg.ReadyWithin)
	defer late.Stop()
	select {
	case <-next.ready:
		return next
	case <-p.child.Done(): // there is nobody to go on instead
		return next
	case <-next.child.Done():
		next.over(death{})
		return nil
	case <-ctx.Done():
	case <-late.C:
		next.log.WithField("within", s.cfg.ReadyWithin).Error("a replacement did not begin its work; the worker before goes on")
	}
	next.drain()
	next.over(death{planned: true, reason: "it was not ready in time"})
	return nil
}

// workerEnd maps a planned end to stopped and a death to lost.
func workerEnd(planned bool) task.WorkerState {
	if planned {
		return task.WorkerStopped
	}
	return task.WorkerLost
}
