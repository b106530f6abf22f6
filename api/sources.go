package api

import (
	"context"
	"net/http"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

type sourceInput struct {
	Name string `path:"name" doc:"Name of the source, escaped: / is %2F" maxLength:"600"`
}

type pauseSourceInput struct {
	Name string `path:"name" doc:"Name of the source, escaped: / is %2F" maxLength:"600"`
	Body *client.NoteRequest
}

type deleteSourceInput struct {
	Name  string `path:"name" doc:"Name of the source, escaped: / is %2F" maxLength:"600"`
	Force bool   `query:"force" doc:"Also when items are not recorded: their runs go on, and the source is told nothing"`
}

type sourceItemsInput struct {
	Name  string   `path:"name" doc:"Name of the source, escaped: / is %2F" maxLength:"600"`
	State []string `query:"state" doc:"Only items in these states" enum:"running,ended,refused,recorded"`
	Limit int      `query:"limit" doc:"Most items; absent: 100" minimum:"1" maximum:"1000"`
}

func (s *service) sourceRoutes() {
	const tag = "sources"
	const source = "/sources/{name}"
	handle(s, operation{action: auth.ListSources, method: http.MethodGet, path: "/sources", summary: "List the sources", tag: tag}, s.listSources)
	handle(s, operation{action: auth.GetSource, method: http.MethodGet, path: source, summary: "Show a source", tag: tag}, s.getSource)
	handle(s, operation{action: auth.ListSourceItems, method: http.MethodGet, path: source + "/items",
		summary: "List what a source has listed, open items first, the newest first", tag: tag}, s.listSourceItems)
	handle(s, operation{action: auth.PauseSource, method: http.MethodPost, path: source + "/pause", summary: "Keep a source from being polled",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.pauseSource)
	handle(s, operation{action: auth.ResumeSource, method: http.MethodPost, path: source + "/resume", summary: "End the pause of a source",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.resumeSource)
	handle(s, operation{action: auth.PollSource, method: http.MethodPost, path: source + "/poll", summary: "Poll a source now",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.pollSource)
	handle(s, operation{action: auth.DeleteSource, method: http.MethodDelete, path: source, summary: "Delete a source", tag: tag, changes: true}, s.deleteSource)
}

func (s *service) listSources(ctx context.Context, _ *nothing) (*body[[]task.Source], error) {
	return list(s.deps.Sources.Sources(ctx))
}

func (s *service) getSource(ctx context.Context, in *sourceInput) (*body[task.Source], error) {
	return answer(s.deps.Sources.Source(ctx, in.Name))
}

func (s *service) listSourceItems(ctx context.Context, in *sourceItemsInput) (*body[[]task.SourceItem], error) {
	filter := store.ItemFilter{Source: in.Name, Limit: in.Limit}
	if filter.Limit == 0 {
		filter.Limit = 100
	}
	for _, state := range in.State {
		filter.States = append(filter.States, task.SourceItemState(state))
	}
	return list(s.deps.Sources.SourceItems(ctx, filter))
}

func (s *service) pauseSource(ctx context.Context, in *pauseSourceInput) (*body[task.Source], error) {
	var request client.NoteRequest
	if in.Body != nil {
		request = *in.Body
	}
	note(ctx, in.Name, request)
	return answer(s.deps.Sources.PauseSource(ctx, in.Name, request.Note))
}

func (s *service) resumeSource(ctx context.Context, in *sourceInput) (*body[task.Source], error) {
	note(ctx, in.Name, nil)
	return answer(s.deps.Sources.ResumeSource(ctx, in.Name))
}

func (s *service) pollSource(ctx context.Context, in *sourceInput) (*body[task.Source], error) {
	note(ctx, in.Name, nil)
	return answer(s.deps.Sources.PollSource(ctx, in.Name))
}

func (s *service) deleteSource(ctx context.Context, in *deleteSourceInput) (*nothing, error) {
	note(ctx, in.Name, map[string]any{"force": in.Force})
	return nil, s.deps.Sources.DeleteSource(ctx, in.Name, in.Force)
}
