package queue

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
)

// outagePause spaces the tries of a consumer while the server is away: asynq
// itself fetches again at once after a failure.
const outagePause = 50 * time.Millisecond

// outage writes one line when the server goes away and one when it is back,
// whatever number of connections notice.
type outage struct {
	log   logrus.FieldLogger
	addr  string
	count func() // an outage that begins

	mu    sync.Mutex
	since time.Time // zero: the server answers
}

// saw takes note of a command's result and reports whether the server is away.
func (o *outage) saw(err error) bool {
	away := isOutage(err)
	if err != nil && !away && !isReply(err) {
		return false // a caller gave up: that says nothing of the server
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case away && o.since.IsZero():
		o.since = time.Now()
		o.count()
		o.log.WithError(err).Warnf("Redis at %s cannot be used; parcels wait in Postgres until it is back", o.addr)
	case !away && !o.since.IsZero():
		o.log.Infof("Redis at %s is back after %v", o.addr, time.Since(o.since).Round(time.Millisecond))
		o.since = time.Time{}
	}
	return away
}

// open reports whether the server is away as far as is known.
func (o *outage) open() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.since.IsZero()
}

// outageReplies are the replies of a server that is up but of no use now.
var outageReplies = []string{"LOADING", "MASTERDOWN", "READONLY", "NOAUTH", "WRONGPASS", "NOPERM", "MISCONF", "OOM", "CLUSTERDOWN", "BUSY"}

func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) || errors.Is(err, redis.Nil)
}

func isOutage(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, redis.ErrClosed) {
		return false
	}
	var reply redis.Error
	if !errors.As(err, &reply) {
		var network net.Error
		// A deadline of the caller's is no sign; one of the connection is a net.Error.
		return !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network != context.DeadlineExceeded //nolint:errorlint // this very error, not one that wraps it
	}
	for _, prefix := range outageReplies {
		if strings.HasPrefix(reply.Error(), prefix) {
			return true
		}
	}
	return false
}

// hook watches every command of a client. With a pause it also slows the client
// down while the server is away; once stopping is closed it lets commands fail
// at once then, so that stopping takes no series of timeouts.
type hook struct {
	outage   *outage
	pause    time.Duration
	stopping <-chan struct{}
}

var errStopping = errors.New("the consumer is stopping while Redis cannot be used")

func (h hook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if h.hopeless() {
			cmd.SetErr(errStopping)
			return errStopping
		}
		err := next(ctx, cmd)
		h.after(ctx, err)
		return err
	}
}

func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		h.after(ctx, err)
		return err
	}
}

func (h hook) hopeless() bool {
	select {
	case <-h.stopping: // nil, so never, for a client without a consumer
		return h.outage.open()
	default:
		return false
	}
}

func (h hook) after(ctx context.Context, err error) {
	if !h.outage.saw(err) || h.pause == 0 {
		return
	}
	timer := time.NewTimer(h.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.stopping:
	case <-ctx.Done():
	}
}

// quietLog passes asynq's lines on at debug level, and none during an outage,
// which is told once already.
type quietLog struct {
	log    logrus.FieldLogger
	outage *outage
}

func (q quietLog) print(args ...any) {
	if !q.outage.open() {
		q.log.Debug(args...)
	}
}

func (q quietLog) Debug(args ...any) { q.print(args...) }
func (q quietLog) Info(args ...any)  { q.print(args...) }
func (q quietLog) Warn(args ...any)  { q.print(args...) }
func (q quietLog) Error(args ...any) { q.print(args...) }
func (q quietLog) Fatal(args ...any) { q.print(args...) }

// DriverLog sends what the Redis driver itself reports, such as each failed
// dial, to log at debug level instead of the standard error. The driver has one
// logger per process, so a program calls this once, at its start.
func DriverLog(log logrus.FieldLogger) { redis.SetLogger(driverLog{log}) }

type driverLog struct{ log logrus.FieldLogger }

func (d driverLog) Printf(_ context.Context, format string, args ...any) {
	d.log.Debugf(format, args...)
}
