package api

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// ReadonlyRunner executes a task's chain without doing what it asks for outside
// of itself. It writes nothing and blocks until the chain has ended.
type ReadonlyRunner interface {
	ReadonlyRun(ctx context.Context, name string, params json.RawMessage) (*task.ReadonlyRun, error)
}

type readonlyInput struct {
	Name string `path:"name" doc:"Name of the task, escaped: / is %2F" maxLength:"600"`
	Body *client.ReadonlyRequest
}

// readonlyRoutes changes nothing, so it is not audited either: the audit is a table.
func (s *service) readonlyRoutes() {
	handle(s, operation{action: auth.ReadonlyRun, method: http.MethodPost, path: "/tasks/{name}/runs/readonly",
		summary: "Execute a task's chain without doing what it would do outside of itself", tag: "runs",
		limit: s.config.MaxBody, timeout: s.config.Timeout + task.MaxReadonly}, s.readonlyRun)
}

func (s *service) readonlyRun(ctx context.Context, in *readonlyInput) (*body[*task.ReadonlyRun], error) {
	if s.deps.Readonly == nil {
		return nil, task.Errorf(task.CodeUnavailable, "this server has no readonly runs").Fix("ask a master")
	}
	var request client.ReadonlyRequest
	if in.Body != nil {
		request = *in.Body
	}
	return answer(s.deps.Readonly.ReadonlyRun(ctx, in.Name, request.Params))
}
