package store

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// earlier is what an idempotency key has started before, as it was asked for.
type earlier struct {
	params      json.RawMessage
	at          *time.Time // asked for; nil: at once, or by a binary that did not keep it
	availableAt *time.Time
}

// refuseOtherRequests looks whether runs whose key was used before ask for what
// it was used for. It costs nothing where no key was: first uses are not read.
func refuseOtherRequests(ctx context.Context, tx pgx.Tx, runs []NewRun, accepted []Accepted) error {
	if !slices.ContainsFunc(accepted, func(a Accepted) bool { return a.Duplicate }) {
		return nil
	}
	made := make(map[uuid.UUID]int, len(runs)) // by this call
	var tasks, keys []string
	for i, a := range accepted {
		if !a.Duplicate {
			made[a.ID] = i
		}
	}
	for i, a := range accepted {
		if _, own := made[a.ID]; a.Duplicate && !own {
			tasks, keys = append(tasks, runs[i].Task), append(keys, runs[i].Key)
		}
	}
	before, err := startedEarlier(ctx, tx, tasks, keys)
	if err != nil {
		return err
	}
	refused := &RefusedRuns{Reasons: map[int]error{}}
	for i, a := range accepted {
		if !a.Duplicate || runs[i].Parent != nil { // a child is that of its step, which may be repeated
			continue
		}
		was, known := before[a.ID]
		if first, own := made[a.ID]; own {
			was, known = earlier{params: runs[first].Params, at: nullTime(runs[first].At)}, true
		}
		if !known {
			continue // the run has gone: its key still holds, and there is nothing to compare
		}
		if what := was.differs(runs[i]); what != "" {
			refused.Reasons[i] = task.Errorf(task.CodeConflict, "the key %q has started run %s of %s, which %s", runs[i].Key, a.ID, runs[i].Task, what).
				At("key").Fix("use a new key for a new run, or ask for the same again")
		}
	}
	if len(refused.Reasons) > 0 {
		return refused
	}
	return nil
}

// startedEarlier reads the runs of keys.
func startedEarlier(ctx context.Context, tx pgx.Tx, tasks, keys []string) (map[uuid.UUID]earlier, error) {
	before := make(map[uuid.UUID]earlier, len(keys))
	if len(keys) == 0 {
		return before, nil
	}
	rows, err := tx.Query(ctx, `SELECT k.run, k.at FROM run_keys k
		JOIN unnest($1::text[], $2::text[]) AS i(t, key) ON k.task = i.t AND k.key = i.key
		WHERE NOT k.passed_on`, tasks, keys) // a run of dedupe was asked for with params of its own
	if err != nil {
		return nil, err
	}
	var id uuid.UUID
	var ids []uuid.UUID
	var at, availableAt *time.Time
	asked := make(map[uuid.UUID]*time.Time, len(keys))
	if _, err := pgx.ForEachRow(rows, []any{&id, &at}, func() error { asked[id] = at; ids = append(ids, id); return nil }); err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return before, nil
	}
	low, high := bounds(ids)
	rows, err = tx.Query(ctx, `SELECT id, params::text, available_at FROM runs WHERE id = ANY($1) AND id BETWEEN $2 AND $3`, ids, low, high)
	if err != nil {
		return nil, err
	}
	var params *string
	_, err = pgx.ForEachRow(rows, []any{&id, &params, &availableAt}, func() error {
		was := earlier{at: asked[id], availableAt: availableAt}
		if params != nil {
			was.params = json.RawMessage(*params)
		}
		before[id] = was
		return nil
	})
	return before, err
}

// differs says in what the earlier run is another than the one now asked for, or "".
func (e earlier) differs(run NewRun) string {
	switch {
	case !task.SameJSON(objectOf(e.params), objectOf(run.Params)):
		return "has other params"
	case run.At.IsZero() && e.at == nil:
		return ""
	case e.at != nil && !run.At.IsZero() && sameMoment(*e.at, run.At):
		return ""
	case e.at == nil && e.availableAt != nil && sameMoment(*e.availableAt, run.At):
		return ""
	case e.at == nil:
		return "was asked for without a time"
	}
	return "was asked for at " + e.at.UTC().Format(time.RFC3339Nano)
}

// objectOf lets no params be the same as no key in them: both leave the task's own.
func objectOf(params json.RawMessage) json.RawMessage {
	if len(params) == 0 {
		return json.RawMessage(`{}`)
	}
	return params
}

// sameMoment compares as exactly as the database keeps times.
func sameMoment(a, b time.Time) bool {
	return a.Truncate(time.Microsecond).Equal(b.Truncate(time.Microsecond)) || a.Round(time.Microsecond).Equal(b.Round(time.Microsecond))
}
