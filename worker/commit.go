package worker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/catena-run/catena/store"
)

const (
	maxRows    = 500  // steps and endings in one commit
	maxLogRows = 2000 // log lines in one commit
	maxPending = 8000 // endings that may wait before runs are held back
	maxLogWait = 100 * time.Millisecond
)

// refusedError says that the database does not take a step's value.
type refusedError struct{ cause error }

func (e refusedError) Error() string {
	return fmt.Sprintf("the outcome cannot be stored: %v", e.cause)
}

// committer writes steps, endings and logs of all runs of a session in shared
// transactions: whatever gathered while one was under way goes into the next.
type committer struct {
	session *session

	mu      sync.Mutex
	space   *sync.Cond // endings below maxPending
	steps   []pendingStep
	endings []pendingEnding
	logs    []store.LogRow
	stages  []store.StageRow
	logged  time.Time // of the oldest waiting log line
	busy    bool
	closed  bool

	wake chan struct{}
	idle chan struct{} // closed by loop at its end
}

type pendingStep struct {
	row  store.StepRow
	done chan error
}

type pendingEnding struct {
	job  *job
	end  store.Ending
	at   time.Time // when the run of a trace ended
	gone bool      // nothing is to be written: the run is no longer ours
}

func newCommitter(s *session) *committer {
	c := &committer{session: s, wake: make(chan struct{}, 1), idle: make(chan struct{})}
	c.space = sync.NewCond(&c.mu)
	return c
}

func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// step commits a step and blocks until it is durable. It returns errRevoked
// when the run is no longer this worker's and a refusedError when its value cannot be stored.
func (c *committer) step(ctx context.Context, row store.StepRow) error {
	p := pendingStep{row: row, done: make(chan error, 1)}
	c.mu.Lock()
	c.steps = append(c.steps, p)
	c.mu.Unlock()
	c.signal()
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// add hands over the end of an attempt. It blocks only while very many wait.
func (c *committer) add(j *job, e store.Ending) {
	c.mu.Lock()
	for len(c.endings) >= maxPending && !c.closed {
		c.space.Wait()
	}
	c.endings = append(c.endings, pendingEnding{job: j, end: e, at: j.tracedEnd(e)})
	c.mu.Unlock()
	c.signal()
}

// abandon counts a run that was taken back from us as done in its parcel.
func (c *committer) abandon(j *job) {
	c.mu.Lock()
	c.endings = append(c.endings, pendingEnding{job: j, gone: true})
	c.mu.Unlock()
	c.signal()
}

func (c *committer) log(row store.LogRow) {
	c.mu.Lock()
	if len(c.logs) == 0 {
		c.logged = time.Now()
	}
	c.logs = append(c.logs, row)
	wake := len(c.logs) >= maxLogRows
	c.mu.Unlock()
	if wake {
		c.signal()
	}
}

// stage hands over that a run reached a stage of its cancellation; it is written
// before the end of the attempt, if that is handed over later.
func (c *committer) stage(row store.StageRow) {
	c.mu.Lock()
	c.stages = append(c.stages, row)
	c.mu.Unlock()
	c.signal()
}

// loop commits until ctx ends; then nothing more is written.
func (c *committer) loop(ctx context.Context) {
	defer close(c.idle)
	defer c.close()
	ticker := time.NewTicker(maxLogWait)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-ticker.C:
		}
		for ctx.Err() == nil {
			b := c.take()
			if b.empty() {
				break
			}
			c.commit(ctx, b)
		}
	}
}

func (c *committer) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.space.Broadcast()
}

// finish waits until everything handed over so far is committed, for at most
// the given time.
func (c *committer) finish(patience time.Duration) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	check := time.NewTicker(2 * time.Millisecond)
	defer check.Stop()
	for {
		c.mu.Lock()
		empty := !c.busy && len(c.steps)+len(c.endings)+len(c.logs)+len(c.stages) == 0
		c.logged = time.Time{} // do not wait for more lines
		c.mu.Unlock()
		if empty {
			return
		}
		c.signal()
		select {
		case <-c.idle:
			return
		case <-deadline.C:
			c.session.log.Warn("the last outcomes could not be written in time; the cluster runs them again")
			return
		case <-check.C:
		}
	}
}

type pendingBatch struct {
	store.Batch
	steps   []pendingStep
	endings []pendingEnding
}

func (b *pendingBatch) empty() bool {
	return b.Rows() == 0 && len(b.Stages) == 0 && len(b.Parcels) == 0 && len(b.endings) == 0
}

// take gathers the next batch. Log lines alone wait a moment for company.
func (c *committer) take() *pendingBatch {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &pendingBatch{Batch: store.Batch{Worker: c.session.epoch}}
	b.Stages, c.stages = c.stages, nil
	n := min(len(c.steps), maxRows)
	b.steps, c.steps = c.steps[:n:n], c.steps[n:]
	n = min(len(c.endings), maxRows-n)
	b.endings, c.endings = c.endings[:n:n], c.endings[n:]
	if len(b.steps)+len(b.endings) > 0 || time.Since(c.logged) >= maxLogWait || len(c.logs) >= maxLogRows {
		n = min(len(c.logs), maxLogRows)
		b.Logs, c.logs = c.logs[:n:n], c.logs[n:]
	}
	for _, p := range b.steps {
		b.Steps = append(b.Steps, p.row)
	}
	for _, p := range b.endings {
		if !p.gone {
			b.Endings = append(b.Endings, p.end)
		}
		if p.job.parcel.left--; p.job.parcel.left == 0 {
			b.Parcels = append(b.Parcels, p.job.parcel.id)
		}
	}
	c.busy = !b.empty()
	c.space.Broadcast()
	return b
}

// commit writes a batch, again and again while the database cannot be reached:
// with the same fences that is safe.
func (c *committer) commit(ctx context.Context, b *pendingBatch) {
	defer func() {
		c.mu.Lock()
		c.busy = false
		c.mu.Unlock()
	}()
	wait := 50 * time.Millisecond
	for {
		began := time.Now()
		written, err := c.session.deps.Store.Write(ctx, b.Batch)
		if err == nil {
			c.session.metrics.commit.Observe(time.Since(began).Seconds())
			c.session.metrics.lines.Add(float64(len(b.Logs)))
			c.settle(b, written)
			return
		}
		if ctx.Err() != nil {
			return
		}
		c.session.metrics.commitErrors.Inc()
		c.session.log.WithError(err).Warn("cannot commit outcomes; trying again")
		pause(ctx, wait)
		wait = min(2*wait, time.Second)
	}
}

// settle wakes the waiters, after their commit and never before.
func (c *committer) settle(b *pendingBatch, written store.Written) {
	for _, p := range b.steps {
		switch cause := written.Refused[p.row.Run]; {
		case cause != nil:
			p.done <- refusedError{cause}
		case written.Stale[p.row.Run]:
			p.done <- errRevoked
			c.session.revoked(p.row.Run, p.row.Fence)
		default:
			c.session.metrics.steps.Inc()
			p.done <- nil
		}
	}
	for run, cause := range written.Refused {
		c.session.log.WithField("run", run).WithError(cause).Warn("an outcome cannot be stored")
	}
	for _, p := range b.endings {
		if !p.at.IsZero() && !written.Stale[p.end.Run] {
			p.job.traceEnd(p.end, p.at)
		}
	}
	c.session.letGo(b.Parcels...)
}
