package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
)

// Bulk changes runs by filter, a bounded number at each step.
type Bulk interface {
	CountLive(ctx context.Context, f store.RunFilter) (store.BulkStep, error)
	CountEnded(ctx context.Context, f store.RunFilter) (store.BulkStep, error)
	CancelRuns(ctx context.Context, f store.RunFilter, by string, atOnce bool) (store.BulkStep, error)
	RetryRuns(ctx context.Context, f store.RunFilter, by string) (store.BulkStep, error)
}

type bulkCancelInput struct{ Body client.BulkCancel }

type bulkRetryInput struct{ Body client.BulkRetry }

type bulkStep = func(context.Context, store.RunFilter) (store.BulkStep, error)

func (s *service) bulkRoutes() {
	handle(s, operation{action: auth.CancelRuns, method: http.MethodPost, path: "/runs/cancel", summary: "Ask runs to end, by filter",
		tag: "runs", limit: s.config.MaxBody, changes: true}, s.cancelRuns)
	handle(s, operation{action: auth.RetryRuns, method: http.MethodPost, path: "/runs/retry", summary: "Put ended runs back to work, by filter",
		tag: "runs", limit: s.config.MaxBody, changes: true}, s.retryRuns)
}

func (s *service) cancelRuns(ctx context.Context, in *bulkCancelInput) (*body[client.BulkResult], error) {
	live := []task.State{task.StateQueued, task.StateDispatched, task.StateRunning, task.StateWaiting}
	by := scopeOf(ctx).token.Name
	if in.Body.Reason != "" {
		by += ": " + in.Body.Reason
	}
	return s.bulk(ctx, in.Body.BulkFilter, live, live, s.deps.Runs.CountLive,
		func(ctx context.Context, f store.RunFilter) (store.BulkStep, error) {
			return s.deps.Runs.CancelRuns(ctx, f, by, in.Body.Now)
		})
}

func (s *service) retryRuns(ctx context.Context, in *bulkRetryInput) (*body[client.BulkResult], error) {
	by := scopeOf(ctx).token.Name
	return s.bulk(ctx, in.Body.BulkFilter,
		[]task.State{task.StateFailed, task.StateTimedOut, task.StateCancelled, task.StateQuarantined},
		[]task.State{task.StateFailed, task.StateTimedOut}, s.deps.Runs.CountEnded,
		func(ctx context.Context, f store.RunFilter) (store.BulkStep, error) {
			return s.deps.Runs.RetryRuns(ctx, f, by)
		})
}

// bulk counts or changes what the filter selects, for about a second.
func (s *service) bulk(ctx context.Context, in client.BulkFilter, possible, usual []task.State, count, change bulkStep) (*body[client.BulkResult], error) {
	filter, err := bulkFilter(in, possible, usual)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		change = count
	} else if in.Expected != nil && in.Before == nil {
		if err := expect(ctx, filter, *in.Expected, count); err != nil {
			return nil, err
		}
	}
	sum, err := store.Bulk(ctx, filter, change)
	if err != nil {
		return nil, err
	}
	result := client.BulkResult{Matched: sum.Matched, Done: sum.Done, Skipped: sum.Skipped, Failed: sum.Failed}
	if sum.Next != uuid.Nil {
		result.Next = &sum.Next
	}
	for _, fault := range sum.Faults {
		result.Faults = append(result.Faults, client.BulkFault{Run: fault.Run, Reason: fault.Err.Error()})
	}
	note(ctx, in.Task, map[string]any{"filter": in, "done": sum.Done, "skipped": sum.Skipped, "failed": sum.Failed})
	return answer(result, nil)
}

func bulkFilter(in client.BulkFilter, possible, usual []task.State) (f store.RunFilter, err error) {
	if in.Task == "" && len(in.States) == 0 && in.Since == "" {
		return f, task.Errorf(task.CodeInvalid, "nothing says which runs are meant").Fix("give at least one of task, states and since")
	}
	states := usual
	if len(in.States) > 0 {
		states = in.States
	}
	names := make([]string, len(states))
	for i, state := range states {
		if !slices.Contains(possible, state) {
			all := strings.Trim(fmt.Sprint(possible), "[]")
			return f, task.Errorf(task.CodeInvalid, "runs in state %q cannot be changed so", state).At("states").
				Fix("use some of %s", strings.ReplaceAll(all, " ", ", "))
		}
		names[i] = string(state)
	}
	f = store.RunFilter{Task: in.Task, State: strings.Join(names, ",")}
	if f.Since, err = since(in.Since, time.Now()); err != nil {
		return f, err
	}
	if in.Before != nil {
		f.Before = *in.Before
	}
	return f, nil
}

// expect refuses a change whose filter selects clearly more or fewer runs than
// its author has counted.
func expect(ctx context.Context, f store.RunFilter, expected int, count bulkStep) error {
	margin := max(expected/10, 10)
	var sum store.BulkStep
	for {
		more, err := store.Bulk(ctx, f, count)
		if err != nil {
			return err
		}
		sum.Matched += more.Matched
		if more.Next == uuid.Nil || sum.Matched > expected+margin {
			break
		}
		f.Before = more.Next
	}
	switch {
	case sum.Matched > expected+margin:
		return task.Errorf(task.CodeConflict, "%d runs were expected, but at least %d match", expected, sum.Matched).At("expected").Fix("count them again")
	case sum.Matched < expected-margin:
		return task.Errorf(task.CodeConflict, "%d runs were expected, but only %d match", expected, sum.Matched).At("expected").Fix("count them again")
	}
	return nil
}
