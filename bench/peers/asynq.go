package peers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/catena-run/catena/bench"
)

// asynqDB is the Redis database that the asynq subject owns and empties.
const asynqDB = 9

const (
	asynqConcurrency = 16 // of one server
	asynqClients     = 16 // goroutines that enqueue
	asynqTask        = "noop"
)

// Asynq is bare asynq: a task without payload and a handler that returns nil.
// Its tasks live in Redis only.
type Asynq struct {
	Servers   bench.Servers
	Processes int           // asynq servers, all in this process
	Poll      time.Duration // TaskCheckInterval; 0: asynq's default, 1 s
}

// Name tells how many servers and which poll.
func (a Asynq) Name() string {
	poll := "default poll"
	if a.Poll > 0 {
		poll = fmt.Sprintf("%s poll", a.Poll)
	}
	return fmt.Sprintf("asynq, %d server(s), %s", a.Processes, poll)
}

// Throughput enqueues while the servers run.
func (a Asynq) Throughput(ctx context.Context, n int) (float64, error) {
	done := newCounter(n)
	redisOpt, stop, err := a.open(ctx)
	if err != nil {
		return 0, err
	}
	defer stop()
	stopServers, err := a.serve(redisOpt, func() { done.end() })
	if err != nil {
		return 0, err
	}
	defer stopServers()
	began := time.Now()
	if err := enqueueMany(ctx, redisOpt, n); err != nil {
		return 0, err
	}
	err = done.wait(ctx)
	return rate(n, began), err
}

// Backlog enqueues first and then starts the servers.
func (a Asynq) Backlog(ctx context.Context, n int) (float64, error) {
	done := newCounter(n)
	redisOpt, stop, err := a.open(ctx)
	if err != nil {
		return 0, err
	}
	defer stop()
	if err := enqueueMany(ctx, redisOpt, n); err != nil {
		return 0, err
	}
	began := time.Now()
	stopServers, err := a.serve(redisOpt, func() { done.end() })
	if err != nil {
		return 0, err
	}
	defer stopServers()
	err = done.wait(ctx)
	return rate(n, began), err
}

// Latency is the time from the call of Enqueue to the first line of the handler.
func (a Asynq) Latency(ctx context.Context, n int) (p50, p99 time.Duration, err error) {
	redisOpt, stop, err := a.open(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	started := make(chan time.Time, n)
	stopServers, err := a.serve(redisOpt, func() { started <- time.Now() })
	if err != nil {
		return 0, 0, err
	}
	defer stopServers()
	client := asynq.NewClient(redisOpt)
	defer client.Close()
	samples, err := sample(ctx, n, started, func() error {
		_, err := client.EnqueueContext(ctx, asynq.NewTask(asynqTask, nil), asynq.MaxRetry(0))
		return err
	})
	return bench.Percentile(samples, 0.5), bench.Percentile(samples, 0.99), err
}

// open empties the database of the subject; stop empties it again.
func (a Asynq) open(ctx context.Context) (opt asynq.RedisClientOpt, stop func(), err error) {
	options, err := redis.ParseURL(a.Servers.RedisURL)
	if err != nil {
		return opt, nil, fmt.Errorf("the Redis URL: %w", err)
	}
	options.DB = asynqDB
	client := redis.NewClient(options)
	if err := client.FlushDB(ctx).Err(); err != nil {
		return opt, nil, err
	}
	opt = asynq.RedisClientOpt{Network: options.Network, Addr: options.Addr, Username: options.Username, Password: options.Password, DB: asynqDB}
	return opt, func() {
		client.FlushDB(context.WithoutCancel(ctx))
		client.Close()
	}, nil
}

func (a Asynq) serve(opt asynq.RedisClientOpt, work func()) (stop func(), err error) {
	var servers []*asynq.Server
	stop = func() {
		var wait sync.WaitGroup
		for _, server := range servers {
			wait.Go(server.Shutdown)
		}
		wait.Wait()
	}
	handle := asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		work()
		return nil
	})
	for range a.Processes {
		server := asynq.NewServer(opt, asynq.Config{Concurrency: asynqConcurrency, TaskCheckInterval: a.Poll, LogLevel: asynq.FatalLevel})
		if err := server.Start(handle); err != nil {
			stop()
			return nil, err
		}
		servers = append(servers, server)
	}
	return stop, nil
}

// enqueueMany uses many goroutines, since asynq has no call for a batch.
func enqueueMany(ctx context.Context, opt asynq.RedisClientOpt, n int) error {
	client := asynq.NewClient(opt)
	defer client.Close()
	var wait sync.WaitGroup
	failures := make(chan error, asynqClients)
	for i := range asynqClients {
		share := n / asynqClients
		if i < n%asynqClients {
			share++
		}
		wait.Go(func() {
			for range share {
				if _, err := client.EnqueueContext(ctx, asynq.NewTask(asynqTask, nil), asynq.MaxRetry(0)); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wait.Wait()
	close(failures)
	return <-failures
}
