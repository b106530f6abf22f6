package e2e

import (
	"context"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/task"
)

const (
	callersTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	callersSpan  = "00f067aa0ba902b7"
)

// startTraced starts a run as a caller does that is traced itself.
func (c *cluster) startTraced(name string) task.Run {
	c.t.Helper()
	api, err := client.New(client.Config{Server: c.leader().admin, Token: c.token, TraceParent: "00-" + callersTrace + "-" + callersSpan + "-01"})
	require.NoError(c.t, err)
	defer api.Close()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	started, err := api.StartRun(ctx, name, client.RunRequest{})
	require.NoError(c.t, err)
	require.Equal(c.t, callersTrace, started.TraceID)
	return started.Run
}

// checkTrace looks at the trace of a run of waits/event whose workers were
// killed twice: between its steps and in the last of them.
func (c *cluster) checkTrace(receiver *servertest.Receiver, run task.Run) {
	c.t.Helper()
	c.eventually(func() bool { return len(receiver.Named("run waits/event")) == 1 }, "the end of the run is not in its trace")
	spans := map[string]servertest.Span{}
	below := map[string]int{}
	for _, s := range receiver.Spans() {
		require.Equal(c.t, callersTrace, s.TraceID, "only the caller's trace is sampled")
		require.NotContains(c.t, spans, s.ID, "%s was sent twice", s.Name)
		spans[s.ID] = s
	}
	for _, s := range spans {
		above := spans[s.Parent].Name
		if s.Parent == callersSpan {
			above = "the caller"
		}
		switch {
		case s.Name == "queue": // there may be more, of workers that were killed
		case s.Name == "POST" && above == "": // from the call that died with its worker
		default:
			require.NotEmpty(c.t, above, "%s hangs in the air", s.Name)
			below[above+" > "+s.Name]++
		}
	}
	require.Equal(c.t, map[string]int{
		"the caller > accept waits/event": 1, "accept waits/event > run waits/event": 1,
		"run waits/event > step 0": 1, "step 0 > call faults:work?step": 1,
		"run waits/event > step 1 word": 1,
		"run waits/event > step 2":      1, "step 2 > call faults:work?step": 1,
		"call faults:work?step > POST": 2,
	}, below)
	end := receiver.Named("run waits/event")[0]
	require.Equal(c.t, run.ID.String(), end.Notes["catena.run.id"])
	require.Equal(c.t, "succeeded", end.Notes["catena.run.state"])
	require.Equal(c.t, run.Worker, end.Notes["catena.worker.id"])
	require.Equal(c.t, "catena-master", receiver.Named("accept waits/event")[0].Service)
	require.Equal(c.t, "catena-worker", end.Service)
	wait := receiver.Named("step 1 word")[0]
	require.Greater(c.t, end.To.Sub(end.From), wait.To.Sub(wait.From))
}
