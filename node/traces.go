package node

import (
	"context"
	"fmt"
	"os"

	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// about tells in traces which process a span is from.
type about struct{ service, version string }

// openTraces starts the sender of spans where the configuration wants it.
func (b *base) openTraces(ctx context.Context, a about) (err error) {
	c := b.cfg.Telemetry.Traces
	if !c.Enabled {
		return nil
	}
	host, _ := os.Hostname()
	b.traces, err = telemetry.OpenTraces(ctx, telemetry.TracesConfig{
		Endpoint: c.Endpoint, Ratio: c.SampleRatio, Service: a.service, Version: a.version,
		Instance: fmt.Sprintf("%s-%d", host, os.Getpid()), Cluster: b.cfg.Cluster.Name,
	}, b.log)
	if err != nil {
		return task.Errorf(task.CodeInvalid, "%w", err).At("telemetry.traces").Fix("check telemetry.traces and the variables that begin with OTEL_")
	}
	return b.open.Add("traces", b.traces.Close)
}
