package master

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Would is something that a master would do.
type Would struct {
	At     time.Time  `json:"at"`
	Action string     `json:"would"` // start skip miss pause dispatch enqueue plan poll record take-back replace-worker start-workers make-partitions
	Task   string     `json:"task,omitempty"`
	Source string     `json:"source,omitempty"`
	Run    *uuid.UUID `json:"run,omitempty"`
	DueAt  *time.Time `json:"due_at,omitempty"`
	Count  int64      `json:"count,omitempty"` // of due times
	What   string     `json:"what,omitempty"`
}

// Observer is a master that only looks: it does the rounds of a master and
// tells what it would do. It takes no lease, starts no worker and writes
// nothing, so any number may run beside real masters.
type Observer struct {
	Store    *store.Store // opened for reading only
	Preview  *scheduler.Preview
	Policy   healthcheck.Policy
	Workers  int           // that a master with this configuration would start
	Every    time.Duration // of the rounds; 0: a second
	Tell     func(Would) error
	Log      logrus.FieldLogger
	known    map[string]bool // told before, and still so
	seen     map[string]bool // in this round
	tellErr  error
	lastFail string
}

// workLimit bounds what one round lists of each kind.
const workLimit = 1000

// Run does rounds until ctx ends or what it tells cannot be written. While the
// database is away it waits.
func (o *Observer) Run(ctx context.Context) error {
	if o.Every == 0 {
		o.Every = time.Second
	}
	o.known, o.seen = map[string]bool{}, map[string]bool{}
	if o.Workers > 0 {
		o.tell("workers", Would{Action: "start-workers", What: fmt.Sprintf("%d worker processes", o.Workers)})
	}
	ticker := time.NewTicker(o.Every)
	defer ticker.Stop()
	for {
		o.round(ctx)
		if o.tellErr != nil || ctx.Err() != nil {
			return o.tellErr
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (o *Observer) round(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	o.seen = map[string]bool{}
	failed := ""
	for _, look := range []func(context.Context) error{o.due, o.changed, o.sources, o.work, o.workers, o.partitions} {
		if err := look(asking); err != nil && ctx.Err() == nil {
			failed = err.Error()
			if failed != o.lastFail {
				o.Log.WithError(err).Warn("a round failed; it is tried again")
			}
		}
	}
	o.lastFail = failed
	if failed == "" {
		o.known = o.seen // what is over may come again
	}
}

// tell reports something once for as long as it lasts.
func (o *Observer) tell(key string, w Would) {
	o.seen[key] = true
	if o.known[key] || o.tellErr != nil {
		return
	}
	o.known[key] = true
	w.At = time.Now().UTC()
	o.tellErr = o.Tell(w)
}

var fireActions = map[task.FireOutcome]string{
	task.FireStarted: "start", task.FireCaughtUp: "catch-up", task.FireBuffered: "buffer", task.FireSkipped: "skip",
	task.FireMissed: "miss", task.FirePaused: "pause",
}

func (o *Observer) due(ctx context.Context) error {
	fires, err := o.Preview.Due(ctx)
	for _, f := range fires {
		due := f.DueAt.UTC()
		w := Would{Action: fireActions[f.Outcome], Task: f.Task, DueAt: &due, Count: f.Count, What: fmt.Sprintf("schedule %d", f.Schedule)}
		if f.Reason != "" {
			w.What += ": " + f.Reason
		}
		o.tell(fmt.Sprintf("fire %d %s", f.Schedule, due), w)
	}
	return err
}

func (o *Observer) changed(ctx context.Context) error {
	list, err := o.Preview.Changed(ctx)
	for _, u := range list {
		what := fmt.Sprintf("schedule %d: ", u.ID)
		switch {
		case u.Err != nil:
			what += "flag it: " + u.Err.Error()
		case u.First != nil:
			what += "first due at " + u.First.UTC().Format(time.RFC3339)
		default:
			what += "it is over"
		}
		o.tell(fmt.Sprintf("plan %d %d", u.ID, u.Version), Would{Action: "plan", Task: u.Task, What: what})
	}
	return err
}

// sources tells what would be asked of sources. What they would answer is not known.
func (o *Observer) sources(ctx context.Context) error {
	due, err := o.Store.DueSources(ctx, store.DueFilter{Limit: 1000})
	for _, s := range due {
		of := s.Call
		if s.HTTP != nil {
			of = s.HTTP.Method + " " + s.HTTP.URL
		}
		if s.Poll {
			o.tell("poll "+s.Name, Would{Action: "poll", Source: s.Name, What: of})
		}
		if s.Record {
			o.tell("record "+s.Name, Would{Action: "record", Source: s.Name, What: "outcomes of its items: " + of})
		}
	}
	return err
}

func (o *Observer) work(ctx context.Context) error {
	p, err := o.Store.PeekWork(ctx, workLimit)
	for _, r := range p.Ready {
		o.tell("ready "+r.Run.String(), Would{Action: "dispatch", Task: r.Task, Run: &r.Run, What: "in lane " + r.Lane})
	}
	for _, parcel := range p.Stranded {
		o.tell(fmt.Sprintf("parcel %d", parcel.ID), Would{Action: "enqueue", What: fmt.Sprintf("parcel %d of lane %s again, since nobody claimed it", parcel.ID, parcel.Lane)})
	}
	for _, id := range p.Lost {
		o.tell("lost "+id, Would{Action: "take-back", What: "the runs of worker " + id + ", which fell silent"})
	}
	return err
}

// workers judges the workers of all masters by the policy of this one, from
// what they tell of themselves.
func (o *Observer) workers(ctx context.Context) error {
	list, err := o.Store.Workers(ctx, false)
	now := time.Now()
	for _, w := range list {
		f := healthcheck.Figures{StartedAt: now.Add(-time.Duration(w.Age)), RSS: uint64(max(w.RSS, 0)), BeatAt: now}
		if action, why := o.Policy.Decide(f, now); action != healthcheck.ActionNone {
			o.tell("replace "+w.ID, Would{Action: "replace-worker", What: w.ID + ": " + why.Text})
		}
	}
	return err
}

func (o *Observer) partitions(ctx context.Context) error {
	err := o.Store.CheckPartitions(ctx)
	if err == nil || store.Unreachable(err) {
		return err
	}
	o.tell("partitions", Would{Action: "make-partitions", What: err.Error()})
	return nil
}
