package api

import (
	"context"
	"net/http"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

type scheduleInput struct {
	Name     string `path:"name" doc:"Name of the task, escaped: / is %2F" maxLength:"600"`
	Schedule int64  `path:"schedule" doc:"Id of the schedule"`
}

type pauseScheduleInput struct {
	Name     string `path:"name" doc:"Name of the task, escaped: / is %2F" maxLength:"600"`
	Schedule int64  `path:"schedule" doc:"Id of the schedule"`
	Body     *client.NoteRequest
}

type backfillInput struct {
	Name string `path:"name" doc:"Name of the task, escaped: / is %2F" maxLength:"600"`
	Body client.BackfillRequest
}

type backfillsInput struct {
	Task string `query:"task" doc:"Only backfills of this task"`
}

type backfillIDInput struct {
	ID int64 `path:"id" doc:"Id of the backfill"`
}

type cancelBackfillInput struct {
	ID   int64 `path:"id" doc:"Id of the backfill"`
	Body *client.CancelRequest
}

func (s *service) scheduleRoutes() {
	const tag = "schedules"
	const schedule = "/tasks/{name}/schedules/{schedule}"
	handle(s, operation{action: auth.PauseSchedule, method: http.MethodPost, path: schedule + "/pause", summary: "Keep one schedule of a task from firing",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.pauseSchedule)
	handle(s, operation{action: auth.ResumeSchedule, method: http.MethodPost, path: schedule + "/resume", summary: "End the pause of a schedule",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.resumeSchedule)
	handle(s, operation{action: auth.CreateBackfill, method: http.MethodPost, path: "/tasks/{name}/backfills", summary: "Make runs of past due times",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.createBackfill)
	handle(s, operation{action: auth.ListBackfills, method: http.MethodGet, path: "/backfills", summary: "List backfills, newest first", tag: tag}, s.listBackfills)
	handle(s, operation{action: auth.GetBackfill, method: http.MethodGet, path: "/backfills/{id}", summary: "Show a backfill and its progress", tag: tag}, s.getBackfill)
	handle(s, operation{action: auth.CancelBackfill, method: http.MethodPost, path: "/backfills/{id}/cancel", summary: "End the making of runs",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.cancelBackfill)
}

func (s *service) pauseSchedule(ctx context.Context, in *pauseScheduleInput) (*body[task.Task], error) {
	var request client.NoteRequest
	if in.Body != nil {
		request = *in.Body
	}
	note(ctx, in.Name, map[string]any{"schedule": in.Schedule, "note": request.Note})
	return answer(s.deps.Tasks.PauseSchedule(ctx, in.Name, in.Schedule, request.Note))
}

func (s *service) resumeSchedule(ctx context.Context, in *scheduleInput) (*body[task.Task], error) {
	note(ctx, in.Name, map[string]any{"schedule": in.Schedule})
	return answer(s.deps.Tasks.ResumeSchedule(ctx, in.Name, in.Schedule))
}

func (s *service) createBackfill(ctx context.Context, in *backfillInput) (*body[client.BackfillResult], error) {
	made, plan, err := s.deps.Backfiller.Create(ctx, scheduler.BackfillRequest{
		Task: in.Name, Schedule: in.Body.Schedule, From: in.Body.From, To: in.Body.To, Overlap: in.Body.Overlap,
		DryRun: in.Body.DryRun, By: scopeOf(ctx).token.Name,
	})
	if err != nil {
		return nil, err
	}
	note(ctx, in.Name, map[string]any{"backfill": made.ID, "dry_run": in.Body.DryRun, "total": plan.Total, "from": made.From, "to": made.To})
	return answer(client.BackfillResult{Backfill: made, First: plan.First, Last: plan.Last, DryRun: in.Body.DryRun}, nil)
}

func (s *service) listBackfills(ctx context.Context, in *backfillsInput) (*body[[]task.Backfill], error) {
	return list(s.deps.Backfills.Backfills(ctx, in.Task))
}

func (s *service) getBackfill(ctx context.Context, in *backfillIDInput) (*body[task.Backfill], error) {
	return answer(s.deps.Backfills.Backfill(ctx, in.ID))
}

func (s *service) cancelBackfill(ctx context.Context, in *cancelBackfillInput) (*body[task.Backfill], error) {
	by := scopeOf(ctx).token.Name
	if in.Body != nil && in.Body.Reason != "" {
		by += ": " + in.Body.Reason
	}
	note(ctx, "", map[string]any{"backfill": in.ID})
	return answer(s.deps.Backfills.CancelBackfill(ctx, in.ID, by))
}
