package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

type taskInput struct {
	Name string `path:"name" doc:"Name of the task, escaped: / is %2F" maxLength:"600"`
}

type applyInput struct{ Body client.ApplyRequest }

type pauseInput struct {
	Name string `path:"name" doc:"Name of the task, escaped: / is %2F" maxLength:"600"`
	Body *client.NoteRequest
}

func (s *service) taskRoutes() {
	const tag = "tasks"
	handle(s, operation{action: auth.ListTasks, method: http.MethodGet, path: "/tasks", summary: "List the tasks", tag: tag}, s.listTasks)
	handle(s, operation{action: auth.ListCosts, method: http.MethodGet, path: "/costs", summary: "List how long the runs of tasks take", tag: tag}, s.listCosts)
	handle(s, operation{action: auth.GetTask, method: http.MethodGet, path: "/tasks/{name}", summary: "Show a task", tag: tag}, s.getTask)
	handle(s, operation{action: auth.ApplyTasks, method: http.MethodPost, path: "/tasks/apply", summary: "Create or change tasks, all or none",
		tag: tag, limit: s.config.MaxBatch, changes: true, partly: auth.Viewer}, s.applyTasks)
	handle(s, operation{action: auth.PauseTask, method: http.MethodPost, path: "/tasks/{name}/pause", summary: "Keep a task's schedules from firing",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.pauseTask)
	handle(s, operation{action: auth.ResumeTask, method: http.MethodPost, path: "/tasks/{name}/resume", summary: "End a pause",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.resumeTask)
	handle(s, operation{action: auth.DeleteTask, method: http.MethodDelete, path: "/tasks/{name}", summary: "Delete a task and its schedules",
		tag: tag, changes: true}, s.deleteTask)
}

func (s *service) listTasks(ctx context.Context, _ *nothing) (*body[[]task.Task], error) {
	return list(s.deps.Tasks.Tasks(ctx))
}

func (s *service) listCosts(ctx context.Context, _ *nothing) (*body[[]task.Cost], error) {
	return list(s.deps.Records.Costs(ctx))
}

func (s *service) getTask(ctx context.Context, in *taskInput) (*body[task.Task], error) {
	return answer(s.deps.Tasks.Task(ctx, in.Name))
}

func (s *service) applyTasks(ctx context.Context, in *applyInput) (*body[client.ApplyResult], error) {
	if !in.Body.DryRun { // a dry run needs no more than reading
		if err := auth.Allow(scopeOf(ctx).token.Role, auth.ApplyTasks); err != nil {
			return nil, err
		}
	}
	read, err := s.readFiles(ctx, in.Body.Files)
	if err != nil {
		return nil, err
	}
	return s.apply(ctx, read, in.Body.DryRun)
}

func (s *service) apply(ctx context.Context, read applied, dryRun bool) (*body[client.ApplyResult], error) {
	done, err := s.deps.Tasks.Apply(ctx, store.Documents{Calendars: read.calendars, Tasks: read.definitions, Sources: read.sourceDefinitions()}, dryRun)
	if err != nil {
		return nil, err
	}
	result := client.ApplyResult{Results: make([]client.Applied, len(done))}
	changes := make(map[string]string)
	warnings, ofSources := s.warn(ctx, read)
	for i, a := range done {
		result.Results[i] = client.Applied{Kind: a.Kind, Name: a.Name, Change: client.Change(a.Change)}
		switch a.Kind {
		case "":
			result.Results[i].Warnings = warnings[a.Name]
		case kindSource:
			result.Results[i].Warnings = ofSources[a.Name]
		}
		if a.Change != string(client.Unchanged) {
			changes[strings.TrimSpace(a.Kind+" "+a.Name)] = a.Change
		}
	}
	scopeOf(ctx).tried = dryRun
	note(ctx, "", map[string]any{"changes": changes})
	return answer(result, nil)
}

func (s *service) pauseTask(ctx context.Context, in *pauseInput) (*body[task.Task], error) {
	var request client.NoteRequest
	if in.Body != nil {
		request = *in.Body
	}
	note(ctx, in.Name, request)
	return answer(s.deps.Tasks.PauseTask(ctx, in.Name, request.Note))
}

func (s *service) resumeTask(ctx context.Context, in *taskInput) (*body[task.Task], error) {
	note(ctx, in.Name, nil)
	return answer(s.deps.Tasks.ResumeTask(ctx, in.Name))
}

func (s *service) deleteTask(ctx context.Context, in *taskInput) (*nothing, error) {
	note(ctx, in.Name, nil)
	return nil, s.deps.Tasks.DeleteTask(ctx, in.Name)
}
