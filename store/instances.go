package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Instance is a live worker as the cluster sees it.
type Instance struct {
	ID    string
	Epoch int64
	Alive bool // it has given a sign of life lately
}

// silentAfterTicks is how many ticks a worker falls behind before it counts as
// not alive: it then has stopped to begin anything by itself.
const silentAfterTicks = 3

// Instances lists the workers that are not known to have ended.
func (s *Store) Instances(ctx context.Context) ([]Instance, error) {
	rows, err := s.beats.Query(ctx, `SELECT w.id, w.epoch, w.tick > c.tick - $1 FROM workers w, cluster c
		WHERE w.state IN ('active', 'draining') ORDER BY w.epoch`, silentAfterTicks)
	if err != nil {
		return nil, wrap(err, "list the instances")
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Instance])
	return list, wrap(err, "list the instances")
}
