package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// LeaseLifetime is how long a lease lasts without renewal, by the database clock.
const LeaseLifetime = 4 * time.Second

// Lease is the leadership of one term.
type Lease struct {
	Term      int64
	Holder    string
	ElectedAt time.Time
	ExpiresAt time.Time
}

// Campaign tries to become leader. It returns false while another holder's
// lease lasts. Taking over waits for the writes of the former leader that are
// under way, since they hold the row FOR KEY SHARE and term is a unique key. A
// lease that ends too far in the future is from before the clock went back.
func (s *Store) Campaign(ctx context.Context, holder string) (lease Lease, won bool, err error) {
	err = s.beats.QueryRow(ctx, `
		INSERT INTO leader AS l (term, holder, elected_at, expires_at, packs_term)
		VALUES (1, $1, clock_timestamp(), clock_timestamp() + $2, 1)
		ON CONFLICT (only_row) DO UPDATE SET term = l.term + 1, packs_term = l.term + 1, holder = excluded.holder,
			elected_at = clock_timestamp(), expires_at = clock_timestamp() + $2
		WHERE l.expires_at < clock_timestamp() OR l.expires_at > clock_timestamp() + 2 * $2::interval
		RETURNING term, holder, elected_at, expires_at`, holder, LeaseLifetime).
		Scan(&lease.Term, &lease.Holder, &lease.ElectedAt, &lease.ExpiresAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return lease, false, nil
	}
	return lease, err == nil, wrap(err, "campaign for leadership")
}

// Renew extends the lease; false means that the term is over.
func (s *Store) Renew(ctx context.Context, term int64) (bool, error) {
	tag, err := s.beats.Exec(ctx, `UPDATE leader SET expires_at = clock_timestamp() + $2 WHERE term = $1`, term, LeaseLifetime)
	return tag.RowsAffected() == 1, wrap(err, "renew the leader's lease")
}

// Resign ends the term now, so that another master takes over at once.
func (s *Store) Resign(ctx context.Context, term int64) error {
	_, err := s.beats.Exec(ctx, `UPDATE leader SET expires_at = '-infinity' WHERE term = $1`, term)
	return wrap(err, "resign from leadership")
}

// Leader returns the current lease, or a not_found error when there never was one.
func (s *Store) Leader(ctx context.Context) (lease Lease, err error) {
	err = s.pool.QueryRow(ctx, `SELECT term, holder, elected_at, greatest(expires_at, elected_at) FROM leader`).
		Scan(&lease.Term, &lease.Holder, &lease.ElectedAt, &lease.ExpiresAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return lease, task.Errorf(task.CodeNotFound, "no master has led this cluster yet").Fix("start one with `catena master`")
	}
	return lease, wrap(err, "read the leader")
}

// errStaleTerm answers a write of a leader whose term is over.
var errStaleTerm = task.Errorf(task.CodeConflict, "this master no longer leads")

// StaleTerm reports whether err says that the writer's term is over.
func StaleTerm(err error) bool { return errors.Is(err, errStaleTerm) }

// holdTerm fences a leader's transaction: it must be its first statement.
func holdTerm(ctx context.Context, tx pgx.Tx, term int64) error {
	var one int
	err := tx.QueryRow(ctx, `SELECT 1 FROM leader WHERE term = $1 FOR KEY SHARE`, term).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return errStaleTerm
	}
	return err
}

// Tick advances the cluster's tick, at most once a second however many masters
// call it. Life and death of workers is counted in ticks, so that a time
// without the database makes nobody lost. It returns the database clock.
func (s *Store) Tick(ctx context.Context) (now time.Time, err error) {
	err = s.beats.QueryRow(ctx, `WITH ticked AS (UPDATE cluster SET tick = tick + 1, ticked_at = clock_timestamp()
		WHERE ticked_at <= clock_timestamp() - interval '1 second' OR ticked_at > clock_timestamp()) -- or the clock went back
		SELECT clock_timestamp()`).Scan(&now)
	return now, wrap(err, "advance the cluster's tick")
}

// ClusterID identifies the installation; it prefixes what it writes to Redis.
func (s *Store) ClusterID(ctx context.Context) (id string, err error) {
	err = s.pool.QueryRow(ctx, `SELECT id::text FROM cluster`).Scan(&id)
	return id, wrap(err, "read the cluster's id")
}

// RedisEpoch returns the value that Redis must hold if it has not been emptied.
func (s *Store) RedisEpoch(ctx context.Context) (epoch string, err error) {
	err = s.pool.QueryRow(ctx, `SELECT redis_epoch FROM cluster`).Scan(&epoch)
	return epoch, wrap(err, "read the Redis epoch")
}

// SetRedisEpoch records the value before it is written to Redis.
func (s *Store) SetRedisEpoch(ctx context.Context, term int64, epoch string) error {
	return s.inTx(ctx, "record the Redis epoch", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE cluster SET redis_epoch = $1`, epoch)
		return err
	})
}
