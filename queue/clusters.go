package queue

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// clustersKey is a hash of the clusters that use a server: their names by the
// ids that their databases give them.
const clustersKey = "catena:clusters"

// Join notes that the cluster uses this server.
func (q *Asynq) Join(ctx context.Context) error {
	if q.cfg.ClusterID == "" {
		return nil
	}
	if err := q.redis.HSet(ctx, clustersKey, q.cfg.ClusterID, q.cfg.ClusterName).Err(); err != nil {
		return q.unavailable(err, "the cluster cannot be noted")
	}
	return nil
}

// Strangers returns the clusters, name by id, that use this server while there is
// no trace of this one; none where this one uses it too, or nobody does. It writes nothing.
func (q *Asynq) Strangers(ctx context.Context) (map[string]string, error) {
	epoch, err := q.Epoch(ctx)
	if err != nil || epoch != "" {
		return nil, err
	}
	clusters, err := q.redis.HGetAll(ctx, clustersKey).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, q.unavailable(err, "the clusters cannot be read")
	}
	if _, joined := clusters[q.cfg.ClusterID]; joined {
		return nil, nil
	}
	return clusters, nil
}
