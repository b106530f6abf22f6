package healthcheck

import (
	"sync"
	"time"
)

// clockSamples is how many round trips a Clock remembers; with one a second the
// estimate follows a drifting clock within a quarter of a minute.
const clockSamples = 16

// ClockLimit is the offset beyond which a clock is told to be far off.
const ClockLimit = time.Second

// Clock estimates how far the clock of this host is from that of the database,
// from the times of round trips. Of the last samples the one with the shortest
// trip counts, since the error is at most half of its trip. It may be used from
// several goroutines.
type Clock struct {
	mu      sync.Mutex
	samples []clockSample // the newest last
	far     bool          // when Turned was asked last
}

type clockSample struct{ offset, trip time.Duration }

// Add takes a round trip: what was asked at sent and answered at received said
// that the other clock stood at theirs in between.
func (c *Clock) Add(sent, received, theirs time.Time) {
	trip := received.Sub(sent)
	if trip < 0 {
		return
	}
	// Round strips the monotonic part, so that the wall clocks are compared.
	s := clockSample{offset: sent.Round(0).Add(trip / 2).Sub(theirs), trip: trip}
	c.mu.Lock()
	defer c.mu.Unlock()
	if best, known := c.best(); known && (s.offset-best.offset).Abs() > (s.trip+best.trip)/2+stepLimit {
		c.samples = nil // one of the clocks was set: what was known before is no longer so
	}
	if len(c.samples) == clockSamples {
		c.samples = c.samples[1:]
	}
	c.samples = append(c.samples, s)
}

// stepLimit is how much two clocks may drift apart within the samples before
// one counts as set: 16 s at 500 ppm are 8 ms.
const stepLimit = 20 * time.Millisecond

func (c *Clock) best() (best clockSample, known bool) {
	for i, s := range c.samples {
		if i == 0 || s.trip < best.trip {
			best = s
		}
	}
	return best, len(c.samples) > 0
}

// Offset is positive when the clock of this host is ahead; it is right to within
// the given time either way. known is false while there was no round trip.
func (c *Clock) Offset() (offset, within time.Duration, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	best, known := c.best()
	return best.offset, best.trip / 2, known
}

// Turned reports whether the clock is far off, and whether that is news since
// it was asked before.
func (c *Clock) Turned() (far, news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	best, known := c.best()
	far = known && best.offset.Abs()-best.trip/2 > ClockLimit
	news = far != c.far
	c.far = far
	return far, news
}
