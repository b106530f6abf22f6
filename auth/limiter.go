package auth

import (
	"net/netip"
	"sync"
	"time"
)

// maxAddresses bounds the limiter's memory: some 100 bytes each.
const maxAddresses = 4096

// limiter counts failures per address. A count sinks by one in each recovery;
// an address whose count stands at the limit has to wait for that.
type limiter struct {
	limit    float64
	recovery time.Duration

	mu       sync.Mutex
	failures map[string]tally
}

type tally struct {
	count float64 // at the time at
	at    time.Time
}

func newLimiter(limit int, recovery time.Duration) *limiter {
	return &limiter{limit: float64(limit), recovery: recovery, failures: make(map[string]tally)}
}

// allow reports whether remote may try.
func (l *limiter) allow(remote string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, known := l.failures[group(remote)]
	return !known || l.sunk(t, now)+1 <= l.limit
}

// fail counts a failure of remote.
func (l *limiter) fail(remote string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	address := group(remote)
	t, known := l.failures[address]
	if !known && len(l.failures) >= maxAddresses {
		l.makeRoom(now)
	}
	l.failures[address] = tally{count: l.sunk(t, now) + 1, at: now}
}

func (l *limiter) sunk(t tally, now time.Time) float64 {
	return max(0, t.count-float64(now.Sub(t.at))/float64(l.recovery))
}

// makeRoom drops the addresses that have recovered or, when all are busy, any
// one: who commands thousands of addresses is not stopped by counting them.
func (l *limiter) makeRoom(now time.Time) {
	for address, t := range l.failures {
		if l.sunk(t, now) == 0 {
			delete(l.failures, address)
		}
	}
	for address := range l.failures {
		if len(l.failures) < maxAddresses {
			return
		}
		delete(l.failures, address)
	}
}

// group returns what is counted as one address: the address without its port,
// and of IPv6 the /64 network, which one host commands as a whole.
func group(remote string) string {
	address, err := netip.ParseAddr(remote)
	if err != nil {
		withPort, err := netip.ParseAddrPort(remote)
		if err != nil {
			return remote
		}
		address = withPort.Addr()
	}
	address = address.Unmap().WithZone("")
	if address.Is6() {
		if network, err := address.Prefix(64); err == nil {
			return network.String()
		}
	}
	return address.String()
}
