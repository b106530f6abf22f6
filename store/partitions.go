package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Partitions are made a week ahead, one a day (UTC). There is no default
// partition: a row without a place is an error that is seen, not a slow leak.
const (
	partitionsAhead = 7
	partitionLock   = 0x636174656e61 // advisory lock key "catena": one maker of partitions at a time
	day             = 24 * time.Hour
)

// byRunID are the tables partitioned by the run's id.
var byRunID = [...]string{"runs", "steps", "run_logs"}

// partitionOptions: half-full pages leave room for the one update that ends a
// run (HOT); fixed thresholds since a day's partition grows by millions.
const partitionOptions = `fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000,
	autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000`

// EnsurePartitions makes the partitions of today and the coming week.
func (s *Store) EnsurePartitions(ctx context.Context) error {
	now, err := s.Now(ctx)
	if err != nil {
		return err
	}
	first := now.UTC().Truncate(day).Add(-day)
	for d := first; !d.After(now.Add(partitionsAhead * day)); d = d.Add(day) {
		for _, table := range byRunID {
			if err := s.ensurePartition(ctx, table, d); err != nil {
				return err
			}
		}
		if err := s.ensureFireDay(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) ensureFireDay(ctx context.Context, at time.Time) error {
	d := at.UTC().Truncate(day)
	if s.days.has(d) {
		return nil
	}
	if err := s.ensurePartition(ctx, "fires", d); err != nil {
		return err
	}
	s.days.add(d)
	return nil
}

func partitionName(table string, d time.Time) string { return table + "_" + d.Format("20060102") }

func (s *Store) ensurePartition(ctx context.Context, table string, d time.Time) error {
	name := partitionName(table, d)
	return s.inTx(ctx, "make partition "+name, func(tx pgx.Tx) error {
		if there, err := tableExists(ctx, tx, name); err != nil || there {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, partitionLock); err != nil {
			return err
		}
		if there, err := tableExists(ctx, tx, name); err != nil || there {
			return err
		}
		low, high := partitionBounds(table, d)
		// Attaching locks the parent less than CREATE TABLE ... PARTITION OF does.
		_, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE %[1]s (LIKE %[2]s INCLUDING ALL) WITH (%[5]s);
			ALTER TABLE %[2]s ATTACH PARTITION %[1]s FOR VALUES FROM ('%[3]s') TO ('%[4]s')`,
			pgx.Identifier{name}.Sanitize(), table, low, high, partitionOptions))
		return err
	})
}

func partitionBounds(table string, d time.Time) (low, high string) {
	if table == "fires" {
		return d.Format(time.RFC3339), d.Add(day).Format(time.RFC3339)
	}
	return idFloor(d).String(), idFloor(d.Add(day)).String()
}

func tableExists(ctx context.Context, tx pgx.Tx, name string) (there bool, err error) {
	err = tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&there)
	return there, err
}

// DropBefore drops the partitions that end at or before the given time: of
// runs, steps, logs (logs at their own, usually earlier time) and fires. A
// partition with a run that has not ended stays. It returns what it dropped.
func (s *Store) DropBefore(ctx context.Context, term int64, runs, logs time.Time) ([]string, error) {
	names, err := s.partitions(ctx)
	if err != nil {
		return nil, err
	}
	var dropped []string
	for _, p := range names {
		limit := runs
		if p.table == "run_logs" && logs.After(runs) {
			limit = logs
		}
		if p.day.Add(day).After(limit) {
			continue
		}
		gone, err := s.dropPartition(ctx, term, p)
		if err != nil {
			return dropped, err
		}
		if gone {
			dropped = append(dropped, p.name)
		}
	}
	return dropped, nil
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
		// look afterwards, when no retry by hand can bring a run back to life.
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '200ms'`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `LOCK TABLE `+pgx.Identifier{p.name}.Sanitize()+` IN ACCESS EXCLUSIVE MODE`); err != nil {
			return err
		}
		if p.table != "fires" {
			var live bool
			low, high := partitionBounds(p.table, p.day)
			if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM runs WHERE id >= $1 AND id < $2 AND finished_at IS NULL)`,
				low, high).Scan(&live); err != nil || live {
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

// CheckPartitions reports a task error when today or tomorrow has no partition.
func (s *Store) CheckPartitions(ctx context.Context) error {
	var n int
	err := s.pool.QueryRow(ctx, `
		SELECT count(*) FROM unnest(ARRAY['runs', 'steps', 'run_logs', 'fires']) t,
			unnest(ARRAY[0, 1]) d
		WHERE to_regclass(t || '_' || to_char((clock_timestamp() AT TIME ZONE 'UTC') + d * interval '1 day', 'YYYYMMDD')) IS NULL`).Scan(&n)
	if err != nil {
		return wrap(err, "check partitions")
	}
	if n > 0 {
		return task.Errorf(task.CodeUnavailable, "%d partitions of today or tomorrow are missing", n).
			Fix("a master makes them each hour: see its log, or run `catena migrate up`")
	}
	return nil
}

// daySet remembers which days have a partition of fires.
type daySet struct {
	mu   sync.Mutex
	days map[time.Time]struct{}
}

func newDaySet() *daySet { return &daySet{days: map[time.Time]struct{}{}} }

func (d *daySet) has(at time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, there := d.days[at]
	return there
}

func (d *daySet) add(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.days[at] = struct{}{}
}

func (d *daySet) remove(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.days, at)
}
