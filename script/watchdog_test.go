package script

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A stopped call that still executes is waited for longer than one that merely
// has not ended: no neighbour is blamed for what it takes meanwhile.
func TestAStoppedCallThatExecutesIsWaitedFor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		ago   time.Duration
		busy  bool
		waits bool
	}{
		"just stopped":           {time.Second, false, true},
		"does not end":           {3 * time.Second, false, false},
		"executes":               {3 * time.Second, true, true},
		"executes for ever":      {11 * time.Second, true, false},
		"executes, just stopped": {time.Second, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			victim := &invocation{}
			victim.stop.Store(&stop{at: now.Add(-c.ago)})
			if c.busy {
				victim.busySince.Store(1)
			}
			w := newWatchdog(1, nil)
			w.calls[victim], w.victim = struct{}{}, victim
			require.Equal(t, c.waits, w.waitsForVictim(now))
			w.remove(victim)
			require.False(t, w.waitsForVictim(now), "it has ended")
		})
	}
}
