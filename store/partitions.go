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

// partitionOptions are those of a table: a run's row has some 200 bytes when it is accepted and 400
// when it has ended. Both must fit side by side for all rows of a page, since one commit ends many of
// them: else the end of a run writes its indexes anew (not HOT). Ranges of the ledger grow in place; steps and
// logs never change. Fixed thresholds since a day's partition grows by millions.
func partitionOptions(table string) string {
	switch table {
	case "runs":
		return fixedVacuum + ", fillfactor = 34"
	case "fires":
		return fixedVacuum + ", fillfactor = 80"
	}
	return fixedVacuum
}

const fixedVacuum = `autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000,
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
			pgx.Identifier{name}.Sanitize(), table, low, high, partitionOptions(table)))
		return err
	})
}

func partitionBounds(table string, d time.Time) (low, high string) {
	if table == "fires" {
		return d.Format(time.RFC3339), d.Add(day).Format(time.RFC3339)
	}
	return idFloor(d).String(), idFloor(d.Add(day)).String()
}

// tableExists reads the catalogue itself: to_regclass may answer from a cache that
// does not know what another session made while this one waited for a lock.
func tableExists(ctx context.Context, tx pgx.Tx, name string) (there bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_class WHERE relname = $1 AND pg_table_is_visible(oid))`, name).Scan(&there)
	return there, err
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
