package queue

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/task"
)

const (
	taskType       = "parcel"
	taskTimeout    = time.Minute // longer than any handler may take
	enqueueWorkers = 16
)

// Asynq is the Queue over asynq and Redis. Safe for concurrent use.
type Asynq struct {
	cfg     Config
	log     logrus.FieldLogger
	outage  *outage
	redis   *redis.Client
	client  *asynq.Client
	metrics *metrics
	lanes   sync.Map // names of the queues this process has used
}

var _ Queue = (*Asynq)(nil)

// Open prepares the connections. The server may be away: Check tells.
func Open(cfg Config, log logrus.FieldLogger) (*Asynq, error) {
	client, err := cfg.connect(enqueueWorkers + 4)
	if err != nil {
		return nil, err
	}
	q := &Asynq{cfg: cfg, log: log, redis: client, metrics: newMetrics()}
	q.outage = &outage{log: log, addr: cfg.Addr(), count: q.metrics.outages.Inc}
	client.AddHook(hook{outage: q.outage})
	q.client = asynq.NewClientFromRedisClient(client)
	return q, nil
}

// Close frees the connections.
func (q *Asynq) Close() error {
	if err := q.redis.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return err
	}
	return nil
}

// Enqueue implements Queue. asynq takes one task per call, so several calls
// run side by side.
func (q *Asynq) Enqueue(ctx context.Context, items []Item) error {
	for _, item := range items {
		if err := item.validate(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next, done atomic.Int64
		workers    sync.WaitGroup
	)
	for range min(enqueueWorkers, len(items)) {
		workers.Go(func() {
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= int64(len(items)) {
					return
				}
				if err := q.enqueue(ctx, items[i]); err != nil {
					cancel(err) // the others would fail alike, each after its timeout
					return
				}
				done.Add(1)
			}
		})
	}
	workers.Wait()
	q.metrics.enqueued.Add(float64(done.Load()))
	if failed := int64(len(items)) - done.Load(); failed > 0 {
		q.metrics.errors.Inc()
		return q.unavailable(context.Cause(ctx), "%d of %d parcels were not enqueued", failed, len(items))
	}
	return nil
}

func (q *Asynq) enqueue(ctx context.Context, item Item) error {
	name := q.queueName(item.Lane)
	id := item.id()
	_, err := q.client.EnqueueContext(ctx, asynq.NewTask(taskType, []byte(id)),
		asynq.Queue(name), asynq.TaskID(id), asynq.MaxRetry(0), asynq.Timeout(taskTimeout), asynq.Retention(0))
	if err == nil || errors.Is(err, asynq.ErrTaskIDConflict) || errors.Is(err, asynq.ErrDuplicateTask) {
		q.lanes.Store(name, struct{}{})
		return nil
	}
	return err
}

// Epoch implements Queue.
func (q *Asynq) Epoch(ctx context.Context) (string, error) {
	epoch, err := q.redis.Get(ctx, q.epochKey()).Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	if err != nil {
		return "", q.unavailable(err, "the epoch cannot be read")
	}
	return epoch, nil
}

// SetEpoch implements Queue.
func (q *Asynq) SetEpoch(ctx context.Context, epoch string) error {
	if err := q.redis.Set(ctx, q.epochKey(), epoch, 0).Err(); err != nil {
		return q.unavailable(err, "the epoch cannot be written")
	}
	return q.Join(ctx)
}

func (q *Asynq) epochKey() string             { return q.cfg.Namespace + ":epoch" }
func (q *Asynq) queueName(lane string) string { return q.cfg.Namespace + ":" + lane }

// unavailable makes a coded error of a failed command.
func (q *Asynq) unavailable(cause error, format string, args ...any) error {
	code := task.CodeUnavailable
	switch {
	case errors.Is(cause, context.Canceled):
		code = task.CodeCancelled
	case errors.Is(cause, context.DeadlineExceeded):
		code = task.CodeTimeout
	}
	args = append(args, cause)
	return task.Errorf(code, format+": %w", args...).At("Redis at " + q.cfg.Addr()).
		Fix("see that the server runs and that redis.url (or redis.sentinel) names it with the right credentials")
}
