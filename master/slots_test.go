package master_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/task"
)

// A slot that is filled again while its worker before still drains is shown as it is.
func TestASlotThatIsFilledAgain(t *testing.T) {
	t.Parallel()
	s := start(t, "lingering", func(cfg *master.Supervision) { cfg.Workers = 2 })
	s.until("start", 2)
	require.Len(t, s.working(), 2)
	s.boss.Resize(1)
	drained := s.until("term", 1)[0].pid
	s.boss.Resize(2)
	again := s.until("start", 3)[2].pid
	require.EqualValues(t, drained, s.dead(1)[0].epoch)
	slots := s.working()
	require.Len(t, slots, 2)
	require.Equal(t, again, slots[1].PID)
	require.Never(t, func() bool {
		now := s.boss.Slots()
		return len(now) != 2 || now[1].State != task.SlotWorking
	}, 200*time.Millisecond, 5*time.Millisecond)
}
