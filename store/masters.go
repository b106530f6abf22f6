package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// silentAfter is how long a master may write nothing before it counts as silent.
const silentAfter = 5 * time.Second

// MasterBeat is what a master hears when it gives a sign of life.
type MasterBeat struct {
	Orders []task.WorkerOrder // to its workers that are not carried out yet
	Peers  []task.Master      // the other masters that live: name, age and settings
}

// BeatMaster writes the row of a master and reads what it must know, on a
// connection of its own.
func (s *Store) BeatMaster(ctx context.Context, m task.Master) (answer MasterBeat, err error) {
	settings, err := json.Marshal(m.Settings)
	if err != nil {
		return answer, err
	}
	slots, err := json.Marshal(m.Slots)
	if err != nil {
		return answer, err
	}
	batch := &pgx.Batch{}
	batch.Queue(`INSERT INTO masters (name, host, pid, version, admin, settings, slots, clock_offset_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (name) DO UPDATE SET slots = excluded.slots, settings = excluded.settings, clock_offset_ms = excluded.clock_offset_ms,
			beat_at = clock_timestamp(), ended_at = NULL`,
		m.Name, m.Host, m.PID, m.Version, m.Admin, settings, slots, m.ClockOffset)
	batch.Queue(`SELECT w.id, o.worker, o.kind, o.state, o.detail, '', o.asked_by, o.asked_at, o.changed_at
		FROM worker_orders o JOIN workers w ON w.epoch = o.worker
		WHERE o.state NOT IN ('done', 'failed') AND w.master = $1 AND w.state IN ('active', 'draining') ORDER BY o.asked_at, o.worker`, m.Name).
		Query(func(rows pgx.Rows) (err error) {
			answer.Orders, err = pgx.CollectRows(rows, pgx.RowToStructByPos[task.WorkerOrder])
			return err
		})
	batch.Queue(`SELECT name, clock_timestamp() - started_at, settings FROM masters
		WHERE name <> $1 AND ended_at IS NULL AND beat_at > clock_timestamp() - $2::interval ORDER BY started_at, name`, m.Name, silentAfter).
		Query(func(rows pgx.Rows) (err error) {
			answer.Peers, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p task.Master, err error) {
				err = row.Scan(&p.Name, (*time.Duration)(&p.Age), &p.Settings)
				return p, err
			})
			return err
		})
	return answer, wrap(s.beats.SendBatch(ctx, batch).Close(), "give a sign of life")
}

// EndMaster records that a master ends in order.
func (s *Store) EndMaster(ctx context.Context, name string) error {
	_, err := s.beats.Exec(ctx, `UPDATE masters SET ended_at = clock_timestamp(), slots = '[]' WHERE name = $1 AND ended_at IS NULL`, name)
	return wrap(err, "record the end of a master")
}

// Masters lists the masters of the last minute that have not ended, or, with
// all, those of the last week; the leader first, then the oldest.
func (s *Store) Masters(ctx context.Context, all bool) ([]task.Master, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT m.name, m.host, m.pid, m.version, m.admin,
			CASE WHEN m.ended_at IS NOT NULL THEN 'stopped' WHEN m.beat_at < clock_timestamp() - $2::interval THEN 'silent' ELSE 'active' END,
			EXISTS (SELECT 1 FROM leader l WHERE l.holder = m.name AND l.expires_at > clock_timestamp()) AS leads,
			(SELECT count(*) FROM workers w WHERE w.master = m.name AND w.state IN ('active', 'draining')),
			m.slots, m.settings, coalesce(m.ended_at, clock_timestamp()) - m.started_at, m.started_at, m.beat_at, m.clock_offset_ms
		FROM masters m WHERE $1 OR m.ended_at IS NULL AND m.beat_at > clock_timestamp() - interval '1 minute'
		ORDER BY leads DESC, m.started_at, m.name LIMIT 1000`, all, silentAfter)
	if err != nil {
		return nil, wrap(err, "list masters")
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m task.Master, err error) {
		var age time.Duration
		err = row.Scan(&m.Name, &m.Host, &m.PID, &m.Version, &m.Admin, &m.State, &m.Leads, &m.Workers, &m.Slots, &m.Settings, &age, &m.StartedAt, &m.BeatAt, &m.ClockOffset)
		m.Age = task.Duration(age.Round(time.Millisecond))
		return m, err
	})
	if err != nil {
		return nil, wrap(err, "list masters")
	}
	warnOfDifferences(list)
	return list, nil
}

// warnOfDifferences compares each live master with the first of them.
func warnOfDifferences(list []task.Master) {
	var first *task.Master
	for i := range list {
		m := &list[i]
		m.Warnings = []string{}
		if m.Slots == nil {
			m.Slots = []task.Slot{}
		}
		switch {
		case m.State != task.MasterActive:
		case first == nil:
			first = m
		default:
			m.Warnings = append(m.Warnings, Differences(m.Settings, first.Settings, first.Name)...)
		}
	}
}

// Differences says in which settings a master differs from another one. A key
// that one of them does not know, since it has another version, is no difference.
func Differences(own, other map[string]string, name string) []string {
	var found []string
	for _, key := range slices.Sorted(maps.Keys(own)) {
		if theirs, known := other[key]; known && theirs != own[key] {
			found = append(found, fmt.Sprintf("%s is %s here and %s on %s", key, shown(own[key]), shown(theirs), name))
		}
	}
	return found
}

func shown(value string) string {
	if value == "" {
		return "empty"
	}
	return value
}

// Order asks a worker to restart or to drain. A worker that was started alone
// has nobody to start another in its place: it can only drain. Asking
// again changes nothing, except that a drain outranks a restart and that
// a failed order is given anew.
func (s *Store) Order(ctx context.Context, worker string, kind task.OrderKind, by string) (task.WorkerOrder, error) {
	w, err := s.findWorker(ctx, worker)
	if err != nil {
		return task.WorkerOrder{}, err
	}
	if w.State != task.WorkerActive && w.State != task.WorkerDraining {
		return task.WorkerOrder{}, task.Errorf(task.CodeConflict, "worker %s has ended: %s", w.ID, w.Reason).Fix("see `catena workers list`")
	}
	detail := ""
	if kind == task.OrderRestart && w.Master == "" {
		kind, detail = task.OrderDrain, "it was started alone, so no master starts another: it drains and ends, and whoever started it must start it again"
	}
	_, err = s.pool.Exec(ctx, `INSERT INTO worker_orders AS o (worker, kind, asked_by, detail) VALUES ($1, $2, $3, $4)
		ON CONFLICT (worker) DO UPDATE SET kind = excluded.kind, asked_by = excluded.asked_by, detail = excluded.detail, state = 'asked',
			asked_at = clock_timestamp(), changed_at = clock_timestamp()
		WHERE o.state = 'failed' OR o.state = 'asked' AND o.kind = 'restart' AND excluded.kind = 'drain'`, w.Epoch, kind, clean(by), detail)
	if err != nil {
		return task.WorkerOrder{}, wrap(err, "give an order to a worker")
	}
	order, err := s.order(ctx, w.Epoch)
	if order == nil && err == nil {
		err = task.Errorf(task.CodeConflict, "worker %s is gone", w.ID)
	}
	if err != nil {
		return task.WorkerOrder{}, err
	}
	return *order, nil
}

// RestartAll asks every active worker that a master supervises to restart,
// those of one host when it is named. It returns these orders and those to
// such workers that are still open.
func (s *Store) RestartAll(ctx context.Context, host, by string) ([]task.WorkerOrder, error) {
	rows, err := s.pool.Query(ctx, `
		WITH given AS (
			INSERT INTO worker_orders AS o (worker, kind, asked_by)
			SELECT epoch, 'restart', $2 FROM workers WHERE state = 'active' AND master <> '' AND ($1 = '' OR host = $1) ORDER BY epoch
			ON CONFLICT (worker) DO UPDATE SET kind = excluded.kind, asked_by = excluded.asked_by, state = 'asked', detail = '',
				asked_at = clock_timestamp(), changed_at = clock_timestamp() WHERE o.state = 'failed'
			RETURNING worker, kind, state, detail, asked_by, asked_at, changed_at
		), orders AS (
			SELECT * FROM given UNION ALL
			SELECT o.worker, o.kind, o.state, o.detail, o.asked_by, o.asked_at, o.changed_at FROM worker_orders o JOIN workers w ON w.epoch = o.worker
			WHERE o.state NOT IN ('done', 'failed') AND w.state IN ('active', 'draining') AND w.master <> '' AND ($1 = '' OR w.host = $1)
		)
		SELECT w.id, g.worker, g.kind, g.state, g.detail, '', g.asked_by, g.asked_at, g.changed_at FROM orders g JOIN workers w ON w.epoch = g.worker
		ORDER BY g.worker`, host, clean(by))
	if err != nil {
		return nil, wrap(err, "give orders to workers")
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[task.WorkerOrder])
	return list, wrap(err, "give orders to workers")
}

// AdvanceOrder notes how far the order to a worker has come.
func (s *Store) AdvanceOrder(ctx context.Context, epoch int64, state task.OrderState, detail string) error {
	_, err := s.beats.Exec(ctx, `UPDATE worker_orders SET state = $2, detail = CASE WHEN $3 = '' THEN detail ELSE $3 END, changed_at = clock_timestamp()
		WHERE worker = $1 AND state NOT IN ('done', 'failed')`, epoch, state, clean(detail))
	return wrap(err, "note how far an order has come")
}

// order reads the order to a worker; nil when there is none. It is done once
// its worker has ended, whoever saw that.
func (s *Store) order(ctx context.Context, epoch int64) (*task.WorkerOrder, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT w.id, o.worker, o.kind, CASE WHEN w.state IN ('stopped', 'lost') AND o.state <> 'failed' THEN 'done' ELSE o.state END, o.detail,
			coalesce((SELECT n.id FROM workers n WHERE n.master = w.master AND n.slot = w.slot AND n.epoch > w.epoch ORDER BY n.epoch LIMIT 1), ''),
			o.asked_by, o.asked_at, greatest(o.changed_at, w.ended_at)
		FROM worker_orders o JOIN workers w ON w.epoch = o.worker WHERE o.worker = $1`, epoch)
	if err != nil {
		return nil, wrap(err, "read the order to a worker")
	}
	order, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[task.WorkerOrder])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return order, wrap(err, "read the order to a worker")
}
