package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// MaxEvent is how large the data of an event may be, so that the outcome of the
// step that takes it, which tells of the event too, is not larger than the limit.
func MaxEvent(outcome int64) int64 { return max(outcome-eventFrame, outcome/2) }

const eventFrame = 4 << 10

type eventInput struct{ Body client.EventRequest }

type eventsInput struct {
	Name   string `query:"name" doc:"Only events of this name"`
	Key    string `query:"key" doc:"Only events with this key"`
	Before int64  `query:"before" doc:"Only events sent before this one" minimum:"0"`
	Limit  int    `query:"limit" doc:"At most so many; absent: 100" minimum:"1" maximum:"1000"`
}

type approveInput struct {
	ID   string `path:"id" doc:"Id of the run" format:"uuid"`
	Body *client.ApprovalRequest
}

type treeInput struct {
	ID string `path:"id" doc:"Id of the run" format:"uuid"`
}

func (s *service) waitRoutes() {
	const tag = "runs"
	handle(s, operation{action: auth.SendEvent, method: http.MethodPost, path: "/events", summary: "Send an event to the runs that wait for it",
		tag: tag, limit: s.config.MaxEvent + 64<<10, changes: true, status: http.StatusCreated}, s.sendEvent)
	handle(s, operation{action: auth.ListEvents, method: http.MethodGet, path: "/events", summary: "List the events that are kept, newest first", tag: tag}, s.listEvents)
	handle(s, operation{action: auth.ApproveRun, method: http.MethodPost, path: "/runs/{id}/approve", summary: "Approve, or reject, what a run waits for",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.approveRun)
	handle(s, operation{action: auth.GetTree, method: http.MethodGet, path: "/runs/{id}/tree", summary: "Show a run with the runs that it started", tag: tag}, s.getTree)
}

func (s *service) sendEvent(ctx context.Context, in *eventInput) (*body[client.SentEvent], error) {
	data := json.RawMessage(bytes.TrimSpace(in.Body.Data))
	switch {
	case strings.TrimSpace(in.Body.Name) == "":
		return nil, task.Errorf(task.CodeInvalid, "an event needs a name").At("name")
	case int64(len(data)) > s.config.MaxEvent:
		return nil, task.Errorf(task.CodeTooLarge, "the data of the event have %d bytes", len(data)).At("data").Fix("stay below %d, or pass a reference", s.config.MaxEvent+1)
	case strings.ContainsRune(in.Body.Name+in.Body.Key, 0):
		return nil, task.Errorf(task.CodeInvalid, "the name or the key of the event is not text").At("name").Fix("leave out NUL characters")
	}
	if string(data) == "null" {
		data = nil
	}
	note(ctx, in.Body.Name, map[string]any{"key": in.Body.Key})
	sent, reached, err := s.deps.Waits.SendEvent(ctx, store.NewEvent{
		Name: in.Body.Name, Key: in.Body.Key, Data: data, By: scopeOf(ctx).token.Name, Keep: s.config.EventKeep,
	})
	return answer(client.SentEvent{Event: sent, Reached: reached}, err)
}

func (s *service) listEvents(ctx context.Context, in *eventsInput) (*body[[]task.Event], error) {
	return list(s.deps.Waits.Events(ctx, store.EventFilter{Name: in.Name, Key: in.Key, Before: in.Before, Limit: in.Limit}))
}

func (s *service) approveRun(ctx context.Context, in *approveInput) (*body[task.Run], error) {
	id, err := runID(in.ID)
	if err != nil {
		return nil, err
	}
	var request client.ApprovalRequest
	if in.Body != nil {
		request = *in.Body
	}
	note(ctx, in.ID, request)
	token := scopeOf(ctx).token
	run, err := s.deps.Waits.Approve(ctx, id, store.Approval{By: token.Name, Role: string(token.Role), Reject: request.Reject, Comment: request.Comment})
	return answer(whole(run), err)
}

func (s *service) getTree(ctx context.Context, in *treeInput) (*body[task.RunNode], error) {
	id, err := runID(in.ID)
	if err != nil {
		return nil, err
	}
	return answer(s.deps.Waits.RunTree(ctx, id))
}
