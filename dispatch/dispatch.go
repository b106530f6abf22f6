// Package dispatch accepts runs and brings them to the workers: the API, the
// scheduler, package code and the leader all start runs through it.
//
// Submit makes runs durable in Postgres first and then tells the queue; what
// the queue loses is found again by the leader's duties here (RunOnce,
// Reenqueue). The package decides no order of its own: priority, pause and room
// are read from the rows, inside the store's transactions.
package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Enqueuer is the part of the queue that dispatch needs.
type Enqueuer interface {
	Enqueue(ctx context.Context, items []queue.Item) error
	Epoch(ctx context.Context) (string, error)
	SetEpoch(ctx context.Context, epoch string) error
}

// Request asks for one run of a task.
type Request struct {
	Task   string
	Params json.RawMessage // a JSON object; nil: the task's own
	At     time.Time       // not before; zero: now
	Key    string          // idempotency key within the task; "": none
	Parent *store.Parent   // the run that starts it as its child
	Trace  string          // that it belongs to, when that is sampled; "": none
}

// Accepted answers one Request, at the same index.
type Accepted struct {
	ID        uuid.UUID
	Duplicate bool // the key had made this run before
}

// Limits of a request.
const (
	MaxParams = 1 << 20 // bytes of a run's params
	maxGroup  = 500     // runs in one group commit
	maxKey    = 200     // characters of an idempotency key
)

// Dispatcher is safe for concurrent use.
type Dispatcher struct {
	store   *store.Store
	queue   Enqueuer
	log     logrus.FieldLogger
	metrics *metrics

	admitAfter time.Time // of the leader's turns, which follow one another

	mu       sync.Mutex
	waiting  []*submission
	flushing int
}

// maxFlushing is how many group commits may be under way at once.
const maxFlushing = 2

type submission struct {
	runs []store.NewRun
	turn chan struct{} // holds one token while this submission has the turn
	done chan struct{}
	got  []store.Accepted
	err  error
}

// New returns a dispatcher.
func New(s *store.Store, q Enqueuer, log logrus.FieldLogger) *Dispatcher {
	return &Dispatcher{store: s, queue: q, log: log, metrics: newMetrics()}
}

// Submit accepts the requests, all or none. It blocks until they are committed
// and cannot be lost; concurrent calls share commits. A *store.RefusedRuns says
// which requests stand in the way. When ctx ends first the
// runs may or may not have been accepted: repeat with the same keys.
func (d *Dispatcher) Submit(ctx context.Context, requests []Request) ([]Accepted, error) {
	s := &submission{turn: make(chan struct{}, 1), done: make(chan struct{})}
	for _, r := range requests {
		if err := r.validate(); err != nil {
			return nil, err
		}
		s.runs = append(s.runs, store.NewRun{Task: r.Task, Params: r.Params, At: r.At, Key: r.Key, Parent: r.Parent, Trace: r.Trace})
	}
	if len(s.runs) == 0 {
		return nil, nil
	}
	if err := d.join(ctx, s); err != nil {
		return nil, err
	}
	accepted := make([]Accepted, len(s.got))
	for i, a := range s.got {
		accepted[i] = Accepted(a)
	}
	return accepted, nil
}

func (r Request) validate() error {
	if len(r.Params) > MaxParams {
		return task.Errorf(task.CodeTooLarge, "params of %s have %d bytes", r.Task, len(r.Params)).At("params").Fix("stay below %d, or pass a reference", MaxParams)
	}
	if len(r.Key) > maxKey {
		return task.Errorf(task.CodeInvalid, "the idempotency key has %d characters", len(r.Key)).At("key").Fix("use at most %d", maxKey)
	}
	if !utf8.ValidString(r.Key) || strings.ContainsRune(r.Key, 0) {
		return task.Errorf(task.CodeInvalid, "the idempotency key %q is not text", r.Key).At("key").Fix("use valid UTF-8 without NUL")
	}
	if strings.HasPrefix(r.Key, task.DedupePrefix) {
		return task.Errorf(task.CodeInvalid, "the idempotency key %q begins with %q", r.Key, task.DedupePrefix).At("key").
			Fix("choose another; this beginning is kept for the dedupe of tasks")
	}
	if !utf8.ValidString(r.Task) || strings.ContainsRune(r.Task, 0) {
		return task.Errorf(task.CodeNotFound, "there is no task %q", r.Task).At("task").Fix("`catena task list` shows them")
	}
	if len(r.Params) == 0 {
		return nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(r.Params, &object); err != nil || object == nil {
		return task.Errorf(task.CodeInvalid, "params of %s are not a JSON object", r.Task).At("params")
	}
	return nil
}

// join puts the submission into a group commit. No goroutine of its own does
// the flushing: a caller that has the turn commits one group, its own
// submission among it, and passes the turn to the first that still waits.
func (d *Dispatcher) join(ctx context.Context, s *submission) error {
	d.mu.Lock()
	d.waiting = append(d.waiting, s)
	if d.flushing < maxFlushing {
		d.flushing++
		d.giveTurn()
	}
	d.mu.Unlock()
	for {
		select {
		case <-s.turn:
			parcels := d.commit(context.WithoutCancel(ctx), d.nextGroup())
			// Perhaps to itself: the group may have been full before it got to s.
			d.passTurn()
			d.Enqueue(context.WithoutCancel(ctx), parcels) // a slow queue holds up no commit
			continue
		case <-s.done:
		case <-ctx.Done():
		}
		return d.leave(ctx, s)
	}
}

// leave ends a submission: with the answer of its commit, or withdrawn when ctx
// has ended before that. It passes on a turn that it did not use.
func (d *Dispatcher) leave(ctx context.Context, s *submission) error {
	err := error(task.Errorf(task.CodeCancelled, "submit runs: %w", context.Cause(ctx)))
	select {
	case <-s.done:
		err = s.err
	default:
		d.mu.Lock()
		if i := slices.Index(d.waiting, s); i >= 0 {
			d.waiting = slices.Delete(d.waiting, i, i+1)
		}
		d.mu.Unlock()
	}
	select {
	case <-s.turn:
		d.passTurn()
	default:
	}
	return err
}

// nextGroup takes waiting submissions up to maxGroup runs.
func (d *Dispatcher) nextGroup() []*submission {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, runs := 0, 0
	for n < len(d.waiting) && (n == 0 || runs+len(d.waiting[n].runs) <= maxGroup) {
		runs += len(d.waiting[n].runs)
		n++
	}
	group := d.waiting[:n:n]
	d.waiting = d.waiting[n:]
	return group
}

func (d *Dispatcher) passTurn() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.giveTurn()
}

// giveTurn gives a turn to the first waiting submission that has none, or ends
// the turn when there is no such submission. The caller holds the lock.
func (d *Dispatcher) giveTurn() {
	for _, next := range d.waiting {
		select {
		case next.turn <- struct{}{}:
			return
		default:
		}
	}
	d.flushing--
}

// commitPatience bounds one group commit, so that a dead database answers.
const commitPatience = 15 * time.Second

// commit accepts the group and answers each submission. One that the store
// refuses is answered with the reason and does not fail its neighbours.
func (d *Dispatcher) commit(ctx context.Context, group []*submission) []store.Parcel {
	ctx, cancel := context.WithTimeout(ctx, commitPatience)
	defer cancel()
	for len(group) > 0 {
		var all []store.NewRun
		for _, s := range group {
			all = append(all, s.runs...)
		}
		began := time.Now()
		accepted, parcels, err := d.store.InsertRuns(ctx, all)
		var refused *store.RefusedRuns
		if errors.As(err, &refused) {
			d.metrics.refused.Inc()
			group = answerRefused(group, refused)
			continue
		}
		if err == nil {
			d.metrics.accepted.Add(float64(len(all)))
			d.metrics.commit.Observe(time.Since(began).Seconds())
		} else {
			d.metrics.refused.Add(float64(len(group)))
		}
		for _, s := range group {
			s.err = err
			if err == nil {
				s.got, accepted = accepted[:len(s.runs)], accepted[len(s.runs):]
			}
			close(s.done)
		}
		return parcels
	}
	return nil
}

// answerRefused answers the submissions that hold refused runs and returns the others.
func answerRefused(group []*submission, refused *store.RefusedRuns) (others []*submission) {
	first := 0
	for _, s := range group {
		own := &store.RefusedRuns{Reasons: map[int]error{}}
		for i := range s.runs {
			if reason := refused.Reasons[first+i]; reason != nil {
				own.Reasons[i] = reason
			}
		}
		if len(own.Reasons) > 0 {
			s.err = own
		}
		first += len(s.runs)
		if s.err == nil {
			others = append(others, s)
			continue
		}
		close(s.done)
	}
	return others
}

// Enqueue tells the queue of committed parcels. A failure is logged and else
// without consequence: the reconciler enqueues unclaimed parcels again.
func (d *Dispatcher) Enqueue(ctx context.Context, parcels []store.Parcel) {
	if len(parcels) == 0 {
		return
	}
	if err := d.queue.Enqueue(ctx, items(parcels)); err != nil {
		d.log.WithError(err).Warn("parcels wait in Postgres until the queue answers")
	}
}

func items(parcels []store.Parcel) []queue.Item {
	list := make([]queue.Item, len(parcels))
	for i, p := range parcels {
		list[i] = queue.Item{Lane: p.Lane, Parcel: p.ID, DispatchNo: p.DispatchNo}
	}
	return list
}
