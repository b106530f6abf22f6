package store

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Runs that start together share rows: a parcel has the places of its runs in
// one value, and their tokens are one row. A place is given back when the run's part of it
// is cleared or, with all others, when its last run has the parcel deleted. What takes a run away from its
// parcel otherwise unpacks the parcel: its places become rows of holds. runs.held is true for a run with
// rows, and false for one that has some only if its parcel was unpacked.
//
// A count reads what all parcels under way have, which are few, since a
// lane has a bounded number of them. It has to read them before the rows: an unpacking in between
// is then counted twice rather than not at all.

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
	h := fnv.New64a()
	_, _ = h.Write([]byte(k.scope + "\x1f" + k.key)) // never fails
	return keyNumber(max(h.Sum64(), 1))
}

// keyNumbers are packed in eight bytes each, big-endian: an array of bigint
// would cost the database ten times as much to send.
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

// packed returns the places that the parcel has, in the order of its runs; nil: none.
func (c *packing) packed() (places []byte) {
	if len(c.places) < packLeast {
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
		if len(c.places) >= packLeast {
			for id := range c.places {
				packed[id] = true
			}
		}
	}
	return slices.DeleteFunc(holders, func(h holder) bool { return packed[h.run] })
}

// unpackPlaces makes rows of what runs have in parcels, as far as they go on.
// Their own rows are locked before the parcels, as everywhere.
const unpackPlaces = `
	WITH p AS MATERIALIZED (
		SELECT id, runs, places FROM parcels WHERE id = ANY ($1) AND places IS NOT NULL ORDER BY id FOR UPDATE
	), u AS MATERIALIZED (
		SELECT u.run FROM p CROSS JOIN LATERAL unnest(p.runs) WITH ORDINALITY AS u(run, at) WHERE ` + placeAt + ` <> ` + noPlace + `
	), kept AS (
		INSERT INTO holds (run, scope, key)
		SELECT r.id, 'limit:' || r.task, r.concurrency_key FROM u JOIN runs r ON r.id = u.run
		WHERE r.id = ANY (ARRAY(SELECT run FROM u)) AND r.id BETWEEN (SELECT run FROM u ORDER BY run LIMIT 1) AND (SELECT run FROM u ORDER BY run DESC LIMIT 1)
			AND r.finished_at IS NULL AND r.concurrency_key IS NOT NULL
		ON CONFLICT DO NOTHING
	)
	UPDATE parcels SET places = NULL FROM p WHERE parcels.id = p.id`

// clearPlaces gives places back of runs that ended before their parcels. Somebody
// who took one of them away from the worker would have unpacked the parcel.
const clearPlaces = `
	UPDATE parcels p SET places = (
		SELECT string_agg(CASE WHEN u.run IN (SELECT unnest($2::uuid[])) THEN ` + noPlace + ` ELSE ` + placeAt + ` END, '' ORDER BY u.at)
		FROM unnest(p.runs) WITH ORDINALITY AS u(run, at))
	WHERE p.id = ANY ($1) AND p.places IS NOT NULL`

// allPacked says that the parcels $12, of which there are $13, have their places
// packed.
const allPacked = `(SELECT count(*) FROM parcels p WHERE p.id = ANY ($12) AND p.places IS NOT NULL) = $13`

// parcelsToAsk are the parcels of those endings whose places may be packed. One
// that is not there, which opens the gate, stands for those with rows.
func parcelsToAsk(endings []Ending) (parcels []int64) {
	for _, e := range endings {
		switch {
		case e.Packed:
			parcels = append(parcels, e.Parcel)
		case e.Held:
			parcels = append(parcels, 0)
		}
	}
	slices.Sort(parcels)
	return slices.Compact(parcels)
}

// queueLeaving clears or unpacks the places of endings whose parcels go on. It
// follows the statements that end the runs, which lock them.
func queueLeaving(batch *pgx.Batch, b Batch) {
	var early, left []int64
	var over []uuid.UUID
	for _, e := range b.Endings {
		switch {
		case !e.Held:
		case !e.State.Terminal():
			left = append(left, e.Parcel)
		case !slices.Contains(b.Parcels, e.Parcel):
			early, over = append(early, e.Parcel), append(over, e.Run)
		}
	}
	if len(left) > 0 {
		batch.Queue(unpackPlaces, sortedSet(left))
	}
	if len(early) > 0 {
		batch.Queue(clearPlaces, sortedSet(early), over)
	}
}

func sortedSet(ids []int64) []int64 {
	slices.Sort(ids)
	return slices.Compact(ids)
}

// countPlaces and countPacks read the numbers where one of $1 may be among them,
// or all when that is null.
const (
	countPlaces = `SELECT places FROM parcels WHERE places IS NOT NULL
		AND ($1::bytea[] IS NULL OR EXISTS (SELECT FROM unnest($1) AS n WHERE position(n IN places) > 0))`
	countPacks = `SELECT keys FROM token_packs WHERE back_at > (SELECT clock_timestamp())
		AND ($1::bytea[] IS NULL OR EXISTS (SELECT FROM unnest($1) AS n WHERE position(n IN keys) > 0))`
)

// fewKeys is how many keys are looked for in each array by the database.
const fewKeys = 4

// queuePacked counts what is packed of the given limits.
func queuePacked(batch *pgx.Batch, sql string, limits map[keyNumber]*places) {
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
				if p := limits[n]; p != nil {
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
