package store

import "github.com/jackc/pgx/v5"

// placeKey names a limit: scope is that of holds, or "rate" and the task.
type placeKey struct{ scope, key string }

// places counts what a limit leaves.
type places struct {
	limit, free int
	number      keyNumber // of its key
}

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
		s[k] = &places{limit: limit, free: limit, number: k.number()}
	}
	return s[k]
}

// queueCounts counts what is taken. The lock of each task must be held.
func (s placeSet) queueCounts(batch *pgx.Batch) {
	inParcels, inPacks := numbered{}, numbered{}
	for k, p := range s {
		in := inPacks
		if isLimitScope(k.scope) {
			in = inParcels
		}
		in[p.number] = append(in[p.number], p)
	}
	queuePacked(batch, countPlaces, inParcels)
	queuePacked(batch, countPacks, inPacks)
	type count struct {
		scopes, keys []string
		limits       []int64
	}
	var holds, tokens count
	for k, p := range s {
		c := &tokens
		if isLimitScope(k.scope) {
			c = &holds
		}
		c.scopes, c.keys, c.limits = append(c.scopes, k.scope), append(c.keys, k.key), append(c.limits, int64(p.limit))
	}
	for sql, c := range map[string]count{countHolds: holds, countTokens: tokens} {
		if len(c.keys) == 0 {
			continue
		}
		batch.Queue(sql, c.scopes, c.keys, c.limits).Query(func(rows pgx.Rows) error {
			var k placeKey
			var used int
			_, err := pgx.ForEachRow(rows, []any{&k.scope, &k.key, &used}, func() error { s[k].free -= used; return nil })
			return err
		})
	}
}

// Neither counts further than the limit.
const countHolds = `
	SELECT i.scope, i.key, (SELECT count(*) FROM (SELECT FROM holds h WHERE h.scope = i.scope AND h.key = i.key LIMIT i.most) f)
	FROM unnest($1::text[], $2::text[], $3::bigint[]) AS i(scope, key, most)`

const countTokens = `
	SELECT i.task, i.key, (SELECT coalesce(sum(f.tokens), 0) FROM (SELECT u.tokens FROM rate_uses u
		WHERE u.task = i.task AND u.key = i.key AND u.back_at > (SELECT clock_timestamp()) AND u.tokens > 0 LIMIT i.most) f)
	FROM unnest($1::text[], $2::text[], $3::bigint[]) AS i(task, key, most)`

// A task's name has no colon, so that the two kinds of scopes differ.
func isLimitScope(scope string) bool { return len(scope) > 6 && scope[:6] == "limit:" }
