package node

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/server"
	"github.com/catena-run/catena/telemetry"
	"github.com/catena-run/catena/worker"
)

// workerClock is the clock of a worker that runs alone; a supervised one is on
// its master's host.
func workerClock(clock *healthcheck.Clock) prometheus.Collector {
	return telemetry.GaugeOf("catena_clock_offset_seconds", "How far the clock of this worker is ahead of the database's.", func() float64 {
		offset, _, _ := clock.Offset()
		return offset.Seconds()
	})
}

// serveWorkerAdmin answers probes and metrics of a worker that runs alone, on
// the addresses that its configuration names. The caller calls done.
func (b *base) serveWorkerAdmin(ctx context.Context, o WorkerOptions, w *worker.Worker, registry *prometheus.Registry, epoch func() int64) (done func(), err error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	done = func() {
		stop()
		serving.Wait()
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	mux := http.NewServeMux()
	if address := b.cfg.Worker.Admin; address != "" {
		listener, err := server.Listen(server.Address{Kind: server.KindHTTP, Text: address, Key: "worker.admin"}, nil)
		if err != nil {
			return nil, err
		}
		probes := b.probes()
		probes.AddReady("work", func(context.Context) error { return w.Ready() })
		mux.Handle("/livez", probes.Live())
		mux.Handle("/readyz", probes.Ready())
		mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, ErrorLog: b.log}))
		b.log.WithField("address", listener.Addr().String()).Info("the worker's probes and metrics are up")
		serving.Go(func() { serveUntil(ctx, mux, listener) })
	}
	if !b.cfg.Health.Liveness {
		return done, nil
	}
	listener, err := listenForLiveness(b.cfg, nil)
	if err != nil {
		return nil, err
	}
	itself := func(ctx context.Context) (list []instance, err error) {
		all, err := b.store.Instances(ctx)
		for _, i := range all {
			if i.Epoch == epoch() {
				list = append(list, instance{id: i.ID, kind: instanceWorker, alive: i.Alive})
			}
		}
		return list, err
	}
	l := b.newLiveness(o.Liveness, listener, mux, itself)
	serving.Go(func() { l.run(ctx) })
	return done, nil
}

// serveUntil answers on listener until ctx ends.
func serveUntil(ctx context.Context, handler http.Handler, listener net.Listener) {
	s := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	defer context.AfterFunc(ctx, func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := s.Shutdown(closing); err != nil {
			_ = s.Close()
		}
	})()
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		_ = s.Close()
	}
}
