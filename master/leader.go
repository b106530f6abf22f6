package master

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/store"
)

const (
	campaignEvery = 500 * time.Millisecond
	renewEvery    = time.Second
	// A leader distrusts itself before its lease ends, counted from before the
	// request that renewed it, by its own monotonic clock.
	distrustAfter = 3 * time.Second
)

// candidate wins, keeps and loses the leadership of the cluster.
type candidate struct {
	store  *store.Store
	holder string
	log    logrus.FieldLogger
	lead   func(ctx context.Context, term int64) // runs while this master leads

	mu   sync.Mutex
	term int64 // 0: does not lead
}

// Term returns the term that this master leads, 0 when it does not.
func (c *candidate) Term() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.term
}

func (c *candidate) setTerm(term int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term = term
}

// run campaigns and leads, term after term, until ctx ends; then it resigns, so
// that another master takes over at once.
func (c *candidate) run(ctx context.Context) {
	ticker := time.NewTicker(campaignEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		asked := time.Now()
		lease, won, err := c.store.Campaign(ctx, c.holder)
		switch {
		case err != nil && ctx.Err() == nil:
			c.log.WithError(err).Warn("cannot campaign for leadership")
		case won:
			c.serve(ctx, lease, asked)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// serve leads one term.
func (c *candidate) serve(ctx context.Context, lease store.Lease, asked time.Time) {
	log := c.log.WithField("term", lease.Term)
	log.Info("this master leads the cluster")
	c.setTerm(lease.Term)
	leading, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { c.lead(leading, lease.Term) })

	over := c.keep(ctx, lease.Term, asked)
	c.setTerm(0)
	stop()
	work.Wait()
	if over {
		log.Warn("this master no longer leads: its lease is over or in doubt")
		return
	}
	resigning, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := c.store.Resign(resigning, lease.Term); err != nil {
		log.WithError(err).Warn("could not resign; another master takes over when the lease ends")
		return
	}
	log.Info("resigned from leadership")
}

// keep renews the lease until ctx ends (false) or the leadership is over or in
// doubt (true).
func (c *candidate) keep(ctx context.Context, term int64, asked time.Time) (over bool) {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	doubt := time.NewTimer(time.Until(asked.Add(distrustAfter)))
	defer doubt.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-doubt.C:
			return true
		case <-ticker.C:
		}
		sent := time.Now()
		renewing, cancel := context.WithDeadline(ctx, asked.Add(distrustAfter))
		held, err := c.store.Renew(renewing, term)
		cancel()
		switch {
		case err != nil:
			c.log.WithError(err).Debug("could not renew the lease")
		case !held:
			return true
		default:
			asked = sent
			doubt.Reset(time.Until(asked.Add(distrustAfter)))
		}
	}
}
