package master

import (
	"encoding/json"
	"os"
	"syscall"
	"time"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/task"
)

// Word is what a master tells a supervised worker over the connection on which
// the worker reports, a JSON object a line.
type Word struct {
	Cluster *task.ClusterFigures `json:"cluster,omitempty"`
}

// newLink makes the connection between a master and a worker: two sockets that
// lead to each other. Ours never blocks for ever, theirs is inherited.
func newLink() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock() // no other child inherits them
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(pair[0])
		syscall.CloseOnExec(pair[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(pair[1]), "reports of a worker")
	if err := syscall.SetNonblock(pair[0], true); err != nil { // deadlines work then, and closing ends reads
		_ = theirs.Close()
		_ = syscall.Close(pair[0])
		return nil, nil, err
	}
	return os.NewFile(uintptr(pair[0]), "a worker"), theirs, nil
}

// sayWithin is how long a worker that does not read may hold up a health check.
const sayWithin = 20 * time.Millisecond

// say tells the worker something. One that does not read is told nothing more:
// a line that was cut off would spoil the next.
func (p *process) say(w Word) {
	if p.deaf {
		return
	}
	line, err := json.Marshal(w)
	if err == nil {
		err = p.link.SetWriteDeadline(time.Now().Add(sayWithin))
	}
	if err == nil {
		_, err = p.link.Write(append(line, '\n'))
	}
	p.deaf = err != nil
}

// tellFigures passes on what the master knows of the cluster.
func (p *process) tellFigures() {
	if figures := p.figures.Load(); figures != nil {
		p.say(Word{Cluster: figures})
	}
}

// lastFigures are what the last health check read.
func (p *process) lastFigures() (f healthcheck.Figures, goroutines int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f = p.last
	f.BeatAt = p.beat
	return f, p.goroutines
}

// present are the workers in the slots.
func (s *supervisor) present() map[int]*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make(map[int]*process, len(s.slots))
	for slot, p := range s.slots {
		if p.child.Alive() {
			list[slot] = p
		}
	}
	return list
}

// enter makes p the one that its slot stands for.
func (s *supervisor) enter(p *process) {
	s.metrics.workerStart.Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[p.slot] = p
}

// left counts the end of p and keeps what it has counted.
func (s *supervisor) left(p *process, d death, err error) {
	cause := string(d.cause)
	switch {
	case cause != "":
	case d.planned || err == nil:
		cause = endStop
	default:
		cause = endCrash
	}
	s.metrics.workerEnds.WithLabelValues(cause).Inc()
	s.sums.End(p.key())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots[p.slot] == p {
		delete(s.slots, p.slot)
	}
}
