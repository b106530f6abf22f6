package master

import (
	"context"
	"runtime"
	"time"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/task"
)

// tellWorkers reads the figures of the cluster at each health check, for the
// supervised workers. While the database is away they keep the last ones.
func (m *Master) tellWorkers(ctx context.Context) {
	meter, err := healthcheck.NewSelfMeter(ctx, m.cfg.Name)
	if err != nil {
		m.deps.Log.WithError(err).Debug("cannot measure this process")
	}
	ticker := time.NewTicker(m.supervisor.cfg.CheckEvery)
	defer ticker.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		figures, err := m.deps.Store.ClusterFigures(asking)
		if err == nil {
			figures.Master = m.ownFigures(asking, meter)
			m.supervisor.figures.Store(&figures)
		}
		cancel()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *Master) ownFigures(ctx context.Context, meter *healthcheck.Meter) task.MasterFigures {
	f := task.MasterFigures{Name: m.cfg.Name, Leads: m.Leads(), Workers: m.supervisor.size(), Load: healthcheck.HostLoad(ctx), CPUs: runtime.NumCPU()}
	if meter != nil {
		if read, err := meter.Read(ctx); err == nil {
			f.Memory = int64(read.RSS)
		}
	}
	return f
}
