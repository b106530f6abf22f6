package ours

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/catena-run/catena/bench"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/task"
)

// LimitLoad is a load of no-op runs on many keys.
type LimitLoad struct {
	Name        string
	Rate        *task.Rate
	Concurrency *task.Concurrency
}

const limitKeys = 1000

const limitKey = "${params.customer}"

// LimitLoads begin with the one without limits. The limits of the others are
// kept at every start but are wide enough not to be what holds the load back.
var LimitLoads = []LimitLoad{
	{Name: "no limit"},
	{Name: "concurrency 50 per key", Concurrency: &task.Concurrency{Limit: 50, Key: limitKey}},
	{Name: "rate 1,000 per second and key", Rate: &task.Rate{Limit: 1000, Per: task.Duration(time.Second), Key: limitKey}},
}

// Limits measures a load accepted while a worker works, and one that is
// accepted before the worker starts.
func Limits(ctx context.Context, servers bench.Servers, l LimitLoad, n int) (accepted, backlog float64, err error) {
	if accepted, err = limited(ctx, servers, l, n, true); err != nil {
		return 0, 0, err
	}
	backlog, err = limited(ctx, servers, l, n, false)
	return accepted, backlog, err
}

func limited(ctx context.Context, servers bench.Servers, l LimitLoad, n int, started bool) (float64, error) {
	cl, err := Open(ctx, servers, nil)
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	def := task.Definition{Name: "keyed", Chain: json.RawMessage(`[["nop"]]`), Rate: l.Rate, Concurrency: l.Concurrency}
	if err := cl.Apply(ctx, def); err != nil {
		return 0, err
	}
	if started {
		cl.StartWorker(ctx)
		for range 3 { // so that the runs' length is known
			if err := cl.submitKeyed(ctx, submitBatch); err != nil {
				return 0, err
			}
			if err := cl.Drained(ctx); err != nil {
				return 0, err
			}
			select {
			case <-time.After(300 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	began := time.Now()
	if err := cl.submitKeyed(ctx, n); err != nil {
		return 0, err
	}
	if !started {
		began = time.Now()
		cl.StartWorker(ctx)
	}
	if err := cl.Drained(ctx); err != nil {
		return 0, err
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// submitKeyed submits n runs whose keys go round.
func (cl *Cluster) submitKeyed(ctx context.Context, n int) error {
	batches := make(chan []dispatch.Request)
	failures := make([]error, submitters)
	var all sync.WaitGroup
	for i := range submitters {
		all.Go(func() {
			for batch := range batches {
				if failures[i] == nil {
					_, failures[i] = cl.Dispatch.Submit(ctx, batch)
				}
			}
		})
	}
	for at := 0; at < n; at += submitBatch {
		batch := make([]dispatch.Request, min(submitBatch, n-at))
		for i := range batch {
			batch[i] = dispatch.Request{Task: "keyed", Params: json.RawMessage(fmt.Sprintf(`{"customer":%d}`, (at+i)%limitKeys))}
		}
		batches <- batch
	}
	close(batches)
	all.Wait()
	return errors.Join(failures...)
}
