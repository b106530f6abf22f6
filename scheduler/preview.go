package scheduler

import (
	"context"
	"slices"
	"time"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Preview tells what the leader would do with due times, without doing it. It
// remembers what it told, since the database does not move on. Not safe for
// concurrent use.
type Preview struct {
	*Scheduler
	told map[int64]told
}

// told is how far a schedule was previewed.
type told struct {
	from time.Time // its due time in the database
	next time.Time // the first that was not told
	more bool
}

// NewPreview returns a preview over a store that may be opened for reading only.
func NewPreview(config Config, s *store.Store) *Preview {
	return &Preview{Scheduler: New(config, s, nil, nil), told: map[int64]told{}}
}

// previewBatch bounds how many due schedules one turn looks at.
const previewBatch = 10_000

// Due returns the rows of the ledger that the leader would have written since
// the last call. What an earlier row of a preview would have started counts as
// ended.
func (p *Preview) Due(ctx context.Context) ([]task.Fire, error) {
	list, now, err := p.store.PeekDue(ctx, previewBatch)
	if err != nil {
		return nil, err
	}
	var fires []task.Fire
	still := make(map[int64]told, len(list))
	for _, due := range list {
		id := due.Schedule.ID
		t, known := p.told[id]
		if !known || !t.from.Equal(due.DueAt) {
			t = told{from: due.DueAt, next: due.DueAt, more: true}
		}
		for t.more && !t.next.After(now) {
			due.DueAt = t.next
			decision := p.decide(due, now)
			for _, f := range p.withLate(due, decision, now) {
				f.Schedule, f.Task = id, due.Schedule.Task
				fires = append(fires, f)
			}
			if t.more = decision.Next != nil; t.more {
				t.next = *decision.Next
			}
		}
		still[id] = t
	}
	p.told = still
	return fires, nil
}

// withLate adds what catching up would make of the due times that a decision
// leaves to it.
func (p *Preview) withLate(due store.Due, decision store.Decision, now time.Time) []task.Fire {
	fires := decision.Fires
	if decision.Late == nil {
		return fires
	}
	due.DueAt = decision.Late.First
	in, err := p.toDecide(due)
	if err != nil {
		return fires // decide has said why
	}
	for more := true; more; {
		caught := CatchUp(in, now, decision.Late.Last, maxFires)
		fires = append(fires, caught.Fires...)
		in.DueAt, more = caught.Next, caught.More
	}
	slices.SortFunc(fires, func(a, b task.Fire) int { return a.DueAt.Compare(b.DueAt) })
	return fires
}

// Changed is a schedule that the leader would plan.
type Changed struct {
	store.Unplanned
	First *time.Time // its first due time; nil: it is over
	Err   error      // why it cannot fire
}

// Changed returns the schedules that the leader would plan.
func (p *Preview) Changed(ctx context.Context) ([]Changed, error) {
	list, err := p.store.UnplannedSchedules(ctx, planBatch)
	changed := make([]Changed, len(list))
	for i, u := range list {
		changed[i].Unplanned = u
		changed[i].First, changed[i].Err = p.firstDue(u)
	}
	return changed, err
}
