package node

import (
	"context"
	"encoding/json"
	"io"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// ReadonlyRunOn executes a readonly run as a master does, but on connections
// that refuse to write.
func ReadonlyRunOn(ctx context.Context, cfg configs.Config, name string, params json.RawMessage, log io.Writer) (*task.ReadonlyRun, error) {
	s, err := store.Open(ctx, store.Config{URL: cfg.Postgres.URL, MaxConns: 2, Readonly: true})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	b := &base{cfg: cfg, store: s, packages: pkgstore.New(s.Pool(), packageConfig(cfg))}
	return newReadonlyRuns(b, log).ReadonlyRun(ctx, name, params)
}

// NewSessionField is the hook of a worker with that id.
func NewSessionField(id string) logrus.Hook {
	f := &sessionField{}
	f.id.Store(&id)
	return f
}
