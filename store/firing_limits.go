package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// start makes the runs of the fires. A due time whose run cannot be, by its
// task's keys, dedupe or the strategy reject-new, is recorded as skipped with
// the reason and disturbs no other.
func (s *Store) start(ctx context.Context, tx pgx.Tx, f *firing) error {
	keys, refused := s.keysOf(f.view, f.wanted)
	skipped := map[int]string{}
	if refused != nil {
		for i, reason := range refused.Reasons {
			skipped[i] = reason.Error()
		}
	}
	accepted := make([]Accepted, len(f.wanted))
	for i, id := range s.ids.mint(f.view.now, len(f.wanted)) {
		accepted[i] = Accepted{ID: id}
	}
	if keys != nil {
		if err := rejectFires(ctx, tx, f, keys, skipped); err != nil {
			return err
		}
		if err := dedupeFires(ctx, tx, f, keys, accepted, skipped); err != nil { // last: a key that was taken has a run
			return err
		}
	}
	for i, run := range f.wanted {
		fire := &f.fires[f.places[i]]
		if reason, no := skipped[i]; no {
			fire.Outcome, fire.Reason = task.FireSkipped, reason
			continue
		}
		id := accepted[i].ID
		fire.Run = &id
		if !run.buffered {
			f.last[fire.Schedule] = id
		}
		run.Trace = s.trace(id)
		f.runs.add(id, run, keyAt(keys, i))
	}
	return nil
}

func dedupeFires(ctx context.Context, tx pgx.Tx, f *firing, keys []LimitKeys, accepted []Accepted, skipped map[int]string) error {
	var claims []keyClaim
	for i, run := range f.wanted {
		if d := f.view.tasks[run.Task].limits.Dedupe; d != nil && keys[i].Dedupe != nil && skipped[i] == "" {
			claims = append(claims, keyClaim{i, run.Task, task.DedupePrefix + *keys[i].Dedupe, nil, f.view.now.Add(time.Duration(d.Window))})
		}
	}
	if err := claimKeys(ctx, tx, claims, accepted); err != nil {
		return err
	}
	for _, c := range claims {
		if accepted[c.index].Duplicate {
			skipped[c.index] = duplicateReason(*keys[c.index].Dedupe, accepted[c.index].ID)
		}
	}
	return nil
}

// rejectFires skips due times whose run would find its limit reached, counting
// those that wait for it.
func rejectFires(ctx context.Context, tx pgx.Tx, f *firing, keys []LimitKeys, skipped map[int]string) error {
	left := map[placeKey]int{}
	for i, run := range f.wanted {
		info := f.view.tasks[run.Task]
		c := info.limits.Concurrency
		if skipped[i] != "" || c == nil || c.Strategy != task.StrategyRejectNew || keys[i].Concurrency == nil {
			continue
		}
		k := placeKey{run.Task, *keys[i].Concurrency}
		if _, known := left[k]; !known {
			var used int
			held := placeKey{limitScope(run.Task), k.key}
			if err := tx.QueryRow(ctx, occupied, held.scope, held.key, held.number().bytes(), info.lane, run.Task, LimitKeys{Rate: keys[i].Rate, Concurrency: &k.key}.joined(), c.Limit).
				Scan(&used); err != nil {
				return err
			}
			left[k] = c.Limit - used
		}
		if left[k]--; left[k] < 0 {
			skipped[i] = reachedText(c, k.key) + ", and the strategy is reject-new"
		}
	}
	return nil
}

// occupied counts the runs under way and those about to start, up to the limit.
const occupied = `
	SELECT (SELECT count(*) FROM (SELECT 1 FROM ` + limitHolders + ` LIMIT $7) h)
		+ (SELECT count(*) FROM (SELECT 1 FROM ready WHERE hold = 'limited' AND lane = $4 AND task = $5 AND limit_keys = $6 LIMIT $7) w)`

// joined is what ready.limit_keys says of these keys.
func (k LimitKeys) joined() string {
	text := ""
	if k.Concurrency != nil {
		text = "c" + *k.Concurrency
	}
	text += "\x1f"
	if k.Rate != nil {
		text += "r" + *k.Rate
	}
	return text
}
