package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/catena-run/catena/task"
)

// slotStates are the states that catena_worker_slots always tells of.
var slotStates = [...]task.SlotState{task.SlotStarting, task.SlotWorking, task.SlotDraining, task.SlotWaiting, task.SlotCrashLoop}

// slotGauges tell what this master does with its places for workers.
type slotGauges struct {
	slots func() []task.Slot
	state *prometheus.Desc
}

func newSlotGauges(slots func() []task.Slot) slotGauges {
	return slotGauges{
		slots: slots,
		state: prometheus.NewDesc("catena_worker_slots", "Places of this master for workers, by what becomes of them; crash-loop: the next start waits.", []string{"state"}, nil),
	}
}

// Describe tells the figures' names.
func (g slotGauges) Describe(out chan<- *prometheus.Desc) { out <- g.state }

// Collect counts.
func (g slotGauges) Collect(out chan<- prometheus.Metric) {
	counts := map[task.SlotState]int{}
	for _, slot := range g.slots() {
		counts[slot.State]++
	}
	for _, state := range slotStates {
		out <- prometheus.MustNewConstMetric(g.state, prometheus.GaugeValue, float64(counts[state]), string(state))
	}
}
