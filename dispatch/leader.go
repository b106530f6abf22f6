package dispatch

import (
	"context"

	"github.com/google/uuid"
)

// RunOnce is the leader's dispatching: it opens runs whose time has come and
// moves ready runs into parcels as far as the lanes have room. It reports
// whether there is more to do at once.
func (d *Dispatcher) RunOnce(ctx context.Context, term int64) (more bool, err error) {
	open, due, err := d.store.Pending(ctx)
	if err != nil {
		return false, err
	}
	if due {
		if _, err := d.store.ReleaseHolds(ctx, term); err != nil {
			return false, err
		}
		open = true
	}
	if !open {
		return false, nil
	}
	parcels, more, err := d.store.Fill(ctx, term)
	d.Enqueue(ctx, parcels)
	return more, err
}

// Reenqueue is the leader's watch over the outbox: it enqueues again what
// nobody claimed for too long, and everything at once when the queue was emptied.
func (d *Dispatcher) Reenqueue(ctx context.Context, term int64) error {
	emptied, err := d.checkEpoch(ctx, term)
	if err != nil {
		return err
	}
	find := d.store.Stranded
	if emptied {
		d.log.Warn("the queue was emptied: enqueueing every unclaimed parcel again")
		find = d.store.AllUnclaimed
	}
	parcels, err := find(ctx, term)
	if err != nil {
		return err
	}
	if len(parcels) > 0 {
		d.log.WithField("parcels", len(parcels)).Debug("enqueueing unclaimed parcels again")
	}
	d.Enqueue(ctx, parcels)
	return nil
}

// checkEpoch compares the value that Redis holds with the one in Postgres. It
// records a new value in Postgres before it writes it to Redis, so that a crash
// in between is seen as one more emptying, never as none.
func (d *Dispatcher) checkEpoch(ctx context.Context, term int64) (emptied bool, err error) {
	held, err := d.queue.Epoch(ctx)
	if err != nil {
		return false, err
	}
	known, err := d.store.RedisEpoch(ctx)
	if err != nil {
		return false, err
	}
	if held == known && known != "" {
		return false, nil
	}
	epoch := uuid.NewString()
	if err := d.store.SetRedisEpoch(ctx, term, epoch); err != nil {
		return false, err
	}
	return true, d.queue.SetEpoch(ctx, epoch)
}
