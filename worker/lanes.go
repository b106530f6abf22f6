package worker

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/store"
)

const (
	roomCheck    = time.Millisecond
	handBack     = 250 * time.Millisecond // a parcel that found no room here so long is offered to others
	suspectPoll  = 20 * time.Millisecond
	stopPatience = 2 * time.Second
)

// syncLanes starts a consumer for each lane that has none yet: those of the
// worker's queues whose tags it has, and their suspect lanes.
func (s *session) syncLanes(ctx context.Context) {
	lanes := slices.DeleteFunc(slices.Clone(s.cfg.Queues), func(q string) bool { return q == AllQueues })
	known, err := s.deps.Store.Lanes(ctx)
	if err != nil && ctx.Err() == nil {
		s.log.WithError(err).Warn("cannot list lanes")
	}
	for _, lane := range known {
		if s.cfg.serves(lane) {
			lanes = append(lanes, lane)
		}
	}
	for _, lane := range lanes {
		s.consume(lane, queue.ConsumeConfig{})
		s.consume(store.SuspectLane(lane), queue.ConsumeConfig{Concurrency: 1, PollInterval: suspectPoll})
	}
}

// serves reports whether the worker serves the queue and has the tags of a lane.
func (c Config) serves(lane string) bool {
	parts := strings.Split(lane, "+")
	if !slices.Contains(c.Queues, parts[0]) && !slices.Contains(c.Queues, AllQueues) {
		return false
	}
	for _, tag := range parts[1:] {
		if !slices.Contains(c.Tags, tag) {
			return false
		}
	}
	return true
}

func (s *session) consume(lane string, cfg queue.ConsumeConfig) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.consumers[lane] != nil {
		return
	}
	handle := s.takeParcel
	if store.Suspect(lane) {
		handle = s.takeSuspect
	}
	consumer, err := s.deps.Queue.Consume(lane, cfg, handle)
	if err != nil {
		s.log.WithError(err).WithField("lane", lane).Error("cannot consume a lane")
		return
	}
	s.consumers[lane] = consumer
}

func (s *session) stopConsumers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	s.mu.Lock()
	s.draining = true
	consumers := s.consumers
	s.consumers = map[string]queue.Consumer{}
	s.mu.Unlock()
	var all sync.WaitGroup
	for lane, c := range consumers {
		all.Go(func() {
			if err := c.Stop(ctx); err != nil {
				s.log.WithError(err).WithField("lane", lane).Debug("a consumer was stopped by force")
			}
		})
	}
	all.Wait()
}

// takeParcel waits until there is room, claims the parcel and hands its runs
// over; the queue is done with it then. What finds no room is offered to others.
func (s *session) takeParcel(ctx context.Context, item queue.Item) {
	if !s.awaitRoom(ctx, item) {
		return
	}
	if jobs := s.claim(ctx, item); len(jobs) > 0 {
		s.backlog.push(jobs)
	}
}

// awaitRoom waits until there is room; false when the parcel was offered to
// others instead.
func (s *session) awaitRoom(ctx context.Context, item queue.Item) bool {
	since := time.Now()
	for !s.backlog.room() {
		if time.Since(since) > handBack {
			s.offerAgain(ctx, item)
			return false
		}
		pause(ctx, roomCheck)
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// takeSuspect runs a suspect alone: one at a time in this worker.
func (s *session) takeSuspect(ctx context.Context, item queue.Item) {
	wait := time.NewTimer(handBack)
	defer wait.Stop()
	select {
	case s.suspect <- struct{}{}:
	case <-wait.C:
		s.offerAgain(ctx, item)
		return
	case <-ctx.Done():
		return
	}
	// Called at the end of the run or when it is given back, whichever comes first.
	next := sync.OnceFunc(func() { <-s.suspect })
	if !s.awaitRoom(ctx, item) {
		next()
		return
	}
	jobs := s.claim(ctx, item)
	if len(jobs) == 0 {
		next()
		return
	}
	for _, j := range jobs {
		j.ended = next
	}
	s.backlog.push(jobs)
}

// claim takes the parcel in the store. A parcel that this session holds already
// is refused: the queue may deliver an item twice.
func (s *session) claim(ctx context.Context, item queue.Item) []*job {
	if s.gate.pass(ctx) != nil || !s.hold(item.Parcel) {
		return nil
	}
	asked := time.Now()
	runs, err := s.deps.Store.Claim(ctx, s.epoch, item.Parcel, item.DispatchNo)
	for err != nil && s.working() {
		// Perhaps it was committed, and claimed means possibly running: ask until
		// the database answers. At the end of the session the cluster takes it back.
		s.log.WithError(err).Warn("could not claim a parcel; asking again")
		pause(ctx, 200*time.Millisecond)
		runs, err = s.deps.Store.Claim(context.WithoutCancel(ctx), s.epoch, item.Parcel, item.DispatchNo)
	}
	s.metrics.claim.Observe(time.Since(asked).Seconds())
	if err != nil || len(runs) == 0 {
		s.metrics.refused.Inc()
		s.letGo(item.Parcel)
		return nil
	}
	s.metrics.claimed.Inc()
	parcel := &parcelRef{id: item.Parcel, left: len(runs)}
	jobs := make([]*job, len(runs))
	for i := range runs {
		jobs[i] = &job{session: s, claimed: runs[i], lane: item.Lane, parcel: parcel, claimedAt: time.Now(), ended: func() {}}
	}
	return jobs
}

func (s *session) hold(parcel int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[parcel] {
		return false
	}
	s.held[parcel] = true
	return true
}

func (s *session) letGo(parcels ...int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range parcels {
		delete(s.held, id)
	}
}

// working reports whether the session still takes work.
func (s *session) working() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.draining
}

// offerAgain gives the parcel a new number and enqueues it for whoever has room.
func (s *session) offerAgain(ctx context.Context, item queue.Item) {
	parcel, ok, err := s.deps.Store.OfferAgain(ctx, item.Parcel, item.DispatchNo)
	if err != nil || !ok {
		return // the reconciler enqueues unclaimed parcels again
	}
	s.metrics.offered.Inc()
	s.deps.Dispatch.Enqueue(ctx, []store.Parcel{parcel})
}
