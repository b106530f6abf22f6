package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/task"
)

const limitedTasks = `
name: limits/one
chain:
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 0, ms: 30}
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 1}
params: {recorder: RECORDER}
timeout: 5m
concurrency: {limit: 1, key: "${params.key}"}
---
name: limits/three
chain:
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 0, ms: 100}
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 1}
params: {recorder: RECORDER}
timeout: 5m
concurrency: {limit: 3, key: "${params.key}"}
---
name: limits/rate
chain:
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 0}
params: {recorder: RECORDER}
timeout: 5m
rate: {limit: 40, per: 2s, key: "${params.key}"}
`

// A rate counts from the claim of a run; its code starts a moment later. On a
// machine as busy as the tests make it that moment may last this long.
const startSlack = time.Second

// TestLimitsUnderKills runs tasks with limits on eight workers, kills workers
// and the leader with -9, and judges by what package code told the recorder.
func TestLimitsUnderKills(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "worker.slots=8")
	c.startMaster(4)
	c.startMaster(4)
	c.awaitWorkers(8)
	c.push()
	c.apply(limitedTasks)

	groups := map[string]map[uuid.UUID]bool{} // by task and key
	var all []uuid.UUID
	submit := func(name string, keys, each int) {
		var requests []client.RunRequest
		for i := range keys * each {
			requests = append(requests, client.RunRequest{Key: uuid.NewString(), Params: json.RawMessage(fmt.Sprintf(`{"key":"k%d"}`, i%keys))})
		}
		result := must(c, func(ctx context.Context, api *client.Client) (client.BatchResult, error) {
			return api.StartRuns(ctx, name, requests)
		})
		for i, id := range result.IDs {
			group := fmt.Sprintf("%s k%d", name, i%keys)
			if groups[group] == nil {
				groups[group] = map[uuid.UUID]bool{}
			}
			groups[group][id] = true
			all = append(all, id)
		}
	}
	submit("limits/one", 4, 15)
	submit("limits/three", 2, 40)
	submit("limits/rate", 1, 200)

	rng := rand.New(rand.NewPCG(3, 1))
	for range 3 {
		pace(t.Context(), 2*time.Second)
		list := slices.DeleteFunc(c.live(), func(w task.Worker) bool { return !exists(w.PID) })
		require.NotEmpty(t, list)
		require.NoError(t, syscall.Kill(list[rng.IntN(len(list))].PID, syscall.SIGKILL))
	}
	c.replaceMaster(c.leader(), 4)
	c.awaitEnds(all, 3*time.Minute)

	seen := c.recorder.all()
	var problems []string
	for group, runs := range groups {
		if group == "limits/rate k0" {
			var begins []time.Time
			for _, e := range seen {
				if runs[e.Run] {
					begins = append(begins, e.Began)
				}
			}
			window := 2*time.Second - startSlack
			if most := history.MostInWindow(begins, window); most > 40 {
				problems = append(problems, fmt.Sprintf("%s: %d starts within %v", group, most, window))
			}
			continue
		}
		limit := 3
		if group[:len("limits/one")] == "limits/one" {
			limit = 1
		}
		spans := history.Spans(seen, runs, 1, time.Now())
		require.Len(t, spans, len(runs), group)
		for _, p := range history.CheckPlaces(spans, limit) {
			problems = append(problems, group+": "+p)
		}
	}
	require.Empty(t, problems)
	for _, id := range all {
		run := must(c, func(ctx context.Context, api *client.Client) (task.Run, error) { return api.Run(ctx, id) })
		require.Equal(t, task.StateSucceeded, run.State, run.Reason)
	}
	c.eventually(func() bool { return c.text(`SELECT count(*)::text FROM holds`) == "0" }, "places are still taken though all runs have ended")
}
