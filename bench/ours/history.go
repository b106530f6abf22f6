package ours

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/catena-run/catena/bench"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// historyDays is over how many partitions the ended runs are spread.
const historyDays = 29

// History measures what a large history costs: throughput and listings before
// and after so many ended runs, of which 3 % failed.
func History(ctx context.Context, servers bench.Servers, rows, runs int) ([]Figure, error) {
	cl, err := Open(ctx, servers, nil)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	cl.StartWorker(ctx)
	if err := cl.warm(ctx); err != nil {
		return nil, err
	}
	for _, name := range historyTasks {
		if err := cl.Apply(ctx, task.Definition{Name: name, Chain: json.RawMessage(`[["nop"]]`)}); err != nil {
			return nil, err
		}
	}
	figures, before, err := cl.withHistory(ctx, "empty history", runs)
	if err != nil {
		return figures, err
	}
	began := time.Now()
	if err := cl.fillHistory(ctx, rows); err != nil {
		return figures, err
	}
	figures = append(figures, Figure{Name: fmt.Sprintf("making %d ended runs", rows), Value: time.Since(began).Round(time.Second).String()})
	more, full, err := cl.withHistory(ctx, fmt.Sprintf("%d ended runs", rows), runs)
	if figures = append(figures, more...); err != nil {
		return figures, err
	}
	// Again without them, since the machine may have changed its speed meanwhile.
	if err := cl.dropHistory(ctx); err != nil {
		return figures, err
	}
	after, err := cl.speed(ctx, runs)
	return append(figures, Figure{Name: "empty history again: no-op runs/s, accept to end", Value: fmt.Sprintf("%.0f", after)},
		Figure{Name: fmt.Sprintf("no-op runs/s with %d ended runs, of the mean without", rows), Value: fmt.Sprintf("%.2f", 2*full/(before+after)),
			Goal: ">= 1", Share: fmt.Sprintf("%.2f", 2*full/(before+after))}), err
}

func (cl *Cluster) withHistory(ctx context.Context, name string, runs int) (figures []Figure, perSecond float64, err error) {
	if perSecond, err = cl.speed(ctx, runs); err != nil {
		return nil, 0, err
	}
	figures = []Figure{{Name: name + ": no-op runs/s, accept to end", Value: fmt.Sprintf("%.0f", perSecond)}}
	for _, l := range listings() {
		var samples []time.Duration
		found := 0
		for range 15 {
			began := time.Now()
			list, err := cl.Store.Runs(ctx, l.filter)
			if err != nil {
				return figures, perSecond, fmt.Errorf("%s: %w", l.name, err)
			}
			samples, found = append(samples, time.Since(began)), len(list)
		}
		figures = append(figures, Figure{Name: name + ": runs list" + l.name, Value: fmt.Sprintf("%v, at most %v (%d runs)",
			bench.Percentile(samples, 0.5).Round(10*time.Microsecond), bench.Percentile(samples, 1).Round(10*time.Microsecond), found)})
	}
	return figures, perSecond, nil
}

// speed is the median of three loads.
func (cl *Cluster) speed(ctx context.Context, runs int) (float64, error) {
	var perSecond []float64
	for range 3 {
		began := time.Now()
		if err := cl.submit(ctx, runs); err != nil {
			return 0, err
		}
		if err := cl.Drained(ctx); err != nil {
			return 0, err
		}
		perSecond = append(perSecond, float64(runs)/time.Since(began).Seconds())
	}
	return bench.Median(perSecond), nil
}

// dropHistory drops the days that fillHistory filled.
func (cl *Cluster) dropHistory(ctx context.Context) error {
	today := time.Now().UTC().Truncate(24 * time.Hour)
	for d := 1; d <= historyDays; d++ {
		if _, err := cl.Store.Pool().Exec(ctx, "DROP TABLE runs_"+today.AddDate(0, 0, -d).Format("20060102")); err != nil {
			return err
		}
	}
	_, err := cl.Store.Pool().Exec(ctx, `TRUNCATE failed_runs`)
	return err
}

// historyTasks are those whose runs are listed.
var historyTasks = []string{"history/00", "history/rare", "history/old", "history/broken", "history/none"}

type historyListing struct {
	name   string
	filter store.RunFilter
}

// listings are calls of runs list with its default of 50 runs.
func listings() []historyListing {
	var all []historyListing
	add := func(name string, f store.RunFilter) {
		f.Limit = 50
		all = append(all, historyListing{name, f})
	}
	for _, name := range append([]string{""}, historyTasks...) {
		suffix := ""
		if name != "" {
			suffix = " --task " + name
		}
		add(suffix, store.RunFilter{Task: name})
		for _, state := range []string{"queued", "dispatched", "running", "waiting", "succeeded", "failed", "cancelled", "timed_out", "quarantined", "failed,succeeded"} {
			if name == "" || name == "history/00" || state == "succeeded" || state == "failed" || state == "running" {
				add(suffix+" --state "+state, store.RunFilter{Task: name, State: state})
			}
		}
	}
	for _, back := range []time.Duration{time.Hour, 3 * 24 * time.Hour, 28 * 24 * time.Hour} {
		since := time.Now().Add(-back)
		add(fmt.Sprintf(" --since %v", back), store.RunFilter{Since: since})
		add(fmt.Sprintf(" --since %v --state failed", back), store.RunFilter{Since: since, State: "failed"})
		add(fmt.Sprintf(" --since %v --task history/rare", back), store.RunFilter{Since: since, Task: "history/rare"})
	}
	before := uuid.MustParse(floorText(time.Now().Add(-15 * 24 * time.Hour)))
	add(", a page in the middle", store.RunFilter{Before: before})
	add(" --state failed, a page in the middle", store.RunFilter{Before: before, State: "failed"})
	return all
}

// fillHistory inserts ended runs, day by day: half of them of one task, the
// others of 48 tasks, one of which never succeeds, a rare one and one that ran only
// on the first day.
func (cl *Cluster) fillHistory(ctx context.Context, rows int) error {
	pool := cl.Store.Pool()
	today := time.Now().UTC().Truncate(24 * time.Hour)
	for d := historyDays; d >= 1; d-- {
		from, to := today.AddDate(0, 0, -d), today.AddDate(0, 0, 1-d)
		var sql strings.Builder
		if d > 1 { // yesterday's is there
			for _, table := range []string{"runs", "steps", "run_logs"} {
				fmt.Fprintf(&sql, `CREATE TABLE %[1]s_%[2]s (LIKE %[1]s INCLUDING ALL) WITH (fillfactor = 34);
					ALTER TABLE %[1]s ATTACH PARTITION %[1]s_%[2]s FOR VALUES FROM ('%[3]s') TO ('%[4]s');`+"\n",
					table, from.Format("20060102"), floorText(from), floorText(to))
			}
		}
		fmt.Fprintf(&sql, `INSERT INTO runs (id, task, revision, state, priority, queue, created_at, available_at, started_at, finished_at, outcome, worker, tail)
			SELECT overlay(catena_id_floor(at)::text placing '7' || right(gen_random_uuid()::text, 21) from 15)::uuid, task, 1,
				CASE WHEN task = 'history/broken' THEN 'failed' WHEN g %% 1000 < 20 THEN 'failed' WHEN g %% 1000 < 25 THEN 'cancelled'
					WHEN g %% 1000 < 29 THEN 'timed_out' WHEN g %% 1000 < 30 THEN 'quarantined' ELSE 'succeeded' END,
				5, 'default', at, at, at + interval '5 ms', at + interval '9 ms', '{"success":true}', 1,
				'[{"path":"0","iteration":0,"attempt":1,"outcome":{"success":true},"started_at":"2026-11-01T00:00:00Z","finished_at":"2026-11-01T00:00:00Z"}]'
			FROM (SELECT g, timestamptz '%[1]s' + g * interval '1 day' / %[2]d AS at,
				CASE WHEN g %% 100000 = 7 THEN 'history/rare' WHEN g %% 1000 = 8 AND %[3]t THEN 'history/old' WHEN g %% 200 = 9 THEN 'history/broken'
					WHEN g %% 2 = 0 THEN 'history/00' ELSE 'history/' || lpad((g %% 47)::text, 2, '0') END AS task
				FROM generate_series(0, %[2]d - 1) g) x;`, from.Format(time.RFC3339), max(rows/historyDays, 1), d == historyDays)
		if _, err := pool.Exec(ctx, sql.String()); err != nil {
			return err
		}
	}
	_, err := pool.Exec(ctx, `VACUUM ANALYZE`)
	if err == nil {
		_, err = pool.Exec(ctx, `CHECKPOINT`) // its writes are no part of what follows
	}
	return err
}

func floorText(at time.Time) string {
	return fmt.Sprintf("%012x", at.UnixMilli()) + "00000000000000000000"
}
