package store

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// tableStats sums the partitions of each table. Of a table that was never
// analysed only the activity counters know rows.
const tableStats = `
	SELECT coalesce(p.relname, c.relname), count(i.inhrelid),
		sum(CASE WHEN c.relkind = 'p' THEN 0 WHEN c.reltuples >= 0 THEN c.reltuples ELSE coalesce(s.n_live_tup, 0) END)::bigint,
		coalesce(sum(s.n_dead_tup), 0)::bigint, sum(pg_table_size(c.oid))::bigint, sum(pg_indexes_size(c.oid))::bigint,
		max(greatest(s.last_vacuum, s.last_autovacuum)), max(greatest(s.last_analyze, s.last_autoanalyze))
	FROM pg_class c
	JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
	LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
	LEFT JOIN pg_class p ON p.oid = i.inhparent
	LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
	WHERE c.relkind IN ('r', 'p') AND c.relname NOT LIKE 'goose%'
	GROUP BY 1 ORDER BY 5 DESC, 1`

// ages are the tables whose rows have an age, and what tells the oldest and
// newest by an index. Those of runs tell the time by the run's id.
var ages = []struct{ table, column string }{
	{"runs", "id"}, {"steps", "run"}, {"run_logs", "run"}, {"failed_runs", "run"}, {"ready", "run"}, {"waits", "run"},
}

var agesByOrder = []struct{ table, order, at string }{
	{"audit", "id", "at"}, {"events", "id", "sent_at"}, {"releases", "id", "at"}, {"parcels", "id", "created_at"},
}

// Stats reads sizes and ages of the tables and counts what waits.
func (s *Store) Stats(ctx context.Context) (task.Stats, error) {
	var out task.Stats
	rows, err := s.pool.Query(ctx, tableStats)
	if err != nil {
		return out, wrap(err, "read the sizes of tables")
	}
	out.Tables, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t task.TableStats, err error) {
		err = row.Scan(&t.Table, &t.Partitions, &t.Rows, &t.DeadRows, &t.Size, &t.Indexes, &t.VacuumedAt, &t.AnalyzedAt)
		return t, err
	})
	if err != nil {
		return out, wrap(err, "read the sizes of tables")
	}
	if err := s.ages(ctx, out.Tables); err != nil {
		return out, err
	}
	figures, err := s.Figures(ctx)
	if err != nil {
		return out, err
	}
	out.Ready, out.Parcels = depths(figures.Ready), depths(figures.Parcels)
	return out, nil
}

func depths(figures []LaneFigures) []task.LaneDepth {
	list := make([]task.LaneDepth, len(figures))
	for i, f := range figures {
		list[i] = task.LaneDepth(f)
	}
	return list
}

// ages fills in the oldest and newest row of each table that has ages.
func (s *Store) ages(ctx context.Context, tables []task.TableStats) error {
	batch := &pgx.Batch{}
	of := func(name string) *task.TableStats {
		if i := slices.IndexFunc(tables, func(t task.TableStats) bool { return t.Table == name }); i >= 0 {
			return &tables[i]
		}
		return &task.TableStats{} // a table of a newer schema
	}
	for _, a := range ages {
		t := of(a.table)
		ends := func(order string) string {
			return "(SELECT " + a.column + " FROM " + a.table + " ORDER BY " + a.column + order + " LIMIT 1)"
		}
		batch.Queue("SELECT " + ends("") + ", " + ends(" DESC")).QueryRow(func(row pgx.Row) error {
			var oldest, newest *uuid.UUID
			err := row.Scan(&oldest, &newest)
			t.Oldest, t.Newest = timeOfID(oldest), timeOfID(newest)
			return err
		})
	}
	for _, a := range agesByOrder {
		t := of(a.table)
		ends := func(order string) string {
			return "(SELECT " + a.at + " FROM " + a.table + " ORDER BY " + a.order + order + " LIMIT 1)"
		}
		batch.Queue("SELECT " + ends("") + ", " + ends(" DESC")).QueryRow(func(row pgx.Row) error { return row.Scan(&t.Oldest, &t.Newest) })
	}
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return wrap(err, "read the ages of tables")
	}
	return s.agesOfFires(ctx, of("fires"))
}

func timeOfID(id *uuid.UUID) *time.Time {
	if id == nil {
		return nil
	}
	at := timeOf(*id)
	return &at
}

// agesOfFires tells them to the day: due times of all schedules have no index of their own.
func (s *Store) agesOfFires(ctx context.Context, t *task.TableStats) error {
	all, err := s.partitions(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(p partition) bool { return p.table != "fires" })
	slices.SortFunc(all, func(a, b partition) int { return cmp.Or(a.day.Compare(b.day), strings.Compare(a.name, b.name)) })
	batch := &pgx.Batch{}
	for _, p := range all {
		batch.Queue("SELECT EXISTS (SELECT 1 FROM " + pgx.Identifier{p.name}.Sanitize() + ")").QueryRow(func(row pgx.Row) error {
			var some bool
			if err := row.Scan(&some); err != nil || !some {
				return err
			}
			if t.Oldest == nil {
				t.Oldest = &p.day
			}
			t.Newest = &p.day
			return nil
		})
	}
	return wrap(s.pool.SendBatch(ctx, batch).Close(), "read the ages of fires")
}
