package dispatch

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// RunOnce is the leader's dispatching: it opens runs whose time has come,
// admits runs of tasks with limits and moves ready runs into parcels, as far as
// the lanes have room. It reports whether there is more to do at once.
func (d *Dispatcher) RunOnce(ctx context.Context, term int64) (more bool, err error) {
	pending, err := d.store.Pending(ctx)
	if err != nil {
		return false, err
	}
	if pending.Due {
		opened, err := d.store.OpenDue(ctx, term)
		if err != nil {
			return false, err
		}
		d.metrics.opened.Add(float64(opened))
		pending.Open, pending.Limited = true, true
	}
	if pending.Limited && !time.Now().Before(d.admitAfter) {
		if more, err = d.admit(ctx, term); err != nil {
			return false, err
		}
	}
	if !pending.Open {
		return more, nil
	}
	parcels, full, err := d.store.Fill(ctx, term)
	d.metrics.filled.Add(float64(len(parcels)))
	d.Enqueue(ctx, parcels)
	return more || full, err
}

// admit takes one turn of admission. After one that admitted nothing it rests
// for twice the time that it took: many keys that all wait cost a share of the
// time, not all of it.
func (d *Dispatcher) admit(ctx context.Context, term int64) (more bool, err error) {
	began := time.Now()
	parcels, more, err := d.store.Admit(ctx, term)
	d.metrics.admitted.Add(float64(len(parcels)))
	d.Enqueue(ctx, parcels)
	if len(parcels) == 0 && !more {
		d.admitAfter = time.Now().Add(2 * time.Since(began))
	}
	return more, err
}

// Reenqueue is the leader's watch over the outbox: it enqueues again what
// nobody claimed for too long, and everything at once when the queue was emptied.
func (d *Dispatcher) Reenqueue(ctx context.Context, term int64) error {
	if err := d.refillEmptied(ctx, term); err != nil {
		return err
	}
	parcels, err := d.store.Stranded(ctx, term)
	if err != nil {
		return err
	}
	if len(parcels) > 0 {
		d.metrics.again.Add(float64(len(parcels)))
		d.log.WithField("parcels", len(parcels)).Debug("enqueueing unclaimed parcels again")
	}
	d.Enqueue(ctx, parcels)
	return nil
}

// refillEmptied compares the value that Redis holds with the one in Postgres.
// When Redis has another or none, every unclaimed parcel is enqueued again. A
// new value is recorded in Postgres first and written to Redis last, so that a
// failure or a crash in between is seen as one more emptying, never as none.
func (d *Dispatcher) refillEmptied(ctx context.Context, term int64) error {
	held, err := d.queue.Epoch(ctx)
	if err != nil {
		return err
	}
	known, err := d.store.RedisEpoch(ctx)
	if err != nil || held == known && known != "" {
		return err
	}
	if known != "" {
		d.metrics.emptied.Inc()
		d.log.Warn("the queue was emptied: enqueueing every unclaimed parcel again")
	}
	epoch := uuid.NewString()
	if err := d.store.SetRedisEpoch(ctx, term, epoch); err != nil {
		return err
	}
	now, err := d.store.Now(ctx)
	if err != nil {
		return err
	}
	for {
		parcels, err := d.store.AllUnclaimed(ctx, term, now)
		if err != nil {
			return err
		}
		if len(parcels) == 0 {
			return d.queue.SetEpoch(ctx, epoch)
		}
		if err := d.queue.Enqueue(ctx, items(parcels)); err != nil {
			return err
		}
	}
}
