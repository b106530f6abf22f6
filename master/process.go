package master

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/lifecycle"
)

// process is one supervised worker process.
type process struct {
	*supervisor
	slot    int
	child   *lifecycle.Child
	meter   *healthcheck.Meter
	log     logrus.FieldLogger
	started time.Time
	ready   chan struct{} // closed at the first session
	begun   func()        // called then
	ended   chan struct{} // its reports have ended

	link *os.File // to the worker
	deaf bool     // it does not read what it is told

	mu         sync.Mutex
	epoch      int64
	id         string
	beat       time.Time
	checked    time.Time
	runs       int64
	last       healthcheck.Figures
	goroutines int
}

func (s *supervisor) start(slot int, log logrus.FieldLogger, begun func()) (*process, error) {
	reports, theirs, err := newLink()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := s.cfg.Command(slot)
	cmd.ExtraFiles = append([]*os.File{theirs}, cmd.ExtraFiles...)
	child, err := lifecycle.StartChild(cmd, syscall.SIGKILL)
	if err != nil {
		reports.Close()
		return nil, err
	}
	p := &process{supervisor: s, slot: slot, child: child, started: time.Now(), ready: make(chan struct{}), begun: begun, ended: make(chan struct{}),
		link: reports, beat: time.Now(), log: log.WithField("pid", child.PID())}
	p.meter, err = healthcheck.NewMeter(context.Background(), fmt.Sprintf("slot-%d-%d", slot, child.PID()), child.PID())
	if err != nil {
		p.log.WithError(err).Debug("cannot measure the worker")
	}
	s.enter(p)
	go p.read(reports)
	p.log.Info("worker process started")
	return p, nil
}

// read follows the worker's reports until its end of the pipe is closed.
func (p *process) read(reports io.ReadCloser) {
	defer close(p.ended)
	defer reports.Close()
	lines := bufio.NewScanner(reports)
	lines.Buffer(nil, maxReport)
	for lines.Scan() {
		var r Report
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			p.note(r)
		}
	}
}

// maxReport bounds one report; metrics are the largest part, some 100 bytes a series.
const maxReport = 16 << 20

// key names the process among those that ever were in this master.
func (p *process) key() string { return fmt.Sprintf("%d-%d", p.child.PID(), p.started.UnixNano()) }

func (p *process) note(r Report) {
	if len(r.Metrics) > 0 {
		if err := p.sums.Update(p.key(), r.Metrics); err != nil {
			p.log.WithError(err).Debug("cannot read the worker's metrics")
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Epoch != 0 {
		if p.epoch == 0 {
			close(p.ready)
			p.begun()
		}
		p.epoch, p.id = r.Epoch, r.ID
	}
	p.runs = max(p.runs, r.Runs)
	if r.Goroutines > 0 {
		p.goroutines = r.Goroutines
	}
	p.beat = time.Now()
}

// watch follows the process until it has ended or a successor has taken its
// place, which it returns. When ctx ends the process is drained.
func (p *process) watch(ctx context.Context) (next *process) {
	ticker := time.NewTicker(p.cfg.CheckEvery)
	defer ticker.Stop()
	for {
		select {
		case <-p.child.Done():
			p.over(death{})
			return nil
		case <-ctx.Done():
			p.drain()
			p.over(death{planned: true, reason: "it is not needed any more"})
			return nil
		case <-ticker.C:
			p.tellFigures()
			action, why := p.judge(time.Now()) // a tick may be old when it comes
			switch action {
			case healthcheck.ActionKill:
				p.log.WithField("reason", why.Text).Warn("worker is killed")
				p.kill()
				p.over(deathFor(why))
				return nil
			case healthcheck.ActionRestart:
				if next, replaced := p.hand(ctx, why); replaced {
					return next
				}
			}
		}
	}
}

// hand has a successor take the place of p, which then drains beside it. One
// slot of a master at a time does so, unless memory presses. A worker that is
// merely old goes on when there is no successor.
func (p *process) hand(ctx context.Context, why healthcheck.Reason) (next *process, replaced bool) {
	if why.Cause.Planned() {
		select {
		case <-p.replacing:
			defer func() { p.replacing <- struct{}{} }()
		default:
			return nil, false // the next check asks again
		}
	}
	p.log.WithField("reason", why.Text).Warn("worker is replaced")
	next = p.replace(ctx, p)
	if next == nil && (why.Cause.Planned() || ctx.Err() != nil) {
		return nil, false
	}
	if !p.child.Alive() {
		p.over(death{})
		return next, true
	}
	p.draining.Go(func() {
		p.drain()
		p.over(deathFor(why))
	})
	return next, true
}

func (p *process) judge(now time.Time) (healthcheck.Action, healthcheck.Reason) {
	f := healthcheck.Figures{StartedAt: p.started}
	if p.meter != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if read, err := p.meter.Read(ctx); err == nil {
			f = read
		}
	}
	p.mu.Lock()
	p.awake(now)
	f.BeatAt, f.Runs = p.beat, p.runs
	p.last = f
	p.mu.Unlock()
	return p.cfg.Policy.Decide(f, now)
}

func (p *process) kill() {
	_ = p.child.Signal(syscall.SIGKILL)
	<-p.child.Done()
}

// drain asks the worker to finish. It is killed when that takes too long, or
// when the policy would kill it meanwhile.
func (p *process) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.DrainTimeout+p.cfg.KillAfter)
	defer cancel()
	var watching sync.WaitGroup
	defer watching.Wait()
	done := make(chan struct{})
	defer close(done)
	watching.Go(func() {
		ticker := time.NewTicker(p.cfg.CheckEvery)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				if action, why := p.judge(time.Now()); action == healthcheck.ActionKill {
					p.log.WithField("reason", why.Text).Warn("a draining worker is killed")
					_ = p.child.Signal(syscall.SIGKILL)
				}
			}
		}
	})
	if err := p.child.Stop(ctx, syscall.SIGTERM); err != nil {
		p.log.WithError(err).Warn("cannot stop the worker")
	}
}

// over reports the end of the process, so that its runs are taken back at once.
func (p *process) over(d death) {
	<-p.ended
	err := p.child.Err()
	log := p.log.WithField("lived", time.Since(p.started).Round(time.Millisecond))
	if d.reason == "" {
		d.reason = "ended by itself"
		if err != nil {
			d.reason = "died: " + err.Error()
		}
	}
	var exit *exec.ExitError
	if d.planned || err == nil || !errors.As(err, &exit) {
		log.WithField("reason", d.reason).Info("worker process ended")
	} else {
		log.WithField("reason", d.reason).Warn("worker process died")
	}
	p.mu.Lock()
	d.epoch, d.worker = p.epoch, p.id
	p.mu.Unlock()
	p.left(p, d, err)
	if d.epoch != 0 {
		p.died(d)
	}
}

// deathFor is the end of a worker that the policy wanted.
func deathFor(why healthcheck.Reason) death {
	return death{planned: why.Cause.Planned(), memory: why.Cause == healthcheck.CauseMemory, reason: why.Text, cause: why.Cause}
}
