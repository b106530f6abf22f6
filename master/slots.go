package master

import (
	"sync"
	"time"

	"github.com/catena-run/catena/task"
)

// loopAfter is how many quick deaths in a row are called a crash loop.
const loopAfter = 3

// place keeps what is to be known of a slot.
type place struct {
	mu   sync.Mutex
	is   task.Slot
	next time.Time // when the next worker starts
	gone bool      // the slot is not filled any more
	turn int       // counts who fills the slot: one may begin while the one before still drains
}

func (p *place) set(change func(*task.Slot)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.is)
}

// starts notes a new worker process. One that replaces another changes the state only
// once it works.
func (p *place) starts(pid int, replaces bool) {
	p.set(func(s *task.Slot) {
		s.Starts++
		if !replaces {
			s.State, s.PID = task.SlotStarting, pid
		}
	})
}

func (p *place) works(pid int) {
	p.set(func(s *task.Slot) { s.State, s.PID = task.SlotWorking, pid })
}

func (p *place) drains(pid int) {
	p.set(func(s *task.Slot) {
		if s.PID == pid {
			s.State = task.SlotDraining
		}
	})
}

// dies notes how a worker ended, unless that was as planned.
func (p *place) dies(reason string) { p.set(func(s *task.Slot) { s.Last = reason }) }

// waits notes that the next worker starts later.
func (p *place) waits(crashes int, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.is.Crashes, p.is.PID, p.is.State, p.next = crashes, 0, task.SlotWaiting, time.Now().Add(wait)
	if crashes >= loopAfter {
		p.is.State = task.SlotCrashLoop
	}
}

// steady notes that the slot's worker lives longer than those that crash.
func (p *place) steady() { p.set(func(s *task.Slot) { s.Crashes = 0 }) }

// enter begins to fill the slot.
func (p *place) enter() (turn int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn++
	p.gone = false
	return p.turn
}

// leave ends that, unless another turn has begun.
func (p *place) leave(turn int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.turn == turn {
		p.gone = true
	}
}

// read is the slot now; false when it is not filled any more.
func (p *place) read() (task.Slot, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.is
	if now.State == task.SlotWaiting || now.State == task.SlotCrashLoop {
		now.NextStart = task.Duration(max(time.Until(p.next), 0).Round(time.Millisecond))
	}
	return now, !p.gone
}

// place returns the book of a slot.
func (s *supervisor) place(slot int) *place {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places[slot] == nil {
		s.places[slot] = &place{is: task.Slot{Slot: slot, State: task.SlotStarting}}
	}
	return s.places[slot]
}

// slots tells what becomes of each slot.
func (s *supervisor) slots() []task.Slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []task.Slot{}
	for n := range len(s.places) {
		if p := s.places[n]; p != nil {
			if slot, filled := p.read(); filled {
				list = append(list, slot)
			}
		}
	}
	return list
}
