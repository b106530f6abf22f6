package queue

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/task"
)

// abandonAfter is when asynq leaves handlers behind that ignore the end of their
// context: later than any context of theirs lasts.
const abandonAfter = taskTimeout

type consumer struct {
	lane      string
	timeout   time.Duration
	handle    Handler
	delivered func()
	log       logrus.FieldLogger
	server    *asynq.Server
	redis     *redis.Client
	stopping  chan struct{}      // closed when nothing more shall be fetched
	forced    context.Context    // ends when handlers must end
	force     context.CancelFunc // ends forced
	once      sync.Once
	stopped   chan struct{}
	result    error
}

// Consume implements Queue: one asynq server for one lane, since a further
// queue on a server, even an empty one, costs half of its rate.
func (q *Asynq) Consume(lane string, cfg ConsumeConfig, handle Handler) (Consumer, error) {
	if lane == "" {
		return nil, task.Errorf(task.CodeInvalid, "a consumer needs a lane")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	// Beside the handlers' one connection each: the fetch, five periodic duties and the subscription.
	client, err := q.cfg.connect(cfg.Concurrency + 8)
	if err != nil {
		return nil, err
	}
	name := q.queueName(lane)
	q.lanes.Store(name, struct{}{})
	c := &consumer{
		lane: lane, timeout: cfg.HandleTimeout, handle: handle, delivered: q.metrics.delivered.Inc, log: q.log.WithField("lane", lane), redis: client,
		stopping: make(chan struct{}), stopped: make(chan struct{}),
	}
	c.forced, c.force = context.WithCancel(context.Background())
	client.AddHook(hook{outage: q.outage, pause: outagePause, stopping: c.stopping})
	c.server = asynq.NewServerFromRedisClient(client, asynq.Config{
		Concurrency:       cfg.Concurrency,
		Queues:            map[string]int{name: 1},
		TaskCheckInterval: cfg.PollInterval,
		Logger:            quietLog{log: c.log, outage: q.outage},
		LogLevel:          asynq.WarnLevel,
		ShutdownTimeout:   abandonAfter,
		// Nothing here is delayed or retained, so these duties have nothing to do.
		DelayedTaskCheckInterval: time.Minute,
		JanitorInterval:          time.Minute,
	})
	if err := c.server.Start(asynq.HandlerFunc(c.process)); err != nil {
		c.force()
		_ = client.Close()
		return nil, task.Errorf(task.CodeInternal, "lane %s: the consumer does not start: %w", lane, err)
	}
	return c, nil
}

// process always returns nil: the claim in Postgres is what counts, so a task
// is done once it was handled, refused, or could not be read.
func (c *consumer) process(ctx context.Context, t *asynq.Task) error {
	defer func() {
		if x := recover(); x != nil {
			c.log.Errorf("handling parcel %q panicked: %v\n%s", t.Payload(), x, debug.Stack())
		}
	}()
	item, err := parseItem(c.lane, string(t.Payload()))
	if err != nil {
		c.log.WithError(err).Warn("a foreign task was dropped")
		return nil
	}
	// Ends before asynq's own limit, which would put the task in the archive.
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// Not through asynq's base context: asynq would not wait for the handler then.
	defer context.AfterFunc(c.forced, cancel)()
	c.delivered()
	c.handle(ctx, item)
	return nil
}

// Stop implements Consumer.
func (c *consumer) Stop(ctx context.Context) error {
	c.once.Do(func() {
		defer close(c.stopped)
		close(c.stopping)
		down := make(chan struct{})
		go func() {
			defer close(down)
			c.server.Stop()     // fetches nothing more
			c.server.Shutdown() // waits for the handlers
		}()
		select {
		case <-down:
		case <-ctx.Done():
			c.result = context.Cause(ctx)
			c.force()
			<-down
		}
		c.force()
		if err := c.redis.Close(); err != nil && c.result == nil {
			c.result = err
		}
	})
	<-c.stopped
	return c.result
}
