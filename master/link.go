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
	Probe   int64                `json:"probe,omitempty"` // asks for a Report with the same number; counts up
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

// How long a worker that does not read may hold up a health check.
const (
	sayWithin   = 20 * time.Millisecond
	againWithin = time.Millisecond // when it did not read the last time either
)

// say tells the worker something. What does not fit is lost; the line that it cut
// off is ended before the next, so that a worker that reads again understands.
func (p *process) say(w Word) {
	line, err := json.Marshal(w)
	if err != nil {
		return
	}
	within := sayWithin
	if p.cut {
		within, line = againWithin, append([]byte{'\n'}, line...)
	}
	if err = p.link.SetWriteDeadline(time.Now().Add(within)); err == nil {
		_, err = p.link.Write(append(line, '\n'))
	}
	p.cut = err != nil
}

// probe asks the worker for a sign of life and passes on what the master knows of the cluster.
func (p *process) probe() {
	p.probes++
	p.say(Word{Probe: p.probes, Cluster: p.figures.Load()})
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
	list := make(map[int]*process, len(s.latest))
	for slot, p := range s.latest {
		if p.child.Alive() {
			list[slot] = p
		}
	}
	return list
}

// enter makes p the one that its slot stands for.
func (s *supervisor) enter(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest[p.slot] = p
}

// left counts the end of p and keeps what it has counted.
func (s *supervisor) left(p *process, d death) {
	cause := string(d.cause)
	switch {
	case d.memory:
		cause = string(healthcheck.CauseMemory)
	case cause != "":
	case d.planned || p.child.Err() == nil:
		cause = endStop
	default:
		cause = endCrash
	}
	s.metrics.workerEnds.WithLabelValues(cause).Inc()
	s.sums.End(p.key())
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.processes, d.epoch)
	if s.latest[p.slot] == p {
		delete(s.latest, p.slot)
	}
}
