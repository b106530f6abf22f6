package master

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// Supervision says how many workers a master runs and when it replaces one.
type Supervision struct {
	Workers      int
	Policy       healthcheck.Policy
	CheckEvery   time.Duration // default 1s
	DrainTimeout time.Duration // for running work at a planned restart; default 30s
	KillAfter    time.Duration // beyond DrainTimeout, for the last commits; default 20s
	ReadyWithin  time.Duration // for a replacement to begin its work; default 20s
	// Cgroups, where there are some, have the kernel bound each worker to HardMemory.
	Cgroups    *lifecycle.Cgroups
	HardMemory uint64 // bytes at which a worker is killed; 0: never
	Verbose    Verbose
	// Command makes the command of a worker process. The supervisor adds the
	// channel of reports and probes as descriptor ReportFD.
	Command func(slot int) *exec.Cmd
}

// Verbose says what a master tells of its workers.
type Verbose struct {
	Checks        bool // the figures of each check
	Reports       bool // what the workers report
	QuietRestarts bool // planned replacements only at debug level
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
	// advanced notes how far the order to a worker has come; may be nil
	advanced func(ctx context.Context, epoch int64, state task.OrderState, detail string) error

	ready     chan struct{}  // closed when each slot has had a worker at work
	unready   atomic.Int64   // slots that have had none
	wanted    chan int       // a new number of slots
	filled    atomic.Int64   // slots
	replacing chan struct{}  // holds a token while no planned replacement is under way
	draining  sync.WaitGroup // workers that have been replaced and still finish

	telling sync.WaitGroup // of ends, while the next worker starts already

	refused sync.Once // a worker could not start in its cgroup

	metrics *metrics
	sums    *telemetry.Aggregate                // of what the workers count
	figures atomic.Pointer[task.ClusterFigures] // for the workers; nil: not known yet

	mu        sync.Mutex
	processes map[int64]*process // by epoch
	places    map[int]*place     // by slot
	latest    map[int]*process   // by slot
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
		metrics: metrics, sums: telemetry.NewAggregate(), processes: map[int64]*process{}, places: map[int]*place{}, latest: map[int]*process{}}
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
			s.telling.Wait()
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
	log, book := s.log.WithField("slot", slot), s.place(slot)
	turn := book.enter()
	defer book.leave(turn)
	begun := sync.OnceFunc(func() {
		if slot < s.cfg.Workers && s.unready.Add(-1) == 0 {
			close(s.ready)
		}
	})
	wait, crashes := restartAfter, 0
	var next *process // has begun already, in place of the one before
	for ctx.Err() == nil || next != nil {
		began, p, planned := time.Now(), next, false
		if p == nil {
			var err error
			if p, err = s.start(slot, false, log, begun); err != nil {
				log.WithError(err).Error("cannot start a worker")
				book.dies("cannot start: " + err.Error())
			}
		}
		if p != nil {
			if next, planned = p.watch(ctx); next != nil {
				continue
			}
		}
		if ctx.Err() != nil {
			return // the slot may have another keeper already
		}
		switch {
		case planned || time.Since(began) > steadyAfter:
			wait, crashes = restartAfter, 0
		default:
			if crashes++; crashes >= loopAfter {
				last, _ := book.read()
				log.WithFields(logrus.Fields{"wait": wait.String(), "deaths": crashes, "last": last.Last}).Warn("workers die soon after their start; the next one waits")
			}
		}
		book.waits(crashes, wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, restartMost)
	}
}

// succession is what came of the attempt to replace a worker.
type succession struct {
	next   *process // nil: the successor did not come to work
	failed string   // why
	spare  *process // the successor that did not, while it lives
	end    death    // of the worker, when it ended meanwhile
}

// dismiss ends a successor that is not wanted.
func (s succession) dismiss() {
	if s.spare != nil {
		s.spare.over(s.spare.drain(death{planned: true, reason: "it was not ready in time"}))
	}
}

// replace starts a successor of p and waits until it works. Meanwhile it watches
// p: a worker that has to be killed is not left to itself until then.
func (s *supervisor) replace(ctx context.Context, p *process) succession {
	next, err := s.start(p.slot, true, p.log, func() {})
	if err != nil {
		p.log.WithError(err).Error("cannot start a replacement")
		return succession{failed: "its replacement cannot be started: " + err.Error()}
	}
	late := time.NewTimer(s.cfg.ReadyWithin)
	defer late.Stop()
	checks := newChecks(p)
	defer checks.stop()
	for {
		select {
		case <-next.ready:
			return succession{next: next}
		case <-p.child.Done(): // there is nobody to go on instead
			return succession{next: next}
		case <-next.child.Done():
			return succession{failed: "its replacement ended before it worked: " + next.over(death{})}
		case <-ctx.Done():
			return succession{spare: next}
		case <-late.C:
			next.log.WithField("within", s.cfg.ReadyWithin).Error("a replacement did not begin its work")
			return succession{spare: next, failed: fmt.Sprintf("its replacement did not begin its work within %v", s.cfg.ReadyWithin)}
		case <-checks.ticker.C:
			p.probe()
		case <-checks.hanging.C:
		}
		if action, why := checks.judge(); action == healthcheck.ActionKill {
			return succession{next: next, end: deathFor(why)}
		}
	}
}

// workerEnd maps a planned end to stopped and a death to lost.
func workerEnd(planned bool) task.WorkerState {
	if planned {
		return task.WorkerStopped
	}
	return task.WorkerLost
}
