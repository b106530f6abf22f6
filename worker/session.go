package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

const (
	beatEvery   = time.Second
	markEvery   = 25 * time.Millisecond
	visibleFor  = 50 * time.Millisecond  // a run that lasts longer is marked as running
	releaseFor  = 50 * time.Millisecond  // a claimed run that found no slot so long is given back
	learnEvery  = 200 * time.Millisecond // how often measured costs are reported
	flushBudget = 10 * time.Second       // for the last commits of a session
)

// session is one registration of the worker.
type session struct {
	*Worker
	id    string
	epoch int64
	log   logrus.FieldLogger

	backlog *backlog
	gate    *gate
	commits *committer
	suspect chan struct{} // holds a token while a suspect run is on

	mu        sync.Mutex
	live      map[uuid.UUID]*job // started and not ended
	consumers map[string]queue.Consumer
	held      map[int64]bool // parcels claimed and not done
	draining  bool
	leftFor   string // who asked this worker to drain
	// cancelAsked are the requests that the last heartbeat's answer named.
	cancelAsked map[uuid.UUID]store.CancelAsk
	costs       costs

	end   context.CancelCauseFunc // ends everything at once
	stuck chan struct{}           // closed when a call ignores its interrupt
}

// run works until ctx ends or a call is stuck (then it drains), or the cluster
// revokes the epoch. It returns errStuck when only the end of the process helps.
func (s *session) run(ctx context.Context) error {
	work, end := context.WithCancelCause(context.WithoutCancel(ctx))
	s.end = end
	defer end(nil)
	s.log.WithField("epoch", s.epoch).Info("worker session begins")

	var slots, duties sync.WaitGroup
	for range s.cfg.Slots {
		slots.Go(func() { s.slot(work) })
	}
	duty, stopDuties := context.WithCancel(work)
	defer stopDuties()
	duties.Go(func() { s.beats(duty) })
	duties.Go(func() { s.marks(duty) })
	duties.Go(func() { s.learn(duty) })
	duties.Go(func() { s.watchCancels(duty) })
	watch, stopWatch := context.WithCancel(context.WithoutCancel(ctx)) // a call may be stuck after a revocation too
	defer stopWatch()
	duties.Go(func() { s.watchStuck(watch) })
	duties.Go(func() { s.commits.loop(work) })

	select {
	case <-ctx.Done():
		s.sayDrain()
		s.drain(work)
	case <-s.stuck:
		s.drain(work)
	case <-work.Done():
		s.log.Warn("the cluster gave this worker up: its runs are interrupted and go elsewhere")
		s.stopConsumers(ctx)
	}
	s.backlog.close()
	err := s.await(&slots)
	s.commits.finish(flushBudget)
	if err != nil {
		s.retire(err.Error())
	} else {
		s.retire(s.farewell())
	}
	stopDuties()
	stopWatch()
	end(errDrained)
	duties.Wait()
	s.log.Info("worker session ends")
	return err
}

// await waits until the slots have come back. One that a stuck call holds never does.
func (s *session) await(slots *sync.WaitGroup) error {
	back := make(chan struct{})
	go func() {
		defer close(back)
		slots.Wait()
	}()
	select {
	case <-back:
		return nil
	case <-s.stuck:
	}
	for s.running() > 0 {
		pause(context.Background(), 10*time.Millisecond)
	}
	return errStuck
}

// retire tells the cluster that the session ended as planned.
func (s *session) retire(reason string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.deps.Store.EndWorker(ctx, s.epoch, task.WorkerStopped, reason); err != nil {
		s.log.WithError(err).Warn("could not record the end of this worker; the cluster will notice by itself")
	}
}

// sayDrain tells whoever asked a worker to end why it does not yet. A master
// tells it of its own workers.
func (s *session) sayDrain() {
	if running := s.running(); running > 0 && s.cfg.Master == "" {
		s.log.Warn(DrainNotice(running, s.cfg.DrainTimeout))
	}
}

// DrainNotice is what a process says that was asked to end while runs are on.
func DrainNotice(runs int, patience time.Duration) string {
	what := "the workers"
	if runs > 0 {
		what = fmt.Sprintf("%d runs", runs)
	}
	if runs == 1 {
		what = "1 run"
	}
	return fmt.Sprintf("waiting for %s to end (up to %s); press again to stop now", what, task.DurationText(patience))
}

// drain ends a session politely.
func (s *session) drain(work context.Context) {
	s.log.Info("draining: no new work is claimed")
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	s.stopConsumers(work) // before the beat: what a handler still holds can be claimed or offered to others
	s.beat(work)
	s.release(s.backlog.close())
	deadline := time.NewTimer(s.cfg.DrainTimeout)
	defer deadline.Stop()
	check := time.NewTicker(10 * time.Millisecond)
	defer check.Stop()
	for s.running() > 0 {
		select {
		case <-check.C:
		case <-work.Done():
			return
		case <-deadline.C:
			s.log.WithField("running", s.running()).Info("drain time is over: what still runs goes back to its queue")
			s.interruptAll(errDrained)
			deadline.Reset(time.Hour)
		}
	}
}

func (s *session) running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

func (s *session) interruptAll(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.live {
		j.interrupt(cause)
	}
}

// slot is one of the places where runs run.
func (s *session) slot(ctx context.Context) {
	for {
		j := s.backlog.pop()
		if j == nil {
			return
		}
		s.execute(ctx, j)
	}
}

// release gives back claimed runs that have not started.
func (s *session) release(jobs []*job) {
	for _, j := range jobs {
		s.commits.add(j, *j.back())
		j.ended()
	}
}

// beats sends heartbeats and keeps the lanes in step with the queues.
func (s *session) beats(ctx context.Context) {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	s.syncLanes(ctx)
	for {
		s.beat(ctx)
		select {
		case <-ticker.C:
			s.syncLanes(ctx)
			s.disown(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// disown gives back parcels that the database says are ours and that nobody
// here knows of. There should be none; a run in such a parcel would wait for ever.
func (s *session) disown(ctx context.Context) {
	claimed, err := s.deps.Store.ClaimedBy(ctx, s.epoch)
	if err != nil || len(claimed) == 0 {
		return // asked again in a second
	}
	s.mu.Lock()
	unknown := slices.DeleteFunc(claimed, func(id int64) bool { return s.held[id] })
	s.mu.Unlock()
	if len(unknown) == 0 {
		return
	}
	s.log.WithField("parcels", unknown).Error("giving back parcels that this worker has lost track of; please report it")
	if err := s.deps.Store.Disown(ctx, s.epoch, unknown); err != nil {
		s.log.WithError(err).Warn("could not give parcels back")
	}
}

func (s *session) beat(ctx context.Context) {
	sent := time.Now()
	ctx, cancel := context.WithTimeout(ctx, beatPatience)
	defer cancel()
	s.mu.Lock()
	state, running := task.WorkerActive, len(s.live)
	if s.draining {
		state = task.WorkerDraining
	}
	s.mu.Unlock()
	answer, err := s.deps.Store.Beat(ctx, store.Beat{Epoch: s.epoch, State: state, Running: running, RSS: s.deps.RSS(), CPU: s.deps.CPU(),
		Alone: s.cfg.Master == "", ClockOffset: s.clockOffset()})
	switch {
	case err != nil:
		if ctx.Err() == nil {
			s.metrics.beatErrors.Inc()
			s.log.WithError(err).Warn("heartbeat failed")
		}
		return
	case answer.Revoked:
		s.metrics.revocations.Inc()
		s.end(errRevoked)
		return
	}
	s.metrics.beat.Observe(time.Since(sent).Seconds())
	s.readClock(sent, answer.Now)
	s.gate.beat(sent)
	if answer.Drain != "" {
		s.obeyDrain(ctx, answer.Drain)
	}
	asked := make(map[uuid.UUID]store.CancelAsk, len(answer.Cancel))
	for _, ask := range answer.Cancel {
		asked[ask.Run] = ask
	}
	s.mu.Lock()
	s.cancelAsked = asked
	s.mu.Unlock()
	for _, ask := range asked {
		s.cancel(ask)
	}
}

func (s *session) cancel(ask store.CancelAsk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j, ok := s.live[ask.Run]; ok {
		j.obey(ask)
	}
}

// obey ends the run as somebody asked, unless that was before it was put back to
// work by hand. A run that goes again by itself was not asked to end.
func (j *job) obey(ask store.CancelAsk) {
	if ask.Fence >= j.claimed.Fence {
		j.ask(errCancelled, ask.AtOnce)
	}
}

// revoked interrupts a run that was taken back from us under that fence. It may
// have ended, and even come back to this worker under a later one.
func (s *session) revoked(id uuid.UUID, fence int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j, ok := s.live[id]; ok && j.claimed.Fence == fence {
		j.interrupt(errRevoked)
	}
}

// watchCancels makes a cancel request known at once; heartbeats tell it again.
func (s *session) watchCancels(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.deps.Store.WatchCancels(ctx, s.epoch, func() { s.beat(ctx) })
		if err != nil && ctx.Err() == nil {
			s.log.WithError(err).Debug("not listening for cancel requests; heartbeats tell them")
			pause(ctx, beatEvery)
		}
	}
}

// marks makes longer runs visible and gives back runs that found no slot.
func (s *session) marks(ctx context.Context) {
	ticker := time.NewTicker(markEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			s.release(s.backlog.stale(now, releaseFor))
			s.mark(ctx, now.Add(-visibleFor))
		}
	}
}

func (s *session) mark(ctx context.Context, before time.Time) {
	var ids []uuid.UUID
	var fences []int32
	var started []time.Time
	var jobs []*job
	s.mu.Lock()
	for id, j := range s.live {
		if !j.marked && j.startedAt.Before(before) {
			ids, fences, started = append(ids, id), append(fences, j.claimed.Fence), append(started, j.startedAt)
			jobs = append(jobs, j)
			s.costs.add(j.claimed.Revision, time.Since(j.startedAt)) // known now: it is no short run
		}
	}
	s.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	stale, err := s.deps.Store.MarkRunning(ctx, s.epoch, ids, fences, started)
	if err != nil {
		if ctx.Err() == nil {
			s.log.WithError(err).Warn("could not mark runs as running")
			pause(ctx, 500*time.Millisecond)
		}
		return
	}
	s.mu.Lock()
	for _, j := range jobs {
		j.marked = true
	}
	s.mu.Unlock()
	for _, id := range stale {
		for i := range ids {
			if ids[i] == id {
				s.revoked(id, fences[i])
			}
		}
	}
}

// costs gathers measured durations per task revision.
type costs struct {
	mean  map[int64]*duration
	dirty map[int64]bool
}

func (s *session) measured(revision int64, d time.Duration) {
	s.backlog.finished(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.costs.add(revision, d)
}

func (c *costs) add(revision int64, d time.Duration) {
	if c.mean == nil || len(c.mean) >= maxRevisions {
		c.mean, c.dirty = map[int64]*duration{}, map[int64]bool{}
	}
	if c.mean[revision] == nil {
		c.mean[revision] = &duration{}
	}
	c.mean[revision].add(d)
	c.dirty[revision] = true
}

// learn reports measured costs, so that parcels get the right size.
func (s *session) learn(ctx context.Context) {
	ticker := time.NewTicker(learnEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		report := map[int64]float64{}
		for revision := range s.costs.dirty {
			report[revision] = s.costs.mean[revision].micros
		}
		clear(s.costs.dirty)
		s.mu.Unlock()
		if len(report) == 0 {
			continue
		}
		if err := s.deps.Store.LearnCosts(ctx, report); err != nil && ctx.Err() == nil {
			s.log.WithError(err).Debug("could not report task costs")
		}
	}
}
