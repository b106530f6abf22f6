package e2e

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/task"
)

const waitingTasks = `
name: waits/event
chain:
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 0}
  - wait: {event: go, key: "${run.id}"}
    as: word
  - call: faults:work?step
    with: {recorder: "${params.recorder}", step: 1, ms: "${vars.word.ms}"}
params: {recorder: RECORDER}
---
name: waits/fan
chain:
  - each: ${1..5000}
    spawn: true
    limit: 40
    do:
      - set: {outcome: {success: true, data: "${item}"}}
    as: all
  - set: {outcome: {success: true, data: "${sum(vars.all)}"}}
`

// TestWaits kills workers under runs that are parked and that go on.
func TestWaits(t *testing.T) {
	t.Parallel()
	receiver := servertest.NewReceiver(t)
	c := newCluster(t, "telemetry.traces.enabled=true", "telemetry.traces.sampleRatio=0", "telemetry.traces.endpoint="+receiver.URL)
	c.startMaster(0)
	first := c.startWorker()
	c.awaitWorkers(1)
	c.push()
	c.apply(waitingTasks)

	run := c.startTraced("waits/event")
	waiting := func() bool { return c.show(run).State == task.StateWaiting }
	c.eventually(waiting, "the run does not wait")
	c.eventually(func() bool { return len(receiver.Named("step 0")) == 1 }, "the trace does not arrive")
	first.kill()
	c.workers = nil
	second := c.startWorker()
	c.eventually(func() bool { return c.text(`SELECT count(*)::text FROM workers WHERE state = 'lost'`) == "1" }, "nobody noticed the dead worker")
	require.True(t, waiting(), "a parked run loses nothing with its worker")

	sent := must(c, func(ctx context.Context, api *client.Client) (client.SentEvent, error) {
		return api.SendEvent(ctx, client.EventRequest{Name: "go", Key: run.ID.String(), Data: json.RawMessage(`{"ms":3000}`)})
	})
	require.Equal(t, 1, sent.Reached)
	c.executing(run, 1, 1)
	c.eventually(func() bool { return len(receiver.Named("step 1 word")) == 1 }, "the wait is not in the trace")
	second.kill() // while it goes on
	c.workers = nil
	c.startWorker()
	run = c.result(run)
	require.Equal(t, task.StateSucceeded, run.State, run.Reason)
	require.Equal(t, 1, run.Attempt)
	require.Equal(t, 1, run.Losses)
	require.Equal(t, 1, c.recorder.count(run.ID, 0), "what was committed before the wait does not run again")
	require.Equal(t, 2, c.recorder.count(run.ID, 1))

	c.checkTrace(receiver, run)

	// A master and a worker die while 5,000 children are under way.
	fan := c.start("waits/fan", `{}`)
	c.eventually(func() bool {
		return c.text(`SELECT (count(*) > 500)::text FROM runs WHERE parent = $1 AND state = 'succeeded'`, fan.ID) == "true"
	}, "the children do not run")
	c.workers[0].kill()
	c.workers = nil
	c.replaceMaster(c.leader(), 2)
	c.within(5*patience, func() bool { return c.show(fan).State.Terminal() }, "the children do not end")
	fan = c.result(fan)
	require.Equal(t, task.StateSucceeded, fan.State, fan.Reason)
	require.Equal(t, "12502500", string(fan.Outcome.Data))
	require.Equal(t, "5000", c.text(`SELECT count(*)::text FROM runs WHERE parent = $1`, fan.ID), "none is doubled")
	require.Equal(t, "0", c.text(`SELECT count(*)::text FROM holds`))
}

func (c *cluster) show(run task.Run) task.Run {
	c.t.Helper()
	return must(c, func(ctx context.Context, api *client.Client) (task.Run, error) { return api.Run(ctx, run.ID) })
}
