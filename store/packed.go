package store

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Runs that start together share rows: a parcel has the places of its runs in
// one value, and their tokens are one row. A run's place is cleared when it ends or leaves its
// parcel, or goes with all others when its last run has the parcel deleted. One that keeps its
// place without its parcel has it as a row of holds: runs.held is then true, as for every run with
// rows, and false for one that has none.
//
// A count reads what all parcels under way have, which are few, since a
// lane has a bounded number of them. It has to read them before the rows: a place that becomes a row in
// between is then counted twice rather than not at all.

// packLeast is how many places or tokens a parcel has at least that packs them.
// A reader of one key finds single ones faster by their index.
const packLeast = 8

// packWindow is the longest window of packed tokens. All of a window are read
// to count those of one key.
const packWindow = 5 * time.Second

// keyNumber stands for the key of a limit where it is packed; 0: none. Two keys with the same one
// would share their limit, and none ever has more than its own.
type keyNumber uint64

func (k placeKey) number() keyNumber {
	sum := sha256.Sum256([]byte(k.scope + "\x1f" + k.key))
	return keyNumber(max(binary.BigEndian.Uint64(sum[:]), 1))
}

// keyNumbers are packed in eight bytes each, big-endian. Of an array of bigint
// the database would encode every element when it sends it.
type keyNumbers []byte

func (k keyNumbers) add(n keyNumber) keyNumbers { return binary.BigEndian.AppendUint64(k, uint64(n)) }

// bytes is the number alone.
func (n keyNumber) bytes() []byte { return keyNumbers(nil).add(n) }

// each calls f with every number.
func (k keyNumbers) each(f func(keyNumber)) {
	for ; len(k) >= 8; k = k[8:] {
		f(keyNumber(binary.BigEndian.Uint64(k)))
	}
}

// The number of the run at a position of the column, and that of none.
const (
	placeAt = `substring(p.places FROM 8 * u.at::int - 7 FOR 8)`
	tokenAt = `substring(t.keys FROM 8 * u.at::int - 7 FOR 8)`
	noPlace = `'\x0000000000000000'::bytea`
)

// hold notes that a run which was put into its lane's last parcel has a place.
func (p *packer) hold(lane string, id uuid.UUID, number keyNumber) {
	c := p.current[lane]
	if c.places == nil {
		c.places = map[uuid.UUID]keyNumber{}
	}
	c.places[id] = number
}

func (c *packing) packs(packs bool) bool { return packs && len(c.places) >= packLeast }

// packed returns the places that the parcel has, in the order of its runs; nil: none.
func (c *packing) packed(packs bool) (places []byte) {
	if !c.packs(packs) {
		return nil
	}
	for _, id := range c.runs {
		places = keyNumbers(places).add(c.places[id])
	}
	return places
}

// loose returns the holders whose parcels pack nothing.
func (p *packer) loose(holders []holder) []holder {
	packed := map[uuid.UUID]bool{}
	for _, c := range p.parcels {
		if c.packs(p.packs) {
			for id := range c.places {
				packed[id] = true
			}
		}
	}
	return slices.DeleteFunc(holders, func(h holder) bool { return packed[h.run] })
}

// queueMayPack asks whether everybody who may have to do with what is packed knows of it.
func queueMayPack(batch *pgx.Batch, packs *bool) {
	batch.Queue(`SELECT EXISTS (SELECT FROM leader WHERE term = packs_term)
		AND NOT EXISTS (SELECT FROM workers WHERE state IN ('active', 'draining') AND NOT packs)`).
		QueryRow(func(row pgx.Row) error { return row.Scan(packs) })
}

// Some places of runs ($2) in parcels ($1) that run no more there: they become
// rows, but for those of runs that have ended or take a place anew. The parcels are locked.
const keepPlaces = `
	INSERT INTO holds (run, scope, key)
	SELECT r.id, 'limit:' || r.task, r.concurrency_key
	FROM parcels p CROSS JOIN LATERAL unnest(p.runs) WITH ORDINALITY AS u(run, at) JOIN runs r ON r.id = u.run
	WHERE p.id = ANY ($1) AND p.places IS NOT NULL AND u.run = ANY ($2) AND ` + placeAt + ` <> ` + noPlace + `
		AND r.id = ANY ($2) AND r.id BETWEEN $3 AND $4 AND r.finished_at IS NULL AND r.parcel IS DISTINCT FROM p.id
		AND r.concurrency_key IS NOT NULL
		AND NOT EXISTS (SELECT FROM ready q WHERE q.run = u.run AND q.run = ANY ($2) AND q.concurrency_key IS NOT NULL)
	ON CONFLICT DO NOTHING`

const clearPlaces = `
	UPDATE parcels p SET places = (
		SELECT string_agg(CASE WHEN u.run IN (SELECT id FROM runs
				WHERE id = ANY ($2) AND id BETWEEN $3 AND $4 AND (finished_at IS NOT NULL OR state IN ('queued', 'waiting')))
			THEN ` + noPlace + ` ELSE substring(d.places FROM 8 * u.at::int - 7 FOR 8) END, '' ORDER BY u.at)
		FROM (SELECT p.places || ''::bytea AS places OFFSET 0) d CROSS JOIN LATERAL unnest(p.runs) WITH ORDINALITY AS u(run, at))
	WHERE p.id = ANY ($1) AND p.places IS NOT NULL`

// queueLeaving gives places of runs back, or makes them rows, that leave their parcels
// before these are done. It follows the statements that end the runs; the parcels are locked
// in the order of their ids, those that the batch deletes among them.
func queueLeaving(batch *pgx.Batch, b Batch) {
	var parcels []int64
	var left []uuid.UUID
	for _, e := range b.Endings {
		if e.Held && (!e.State.Terminal() || !slices.Contains(b.Parcels, e.Parcel)) {
			parcels, left = append(parcels, e.Parcel), append(left, e.Run)
		}
	}
	if len(left) == 0 {
		return
	}
	parcels = sortedSet(parcels)
	batch.Queue(`SELECT FROM parcels WHERE id = ANY ($1) ORDER BY id FOR UPDATE`, sortedSet(append(parcels, b.Parcels...)))
	queueLeft(batch, parcels, left)
}

func queueLeft(batch *pgx.Batch, parcels []int64, runs []uuid.UUID) {
	low, high := bounds(runs)
	batch.Queue(keepPlaces, parcels, runs, low, high)
	batch.Queue(clearPlaces, parcels, runs, low, high)
}

func sortedSet(ids []int64) []int64 { return slices.Compact(slices.Sorted(slices.Values(ids))) }

// countPlaces and countPacks read the numbers where one of $1 may be among them,
// or all when that is null.
const (
	countPlaces = `SELECT places FROM parcels WHERE places IS NOT NULL
		AND ($1::bytea[] IS NULL OR EXISTS (SELECT FROM unnest($1) AS n WHERE position(n IN places) > 0))`
	countPacks = `SELECT keys FROM token_packs WHERE back_at > (SELECT clock_timestamp())
		AND ($1::bytea[] IS NULL OR EXISTS (SELECT FROM unnest($1) AS n WHERE position(n IN keys) > 0))`
)

// numbered are limits by their numbers.
type numbered map[keyNumber][]*places

// fewKeys is how many keys are looked for in each array by the database.
const fewKeys = 4

// queuePacked counts what is packed of the given limits.
func queuePacked(batch *pgx.Batch, sql string, limits numbered) {
	if len(limits) == 0 {
		return
	}
	var numbers [][]byte
	if len(limits) <= fewKeys {
		for n := range limits {
			numbers = append(numbers, n.bytes())
		}
	}
	batch.Queue(sql, numbers).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			keyNumbers(rows.RawValues()[0]).each(func(n keyNumber) {
				for _, p := range limits[n] {
					p.free--
				}
			})
		}
		return rows.Err()
	})
}

// limitHolders are the runs that have a place of the limit $1, $2, by its number
// $3, and since when.
const limitHolders = `(SELECT run, taken_at FROM holds WHERE scope = $1 AND key = $2
	UNION ALL SELECT u.run, p.dispatched_at FROM parcels p CROSS JOIN LATERAL unnest(p.runs) WITH ORDINALITY AS u(run, at)
		WHERE p.places IS NOT NULL AND position($3::bytea IN p.places) > 0 AND ` + placeAt + ` = $3) AS h`
