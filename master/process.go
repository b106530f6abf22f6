package master

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// process is one supervised worker process.
type process struct {
	*supervisor
	slot    int
	place   *place
	child   *lifecycle.Child
	cgroup  *lifecycle.Cgroup // nil: it has none of its own
	meter   *healthcheck.Meter
	log     logrus.FieldLogger
	started time.Time
	ready   chan struct{} // closed at the first session
	begun   func()        // called then
	ended   chan struct{} // its reports have ended
	link    *os.File      // to the worker
	wake    chan struct{} // there is an order

	// of the goroutine that watches it
	probes   int64
	holdoff  holdoff
	cpu      time.Duration // used by a check that was soon after cpuSince, or the first since
	cpuSince time.Time     // a sign of life
	cut      bool          // the last thing said to the worker was cut off

	mu      sync.Mutex
	order   *task.WorkerOrder // that is not carried out yet
	failed  *failedOrder
	epoch   int64
	id      string
	beat    time.Time
	checked time.Time // by awake
	last    healthcheck.Figures
	heard   bool // it has said something
	probed  bool // it answers probes
	runs    int64
	late    time.Duration
	lateRun string
	memory  string   // it kills itself for its memory
	failure string   // it ends with this error
	crash   []string // what the Go runtime said of its end

	goroutines int
}

func (s *supervisor) start(slot int, replaces bool, log logrus.FieldLogger, begun func()) (*process, error) {
	ours, theirs, err := newLink()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	p := &process{supervisor: s, slot: slot, place: s.place(slot), started: time.Now(), ready: make(chan struct{}), begun: begun,
		ended: make(chan struct{}), wake: make(chan struct{}, 1), link: ours, beat: time.Now()}
	if p.cgroup, err = s.newCgroup(); err != nil {
		log.WithError(err).Warn("a worker gets no cgroup of its own; its master alone watches its memory")
	}
	if err = p.launch(theirs, log); err != nil {
		ours.Close()
		return nil, err
	}
	p.log = log.WithField("pid", p.child.PID())
	p.place.starts(p.child.PID(), replaces)
	p.meter, err = healthcheck.NewMeter(context.Background(), fmt.Sprintf("slot-%d-%d", slot, p.child.PID()), p.child.PID())
	if err != nil {
		p.log.WithError(err).Debug("cannot measure the worker")
	}
	s.metrics.workerStart.Inc()
	if !replaces {
		s.enter(p)
	}
	go p.read()
	p.log.Info("worker process started")
	return p, nil
}

// launch starts the process, without a cgroup where it is not permitted to start
// in one.
func (p *process) launch(theirs *os.File, log logrus.FieldLogger) error {
	command := func() *exec.Cmd {
		cmd := p.cfg.Command(p.slot)
		cmd.ExtraFiles = append([]*os.File{theirs}, cmd.ExtraFiles...)
		return cmd
	}
	var refused error
	if p.cgroup != nil {
		cmd := command()
		p.cgroup.Attach(cmd)
		if p.child, refused = lifecycle.StartChild(cmd, syscall.SIGKILL); refused == nil {
			return nil
		}
		p.leaveCgroup()
		p.cgroup = nil
	}
	var err error
	if p.child, err = lifecycle.StartChild(command(), syscall.SIGKILL); err != nil {
		return err
	}
	if refused != nil {
		p.refused.Do(func() {
			log.WithError(refused).Warn("workers cannot start in cgroups of their own; their master alone watches their memory")
		})
	}
	return nil
}

func (s *supervisor) newCgroup() (*lifecycle.Cgroup, error) {
	if s.cfg.Cgroups == nil || s.cfg.HardMemory == 0 {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.Cgroups.New(s.cfg.HardMemory)
}

func (p *process) leaveCgroup() {
	if p.cgroup != nil {
		p.cgroup.Remove()
	}
}

// watch follows the process until it has ended or a successor has taken its
// place, which it returns. When ctx ends the process is drained.
func (p *process) watch(ctx context.Context) (next *process, planned bool) {
	checks := newChecks(p)
	defer checks.stop()
	for {
		select {
		case <-p.child.Done():
			p.over(death{})
			return nil, false
		case <-ctx.Done():
			p.place.drains(p.child.PID())
			p.over(p.drain(death{planned: true, reason: "it is not needed any more"}))
			return nil, true
		case <-p.wake:
		case <-checks.ticker.C:
			p.probe()
		case <-checks.hanging.C:
		}
		action, why := checks.judge()
		if action == healthcheck.ActionKill {
			p.over(deathFor(why))
			return nil, false
		}
		kind, asked := p.ordered()
		if kind == task.OrderDrain {
			p.drainAsAsked(asked)
			return nil, true
		}
		if kind == task.OrderRestart && action == healthcheck.ActionNone {
			action, why = healthcheck.ActionRestart, asked
		}
		if action == healthcheck.ActionRestart {
			if next, replaced := p.hand(ctx, why); replaced {
				return next, false
			}
		}
	}
}

// checks are the times at which a process is judged: regularly, and when it
// would count as hanging.
type checks struct {
	process *process
	ticker  *time.Ticker
	hanging *time.Timer
}

func newChecks(p *process) *checks {
	return &checks{process: p, ticker: time.NewTicker(p.cfg.CheckEvery), hanging: time.NewTimer(p.untilHanging())}
}

func (c *checks) stop() {
	c.ticker.Stop()
	c.hanging.Stop()
}

// judge says what to do with the process; where that is to kill it, it is dead.
func (c *checks) judge() (healthcheck.Action, healthcheck.Reason) {
	action, why := c.process.judge(time.Now())
	c.hanging.Reset(c.process.untilHanging())
	if action == healthcheck.ActionKill {
		c.process.log.WithField("reason", why.Text).Warn("worker is killed")
		c.process.kill()
	}
	return action, why
}

// untilHanging is the time until the process counts as hanging.
func (p *process) untilHanging() time.Duration {
	if p.cfg.Policy.HangAfter == 0 {
		return time.Hour
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if left := p.hangAfter() - time.Since(p.beat); left > 0 {
		return left + time.Millisecond
	}
	return p.cfg.CheckEvery // it is silent and busy
}

// unprobedHang is how long a worker may at least be silent that answers no probes:
// it gives a sign of life each second.
const unprobedHang = 3 * time.Second

// hangAfter is how long the process may be silent; the caller holds p.mu. One that
// starts has said nothing yet.
func (p *process) hangAfter() time.Duration {
	limit := p.cfg.Policy.HangAfter
	switch {
	case limit == 0 || p.probed:
		return limit
	case !p.heard:
		return max(limit, p.cfg.ReadyWithin)
	}
	return max(limit, unprobedHang)
}

// drainAsAsked ends a worker that somebody wants away; its slot is filled again.
func (p *process) drainAsAsked(why healthcheck.Reason) {
	p.log.WithField("reason", why.Text).Warn("worker is drained")
	p.place.drains(p.child.PID())
	p.advance(task.OrderDraining, "")
	d := p.drain(death{planned: true, reason: why.Text})
	p.advance(task.OrderDone, "")
	p.over(d)
}

// hand has a successor take the place of p, which then drains beside it. One
// slot of a master at a time does so, unless memory presses: the next may when p
// has ended. A worker that is merely old goes on when there is no successor.
func (p *process) hand(ctx context.Context, why healthcheck.Reason) (next *process, replaced bool) {
	first := why.Cause == healthcheck.CauseAsked && !p.repeats()
	if !first && !p.holdoff.over(time.Now()) {
		return nil, false
	}
	release := func() {}
	if why.Cause.Planned() {
		select {
		case <-p.replacing:
			release = func() { p.replacing <- struct{}{} }
		default:
			return nil, false // the next check asks again
		}
	}
	p.sayReplaced(why)
	p.advance(task.OrderReplacing, "")
	s := p.replace(ctx, p)
	if s.next == nil {
		p.holdoff.failed(time.Now())
	}
	if s.next == nil && (why.Cause.Planned() || ctx.Err() != nil) {
		if ctx.Err() == nil {
			p.fails(s.failed + "; the worker goes on")
		}
		p.draining.Go(func() {
			defer release()
			s.dismiss()
		})
		return nil, false
	}
	p.draining.Go(s.dismiss)
	if s.next != nil {
		p.enter(s.next)
	}
	if !p.child.Alive() {
		release()
		p.over(s.end)
		return s.next, true
	}
	p.draining.Go(func() {
		defer release()
		p.advance(task.OrderDraining, "")
		d := p.drain(deathFor(why))
		p.advance(task.OrderDone, "")
		p.over(d)
	})
	return s.next, true
}

func (p *process) sayReplaced(why healthcheck.Reason) {
	log := p.log.WithField("reason", why.Text)
	if p.cfg.Verbose.QuietRestarts && why.Cause.Planned() {
		log.Debug("worker is replaced")
		return
	}
	log.Warn("worker is replaced")
}

func (p *process) judge(now time.Time) (healthcheck.Action, healthcheck.Reason) {
	f := healthcheck.Figures{StartedAt: p.started}
	measured := false
	if p.meter != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if read, err := p.meter.Read(ctx); err == nil {
			f, measured = read, true
		}
	}
	p.mu.Lock()
	p.awake(now)
	f.BeatAt, f.Runs, f.Late, f.LateRun = p.beat, p.runs, p.late, p.lateRun
	p.last = f
	policy := p.cfg.Policy
	policy.HangAfter = p.hangAfter()
	p.mu.Unlock()
	if measured {
		soon, first := now.Sub(f.BeatAt) <= p.cfg.CheckEvery+p.cfg.CheckEvery/2, !p.cpuSince.Equal(f.BeatAt)
		f.BusySince = !soon && (first || f.CPUTime > p.cpu) // the first check since cannot tell
		if soon || first {
			p.cpu, p.cpuSince = f.CPUTime, f.BeatAt
		}
	}
	if p.cfg.Verbose.Checks {
		p.log.WithFields(logrus.Fields{"rss": f.RSS, "cpu": fmt.Sprintf("%.2f", f.CPU), "runs": f.Runs, "open_files": f.OpenFiles,
			"silent": now.Sub(f.BeatAt).Round(time.Millisecond).String()}).Info("worker was checked")
	}
	if now.Sub(p.started) > steadyAfter {
		p.place.steady()
	}
	return policy.Decide(f, now)
}

func (p *process) kill() {
	_ = p.child.Signal(syscall.SIGKILL)
	<-p.child.Done()
}

// drain asks the worker to finish, which is the end that it then has. It is
// killed when that takes too long, or when the policy would kill it meanwhile:
// that is no planned end.
func (p *process) drain(end death) death {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.DrainTimeout+p.cfg.KillAfter)
	defer cancel()
	var watching sync.WaitGroup
	done := make(chan struct{})
	watching.Go(func() {
		ticker := time.NewTicker(p.cfg.CheckEvery)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				p.probe()
				if action, why := p.judge(time.Now()); action == healthcheck.ActionKill {
					p.log.WithField("reason", why.Text).Warn("a draining worker is killed")
					_ = p.child.Signal(syscall.SIGKILL)
					end = deathFor(why)
					return
				}
			}
		}
	})
	if err := p.child.Stop(ctx, syscall.SIGTERM); err != nil {
		p.log.WithError(err).Warn("cannot stop the worker")
	}
	close(done)
	watching.Wait()
	return end
}

// over reports the end of the process, so that its runs are taken back at once,
// and returns the reason. The report does not hold up the next worker.
func (p *process) over(d death) string {
	<-p.ended
	p.explain(&d)
	log := p.log.WithFields(logrus.Fields{"lived": time.Since(p.started).Round(time.Millisecond).String(), "reason": d.reason})
	if d.planned || p.child.Err() == nil {
		log.Info("worker process ended")
	} else {
		log.Warn("worker process died")
	}
	if !d.planned {
		p.place.dies(d.reason)
	}
	p.leaveCgroup()
	p.left(p, d)
	if d.epoch != 0 {
		p.telling.Go(func() { p.died(d) })
	}
	return d.reason
}

// explain completes what is known of the end of the process.
func (p *process) explain(d *death) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.epoch, d.worker = p.epoch, p.id
	err := p.child.Err()
	said := p.failure
	if said == "" {
		said = crashText(p.crash)
	}
	switch {
	case p.memory != "":
		d.planned, d.memory, d.reason = false, true, p.memory
	case err != nil && p.cgroup != nil && p.cgroup.Killed():
		d.planned, d.memory, d.reason = false, true, fmt.Sprintf("the kernel killed it for its memory, the limit is %s (memory.max of its cgroup)", healthcheck.Mebibytes(p.cfg.HardMemory))
	case outOfMemory(p.crash):
		d.planned, d.memory, d.reason = false, true, fmt.Sprintf("asked the kernel for more memory than it may have (RLIMIT_DATA), the limit is %s", healthcheck.Mebibytes(p.cfg.Policy.MaxMemory))
	case d.reason != "":
	case err == nil:
		d.reason = "ended by itself"
	default:
		d.reason = "died: " + err.Error()
		if said != "" {
			d.reason += " (" + said + ")"
		}
	}
	d.reason = telemetry.Redact(d.reason)
}

// deathFor is the end of a worker that the policy wanted.
func deathFor(why healthcheck.Reason) death {
	return death{planned: why.Cause.Planned(), memory: why.Cause == healthcheck.CauseMemory, reason: why.Text, cause: why.Cause}
}
