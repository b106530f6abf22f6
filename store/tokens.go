package store

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A token of a rate limit is taken at admission and its window begins when a
// worker claims the parcel: what lies between, however long, takes nothing from
// the window, and claims in any window never exceed the limit.

// startWindow is the beginning of an UPDATE of tokens whose window begins now.
const startWindow = `UPDATE rate_uses SET used_at = clock_timestamp(), back_at = clock_timestamp() + per_ms * interval '1 millisecond'`

// beginWindow begins the windows of a claimed parcel's tokens. Repeating it is of no effect.
func (s *Store) beginWindow(ctx context.Context, parcel int64) error {
	_, err := s.pool.Exec(ctx, startWindow+` WHERE parcel = $1 AND back_at = 'infinity'`, parcel)
	return wrap(err, "begin the window of a rate limit")
}

// tokenUses gathers rows of rate_uses: one for each key in a parcel.
type tokenUses struct {
	index   map[tokenUse]int
	parcels []int64
	tasks   []string
	keys    []string
	per     []int64
	tokens  []int32
}

type tokenUse struct {
	parcel    int64
	task, key string
}

func newTokenUses() *tokenUses { return &tokenUses{index: map[tokenUse]int{}} }

func (u *tokenUses) add(parcel int64, name, key string, per time.Duration) {
	use := tokenUse{parcel, name, key}
	i, known := u.index[use]
	if !known {
		i = len(u.tokens)
		u.index[use] = i
		u.parcels, u.tasks, u.keys = append(u.parcels, parcel), append(u.tasks, name), append(u.keys, key)
		u.per, u.tokens = append(u.per, per.Milliseconds()), append(u.tokens, 0)
	}
	u.tokens[i]++
}

func (u *tokenUses) queue(batch *pgx.Batch) {
	if len(u.tokens) == 0 {
		return
	}
	batch.Queue(`INSERT INTO rate_uses (parcel, task, key, per_ms, tokens)
		SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::int[])`, u.parcels, u.tasks, u.keys, u.per, u.tokens)
}

// unusedTokens gives back what was taken for runs that no worker has claimed.
// Their parcels are locked.
const unusedTokens = `
	UPDATE rate_uses t SET tokens = greatest(t.tokens - n.count, 0)
	FROM (SELECT r.parcel, r.task, r.rate_key, count(*) FROM runs r JOIN parcels p ON p.id = r.parcel
		WHERE r.id = ANY ($1) AND r.id BETWEEN $2 AND $3 AND r.rate_key IS NOT NULL AND p.id = ANY ($4) AND p.state = 'unclaimed'
		GROUP BY r.parcel, r.task, r.rate_key) n
	WHERE t.parcel = ANY ($4) AND t.parcel = n.parcel AND t.task = n.task AND t.key = n.rate_key AND t.back_at = 'infinity'`

// queueUnused gives the tokens of runs back that are about to end unclaimed; of
// says in which parcel each is. A key without tokens has no window to begin.
func queueUnused(batch *pgx.Batch, ids []uuid.UUID, of map[uuid.UUID]int64) {
	var parcels []int64
	for _, id := range ids {
		if of[id] != 0 {
			parcels = append(parcels, of[id])
		}
	}
	if len(parcels) == 0 {
		return
	}
	slices.Sort(parcels)
	parcels = slices.Compact(parcels)
	low, high := bounds(ids)
	batch.Queue(unusedTokens, ids, low, high, parcels)
	batch.Queue(`DELETE FROM rate_uses WHERE parcel = ANY ($1) AND back_at = 'infinity' AND tokens = 0`, parcels)
}

// tokensLimit is how many tokens one transaction looks at.
const tokensLimit = 20_000

// ForgetTokens removes tokens that are back, in a walk along the parcels, of
// which one call does a bounded part. Of tokens whose parcel is gone nobody else
// would begin the window. more reports that the next part may have as much to remove.
func (s *Store) ForgetTokens(ctx context.Context, term int64) (more bool, err error) {
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
