package node

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/lifecycle"
)

const (
	// hardMemory is how many times worker.maxMemory a worker may hold; the policy of
	// the supervisor uses the same.
	hardMemory = healthcheck.HardMemory
	// mappedSlack is what a worker may map beyond that: memory that the runtime
	// holds and has not touched, or has given back, and stacks of threads.
	mappedSlack = 1 << 30
	guardEvery  = 50 * time.Millisecond
	// tellWithin is the time that the last words may take.
	tellWithin = 100 * time.Millisecond
)

// hardLimit is the memory at which a worker is killed; 0: there is no limit.
func hardLimit(cfg configs.Config) uint64 { return hardMemory * uint64(cfg.Worker.MaxMemory) }

// limitWorker bounds this worker process by what the system offers; the garbage
// collector works harder before the limit is reached.
func limitWorker(cfg configs.Config, log logrus.FieldLogger) {
	data := uint64(0)
	if hard := hardLimit(cfg); hard > 0 {
		data = hard + mappedSlack
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(int64(cfg.Worker.MaxMemory))
		}
	}
	if err := lifecycle.LimitSelf(data); err != nil {
		log.WithError(err).Debug("the system does not bound this worker in every way; its master and itself watch it all the same")
	}
}

// guardMemory ends this process before its memory takes the machine down: within
// 50 ms, far sooner than a check of its master. last is called before.
func guardMemory(ctx context.Context, cfg configs.Config, log logrus.FieldLogger, last func(reason string)) {
	hard := hardLimit(cfg)
	if hard == 0 {
		return
	}
	resident, closeIt, err := healthcheck.OpenResident()
	if err != nil {
		log.WithError(err).Debug("cannot watch the memory of this process; its master does")
		return
	}
	defer closeIt()
	ticker := time.NewTicker(guardEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		rss, err := resident()
		if err != nil || rss <= hard {
			continue
		}
		reason := fmt.Sprintf("uses %s of memory, the limit is %s", healthcheck.Mebibytes(rss), healthcheck.Mebibytes(uint64(cfg.Worker.MaxMemory)))
		told := make(chan struct{})
		go func() { // dies with the process
			defer close(told)
			last(reason)
			log.WithField("reason", reason).Error("this worker kills itself")
		}()
		select {
		case <-told:
		case <-time.After(tellWithin):
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		return
	}
}
