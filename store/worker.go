package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// shownRestarts is how many workers before it in its slot a worker is shown with.
const shownRestarts = 10

// Worker returns a worker by its id or epoch, with the runs that it has in
// hand, those before it in its slot and the order that it was given.
func (s *Store) Worker(ctx context.Context, id string) (d task.WorkerDetail, err error) {
	if d.Worker, err = s.findWorker(ctx, id); err != nil {
		return d, err
	}
	if d.Order, err = s.order(ctx, d.Epoch); err != nil {
		return d, err
	}
	if d.Restarts, err = s.restarts(ctx, d.Worker); err != nil {
		return d, err
	}
	d.Runs, err = s.inHand(ctx, d.Epoch)
	return d, err
}

func (s *Store) findWorker(ctx context.Context, id string) (task.Worker, error) {
	if !storable(id) {
		return task.Worker{}, unknownWorker(id, nil)
	}
	rows, err := s.pool.Query(ctx, `SELECT `+workerColumns+` FROM workers WHERE id = $1 OR epoch::text = $1 LIMIT 1`, id)
	if err != nil {
		return task.Worker{}, wrap(err, "read a worker")
	}
	found, err := pgx.CollectRows(rows, scanWorker)
	if err != nil {
		return task.Worker{}, wrap(err, "read a worker")
	}
	if len(found) == 1 {
		return found[0], nil
	}
	live, err := s.Workers(ctx, false)
	if err != nil {
		return task.Worker{}, err
	}
	ids := make([]string, len(live))
	for i, w := range live {
		ids[i] = w.ID
	}
	return task.Worker{}, unknownWorker(id, ids)
}

func unknownWorker(id string, known []string) error {
	err := task.Errorf(task.CodeNotFound, "there is no worker %q", id)
	if near := task.Nearest(id, known); near != "" {
		return err.Fix("did you mean %s? `catena workers list` shows all", near)
	}
	return err.Fix("`catena workers list` shows those that live, with --all also those that have ended")
}

func (s *Store) restarts(ctx context.Context, w task.Worker) ([]task.WorkerEnd, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, state, reason, coalesce(ended_at, clock_timestamp()) - started_at, ended_at FROM workers
		WHERE master = $1 AND slot = $2 AND epoch < $3 AND master <> '' ORDER BY epoch DESC LIMIT $4`, w.Master, w.Slot, w.Epoch, shownRestarts)
	if err != nil {
		return nil, wrap(err, "list the workers before one")
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e task.WorkerEnd, err error) {
		var lived time.Duration
		err = row.Scan(&e.ID, &e.State, &e.Reason, &lived, &e.EndedAt)
		e.Lived = task.Duration(lived.Round(time.Millisecond))
		return e, err
	})
	return list, wrap(err, "list the workers before one")
}

// inHand lists the runs of a worker's parcels that have not ended. The parcels
// come first, so that the ids bound the partitions that are looked into.
func (s *Store) inHand(ctx context.Context, epoch int64) ([]task.WorkerRun, error) {
	none := []task.WorkerRun{}
	rows, err := s.pool.Query(ctx, `SELECT unnest(runs) FROM parcels WHERE worker = $1 AND state = 'claimed'`, epoch)
	if err != nil {
		return none, wrap(err, "list the runs of a worker")
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(ids) == 0 {
		return none, wrap(err, "list the runs of a worker")
	}
	low, high := bounds(ids)
	rows, err = s.pool.Query(ctx, `
		SELECT r.id, r.task, r.state, r.started_at, p.finished_at, coalesce(p.path, '') FROM runs r
		LEFT JOIN LATERAL (SELECT s.finished_at, s.path FROM steps s WHERE s.run = r.id ORDER BY s.finished_at DESC LIMIT 1) p ON true
		WHERE r.id = ANY ($1) AND r.id BETWEEN $2 AND $3 AND r.state IN ('dispatched', 'running') ORDER BY r.started_at, r.id`, ids, low, high)
	if err != nil {
		return none, wrap(err, "list the runs of a worker")
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[task.WorkerRun])
	return list, wrap(err, "list the runs of a worker")
}
