package node

import (
	"context"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/server"
	"github.com/catena-run/catena/task"
)

// Liveness replaces parts of what answers the liveness endpoints. They are off
// unless health.liveness is on.
type Liveness struct {
	Instance  healthcheck.InstanceProvider  // nil: by the instance's heartbeats
	Aggregate healthcheck.AggregateProvider // nil: all must live
	Server    healthcheck.LivenessServer    // nil: HTTP on health.address, or on the admin address
}

// instance is a process of the cluster, as the liveness endpoints tell of it.
type instance struct {
	id    string
	kind  string
	alive bool
}

const (
	instanceMaster  = "catena.master"
	instanceWorker  = "catena.worker"
	instanceVersion = 1 // of what these services offer

	livenessEvery = time.Second
	// livenessStale is how old what is known of the instances may be. What is
	// older says nothing, and nobody counts as alive.
	livenessStale = 5 * time.Second
)

// liveness keeps a LivenessServer in step with the instances of the cluster.
type liveness struct {
	server healthcheck.LivenessServer
	given  healthcheck.InstanceProvider
	realm  string
	list   func(ctx context.Context) ([]instance, error)
	log    logrus.FieldLogger

	mu    sync.Mutex
	known map[string]instance
	asked time.Time // when the list was read last
}

// listenForLiveness binds the address that the liveness endpoints have for
// themselves, or takes the listener that was given; nil when they have none.
func listenForLiveness(cfg configs.Config, given *os.File) (net.Listener, error) {
	if !cfg.Health.Liveness || cfg.Health.Address == "" {
		return nil, nil
	}
	return server.Listen(server.Address{Kind: server.KindHTTP, Text: cfg.Health.Address, Key: "health.address"}, given)
}

// newLiveness takes the server that o names, or answers on listener, or, when
// that is nil, in mux.
func (b *base) newLiveness(o Liveness, listener net.Listener, mux *http.ServeMux, list func(ctx context.Context) ([]instance, error)) *liveness {
	l := &liveness{server: o.Server, given: o.Instance, realm: b.cfg.Cluster.Name, list: list, log: b.log, known: map[string]instance{}}
	timeout := time.Duration(b.cfg.Health.Timeout)
	switch {
	case l.server != nil && listener != nil:
		_ = listener.Close() // the server knows by itself where it answers
	case l.server != nil:
	case listener != nil:
		l.server = healthcheck.NewListeningLiveness(listener, timeout)
		b.log.WithField("address", listener.Addr().String()).Info("the liveness endpoints are up")
	default:
		mounted := healthcheck.NewLiveness(timeout)
		for _, path := range healthcheck.LivenessPaths() {
			mux.Handle(path, mounted)
		}
		l.server = mounted
	}
	if o.Aggregate == nil {
		o.Aggregate = allOfSome
	}
	l.server.SetAggregate(o.Aggregate)
	return l
}

// allOfSome wants all instances healthy, and at least one: a process that the
// cluster has given up knows of none.
func allOfSome(ctx context.Context, codes []int) (int, error) {
	if len(codes) == 0 {
		return healthcheck.Unhealthy, nil
	}
	return healthcheck.AllHealthy(ctx, codes)
}

// start serves until stop is called, which waits for the end.
func (l *liveness) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	serving.Go(func() { l.run(ctx) })
	return func() {
		cancel()
		serving.Wait()
	}
}

// run serves until ctx ends.
func (l *liveness) run(ctx context.Context) {
	if err := l.server.Start(ctx); err != nil {
		l.log.WithError(err).Error("the liveness server does not start")
		return
	}
	ticker := time.NewTicker(livenessEvery)
	defer ticker.Stop()
	for {
		l.refresh(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := l.server.Stop(stopping); err != nil {
				l.log.WithError(err).Warn("the liveness server did not stop in order")
			}
			return
		}
	}
}

func (l *liveness) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, livenessEvery)
	defer cancel()
	list, err := l.list(ctx)
	if err != nil {
		return // whoever else asks the database says so; here everything counts as dead soon
	}
	now := map[string]instance{}
	for _, i := range list {
		now[i.id] = i
	}
	l.mu.Lock()
	before := l.known
	l.known, l.asked = now, time.Now()
	l.mu.Unlock()
	for id := range before {
		if _, still := now[id]; !still {
			l.server.UnregisterService(id, id)
			l.server.UnregisterInstance(id)
		}
	}
	for id, i := range now {
		if _, already := before[id]; !already {
			l.server.RegisterInstance(healthcheck.Instance{ID: id, Liveness: l.provider()})
			l.server.RegisterService(id, id, healthcheck.Service{Type: i.kind, Realm: l.realm, Version: instanceVersion})
		}
	}
}

func (l *liveness) provider() healthcheck.InstanceProvider {
	if l.given != nil {
		return l.given
	}
	return l.alive
}

func (l *liveness) alive(_ context.Context, id string) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if age := time.Since(l.asked); age > livenessStale {
		return 0, task.Errorf(task.CodeUnavailable, "nothing is known of the instances since %v", age.Round(time.Second))
	}
	if l.known[id].alive {
		return healthcheck.Healthy, nil
	}
	return healthcheck.Unhealthy, nil
}
