package node

import (
	"context"
	"io"

	"github.com/catena-run/catena/check"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/store"
)

// OpenCluster opens the database and the queue of a configuration for looking
// at them only: the database refuses every write of these connections. The
// caller calls done.
func OpenCluster(ctx context.Context, cfg configs.Config, log io.Writer) (cluster check.Cluster, done func(), err error) {
	s, err := store.Open(ctx, store.Config{URL: cfg.Postgres.URL, MaxConns: 2, Readonly: true})
	if err != nil {
		return nil, nil, err
	}
	id, err := s.ClusterID(ctx)
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	logger := logTo(cfg, log)
	queue.DriverLog(logger)
	q, err := queue.Open(queueConfig(cfg, id), logger)
	if err != nil {
		return check.NewDatabase(s, nil, err), s.Close, nil
	}
	return check.NewDatabase(s, q, nil), func() {
		_ = q.Close() // nothing was written
		s.Close()
	}, nil
}
