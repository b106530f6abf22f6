package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// keyClaim asks for a key of run_keys for the run at an index of a call.
type keyClaim struct {
	index   int
	task    string
	key     string
	at      *time.Time // not before, as asked for
	expires time.Time
}

func (c keyClaim) compare(d keyClaim) int {
	if n := strings.Compare(c.task, d.task); n != 0 {
		return n
	}
	if n := strings.Compare(c.key, d.key); n != 0 {
		return n
	}
	return c.index - d.index
}

// takeKeys claims the idempotency keys and then the keys of dedupe, and marks
// runs whose key was taken by an earlier run, or by one further up in the same call.
func takeKeys(ctx context.Context, tx pgx.Tx, view *laneView, runs []NewRun, keys []LimitKeys, accepted []Accepted) error {
	var claims []keyClaim
	for i := range runs {
		if runs[i].Key != "" {
			claims = append(claims, keyClaim{i, runs[i].Task, runs[i].Key, nullTime(runs[i].At), view.now.Add(keyLifetime)})
		}
	}
	if err := claimKeys(ctx, tx, claims, accepted); err != nil {
		return err
	}
	if err := refuseOtherRequests(ctx, tx, runs, accepted); err != nil {
		return err
	}
	var unique []keyClaim
	for i := range keys {
		info, _ := view.of(&runs[i])
		if d := info.limits.Dedupe; d != nil && keys[i].Dedupe != nil && !accepted[i].Duplicate {
			unique = append(unique, keyClaim{i, runs[i].Task, task.DedupePrefix + *keys[i].Dedupe, nil, view.now.Add(time.Duration(d.Window))})
		}
	}
	before := slices.Clone(accepted)
	if err := claimKeys(ctx, tx, unique, accepted); err != nil {
		return err
	}
	replaced := map[uuid.UUID]uuid.UUID{} // runs of this call that will not be
	for _, c := range unique {
		if accepted[c.index].Duplicate {
			replaced[before[c.index].ID] = accepted[c.index].ID
		}
	}
	for i := range accepted {
		if id, ok := replaced[accepted[i].ID]; ok {
			accepted[i].ID = id
		}
	}
	return passKeysOn(ctx, tx, runs, unique, accepted)
}

// claimKeys claims keys in their order, so that two calls at once cannot block
// each other, and replaces the answers of runs whose key is another's.
func claimKeys(ctx context.Context, tx pgx.Tx, claims []keyClaim, accepted []Accepted) error {
	if len(claims) == 0 {
		return nil
	}
	slices.SortFunc(claims, keyClaim.compare)
	var tasks, keys []string
	var ids []uuid.UUID
	var expires []time.Time
	var at []*time.Time
	for n, c := range claims {
		if n > 0 && claims[n-1].task == c.task && claims[n-1].key == c.key {
			continue
		}
		tasks, keys = append(tasks, c.task), append(keys, c.key)
		ids, expires, at = append(ids, accepted[c.index].ID), append(expires, c.expires), append(at, c.at)
	}
	// The second statement sees what a concurrent owner of a key has committed.
	if _, err := tx.Exec(ctx, `
		INSERT INTO run_keys AS k (task, key, run, expires_at, at)
		SELECT t, key, id, e, at FROM unnest($1::text[], $2::text[], $3::uuid[], $4::timestamptz[], $5::timestamptz[]) AS i(t, key, id, e, at)
		ON CONFLICT (task, key) DO UPDATE SET run = excluded.run, expires_at = excluded.expires_at, at = excluded.at, passed_on = false
		WHERE k.expires_at < clock_timestamp()`, tasks, keys, ids, expires, at); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `SELECT k.task, k.key, k.run FROM run_keys k
		JOIN unnest($1::text[], $2::text[]) AS i(t, key) ON k.task = i.t AND k.key = i.key`, tasks, keys)
	if err != nil {
		return err
	}
	type name struct{ task, key string }
	owner := make(map[name]uuid.UUID, len(ids))
	var n name
	var id uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&n.task, &n.key, &id}, func() error { owner[n] = id; return nil }); err != nil {
		return err
	}
	for _, c := range claims {
		if id := owner[name{c.task, c.key}]; id != accepted[c.index].ID {
			accepted[c.index] = Accepted{ID: id, Duplicate: true}
		}
	}
	return nil
}

// passKeysOn gives the idempotency keys of runs that dedupe answered with
// another run to that run, so that asking again gets the same answer.
func passKeysOn(ctx context.Context, tx pgx.Tx, runs []NewRun, unique []keyClaim, accepted []Accepted) error {
	batch := &pgx.Batch{}
	for _, c := range unique {
		if key := runs[c.index].Key; key != "" && accepted[c.index].Duplicate {
			batch.Queue(`UPDATE run_keys SET run = $3, passed_on = true WHERE task = $1 AND key = $2`, c.task, key, accepted[c.index].ID)
		}
	}
	if batch.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, batch).Close()
}

// duplicateReason says why a due time has no run.
func duplicateReason(key string, first uuid.UUID) string {
	return fmt.Sprintf("dedupe: run %s has the key %q", first, key)
}
