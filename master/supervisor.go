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
	"github.com/catena-run/catena/task"
)

// ReportFD is the descriptor on which a supervised worker writes its Reports,
// a JSON object a line. A write that fails tells it that its master is gone.
const ReportFD = 3

// Report is what a supervised worker tells its master.
type Report struct {
	Epoch int64  `json:"epoch,omitempty"` // a new session began
	ID    string `json:"id,omitempty"`
	Alive bool   `json:"alive,omitempty"` // a sign of life, each second
}

// Supervision says how many workers a master runs and when it replaces one.
type Supervision struct {
	Workers      int
	Policy       healthcheck.Policy
	CheckEvery   time.Duration // default 1s
	DrainTimeout time.Duration // for running work at a planned restart; default 30s
	KillAfter    time.Duration // beyond DrainTimeout, for the last commits; default 20s
	// Command makes the command of a worker process. The supervisor adds the
	// report pipe as descriptor ReportFD.
	Command func(slot int) *exec.Cmd
}

const (
	restartAfter = 50 * time.Millisecond // the first restart; each further quick death doubles the wait
	restartMost  = 10 * time.Second
	steadyAfter  = 10 * time.Second // a worker that lived so long was no quick death
)

// supervisor keeps the master's local workers running.
type supervisor struct {
	cfg  Supervision
	log  logrus.FieldLogger
	died func(epoch int64, planned bool, reason string) // a worker process has ended
}

// run keeps all slots filled until ctx ends; then it drains the workers and
// waits for their ends.
func (s *supervisor) run(ctx context.Context) {
	if s.cfg.CheckEvery == 0 {
		s.cfg.CheckEvery = time.Second
	}
	if s.cfg.DrainTimeout == 0 {
		s.cfg.DrainTimeout = 30 * time.Second
	}
	if s.cfg.KillAfter == 0 {
		s.cfg.KillAfter = 20 * time.Second
	}
	var slots sync.WaitGroup
	for slot := range s.cfg.Workers {
		slots.Go(func() { s.keep(ctx, slot) })
	}
	slots.Wait()
}

// keep runs one worker after another in a slot.
func (s *supervisor) keep(ctx context.Context, slot int) {
	log := s.log.WithField("slot", slot)
	wait := restartAfter
	for ctx.Err() == nil {
		began := time.Now()
		p, err := s.start(slot, log)
		if err != nil {
			log.WithError(err).Error("cannot start a worker")
		} else {
			p.watch(ctx)
		}
		if time.Since(began) > steadyAfter {
			wait = restartAfter
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, restartMost)
	}
}

// process is one supervised worker process.
type process struct {
	*supervisor
	child   *lifecycle.Child
	meter   *healthcheck.Meter
	log     logrus.FieldLogger
	started time.Time
	ended   chan struct{} // its reports have ended

	mu    sync.Mutex
	epoch int64
	beat  time.Time
}

func (s *supervisor) start(slot int, log logrus.FieldLogger) (*process, error) {
	reports, theirs, err := os.Pipe()
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
	p := &process{supervisor: s, child: child, started: time.Now(), ended: make(chan struct{}), beat: time.Now(),
		log: log.WithField("pid", child.PID())}
	p.meter, err = healthcheck.NewMeter(context.Background(), fmt.Sprintf("slot-%d-%d", slot, child.PID()), child.PID())
	if err != nil {
		p.log.WithError(err).Debug("cannot measure the worker")
	}
	go p.read(reports)
	p.log.Info("worker process started")
	return p, nil
}

// read follows the worker's reports until its end of the pipe is closed.
func (p *process) read(reports io.ReadCloser) {
	defer close(p.ended)
	defer reports.Close()
	lines := bufio.NewScanner(reports)
	for lines.Scan() {
		var r Report
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		p.mu.Lock()
		if r.Epoch != 0 {
			p.epoch = r.Epoch
		}
		p.beat = time.Now()
		p.mu.Unlock()
	}
}

// watch follows the process until it has ended, asking it to end when ctx does
// or the policy says so.
func (p *process) watch(ctx context.Context) {
	ticker := time.NewTicker(p.cfg.CheckEvery)
	defer ticker.Stop()
	planned, reason := false, ""
	for {
		select {
		case <-p.child.Done():
			p.over(planned, reason)
			return
		case <-ctx.Done():
			planned, reason = true, "its master is shutting down"
			p.drain()
			p.over(planned, reason)
			return
		case now := <-ticker.C:
			action, why := p.judge(now)
			if action != healthcheck.ActionRestart {
				continue
			}
			reason = why.Text
			p.log.WithField("reason", reason).Warn("worker is replaced")
			planned = why.Cause == healthcheck.CauseAge
			if why.Cause == healthcheck.CauseHang {
				_ = p.child.Signal(syscall.SIGKILL)
				<-p.child.Done()
			} else {
				p.drain()
			}
			p.over(planned, reason)
			return
		}
	}
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
	f.BeatAt = p.beat
	p.mu.Unlock()
	return p.cfg.Policy.Decide(f, now)
}

// drain asks the worker to finish, and kills it when that takes too long.
func (p *process) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.DrainTimeout+p.cfg.KillAfter)
	defer cancel()
	if err := p.child.Stop(ctx, syscall.SIGTERM); err != nil {
		p.log.WithError(err).Warn("cannot stop the worker")
	}
}

// over reports the end of the process, so that its runs are taken back at once.
func (p *process) over(planned bool, reason string) {
	<-p.ended
	err := p.child.Err()
	log := p.log.WithField("lived", time.Since(p.started).Round(time.Millisecond))
	if reason == "" {
		reason = "ended by itself"
		if err != nil {
			reason = "died: " + err.Error()
		}
	}
	var exit *exec.ExitError
	if planned || err == nil || !errors.As(err, &exit) {
		log.WithField("reason", reason).Info("worker process ended")
	} else {
		log.WithField("reason", reason).Warn("worker process died")
	}
	p.mu.Lock()
	epoch := p.epoch
	p.mu.Unlock()
	if epoch != 0 {
		p.died(epoch, planned, reason)
	}
}

// workerEnd maps a planned end to stopped and a death to lost.
func workerEnd(planned bool) task.WorkerState {
	if planned {
		return task.WorkerStopped
	}
	return task.WorkerLost
}
