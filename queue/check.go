package queue

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// Check implements Queue. It writes nothing.
func (q *Asynq) Check(ctx context.Context) (Info, error) {
	info := Info{Addr: q.cfg.Addr(), Version: Unknown, MaxMemoryPolicy: Unknown}
	if err := q.redis.Ping(ctx).Err(); err != nil { // opens the connection
		return info, q.unavailable(err, "the server does not answer as it should")
	}
	started := time.Now()
	if err := q.redis.Ping(ctx).Err(); err != nil {
		return info, q.unavailable(err, "the server does not answer as it should")
	}
	info.Latency = time.Since(started)
	server, err := q.redis.Info(ctx, "server").Result()
	if err != nil && !isReply(err) {
		return info, q.unavailable(err, "the server's version cannot be read")
	}
	for line := range strings.Lines(server) {
		if version, found := strings.CutPrefix(strings.TrimSpace(line), "redis_version:"); found {
			info.Version = version
		}
	}
	settings, err := q.redis.ConfigGet(ctx, "maxmemory-policy").Result()
	if err != nil && !isReply(err) {
		return info, q.unavailable(err, "the server's maxmemory-policy cannot be read")
	}
	if policy := settings["maxmemory-policy"]; policy != "" {
		info.MaxMemoryPolicy = policy
	}
	return info, nil
}

// Clean implements Queue: it empties asynq's archive, where tasks end whose
// consumer died between fetch and claim.
//
// asynq lists its queues in a set that each process fills only once, so the set
// is not whole after the server was emptied. The queues this process has used are
// therefore added again first.
func (q *Asynq) Clean(ctx context.Context) error {
	const known = "asynq:queues"
	var used []any
	q.lanes.Range(func(name, _ any) bool {
		used = append(used, name)
		return true
	})
	if len(used) > 0 {
		if err := q.redis.SAdd(ctx, known, used...).Err(); err != nil {
			return q.unavailable(err, "the archive cannot be cleaned")
		}
	}
	names, err := q.redis.SMembers(ctx, known).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return q.unavailable(err, "the archive cannot be cleaned")
	}
	inspector := asynq.NewInspectorFromRedisClient(q.redis)
	for _, name := range names {
		if !strings.HasPrefix(name, q.queueName("")) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return q.unavailable(context.Cause(ctx), "the archive cannot be cleaned")
		}
		if _, err := inspector.DeleteAllArchivedTasks(name); err != nil && !errors.Is(err, asynq.ErrQueueNotFound) {
			return q.unavailable(err, "the archive cannot be cleaned")
		}
	}
	return nil
}
