package worker_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/worker"
)

// A suspect that finds no free slot is left to others; the worker must go on
// taking suspects afterwards.
func TestSuspectsAreTakenAgainAfterABusyTime(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/long")
	c.push(imports+`export async function main(input: any) { await http.get("`+out.URL+`" + input.path); return 1 }`, out.URL, "m?main")
	c.apply("name: long\nchain: [{call: \"pkg:m?main\", with: {path: /long}}]\n---\nname: short\nchain: [{call: \"pkg:m?main\", with: {path: /short}}]\n")
	suspects := make([]uuid.UUID, 3)
	for i := range suspects {
		suspects[i] = c.submit("short") // there is no worker yet: they wait in ready
	}
	c.exec(`UPDATE ready SET hold = 'later', available_at = clock_timestamp() + interval '1 hour'`)
	c.exec(`UPDATE ready SET lane = 'suspect:default'`)
	require.Equal(t, len(suspects), c.count(`SELECT count(*) FROM ready WHERE lane = 'suspect:default'`))
	c.work(func(cfg *worker.Config, _ *worker.Deps, _ *script.Config) { cfg.Slots = 1 })
	long := c.submit("long")
	out.await(t, "/long")
	c.exec(`UPDATE ready SET hold = '', available_at = clock_timestamp() WHERE lane = 'suspect:default'`)
	require.Eventually(t, func() bool {
		return c.count(`SELECT coalesce(max(dispatch_no), 0) FROM parcels WHERE lane = 'suspect:default'`)+
			c.count(`SELECT coalesce(max(fence), 0) FROM runs WHERE task = 'short'`) > 2
	}, patience, 2*time.Millisecond, "no suspect was offered to others")
	out.open("/long")
	c.until(long, task.StateSucceeded)
	for _, id := range suspects {
		require.Equal(t, 1, c.until(id, task.StateSucceeded).Attempt)
	}
	require.Equal(t, len(suspects), out.count("/short"))
}
