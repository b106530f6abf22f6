package master

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestScaling(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	type moment struct {
		after time.Duration // of the moment before
		load  load
		want  int
	}
	for name, moments := range map[string][]moment{
		"work that waits brings workers, one at a time, up to the most": {
			{0, load{waited: time.Second, running: 20, slots: 10}, 2},
			{time.Second, load{waited: 2 * time.Second, running: 20, slots: 10}, 3},
			{time.Second, load{waited: 9 * time.Second, running: 30, slots: 10}, 3},
			{4 * time.Second, load{waited: 9 * time.Second, running: 30, slots: 10}, 4},
			{time.Minute, load{waited: time.Minute, running: 40, slots: 10}, 4},
		},
		"what is not needed for long goes, down to the least": {
			{0, load{waited: 3 * time.Second, running: 20, slots: 10}, 3},
			{10 * time.Second, load{running: 15, slots: 10}, 3},
			{59 * time.Second, load{running: 14, slots: 10}, 3},
			{2 * time.Second, load{running: 14, slots: 10}, 2},
			{time.Hour, load{running: 0, slots: 10}, 2},
		},
		"runs at limits count while every slot is in use": {
			{0, load{limited: true, running: 20, slots: 10}, 2},
			{time.Second, load{limited: true, running: 20, slots: 10}, 2},
			{time.Second, load{limited: true, running: 20, slots: 10}, 3},
			{10 * time.Second, load{limited: true, running: 25, slots: 10}, 3}, // their limits hold them
			{10 * time.Second, load{running: 30, slots: 10}, 3},
		},
		"a busy moment begins the wait again": {
			{0, load{waited: 3 * time.Second, running: 20, slots: 10}, 3},
			{50 * time.Second, load{running: 1, slots: 10}, 3},
			{9 * time.Second, load{running: 15, slots: 10}, 3},
			{50 * time.Second, load{running: 1, slots: 10}, 3},
			{11 * time.Second, load{running: 1, slots: 10}, 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := scaler{cfg: Scaling{Most: 4, UpAfter: 2 * time.Second, DownAfter: time.Minute}, least: 2}
			now, current := start, 2
			for i, m := range moments {
				now = now.Add(m.after)
				current = s.step(m.load, current, now)
				require.Equal(t, m.want, current, "moment %d", i)
			}
		})
	}
}
