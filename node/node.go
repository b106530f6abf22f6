// Package node assembles a process from the configuration: a master, a worker
// or a developer's whole cluster. It is the only place where the parts meet
// that declare what they need of each other.
//
// It keeps no package-level state, so that several nodes run in one test.
package node

import (
	"context"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/migrations"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/telemetry"
)

// Options tell a process what its configuration does not.
type Options struct {
	Version string
	Out     io.Writer
	Err     io.Writer // the log
	Command []string  // program and arguments that started this process, for a master that hands over
	// Log gets the lines of this process instead of Err, whatever log.level and
	// log.format say; telemetry.FromSlog makes one of a slog.Handler. Those of the
	// worker processes that a master starts still go to Err.
	Log      logrus.FieldLogger
	Liveness Liveness
}

// closePatience is how long a process takes itself apart.
const closePatience = 10 * time.Second

// base is what masters and workers have in common.
type base struct {
	cfg      configs.Config
	log      logrus.FieldLogger
	open     *lifecycle.Group
	cluster  string // its id, from the database
	store    *store.Store
	queue    *queue.Asynq
	packages *pkgstore.Store
	dispatch *dispatch.Dispatcher
	traces   *telemetry.Traces // nil: none
}

func newLog(cfg configs.Config, o Options) logrus.FieldLogger {
	if o.Log != nil {
		return o.Log
	}
	return logTo(cfg, o.Err)
}

func logTo(cfg configs.Config, out io.Writer) *logrus.Logger {
	return telemetry.Setup(telemetry.Config{Level: cfg.Log.Level, Format: telemetry.Format(cfg.Log.Format)}, out)
}

// openBase connects to Postgres, which must answer and have the right schema,
// and prepares the queue, which may come later: Redis holds nothing of value.
func openBase(ctx context.Context, cfg configs.Config, log logrus.FieldLogger, about about) (b *base, err error) {
	b = &base{cfg: cfg, log: log, open: lifecycle.NewGroup(lifecycle.GroupConfig{})}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if err := b.openTraces(ctx, about); err != nil {
		return b, err
	}
	b.store, err = store.Open(ctx, store.Config{URL: cfg.Postgres.URL, MaxConns: int32(cfg.Postgres.MaxConns), Keys: dispatch.NewKeys(),
		Traces: func(run uuid.UUID) string { return string(b.traces.Scheduled(run)) }})
	if err != nil {
		return b, err
	}
	if err := b.open.Add("store", func(context.Context) error { b.store.Close(); return nil }); err != nil {
		return b, err
	}
	if err := migrations.Check(ctx, b.store.Pool()); err != nil {
		return b, err
	}
	cluster, err := b.store.ClusterID(ctx)
	if err != nil {
		return b, err
	}
	b.cluster = cluster
	queue.DriverLog(log)
	b.queue, err = queue.Open(queueConfig(cfg, cluster), log)
	if err != nil {
		return b, err
	}
	if err := b.open.Add("queue", func(context.Context) error { return b.queue.Close() }); err != nil {
		return b, err
	}
	b.packages = pkgstore.New(b.store.Pool(), packageConfig(cfg))
	b.dispatch = dispatch.New(b.store, b.queue, log)
	return b, nil
}

func packageConfig(cfg configs.Config) pkgstore.Config {
	return pkgstore.Config{MaxSize: int64(cfg.Packages.MaxSize)}
}

// queueConfig keeps clusters on one Redis apart by their database's id, so that
// even a forgotten cluster.name cannot mix them.
func queueConfig(cfg configs.Config, cluster string) queue.Config {
	s := cfg.Redis.Sentinel
	return queue.Config{
		URL: cfg.Redis.URL, Namespace: cfg.Cluster.Name + "-" + cluster[:8], ClusterID: cluster, ClusterName: cfg.Cluster.Name,
		Sentinel: queue.Sentinel{MasterName: s.Master, Addrs: s.Addresses, Username: s.Username, Password: s.Password},
	}
}

// probes are those of what every process needs. Redis is only told of: without
// it runs are accepted, and wait.
func (b *base) probes() *healthcheck.Probes {
	p := healthcheck.NewProbes(2 * time.Second)
	p.AddReady("postgres", b.store.Ping)
	p.AddTold("redis", func(ctx context.Context) error { _, err := b.queue.Check(ctx); return err })
	return p
}

func (b *base) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	if err := b.open.Close(ctx); err != nil {
		b.log.WithError(err).Warn("not everything closed in order")
	}
}

// tokens lets auth look up tokens in the store.
type tokens struct{ store *store.Store }

func (t tokens) TokenByHash(ctx context.Context, hash []byte) (auth.Token, error) {
	found, err := t.store.TokenByHash(ctx, hash)
	if err != nil {
		return auth.Token{}, err
	}
	return auth.Token{ID: found.ID, Name: found.Name, Role: auth.Role(found.Role), CreatedAt: found.CreatedAt,
		ExpiresAt: found.ExpiresAt, RevokedAt: found.RevokedAt}, nil
}

// createToken stores a new token and returns its text.
func createToken(ctx context.Context, s *store.Store, role, name string, ttl time.Duration) (string, error) {
	id, secret, hash := auth.NewToken()
	t := store.Token{ID: id, Hash: hash, Name: name, Role: role}
	if ttl > 0 {
		until := time.Now().Add(ttl)
		t.ExpiresAt = &until
	}
	if err := s.CreateToken(ctx, t); err != nil {
		return "", err
	}
	return secret, s.Audit(ctx, "command line", "token.create", id, map[string]string{"role": role, "name": name})
}

// CreateToken makes a token straight in the database, as for the first one.
func CreateToken(ctx context.Context, cfg configs.Config, role, name string, ttl time.Duration) (string, error) {
	s, err := store.Open(ctx, store.Config{URL: cfg.Postgres.URL, MaxConns: 2})
	if err != nil {
		return "", err
	}
	defer s.Close()
	return createToken(ctx, s, role, name, ttl)
}
