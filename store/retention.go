package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Retention says how long ended runs and their logs are kept. A task may say
// otherwise of its runs; see docs/decisions/0010-retention.md.
type Retention struct {
	Runs time.Duration
	Logs time.Duration
}

// DropExpired drops the partitions of which everything is past its time: of
// runs, steps, logs (at their own, usually earlier time) and fires. A partition
// stays while it holds a run that has not ended, that ended late, or whose task
// keeps it longer. It returns what it dropped.
func (s *Store) DropExpired(ctx context.Context, term int64, r Retention, now time.Time) ([]string, error) {
	all, err := s.partitions(ctx)
	if err != nil {
		return nil, err
	}
	var dropped []string
	held := map[time.Time]bool{} // by day, for runs and steps
	for _, p := range all {
		gone, err := s.dropIfExpired(ctx, term, r, now, p, held)
		if err != nil {
			return dropped, err
		}
		if gone {
			dropped = append(dropped, p.name)
		}
	}
	return dropped, s.sweepDropped(ctx, term)
}

func (s *Store) dropIfExpired(ctx context.Context, term int64, r Retention, now time.Time, p partition, held map[time.Time]bool) (bool, error) {
	limit := now.Add(-r.Runs)
	if p.table == "run_logs" && r.Logs < r.Runs {
		limit = now.Add(-r.Logs)
	}
	if p.day.Add(day).After(limit) {
		return false, nil
	}
	if p.table == "runs" || p.table == "steps" {
		stays, known := held[p.day]
		if !known {
			var err error
			if stays, err = s.mustStay(ctx, p.day, r, now); err != nil {
				return false, err
			}
			held[p.day] = stays
		}
		if stays {
			return false, nil
		}
	}
	return s.dropPartition(ctx, term, p)
}

// live asks whether a day has a run that has not ended, whose id then is in one
// of these tables, or one whose parent waits for it and its siblings.
const live = `SELECT EXISTS (SELECT 1 FROM ready WHERE run >= $1 AND run < $2)
	OR EXISTS (SELECT 1 FROM parcels p, unnest(p.runs) AS x(run) WHERE x.run >= $1 AND x.run < $2)
	OR EXISTS (SELECT 1 FROM waits w JOIN runs r ON r.id = w.run WHERE w.run >= $1 AND w.run < $2 AND w.outcome IS NULL
		AND r.id >= $1 AND r.id < $2 AND r.finished_at IS NULL)
	OR EXISTS (SELECT 1 FROM waits w CROSS JOIN LATERAL (SELECT 1 FROM runs c WHERE c.parent = w.run AND c.child_group = w.detail->>'group'
		AND c.id >= $1 AND c.id < $2 LIMIT 1) x WHERE w.kind = 'children' AND w.outcome IS NULL)`

// longer asks whether a day has a run of a task that keeps its runs for longer.
const longer = `SELECT EXISTS (SELECT 1 FROM tasks t CROSS JOIN LATERAL (SELECT 1 FROM runs r WHERE r.id >= $1 AND r.id < $2
	AND (r.task, r.id) >= (t.name, $1) AND (r.task, r.id) < (t.name, $2) ORDER BY r.task, r.id LIMIT 1) x
	WHERE t.keep_ms > $3 AND t.keep_ms > $4)`

// late asks whether a day has a run that has not ended or ended too late. It
// reads the whole partition when there is none, hence without a lock.
const late = `SELECT EXISTS (SELECT 1 FROM runs r LEFT JOIN tasks t ON t.name = r.task AND t.keep_ms > $3 WHERE r.id >= $1 AND r.id < $2
	AND (r.finished_at IS NULL OR r.finished_at > $4::timestamptz - coalesce(t.keep_ms, $3::bigint) * interval '1 millisecond'))`

// mustStay looks for what keeps a day's runs, the cheap reasons first.
func (s *Store) mustStay(ctx context.Context, d time.Time, r Retention, now time.Time) (stays bool, err error) {
	low, high, keep := idFloor(d), idFloor(d.Add(day)), r.Runs.Milliseconds()
	doing := "look for what keeps the runs of " + d.Format(time.DateOnly)
	if err := s.pool.QueryRow(ctx, live, low, high).Scan(&stays); err != nil || stays {
		return stays, wrap(err, doing)
	}
	err = s.byIndex(ctx, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&stays}, func() error { return nil })
		return err
	}, longer, low, high, keep, now.Sub(d.Add(day)).Milliseconds())
	if err != nil || stays {
		return stays, wrap(err, doing)
	}
	err = s.pool.QueryRow(ctx, late, low, high, keep, now).Scan(&stays)
	return stays, wrap(err, doing)
}

type partition struct {
	table, name string
	day         time.Time
}

// partitions lists them so that steps and logs come before their runs.
func (s *Store) partitions(ctx context.Context) ([]partition, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT p.relname, c.relname FROM pg_inherits i
		JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
		JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = current_schema()
		WHERE p.relname IN ('steps', 'run_logs', 'fires', 'runs')
		ORDER BY p.relname = 'runs', c.relname`)
	if err != nil {
		return nil, wrap(err, "list partitions")
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p partition, err error) {
		if err = row.Scan(&p.table, &p.name); err != nil {
			return p, err
		}
		p.day, err = time.Parse("20060102", p.name[len(p.table)+1:])
		return p, err
	})
	return list, wrap(err, "list partitions")
}

func (s *Store) dropPartition(ctx context.Context, term int64, p partition) (gone bool, err error) {
	err = s.inTx(ctx, "drop partition "+p.name, func(tx pgx.Tx) error {
		gone = false
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		// What waits for this lock makes others wait too: try for a moment only, and
		// look afterwards, when no retry by hand can bring a run back to life. The
		// look is at narrow tables, since every statement on runs waits meanwhile.
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '200ms'`); err != nil {
			return err
		}
		// The parent first, as every statement locks them: a drop needs it too.
		if _, err := tx.Exec(ctx, `LOCK TABLE ONLY `+p.table+`, `+pgx.Identifier{p.name}.Sanitize()+` IN ACCESS EXCLUSIVE MODE`); err != nil {
			return err
		}
		if p.table != "fires" {
			var alive bool
			if err := tx.QueryRow(ctx, live, idFloor(p.day), idFloor(p.day.Add(day))).Scan(&alive); err != nil || alive {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `DROP TABLE `+pgx.Identifier{p.name}.Sanitize()); err != nil {
			return err
		}
		gone = true
		return nil
	})
	if gone && p.table == "fires" {
		s.days.remove(p.day)
	}
	return gone, err
}

// sweepLimit bounds what one transaction of a sweep deletes.
const sweepLimit = 5000

// sweepDropped deletes what stands in narrow tables of runs whose partition is gone.
func (s *Store) sweepDropped(ctx context.Context, term int64) error {
	for _, table := range []string{"failed_runs", "waits"} {
		from := uuid.Nil
		for {
			var id uuid.UUID
			err := s.pool.QueryRow(ctx, `SELECT run FROM `+table+` WHERE run >= $1 ORDER BY run LIMIT 1`, from).Scan(&id)
			if isMissing(err) {
				break
			}
			if err != nil {
				return wrap(err, "sweep "+table)
			}
			d := timeOf(id).UTC().Truncate(day)
			var there bool
			if err := s.pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, partitionName("runs", d)).Scan(&there); err != nil {
				return wrap(err, "sweep "+table)
			}
			if there {
				from = idFloor(d.Add(day))
				continue
			}
			if err := s.sweepDay(ctx, term, table, d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) sweepDay(ctx context.Context, term int64, table string, d time.Time) error {
	return s.inTx(ctx, "sweep "+table, func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE run = ANY (ARRAY(SELECT run FROM `+table+`
			WHERE run >= $1 AND run < $2 ORDER BY run LIMIT $3))`, idFloor(d), idFloor(d.Add(day)), sweepLimit)
		return err
	})
}

// Expired is a part of a task's runs that may be past its time although the
// partitions stay.
type Expired struct {
	Task     string
	From, To uuid.UUID // the second excluded
	Before   time.Time // a run that ended earlier is deleted
}

// Expired lists what DeleteExpired has to do: the runs of tasks that keep them
// for less than the cluster does, and whatever stands in a partition that is
// itself past its time and stays for something else in it.
func (s *Store) Expired(ctx context.Context, r Retention, now time.Time) ([]Expired, error) {
	all, err := s.partitions(ctx)
	if err != nil {
		return nil, err
	}
	var list []Expired
	var young time.Time // the first day that is not past the cluster's time
	for _, p := range all {
		if p.table != "runs" {
			continue
		}
		if p.day.Add(day).After(now.Add(-r.Runs)) {
			young = p.day
			break
		}
		past, err := s.expiredDay(ctx, p.day, r, now)
		if err != nil {
			return nil, err
		}
		list = append(list, past...)
	}
	if young.IsZero() {
		return list, nil
	}
	short, err := s.expiredTasks(ctx, young, r, now)
	return append(list, short...), err
}

// expiredDay finds the tasks of a day by jumps in the index.
func (s *Store) expiredDay(ctx context.Context, d time.Time, r Retention, now time.Time) ([]Expired, error) {
	low, high := idFloor(d), idFloor(d.Add(day))
	rows, err := s.pool.Query(ctx, `
		WITH RECURSIVE n AS (
			SELECT (SELECT min(task) FROM runs WHERE id >= $1 AND id < $2) AS task
			UNION ALL
			SELECT (SELECT min(r.task) FROM runs r WHERE r.id >= $1 AND r.id < $2 AND r.task > n.task) FROM n WHERE n.task IS NOT NULL
		)
		SELECT n.task, coalesce(t.keep_ms, $3) FROM n LEFT JOIN tasks t ON t.name = n.task WHERE n.task IS NOT NULL`,
		low, high, r.Runs.Milliseconds())
	if err != nil {
		return nil, wrap(err, "list what is past its time")
	}
	return collectExpired(rows, d, d.Add(day), now)
}

// expiredTasks finds the tasks with a shorter time that have runs past it. The
// runs that ask sources are many and of no use once their answers are read.
func (s *Store) expiredTasks(ctx context.Context, from time.Time, r Retention, now time.Time) ([]Expired, error) {
	var list []Expired
	err := s.byIndex(ctx, func(rows pgx.Rows) (err error) {
		list, err = collectExpired(rows, from, now, now)
		return err
	}, `
		SELECT t.name, t.keep_ms FROM (
			SELECT name, keep_ms FROM tasks UNION ALL
			SELECT '`+task.SourcePollPrefix+`' || name, $4::bigint FROM sources WHERE call IS NOT NULL) t CROSS JOIN LATERAL (
			SELECT catena_id_floor($3::timestamptz - greatest(t.keep_ms, $4::bigint) * interval '1 millisecond') AS high) b CROSS JOIN LATERAL (
			SELECT 1 FROM runs r WHERE r.id >= $1 AND r.id < b.high AND (r.task, r.id) >= (t.name, $1) AND (r.task, r.id) < (t.name, b.high)
			ORDER BY r.task, r.id LIMIT 1) x
		WHERE t.keep_ms < $2`, idFloor(from), r.Runs.Milliseconds(), now, time.Duration(task.LeastKeep).Milliseconds())
	return list, wrap(err, "list what is past its time")
}

func collectExpired(rows pgx.Rows, from, to, now time.Time) ([]Expired, error) {
	var list []Expired
	var name string
	var keep int64
	_, err := pgx.ForEachRow(rows, []any{&name, &keep}, func() error {
		before := now.Add(-max(milliseconds(keep), time.Duration(task.LeastKeep)))
		if end := sooner(to, before); end.After(from) {
			list = append(list, Expired{Task: name, From: idFloor(from), To: idFloor(end), Before: before})
		}
		return nil
	})
	return list, wrap(err, "list what is past its time")
}

func sooner(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// deleteLimit is how many runs one transaction deletes.
const deleteLimit = 500

// expiredPage goes by the index on task and id, whatever the planner expects of
// the task. Children stay while their parent waits for them or their siblings.
const expiredPage = `SELECT id FROM runs WHERE id >= $2 AND id < $3 AND (task, id) >= ($1, $2) AND (task, id) < ($1, $3) AND finished_at < $4
	AND NOT EXISTS (SELECT 1 FROM waits w WHERE w.run = runs.parent AND w.kind = 'children' AND w.outcome IS NULL AND w.detail->>'group' = child_group)
	ORDER BY task, id LIMIT 500 FOR UPDATE`

// DeleteExpired deletes a bounded number of e's runs, in the order of their ids
// and with all that belongs to them. next is where the following call goes on.
func (s *Store) DeleteExpired(ctx context.Context, term int64, e Expired) (deleted int, next Expired, more bool, err error) {
	err = s.inTx(ctx, "delete expired runs of "+e.Task, func(tx pgx.Tx) error {
		deleted, next, more = 0, e, false
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		var ids []uuid.UUID
		page := &pgx.Batch{}
		setIndexPlans(page)
		page.Queue(expiredPage, e.Task, e.From, e.To, e.Before).Query(func(rows pgx.Rows) (err error) {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
			return err
		})
		if err := tx.SendBatch(ctx, page).Close(); err != nil || len(ids) == 0 {
			return err
		}
		low, high := bounds(ids)
		deleted, more, next.From = len(ids), len(ids) == deleteLimit, high
		batch := &pgx.Batch{}
		setBulkPlans(batch)
		for _, table := range []string{"steps", "run_logs", "failed_runs", "waits"} {
			batch.Queue(`DELETE FROM `+table+` WHERE run = ANY ($1) AND run BETWEEN $2 AND $3`, ids, low, high)
		}
		batch.Queue(`DELETE FROM runs WHERE id = ANY ($1) AND id BETWEEN $2 AND $3`, ids, low, high)
		return tx.SendBatch(ctx, batch).Close()
	})
	return deleted, next, more, err
}

// applyKeep writes how long the task's runs are kept. It makes no revision.
func applyKeep(ctx context.Context, tx pgx.Tx, def task.Definition) (changed bool, err error) {
	var keep *int64
	if def.Keep != 0 {
		ms := time.Duration(def.Keep).Milliseconds()
		keep = &ms
	}
	tag, err := tx.Exec(ctx, `UPDATE tasks SET keep_ms = $2 WHERE name = $1 AND keep_ms IS DISTINCT FROM $2`, def.Name, keep)
	return tag.RowsAffected() > 0, err
}
