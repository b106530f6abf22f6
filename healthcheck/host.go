package healthcheck

import (
	"context"

	"github.com/shirou/gopsutil/v3/load"
)

// HostLoad is the load average of this host over the last minute, 0 where the
// system does not tell.
func HostLoad(ctx context.Context) float64 {
	average, err := load.AvgWithContext(ctx)
	if err != nil {
		return 0
	}
	return average.Load1
}
