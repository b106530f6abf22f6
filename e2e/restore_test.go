package e2e

import (
	"context"
	"encoding/json"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/task"
)

const drilledTasks = `
name: drill/event
chain:
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 0}
  - wait: {event: go, key: "${run.id}"}
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 1}
params: {recorder: RECORDER}
---
name: drill/busy
chain:
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 0}
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 1, ms: 3000}
params: {recorder: RECORDER}
---
name: drill/ticks
chain: [nop]
schedule: [{every: 1s}]
`

// TestRestoreDrill follows "Backing up and restoring" of docs/operations.md: a
// dump under load, the loss of everything after it, and the way back.
func TestRestoreDrill(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	m := c.startMaster(2)
	c.awaitWorkers(2)
	c.push()
	c.apply(drilledTasks)
	parked, busy := c.start("drill/event", `{}`), c.start("drill/busy", `{}`)
	c.eventually(func() bool { return c.show(parked).State == task.StateWaiting }, "the run does not wait")
	c.executing(busy, 1, 1)
	c.eventually(func() bool { return c.text(`SELECT (count(*) > 2)::text FROM fires`) == "true" }, "the schedule does not fire")

	dump := filepath.Join(servertest.Dir(t), "catena.dump")
	c.run(c.postgres.Program("pg_dump"), "--format=custom", "--file="+dump, "--dbname="+c.postgres.URL)

	// What the backup does not know.
	c.send(parked)
	require.Equal(t, task.StateSucceeded, c.result(parked).State)
	require.Equal(t, task.StateSucceeded, c.result(busy).State)
	forgotten := c.start("drill/busy", `{}`)
	c.executing(forgotten, 1, 1)

	m.kill()
	c.masters = nil
	c.loseDatabase()
	c.run(c.postgres.Program("pg_restore"), "--exit-on-error", "--dbname="+c.postgres.URL, dump)
	options, err := redis.ParseURL(c.redis.URL)
	require.NoError(t, err)
	rdb := redis.NewClient(options)
	defer rdb.Close()
	require.NoError(t, rdb.FlushDB(t.Context()).Err())
	restored := time.Now()
	c.startMaster(2)
	c.awaitWorkers(2)

	busy = c.result(busy)
	require.Equal(t, task.StateSucceeded, busy.State, busy.Reason)
	require.Equal(t, 1, c.recorder.count(busy.ID, 0), "a step of before the backup does not run again")
	require.Equal(t, 2, c.recorder.count(busy.ID, 1), "a step of after it does")
	require.Equal(t, task.StateWaiting, c.show(parked).State)
	c.send(parked)
	require.Equal(t, task.StateSucceeded, c.result(parked).State)
	require.Equal(t, 1, c.recorder.count(parked.ID, 0))
	require.Equal(t, 2, c.recorder.count(parked.ID, 1))
	_, err = ask(t.Context(), c, func(ctx context.Context, api *client.Client) (task.Run, error) { return api.Run(ctx, forgotten.ID) })
	require.Equal(t, task.CodeNotFound, task.CodeOf(err), "%v", err)
	require.Equal(t, 1, c.recorder.count(forgotten.ID, 1), "nobody goes on with a run of the lost time")

	// The ledger has no hole between the backup and now.
	c.eventually(func() bool {
		return c.text(`SELECT ((SELECT count(*) FROM schedule_due WHERE due_at <= $1) + (SELECT count(*) FROM catch_ups) = 0)::text`, restored) == "true"
	}, "the ledger does not reach the time of the restore")
	require.Equal(t, "0", c.text(`SELECT count(*)::text FROM (
		SELECT f.last_due_at, coalesce(lead(f.due_at) OVER (ORDER BY f.due_at), d.due_at) AS next
		FROM fires f JOIN schedule_due d ON d.schedule = f.schedule) l WHERE next <> last_due_at + interval '1 second'`))
	require.Equal(t, task.StateSucceeded, c.result(c.start("drill/busy", `{}`)).State, "new runs are accepted and end")
}

// send ends the wait of a run of drill/event.
func (c *cluster) send(run task.Run) {
	c.t.Helper()
	sent := must(c, func(ctx context.Context, api *client.Client) (client.SentEvent, error) {
		return api.SendEvent(ctx, client.EventRequest{Name: "go", Key: run.ID.String(), Data: json.RawMessage(`{}`)})
	})
	require.Equal(c.t, 1, sent.Reached)
}

// loseDatabase drops the database and makes an empty one in its place.
func (c *cluster) loseDatabase() {
	c.t.Helper()
	address, err := url.Parse(c.postgres.URL)
	require.NoError(c.t, err)
	address.Path = "/postgres"
	conn, err := pgx.Connect(c.t.Context(), address.String())
	require.NoError(c.t, err)
	defer conn.Close(context.Background())
	for _, sql := range []string{`DROP DATABASE catena WITH (FORCE)`, `CREATE DATABASE catena`} {
		_, err = conn.Exec(c.t.Context(), sql)
		require.NoError(c.t, err, sql)
	}
}
