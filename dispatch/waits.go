package dispatch

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/catena-run/catena/store"
)

// Waits is the leader's care for parked runs: it lets those go on whose time is
// over or whose children have ended, finds events that were sent while a run
// was being parked, and cancels the children of cancelled runs. Each turn looks
// at a bounded number of them and the next turn at the next ones.
type Waits struct {
	store    *store.Store
	events   store.EventCursor
	children uuid.UUID
}

// NewWaits returns the care for the runs of s.
func NewWaits(s *store.Store) *Waits { return &Waits{store: s} }

// duePage is how many ended waits make another turn worth while at once.
const duePage = 500

// RunOnce does one turn, whose parts do not depend on each other. It reports whether there is more to do at once.
func (w *Waits) RunOnce(ctx context.Context, term int64) (more bool, err error) {
	var failed [4]error
	var ended int
	ended, failed[0] = w.store.EndDueWaits(ctx, term)
	w.events, failed[1] = w.store.MatchEvents(ctx, term, w.events)
	w.children, failed[2] = w.store.EndChildren(ctx, term, w.children)
	more, failed[3] = w.store.CancelChildren(ctx, term)
	err = errors.Join(failed[:]...)
	return err == nil && (more || ended >= duePage), err
}
