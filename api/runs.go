package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
)

type startInput struct {
	Name string `path:"name" doc:"Name of the task, escaped: / is %2F" maxLength:"600"`
	Key  string `header:"Idempotency-Key" doc:"The same as key" maxLength:"200"`
	CallerTrace
	Body *client.RunRequest
}

type startOutput struct {
	Status int
	Body   task.Run
}

type batchInput struct {
	Name string `path:"name" doc:"Name of the task, escaped: / is %2F" maxLength:"600"`
	CallerTrace
	Body client.BatchRequest
}

type runsInput struct {
	Task   string `query:"task" doc:"Only runs of this task"`
	State  string `query:"state" doc:"Only runs in this state, or in one of several, separated by commas"`
	Since  string `query:"since" doc:"Only runs made since: an RFC 3339 time, or a span before now such as 2h or 7d"`
	Limit  int    `query:"limit" doc:"At most so many; absent: 100" minimum:"1" maximum:"1000"`
	Before string `query:"before" doc:"Only runs older than this run" format:"uuid"`

	WaitingFor string `query:"waiting_for" doc:"Only runs that wait for such a thing" enum:"event,approval,delay,children"`
	Parent     string `query:"parent" doc:"Only the children of this run, or of one of up to 100, separated by commas" maxLength:"4000"`
}

type waitInput struct {
	ID   string `path:"id" doc:"Id of the run" format:"uuid"`
	Wait string `query:"wait" doc:"Wait so long, at most 60s, for the run to end"`
}

type runInput struct {
	ID string `path:"id" doc:"Id of the run" format:"uuid"`
}

type waitManyInput struct{ Body client.WaitRequest }

type logsInput struct {
	ID    string `path:"id" doc:"Id of the run" format:"uuid"`
	After int64  `query:"after" doc:"Only lines behind this seq" minimum:"0"`
	Limit int    `query:"limit" doc:"At most so many; absent: 1000" minimum:"1" maximum:"10000"`
}

type cancelInput struct {
	ID   string `path:"id" doc:"Id of the run" format:"uuid"`
	Body *client.CancelRequest
}

type retryInput struct {
	ID   string `path:"id" doc:"Id of the run" format:"uuid"`
	Body *client.RetryRequest
}

func (s *service) runRoutes() {
	const tag = "runs"
	waiting := s.config.Timeout + client.MaxWait
	handle(s, operation{action: auth.StartRun, method: http.MethodPost, path: "/tasks/{name}/runs", summary: "Start a run of a task",
		tag: tag, limit: s.config.MaxBody, changes: true, status: http.StatusCreated, repeat: reflect.TypeFor[task.Run]()}, s.startRun)
	handle(s, operation{action: auth.StartRuns, method: http.MethodPost, path: "/tasks/{name}/runs/batch", summary: "Start up to 1000 runs of a task",
		tag: tag, limit: s.config.MaxBatch, changes: true}, s.startRuns)
	handle(s, operation{action: auth.ListRuns, method: http.MethodGet, path: "/runs", summary: "List runs, newest first", tag: tag}, s.listRuns)
	handle(s, operation{action: auth.GetRun, method: http.MethodGet, path: "/runs/{id}", summary: "Show a run, or wait for its end",
		tag: tag, timeout: waiting}, s.getRun)
	handle(s, operation{action: auth.WhyRun, method: http.MethodGet, path: "/runs/{id}/why", summary: "Say what a run waits for", tag: tag}, s.whyRun)
	handle(s, operation{action: auth.WaitRuns, method: http.MethodPost, path: "/runs/wait", summary: "Wait for the end of up to 1000 runs",
		tag: tag, limit: s.config.MaxBody, timeout: waiting}, s.waitRuns)
	handle(s, operation{action: auth.GetLogs, method: http.MethodGet, path: "/runs/{id}/logs", summary: "Read a run's log", tag: tag}, s.getLogs)
	handle(s, operation{action: auth.CancelRun, method: http.MethodPost, path: "/runs/{id}/cancel", summary: "Ask a run to end",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.cancelRun)
	handle(s, operation{action: auth.RetryRun, method: http.MethodPost, path: "/runs/{id}/retry", summary: "Put an ended run back to work",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.retryRun)
}

func (s *service) startRun(ctx context.Context, in *startInput) (*startOutput, error) {
	var request client.RunRequest
	if in.Body != nil {
		request = *in.Body
	}
	if request.Key == "" {
		request.Key = in.Key
	}
	if in.Key != "" && in.Key != request.Key {
		return nil, task.Errorf(task.CodeInvalid, "the header Idempotency-Key and key differ").At("key").Fix("send one of them")
	}
	wanted, err := submission(in.Name, request)
	if err != nil {
		return nil, err
	}
	accepted, err := s.submit(ctx, in.CallerTrace, []dispatch.Request{wanted})
	if err != nil {
		return nil, err
	}
	note(ctx, in.Name, map[string]any{"run": accepted[0].ID, "duplicate": accepted[0].Duplicate})
	run, err := s.deps.Runs.Run(ctx, accepted[0].ID)
	if accepted[0].Duplicate && task.CodeOf(err) == task.CodeNotFound {
		return nil, task.Errorf(task.CodeConflict, "the key has made run %s, which is past the time for which it was kept", accepted[0].ID).At("key").
			Fix("send another key to make another run")
	}
	out := &startOutput{Status: http.StatusCreated, Body: whole(run)}
	if accepted[0].Duplicate {
		out.Status = http.StatusOK
	}
	return out, err
}

func (s *service) startRuns(ctx context.Context, in *batchInput) (*body[client.BatchResult], error) {
	requests := make([]dispatch.Request, len(in.Body.Runs))
	for i, request := range in.Body.Runs {
		var err error
		if requests[i], err = submission(in.Name, request); err != nil {
			return nil, within("runs["+strconv.Itoa(i)+"]", err)
		}
	}
	accepted, err := s.submit(ctx, in.CallerTrace, requests)
	if err != nil {
		return nil, whichOfMany(err)
	}
	result := client.BatchResult{IDs: make([]uuid.UUID, len(accepted))}
	for i, a := range accepted {
		result.IDs[i] = a.ID
		if a.Duplicate {
			result.Duplicates++
		}
	}
	note(ctx, in.Name, map[string]any{"runs": len(accepted), "duplicates": result.Duplicates, "first": result.IDs[0], "last": result.IDs[len(accepted)-1]})
	return answer(result, nil)
}

// submit accepts requests and holds the submitter to its word: one answer each.
func (s *service) submit(ctx context.Context, caller CallerTrace, requests []dispatch.Request) ([]dispatch.Accepted, error) {
	ctx, span := s.traceAccept(ctx, caller, requests)
	accepted, err := s.deps.Submitter.Submit(ctx, requests)
	if err == nil && len(accepted) != len(requests) {
		err = fmt.Errorf("%d requests were answered with %d runs", len(requests), len(accepted))
	}
	endAccept(span, accepted, err)
	return accepted, err
}

// whichOfMany names the first request of a batch that is refused, and how many more are.
func whichOfMany(err error) error {
	var refused *store.RefusedRuns
	if !errors.As(err, &refused) {
		return err
	}
	first := slices.Min(slices.Collect(maps.Keys(refused.Reasons)))
	e := coded(refused.Reasons[first])
	if more := len(refused.Reasons) - 1; more > 0 {
		e = task.Errorf(e.Code, "%s (and %d more are refused)", e.Message, more).At(e.Where).Fix("%s", e.Remedy)
	}
	return within("runs["+strconv.Itoa(first)+"]", e)
}

// submission checks a request for a run. It merges nothing: the task's own
// params come in when the run is made.
func submission(name string, request client.RunRequest) (dispatch.Request, error) {
	params := bytes.TrimSpace(request.Params)
	if string(params) == "null" {
		params = nil
	}
	if len(params) > 0 && params[0] != '{' {
		return dispatch.Request{}, task.Errorf(task.CodeInvalid, "params must be an object").At("params")
	}
	wanted := dispatch.Request{Task: name, Params: json.RawMessage(params), Key: request.Key}
	if request.At != nil {
		wanted.At = *request.At
	}
	return wanted, nil
}

// within puts the place of an error inside a larger one.
func within(place string, err error) error {
	e := coded(err)
	if e.Where != "" {
		place += "." + e.Where
	}
	return e.At(place)
}

func (s *service) listRuns(ctx context.Context, in *runsInput) (*body[[]task.Run], error) {
	filter := store.RunFilter{Task: in.Task, State: in.State, Limit: in.Limit, WaitingFor: task.WaitKind(in.WaitingFor)}
	for state := range strings.SplitSeq(in.State, ",") {
		if in.State != "" && !task.State(state).Valid() {
			return nil, task.Errorf(task.CodeInvalid, "%q is not a state of a run", state).At("state").Fix("use one of %v", task.States)
		}
	}
	var err error
	if filter.Since, err = since(in.Since, time.Now()); err != nil {
		return nil, err
	}
	if in.Before != "" {
		if filter.Before, err = uuid.Parse(in.Before); err != nil {
			return nil, task.Errorf(task.CodeInvalid, "%q is not the id of a run", in.Before).At("before")
		}
	}
	for id := range strings.SplitSeq(in.Parent, ",") {
		if in.Parent == "" {
			break
		}
		parent, err := uuid.Parse(id)
		if err != nil {
			return nil, task.Errorf(task.CodeInvalid, "%q is not the id of a run", id).At("parent")
		}
		filter.Parents = append(filter.Parents, parent)
	}
	runs, err := s.deps.Runs.Runs(ctx, filter)
	for i := range runs {
		runs[i] = whole(runs[i])
	}
	return list(runs, err)
}

func (s *service) getRun(ctx context.Context, in *waitInput) (*body[task.Run], error) {
	id, err := runID(in.ID)
	if err != nil {
		return nil, err
	}
	wait, err := waitTime(in.Wait)
	if err != nil {
		return nil, err
	}
	run, err := s.deps.Runs.Run(ctx, id)
	if err != nil || wait == 0 || run.State.Terminal() {
		return answer(whole(run), err)
	}
	ended, err := s.waitFor(ctx, []uuid.UUID{id}, wait)
	if err != nil || len(ended) == 0 {
		return answer(whole(run), err)
	}
	run, err = s.deps.Runs.Run(ctx, id)
	return answer(whole(run), err)
}

func (s *service) whyRun(ctx context.Context, in *runInput) (*body[task.Why], error) {
	id, err := runID(in.ID)
	if err != nil {
		return nil, err
	}
	return answer(s.deps.Runs.Why(ctx, id))
}

func (s *service) waitRuns(ctx context.Context, in *waitManyInput) (*body[client.WaitResult], error) {
	wait := min(time.Duration(in.Body.Timeout), client.MaxWait)
	ended, err := s.waitFor(ctx, in.Body.IDs, wait)
	if err != nil {
		return nil, err
	}
	result := client.WaitResult{Done: []client.Ended{}}
	asked := make(map[uuid.UUID]bool, len(in.Body.IDs))
	for _, id := range in.Body.IDs {
		if asked[id] {
			continue
		}
		asked[id] = true
		if state, ok := ended[id]; ok {
			result.Done = append(result.Done, client.Ended{ID: id, State: state})
			continue
		}
		result.Pending++
	}
	return answer(result, nil)
}

// waitFor waits up to d. That the time is up is no error, that the caller is
// gone is.
func (s *service) waitFor(ctx context.Context, ids []uuid.UUID, d time.Duration) (map[uuid.UUID]task.State, error) {
	limited, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	ended, err := s.deps.Waiter.Wait(limited, ids)
	if err == nil {
		err = ctx.Err()
	}
	return ended, err
}

func (s *service) getLogs(ctx context.Context, in *logsInput) (*body[[]task.LogLine], error) {
	id, err := runID(in.ID)
	if err != nil {
		return nil, err
	}
	if in.Limit == 0 {
		in.Limit = 1000
	}
	return list(s.deps.Runs.Logs(ctx, id, in.After, in.Limit))
}

func (s *service) cancelRun(ctx context.Context, in *cancelInput) (*body[task.Run], error) {
	id, err := runID(in.ID)
	if err != nil {
		return nil, err
	}
	by, now := scopeOf(ctx).token.Name, false
	if in.Body != nil {
		now = in.Body.Now
		if in.Body.Reason != "" {
			by += ": " + in.Body.Reason
		}
	}
	note(ctx, in.ID, in.Body)
	run, err := s.deps.Runs.CancelRun(ctx, id, by, now)
	return answer(whole(run), err)
}

func (s *service) retryRun(ctx context.Context, in *retryInput) (*body[task.Run], error) {
	id, err := runID(in.ID)
	if err != nil {
		return nil, err
	}
	var request client.RetryRequest
	if in.Body != nil {
		request = *in.Body
	}
	note(ctx, in.ID, request)
	run, err := s.deps.Runs.RetryRun(ctx, id, request.From, scopeOf(ctx).token.Name)
	return answer(whole(run), err)
}

func runID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return id, task.Errorf(task.CodeInvalid, "%q is not the id of a run", text).At("id")
	}
	return id, nil
}

// whole writes a run without steps with [] and not null.
func whole(run task.Run) task.Run {
	if run.Steps == nil {
		run.Steps = []task.Step{}
	}
	return run
}

func waitTime(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, task.Errorf(task.CodeInvalid, "%q is not a span of time", text).At("wait").Fix("write a number and a unit, such as 30s")
	}
	return min(d, client.MaxWait), nil
}

// since reads a time, or a span before now, in which a day is 24 hours.
func since(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if number, ok := strings.CutSuffix(text, "d"); ok {
		if days, err := strconv.ParseFloat(number, 64); err == nil && days >= 0 && days < 36500 {
			return now.Add(-time.Duration(days * float64(24*time.Hour))), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, task.Errorf(task.CodeInvalid, "%q is neither a time nor a span of time", text).At("since").
		Fix("write 2026-11-05T10:00:00Z, or a span before now such as 2h or 7d")
}
