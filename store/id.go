package store

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"github.com/google/uuid"
)

// minter makes UUIDs v7 whose time is the database's, so that ids from many
// processes sort by creation and fall into the right partition whatever the
// local clocks say. Within one process they strictly rise while the clock does.
type minter struct {
	mu   sync.Mutex
	last uint64 // milliseconds << 12 | counter
}

// maxAhead is how many milliseconds ids may run ahead of the clock before that is
// taken for a clock that has been set back.
const maxAhead = 60_000

func (m *minter) mint(now time.Time, n int) []uuid.UUID {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]uuid.UUID, n)
	random := make([]byte, 8*n)
	_, _ = rand.Read(random) // never fails, see its documentation
	for i := range ids {
		next := uint64(now.UnixMilli()) << 12
		if next <= m.last && m.last-next < maxAhead<<12 {
			next = m.last + 1
		}
		m.last = next
		var id uuid.UUID
		copy(id[8:], random[8*i:])
		binary.BigEndian.PutUint64(id[:8], (next>>12)<<16|next&0xfff)
		id[6] = id[6]&0x0f | 0x70
		id[8] = id[8]&0x3f | 0x80
		ids[i] = id
	}
	return ids
}

// idFloor is the smallest id minted at or after at.
func idFloor(at time.Time) uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16)
	return id
}

// timeOf returns when an id was minted, by the database clock.
func timeOf(id uuid.UUID) time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16))
}

// bounds returns the least and greatest of ids; statements name both so that
// the planner prunes partitions.
func bounds(ids []uuid.UUID) (low, high uuid.UUID) {
	for i, id := range ids {
		if i == 0 || lessID(id, low) {
			low = id
		}
		if i == 0 || lessID(high, id) {
			high = id
		}
	}
	return low, high
}

func lessID(a, b uuid.UUID) bool {
	x, y := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(b[:8])
	if x != y {
		return x < y
	}
	return binary.BigEndian.Uint64(a[8:]) < binary.BigEndian.Uint64(b[8:])
}
