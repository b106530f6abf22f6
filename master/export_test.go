package master

import (
	"context"
	"os"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Supervise runs only the supervisor.
func (m *Master) Supervise(ctx context.Context, died func(epoch int64, planned bool, reason string)) {
	m.supervisor.died = func(d death) { died(d.epoch, d.planned, d.reason) }
	m.supervisor.run(ctx)
}

// Candidate is a candidate without a master.
type Candidate struct{ candidate }

// NewCandidate returns one that calls lead while it leads.
func NewCandidate(s *store.Store, holder string, log logrus.FieldLogger, lead func(context.Context, int64)) *Candidate {
	return &Candidate{candidate{store: s, holder: holder, log: log, lead: lead}}
}

// Run campaigns until ctx ends.
func (c *Candidate) Run(ctx context.Context) { c.run(ctx) }

// NewLink is the connection between a master and a worker.
func NewLink() (ours, theirs *os.File, err error) { return newLink() }

// Say tells the worker behind link of the cluster, n times, and reports whether it was given up.
func Say(link *os.File, n int) (deaf bool) {
	p := &process{link: link}
	for i := range n {
		p.say(Word{Cluster: &task.ClusterFigures{Ready: i}})
	}
	return p.deaf
}
