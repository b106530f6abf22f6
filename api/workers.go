package api

import (
	"context"
	"net/http"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// Fleet shows the processes of the cluster and gives orders to workers.
type Fleet interface {
	Worker(ctx context.Context, id string) (task.WorkerDetail, error)
	Order(ctx context.Context, worker string, kind task.OrderKind, by string) (task.WorkerOrder, error)
	RestartAll(ctx context.Context, host, by string) ([]task.WorkerOrder, error)
	Masters(ctx context.Context, all bool) ([]task.Master, error)
}

type workerInput struct {
	ID string `path:"id" doc:"Id of the worker, or its epoch" maxLength:"300"`
}

type mastersInput struct {
	All bool `query:"all" doc:"Also those that have ended, of the last week"`
}

type restartAllInput struct{ Body client.RestartRequest }

func (s *service) fleetRoutes() {
	const tag = "operation"
	handle(s, operation{action: auth.GetWorker, method: http.MethodGet, path: "/workers/{id}",
		summary: "Show a worker, the runs that it has in hand and those before it in its slot", tag: tag}, s.getWorker)
	handle(s, operation{action: auth.RestartWorker, method: http.MethodPost, path: "/workers/{id}/restart",
		summary: "Have a worker's master replace it: its successor starts first, then it drains", tag: tag, changes: true}, s.restartWorker)
	handle(s, operation{action: auth.DrainWorker, method: http.MethodPost, path: "/workers/{id}/drain",
		summary: "Have a worker take no new work, finish and end", tag: tag, changes: true}, s.drainWorker)
	handle(s, operation{action: auth.RestartWorkers, method: http.MethodPost, path: "/workers/restart",
		summary: "Have the masters replace their workers one after the other", tag: tag, limit: s.config.MaxBody, changes: true}, s.restartWorkers)
	handle(s, operation{action: auth.ListMasters, method: http.MethodGet, path: "/masters", summary: "List the masters and their slots", tag: tag}, s.listMasters)
}

func (s *service) getWorker(ctx context.Context, in *workerInput) (*body[task.WorkerDetail], error) {
	return answer(s.deps.Fleet.Worker(ctx, in.ID))
}

func (s *service) restartWorker(ctx context.Context, in *workerInput) (*body[task.WorkerOrder], error) {
	return s.order(ctx, in.ID, task.OrderRestart)
}

func (s *service) drainWorker(ctx context.Context, in *workerInput) (*body[task.WorkerOrder], error) {
	return s.order(ctx, in.ID, task.OrderDrain)
}

func (s *service) order(ctx context.Context, id string, kind task.OrderKind) (*body[task.WorkerOrder], error) {
	now, err := s.deps.Tasks.Now(ctx)
	if err != nil {
		return nil, err
	}
	order, err := s.deps.Fleet.Order(ctx, id, kind, scopeOf(ctx).token.Name)
	order.Earlier = order.AskedAt.Before(now)
	note(ctx, order.Worker, map[string]any{"order": order.Kind})
	return answer(order, err)
}

func (s *service) restartWorkers(ctx context.Context, in *restartAllInput) (*body[client.RestartResult], error) {
	now, err := s.deps.Tasks.Now(ctx)
	if err != nil {
		return nil, err
	}
	orders, err := s.deps.Fleet.RestartAll(ctx, in.Body.Host, scopeOf(ctx).token.Name)
	if err != nil {
		return nil, err
	}
	for i := range orders {
		orders[i].Earlier = orders[i].AskedAt.Before(now)
	}
	note(ctx, in.Body.Host, map[string]any{"workers": len(orders)})
	alone, err := s.alone(ctx, in.Body.Host)
	return answer(client.RestartResult{Orders: orders, Alone: alone}, err)
}

// alone lists the workers that nobody would start again.
func (s *service) alone(ctx context.Context, host string) ([]string, error) {
	workers, err := s.deps.Records.Workers(ctx, false)
	found := []string{}
	for _, w := range workers {
		if w.Master == "" && w.State == task.WorkerActive && (host == "" || host == w.Host) {
			found = append(found, w.ID)
		}
	}
	return found, err
}

func (s *service) listMasters(ctx context.Context, in *mastersInput) (*body[[]task.Master], error) {
	return list(s.deps.Fleet.Masters(ctx, in.All))
}
