package store

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A token of a rate limit is taken at admission and its window begins when a
// worker claims the parcel: what lies between, however long, takes nothing from
// the window, and claims in any window never exceed the limit.

// startWindows are the beginnings of UPDATEs of tokens whose window begins now.
var startWindows = []string{startWindow, strings.Replace(startWindow, "rate_uses", "token_packs", 1)}

const startWindow = `UPDATE rate_uses SET used_at = clock_timestamp(), back_at = clock_timestamp() + per_ms * interval '1 millisecond'`

// beginWindow begins the windows of claimed parcels' tokens. Repeating it is of no effect.
func beginWindow(batch *pgx.Batch, parcels []int64) {
	for _, start := range startWindows {
		batch.Queue(start+` WHERE parcel = ANY ($1) AND back_at = 'infinity'`, parcels)
	}
}

// tokenUses gathers tokens that runs take with their parcels.
type tokenUses struct {
	packs bool
	list  []tokenUse
}

type tokenUse struct {
	parcel int64
	run    uuid.UUID
	limit  placeKey // its scope is the task
	number keyNumber
	per    time.Duration
}

// perMS is the length of the window in whole milliseconds, and never shorter.
func (u tokenUse) perMS() int64 { return (u.per + time.Millisecond - 1).Milliseconds() }

// queue writes the tokens: a row for those of a parcel with windows of a length
// where they are many and short, and one for each key of a parcel else.
func (u *tokenUses) queue(batch *pgx.Batch) {
	type pack struct {
		parcel int64
		perMS  int64
	}
	packs := map[pack][]tokenUse{}
	for _, use := range u.list {
		p := pack{use.parcel, use.perMS()}
		packs[p] = append(packs[p], use)
	}
	rows := tokenRows{index: map[tokenRow]int{}}
	for p, uses := range packs {
		if !u.packs || len(uses) < packLeast || p.perMS > packWindow.Milliseconds() {
			rows.add(uses)
			continue
		}
		runs, numbers := make([]uuid.UUID, len(uses)), keyNumbers{}
		for i, use := range uses {
			runs[i], numbers = use.run, numbers.add(use.number)
		}
		batch.Queue(`INSERT INTO token_packs (parcel, per_ms, runs, keys) VALUES ($1, $2, $3, $4)`, p.parcel, p.perMS, runs, []byte(numbers))
	}
	rows.queue(batch)
}

// tokenRows gathers rows of rate_uses: one for each key in a parcel.
type tokenRows struct {
	index   map[tokenRow]int
	parcels []int64
	tasks   []string
	keys    []string
	per     []int64
	tokens  []int32
}

type tokenRow struct {
	parcel int64
	limit  placeKey
}

func (r *tokenRows) add(uses []tokenUse) {
	for _, use := range uses {
		row := tokenRow{use.parcel, use.limit}
		i, known := r.index[row]
		if !known {
			i = len(r.tokens)
			r.index[row] = i
			r.parcels, r.tasks, r.keys = append(r.parcels, use.parcel), append(r.tasks, use.limit.scope), append(r.keys, use.limit.key)
			r.per, r.tokens = append(r.per, use.perMS()), append(r.tokens, 0)
		}
		r.tokens[i]++
	}
}

func (r *tokenRows) queue(batch *pgx.Batch) {
	if len(r.tokens) > 0 {
		batch.Queue(`INSERT INTO rate_uses (parcel, task, key, per_ms, tokens)
			SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::int[])`, r.parcels, r.tasks, r.keys, r.per, r.tokens)
	}
}

// unusedTokens gives back what was taken for runs that no worker has claimed.
// Their parcels are locked.
const unusedTokens = `
	UPDATE rate_uses t SET tokens = greatest(t.tokens - n.count, 0)
	FROM (SELECT r.parcel, r.task, r.rate_key, count(*) FROM runs r JOIN parcels p ON p.id = r.parcel
		WHERE r.id = ANY ($1) AND r.id BETWEEN $2 AND $3 AND r.rate_key IS NOT NULL AND p.id = ANY ($4) AND p.state = 'unclaimed'
		GROUP BY r.parcel, r.task, r.rate_key) n
	WHERE t.parcel = ANY ($4) AND t.parcel = n.parcel AND t.task = n.task AND t.key = n.rate_key AND t.back_at = 'infinity'`

// unpackedTokens takes the tokens of runs out of a pack.
const unpackedTokens = `UPDATE token_packs t SET (runs, keys) = (
		SELECT coalesce(array_agg(u.run ORDER BY u.at), '{}'), coalesce(string_agg(` + tokenAt + `, '' ORDER BY u.at), '')
		FROM unnest(t.runs) WITH ORDINALITY AS u(run, at) WHERE u.run <> ALL (UNUSED))`

// unusedPacks is unusedTokens for packs; a claimed parcel's windows have begun.
var unusedPacks = strings.Replace(unpackedTokens, "UNUSED", "$1", 1) +
	` WHERE t.parcel = ANY ($2) AND t.back_at = 'infinity' AND EXISTS (SELECT FROM parcels p WHERE p.id = t.parcel AND p.state = 'unclaimed')`

// queueUnused gives the tokens of runs back that are about to end unclaimed; of
// says in which parcel each is. A key without tokens has no window to begin.
func queueUnused(batch *pgx.Batch, ids []uuid.UUID, of map[uuid.UUID]int64) {
	parcels := parcelsOf(ids, of)
	if len(parcels) == 0 {
		return
	}
	low, high := bounds(ids)
	batch.Queue(unusedTokens, ids, low, high, parcels)
	batch.Queue(unusedPacks, ids, parcels)
	batch.Queue(`DELETE FROM rate_uses WHERE parcel = ANY ($1) AND back_at = 'infinity' AND tokens = 0`, parcels)
	batch.Queue(`DELETE FROM token_packs WHERE parcel = ANY ($1) AND back_at = 'infinity' AND runs = '{}'`, parcels)
}

// parcelsOf returns the parcels in which some of the runs are.
func parcelsOf(ids []uuid.UUID, of map[uuid.UUID]int64) (parcels []int64) {
	for _, id := range ids {
		if of[id] != 0 {
			parcels = append(parcels, of[id])
		}
	}
	return sortedSet(parcels)
}

// tokensLimit is how many tokens one transaction looks at.
const tokensLimit = 20_000

// ForgetTokens removes tokens that are back, in a walk along the parcels, of
// which one call does a bounded part. Of tokens whose parcel is gone nobody else
// would begin the window. more reports that the next part may have as much to remove.
func (s *Store) ForgetTokens(ctx context.Context, term int64) (more bool, err error) {
	if err := s.forgetPacks(ctx, term); err != nil {
		return false, err
	}
	from := s.admission.tokens.Load()
	var last, seen, gone int64
	err = s.inTx(ctx, "forget tokens of rate limits", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			WITH page AS MATERIALIZED (SELECT ctid, parcel, back_at FROM rate_uses WHERE parcel > $1 ORDER BY parcel LIMIT $2
			), begun AS (`+startWindow+` WHERE ctid = ANY (ARRAY(SELECT ctid FROM page WHERE back_at = 'infinity'
				AND NOT EXISTS (SELECT 1 FROM parcels p WHERE p.id = page.parcel))) AND back_at = 'infinity'
			), gone AS (DELETE FROM rate_uses WHERE ctid = ANY (ARRAY(SELECT ctid FROM page WHERE back_at < (SELECT clock_timestamp())))
				AND back_at < (SELECT clock_timestamp()) RETURNING 1)
			SELECT coalesce((SELECT max(parcel) FROM page), 0), (SELECT count(*) FROM page), (SELECT count(*) FROM gone)`, from, tokensLimit).
			Scan(&last, &seen, &gone)
	})
	if err != nil {
		return false, err
	}
	next := int64(0) // from the beginning
	if seen == tokensLimit {
		next = last - 1 // the rest of that parcel's may be cut off
	}
	s.admission.tokens.Store(next)
	return seen == tokensLimit && gone > seen/2, nil
}

// forgetPacks is ForgetTokens for packs, of which there are few: their windows are short.
func (s *Store) forgetPacks(ctx context.Context, term int64) error {
	return s.inTx(ctx, "forget packed tokens of rate limits", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		batch.Queue(startWindows[1] + ` WHERE back_at = 'infinity' AND NOT EXISTS (SELECT 1 FROM parcels p WHERE p.id = token_packs.parcel)`)
		batch.Queue(`DELETE FROM token_packs WHERE back_at < (SELECT clock_timestamp())`)
		return tx.SendBatch(ctx, batch).Close()
	})
}
