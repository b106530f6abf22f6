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

// Obey gives orders to the supervisor.
func (m *Master) Obey(orders []task.WorkerOrder) { m.supervisor.obey(orders) }

// Present is the process of a slot whose figures are shown.
func (m *Master) Present(slot int) (pid int) {
	if p := m.supervisor.present()[slot]; p != nil {
		pid = p.child.PID()
	}
	return pid
}

// Resize sets the number of slots.
func (m *Master) Resize(n int) { m.supervisor.resize(n) }

// OnOrder has advanced told how orders come along.
func (m *Master) OnOrder(advanced func(epoch int64, state task.OrderState, detail string)) {
	m.OnOrderErr(func(epoch int64, state task.OrderState, detail string) error {
		advanced(epoch, state, detail)
		return nil
	})
}

// OnOrderErr has advanced told how orders come along; it may fail to note that.
func (m *Master) OnOrderErr(advanced func(epoch int64, state task.OrderState, detail string) error) {
	m.supervisor.advanced = func(_ context.Context, epoch int64, state task.OrderState, detail string) error {
		return advanced(epoch, state, detail)
	}
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

// Speaker tells a worker of the cluster.
type Speaker struct{ p process }

// NewSpeaker speaks to the worker behind link.
func NewSpeaker(link *os.File) *Speaker { return &Speaker{process{link: link}} }

// Say counts from 0 to n-1 and reports whether the last word was cut off.
func (s *Speaker) Say(n int) (cut bool) {
	for i := range n {
		s.p.say(Word{Cluster: &task.ClusterFigures{Ready: i}})
	}
	return s.p.cut
}
