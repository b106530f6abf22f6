// Package worker is the data plane: it claims parcels, runs the chains in
// them, commits steps and outcomes in batches and tells that it is alive.
//
// A worker works in sessions. A session is one registration in the store with
// an epoch of its own; when the cluster has given it up (it was suspended, or
// cut off for too long) everything in it is interrupted, nothing more of it is
// written, and a new session begins. The package decides nothing about what
// should run: it takes what its lanes offer.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// AllQueues in Config.Queues stands for every queue that a task names.
const AllQueues = "*"

// Config of a worker. Zero values mean the defaults of Normalize.
type Config struct {
	Queues       []string      // served queues; default AllQueues
	Tags         []string      // a task with tags runs where all of them are
	Slots        int           // runs at once; default 32
	DrainTimeout time.Duration // how long running work may go on at shutdown; default 30s
	CancelGrace  time.Duration // for code to end by itself once its run is cancelled; default 5s, negative: none
	KillGrace    time.Duration // for code to end once it was interrupted, before the process is replaced; default 5s
	LogLimit     int64         // bytes of log kept per attempt of a run; default 1 MiB
	MaxOutcome   int           // bytes of one step's outcome; default 1 MiB
	Host         string        // default the machine's name
	Version      string
	Master       string // who supervises it
	Slot         *int   // which of the master's places it fills
}

// Normalize fills in the defaults.
func (c Config) Normalize() Config {
	if len(c.Queues) == 0 {
		c.Queues = []string{AllQueues}
	}
	if c.Slots == 0 {
		c.Slots = 32
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 30 * time.Second
	}
	if c.CancelGrace == 0 {
		c.CancelGrace = 5 * time.Second
	}
	if c.KillGrace == 0 {
		c.KillGrace = 5 * time.Second
	}
	if c.LogLimit == 0 {
		c.LogLimit = 1 << 20
	}
	if c.MaxOutcome == 0 {
		c.MaxOutcome = 1 << 20
	}
	if c.Host == "" {
		c.Host, _ = os.Hostname()
	}
	return c
}

// Validate checks a normalized configuration.
func (c Config) Validate() error {
	var problems []error
	if c.Slots < 1 || c.Slots > 10_000 {
		problems = append(problems, task.Errorf(task.CodeInvalid, "%d slots are out of range", c.Slots).At("worker.slots").Fix("use 1 to 10000"))
	}
	for _, q := range c.Queues {
		if q != AllQueues && !task.ValidQueue(q) {
			problems = append(problems, task.Errorf(task.CodeInvalid, "%q cannot name a queue", q).At("worker.queues"))
		}
	}
	for _, tag := range c.Tags {
		if !task.ValidTag(tag) {
			problems = append(problems, task.Errorf(task.CodeInvalid, "%q cannot be a tag", tag).At("worker.tags"))
		}
	}
	return errors.Join(problems...)
}

// Deps are the parts that a worker connects.
type Deps struct {
	Store    *store.Store
	Queue    queue.Queue
	Packages *pkgstore.Cache
	Scripts  *script.Engine
	Dispatch *dispatch.Dispatcher
	Log      logrus.FieldLogger
	Traces   *telemetry.Traces                       // nil: none
	RSS      func() int64                            // bytes this process holds
	CPU      func() float64                          // share of one core that it uses; may be nil
	Leave    func(by string)                         // told once that somebody wants this worker to drain; may be nil
	Session  func(epoch int64, id string)            // told of each new session; may be nil
	Observe  func(state task.State, d time.Duration) // told of each ended attempt; may be nil
	Cluster  func() json.RawMessage                  // what package code sees as ctx.cluster; may be nil
	Clock    *healthcheck.Clock                      // estimated here; may be nil
}

// Worker runs until it is told to stop.
type Worker struct {
	cfg       Config
	deps      Deps
	revisions *revisions
	clock     *healthcheck.Clock // of this host beside the database's
	metrics   *metrics
	current   atomic.Pointer[session]
	quit      context.CancelFunc // has Run drain
}

// New returns a worker; Run starts it.
func New(cfg Config, deps Deps) (*Worker, error) {
	cfg = cfg.Normalize()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.RSS == nil {
		deps.RSS = func() int64 { return 0 }
	}
	if deps.CPU == nil {
		deps.CPU = func() float64 { return 0 }
	}
	if deps.Leave == nil {
		deps.Leave = func(string) {}
	}
	if deps.Session == nil {
		deps.Session = func(int64, string) {}
	}
	if deps.Observe == nil {
		deps.Observe = func(task.State, time.Duration) {}
	}
	if deps.Cluster == nil {
		deps.Cluster = func() json.RawMessage { return nil }
	}
	if deps.Clock == nil {
		deps.Clock = &healthcheck.Clock{}
	}
	return &Worker{cfg: cfg, deps: deps, revisions: newRevisions(deps.Store), clock: deps.Clock, metrics: newMetrics()}, nil
}

// Run works until ctx ends or, for a worker that nobody supervises, the cluster
// asks it to drain. Then it drains: it claims nothing more, gives back
// what has not started, lets running work go on for DrainTimeout, and puts back
// what is left without burning a retry. It blocks until all of that is done.
//
// It drains likewise, and returns an error, when a call of package code does
// not stop although it was told to: the process must then end.
func (w *Worker) Run(ctx context.Context) error {
	ctx, w.quit = context.WithCancel(ctx)
	defer w.quit()
	wait := 100 * time.Millisecond
	for ctx.Err() == nil {
		s, err := w.newSession(ctx)
		if err != nil {
			if !store.Unreachable(err) {
				return err
			}
			w.deps.Log.WithError(err).Warn("cannot register with the cluster; trying again")
			pause(ctx, wait)
			wait = min(2*wait, 5*time.Second)
			continue
		}
		wait = 100 * time.Millisecond
		if err := s.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (w *Worker) newSession(ctx context.Context) (*session, error) {
	id := fmt.Sprintf("%s-%d-%s", w.cfg.Host, os.Getpid(), uuid.NewString()[:8])
	epoch, err := w.deps.Store.RegisterWorker(ctx, task.Worker{
		ID: id, Host: w.cfg.Host, PID: os.Getpid(), Version: w.cfg.Version, Master: w.cfg.Master, Slot: w.cfg.Slot,
		Queues: w.cfg.Queues, Tags: w.cfg.Tags, Slots: w.cfg.Slots, RSS: w.deps.RSS(),
	})
	if err != nil {
		return nil, err
	}
	log := w.deps.Log.WithField("worker", id)
	s := &session{
		Worker: w, id: id, epoch: epoch, log: log, backlog: newBacklog(), gate: newGate(), suspect: make(chan struct{}, 1),
		live: map[uuid.UUID]*job{}, consumers: map[string]queue.Consumer{}, held: map[int64]bool{}, stuck: make(chan struct{}),
	}
	s.commits = newCommitter(s)
	w.current.Store(s)
	w.deps.Session(epoch, id)
	return s, nil
}

// mergeParams lays a run's own params over the task's, key by key.
func mergeParams(base, own json.RawMessage) (json.RawMessage, error) {
	if len(own) == 0 {
		return base, nil
	}
	merged := map[string]json.RawMessage{}
	for _, part := range []json.RawMessage{base, own} {
		if len(part) == 0 {
			continue
		}
		if err := json.Unmarshal(part, &merged); err != nil {
			return nil, task.Errorf(task.CodeInvalid, "params are not an object: %w", err).At("params")
		}
	}
	return json.Marshal(merged)
}

var _ chain.Invoker = (*job)(nil)
