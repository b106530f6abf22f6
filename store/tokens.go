package store

import (
	"context"
	"time"

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

// tokensLimit is how many tokens that are back one transaction forgets.
const tokensLimit = 20_000

// ForgetTokens removes tokens that are back, a bounded number at once.
func (s *Store) ForgetTokens(ctx context.Context, term int64) (more bool, err error) {
	err = s.inTx(ctx, "forget tokens of rate limits", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM rate_uses WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM rate_uses WHERE back_at < (SELECT clock_timestamp()) ORDER BY back_at LIMIT $1))`, tokensLimit)
		more = tag.RowsAffected() == tokensLimit
		return err
	})
	return more, err
}
