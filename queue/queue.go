// Package queue carries parcels from the masters to the workers through Redis,
// with asynq behind a small interface so that another engine can be added.
//
// It is a hint, never the truth: an item says "parcel 7 may be claimed under
// dispatch number 2", and the claim in Postgres decides. Losing an item delays
// its parcel until the reconciler enqueues it again; delivering it twice costs
// a refused claim. So the package refuses to keep anything that matters: no
// retries, no results, no schedules, no statistics to rely on.
package queue

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

// Item tells the workers of a lane that a parcel waits for its claim.
type Item struct {
	Lane       string
	Parcel     int64
	DispatchNo int
}

// Queue brings items to the consumers of their lanes, each to one of them.
type Queue interface {
	// Enqueue makes every item available to the consumers of its lane. An item that
	// is there already counts as enqueued. It returns nil or an error that says
	// how many items failed; enqueuing all of them again is then safe. It blocks for
	// the round trips and gives up at the first failure and when ctx ends.
	Enqueue(ctx context.Context, items []Item) error
	// Consume starts fetching the items of one lane and calls handle for each, at
	// most cfg.Concurrency at a time. It returns at once, also while the server is
	// away, and survives later outages.
	Consume(lane string, cfg ConsumeConfig, handle Handler) (Consumer, error)
	// Epoch returns the value that SetEpoch stored last, "" when the server was
	// emptied since.
	Epoch(ctx context.Context) (string, error)
	// SetEpoch stores a value that is lost with everything else the server holds.
	SetEpoch(ctx context.Context, epoch string) error
	// Check asks the server what it is. It fails when the server cannot be used.
	Check(ctx context.Context) (Info, error)
	// Clean removes what crashed consumers left behind. Call it now and then.
	Clean(ctx context.Context) error
	// Close frees the connections. Stop the consumers first.
	Close() error
}

// Handler claims or refuses an item and returns. The item is done afterwards
// whatever happened: it is never delivered again. ctx ends when the consumer is
// stopped by force or when the handler has taken ConsumeConfig.HandleTimeout;
// the handler must then return soon. An item given up so is lost to the queue, and the
// reconciler enqueues its unclaimed parcel again.
type Handler func(ctx context.Context, item Item)

// Consumer is a running consumer of one lane.
type Consumer interface {
	// Stop fetches nothing more, waits for the handlers in progress until ctx ends,
	// then ends their contexts and waits for their return. It returns ctx's cause
	// when it had to interrupt handlers. Further calls wait for the first.
	Stop(ctx context.Context) error
}

// ConsumeConfig tunes one consumer. Zero values mean the defaults.
type ConsumeConfig struct {
	Concurrency   int           // handlers at a time; 0: 2
	PollInterval  time.Duration // mean wait between fetches of an empty lane; 0: 2ms
	HandleTimeout time.Duration // of one handler; 0: 50s, the longest allowed
}

// Limits and defaults of ConsumeConfig.
const (
	DefaultConcurrency   = 2
	DefaultPollInterval  = 2 * time.Millisecond
	DefaultHandleTimeout = 50 * time.Second
	maxConcurrency       = 1000
)

// Validate checks the ranges.
func (c ConsumeConfig) Validate() error {
	switch {
	case c.Concurrency < 0 || c.Concurrency > maxConcurrency:
		return task.Errorf(task.CodeInvalid, "%d handlers at a time are out of range", c.Concurrency).
			At("concurrency").Fix("use 1 to %d", maxConcurrency)
	case c.PollInterval < 0 || c.PollInterval > time.Minute:
		return task.Errorf(task.CodeInvalid, "poll interval %v is out of range", c.PollInterval).
			At("pollInterval").Fix("use 1ms to 1m")
	case c.HandleTimeout < 0 || c.HandleTimeout > DefaultHandleTimeout:
		return task.Errorf(task.CodeInvalid, "handle timeout %v is out of range", c.HandleTimeout).
			At("handleTimeout").Fix("use at most %v", DefaultHandleTimeout)
	}
	return nil
}

func (c ConsumeConfig) withDefaults() ConsumeConfig {
	if c.Concurrency == 0 {
		c.Concurrency = DefaultConcurrency
	}
	if c.PollInterval == 0 {
		c.PollInterval = DefaultPollInterval
	}
	if c.HandleTimeout == 0 {
		c.HandleTimeout = DefaultHandleTimeout
	}
	return c
}

// Unknown stands for what the server does not tell.
const Unknown = "unknown"

// Info is what a server says of itself.
type Info struct {
	Addr            string        // without credentials
	Version         string        // or Unknown
	MaxMemoryPolicy string        // or Unknown, as on managed servers that forbid CONFIG
	Latency         time.Duration // of one ping
}

// Problem describes a setting that endangers the queue, "" when there is none.
func (i Info) Problem() string {
	if i.MaxMemoryPolicy == "noeviction" || i.MaxMemoryPolicy == Unknown {
		return ""
	}
	return "maxmemory-policy is " + i.MaxMemoryPolicy + ", so the server may drop queued parcels: set it to noeviction"
}

// id names an item. A fresh dispatch number makes a fresh id, so that a task
// that died while active, and keeps its id in the archive, blocks nothing.
func (i Item) id() string {
	return strconv.FormatInt(i.Parcel, 10) + ":" + strconv.Itoa(i.DispatchNo)
}

func (i Item) validate() error {
	if i.Lane == "" || i.Parcel <= 0 || i.DispatchNo < 0 {
		return task.Errorf(task.CodeInvalid, "parcel %d with dispatch number %d cannot be queued in lane %q", i.Parcel, i.DispatchNo, i.Lane)
	}
	return nil
}

func parseItem(lane, id string) (Item, error) {
	parcel, no, _ := strings.Cut(id, ":")
	p, perr := strconv.ParseInt(parcel, 10, 64)
	n, nerr := strconv.Atoi(no)
	item := Item{Lane: lane, Parcel: p, DispatchNo: n}
	if perr != nil || nerr != nil || item.validate() != nil {
		return Item{}, task.Errorf(task.CodeInvalid, "%q in lane %q does not name a parcel", id, lane)
	}
	return item, nil
}
