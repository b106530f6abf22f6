package store

import "github.com/jackc/pgx/v5"

// placeKey names a limit: scope is that of holds, or "rate" and the task.
type placeKey struct{ scope, key string }

// places counts what a limit leaves.
type places struct{ limit, free int }

func (p *places) open() bool { return p == nil || p.free > 0 }

func (p *places) take() {
	if p != nil {
		p.free--
	}
}

// limitScope is the scope in holds of a task's concurrency limit.
func limitScope(name string) string { return "limit:" + name }

// placeSet are the limits that somebody looks at.
type placeSet map[placeKey]*places

// limited returns the places of a limit, all of them free until they are counted.
func (s placeSet) limited(k placeKey, limit int) *places {
	if s[k] == nil {
		s[k] = &places{limit: limit, free: limit}
	}
	return s[k]
}

// queueCounts counts what is taken. The lock of each task must be held.
func (s placeSet) queueCounts(batch *pgx.Batch) {
	var scopes, held, tasks, rated []string
	for k := range s {
		if isLimitScope(k.scope) {
			scopes, held = append(scopes, k.scope), append(held, k.key)
		} else {
			tasks, rated = append(tasks, k.scope), append(rated, k.key)
		}
	}
	for _, q := range []struct {
		sql          string
		scopes, keys []string
	}{{countHolds, scopes, held}, {countTokens, tasks, rated}} {
		if len(q.keys) == 0 {
			continue
		}
		batch.Queue(q.sql, q.scopes, q.keys).Query(func(rows pgx.Rows) error {
			var k placeKey
			var used int
			_, err := pgx.ForEachRow(rows, []any{&k.scope, &k.key, &used}, func() error { s[k].free -= used; return nil })
			return err
		})
	}
}

const countHolds = `
	SELECT i.scope, i.key, (SELECT count(*) FROM holds h WHERE h.scope = i.scope AND h.key = i.key)
	FROM unnest($1::text[], $2::text[]) AS i(scope, key)`

const countTokens = `
	SELECT i.task, i.key, (SELECT coalesce(sum(u.tokens), 0) FROM rate_uses u
		WHERE u.task = i.task AND u.key = i.key AND u.back_at > (SELECT clock_timestamp()))
	FROM unnest($1::text[], $2::text[]) AS i(task, key)`

// A task's name has no colon, so that the two kinds of scopes differ.
func isLimitScope(scope string) bool { return len(scope) > 6 && scope[:6] == "limit:" }
