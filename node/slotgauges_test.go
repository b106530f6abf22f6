package node

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestSlotGauges(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	require.NoError(t, registry.Register(newSlotGauges(func() []task.Slot {
		return []task.Slot{{State: task.SlotWorking, Starts: 1}, {Slot: 1, State: task.SlotCrashLoop, Starts: 5}, {Slot: 2, State: task.SlotCrashLoop, Starts: 3}}
	})))
	families, err := registry.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue()
		}
	}
	require.Equal(t, map[string]float64{
		"catena_worker_slots starting": 0, "catena_worker_slots working": 1, "catena_worker_slots draining": 0, "catena_worker_slots waiting": 0,
		"catena_worker_slots crash-loop": 2,
	}, got)
}
