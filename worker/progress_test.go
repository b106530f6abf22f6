package worker_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

// What a run waits for the database before its code begins is not held against
// it: its supervisor would kill the worker when the database is back.
func TestARunIsLateByTheTimeOfItsCode(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.push(`export async function stays(_: any, ctx: any) { ctx.signal; await new Promise((done) => setTimeout(done, 3600000)) }`, "", "m?stays")
	c.apply("name: stays\nchain: [{call: 'pkg:m?stays'}]\ntimeout: 200ms\n")
	tx, err := c.store.Pool().Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	id := c.submit("stays")
	_, err = tx.Exec(t.Context(), `LOCK TABLE task_revisions`)
	require.NoError(t, err)
	w := c.work(graces(2*time.Second, time.Minute))
	require.Eventually(t, func() bool { return w.made.Progress().Running == 1 }, patience, time.Millisecond)
	began := time.Now()
	require.Never(t, func() bool { return w.made.Progress().Late > 0 }, 500*time.Millisecond, 20*time.Millisecond)
	require.NoError(t, tx.Rollback(t.Context()))
	require.Eventually(t, func() bool { return w.made.Progress().LateRun == id }, patience, time.Millisecond)
	require.Less(t, w.made.Progress().Late, time.Since(began)-600*time.Millisecond)
	run := c.until(id, task.StateTimedOut)
	require.NotNil(t, run.InterruptedAt)
	require.Zero(t, w.made.Progress().Late)
}
