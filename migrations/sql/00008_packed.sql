-- +goose Up

-- Who waits behind a long reader lets nobody else at the table: rather try again.
SET LOCAL lock_timeout = '2s';

-- Places of concurrency limits that the runs of a parcel have, in the order of
-- runs: eight bytes that stand for the task and the key, zero for a run without one. They end with the parcel. NULL:
-- the places of its runs are rows of holds.
ALTER TABLE parcels ADD COLUMN places bytea, ALTER COLUMN places SET STORAGE EXTERNAL;
CREATE INDEX parcels_places ON parcels (id) WHERE places IS NOT NULL;

-- Tokens that the runs of a parcel have taken, of windows of the same, short
-- length: what rate_uses has in a row for each key, in one row. keys has eight bytes for each.
CREATE TABLE token_packs (
    parcel  bigint NOT NULL,
    per_ms  bigint NOT NULL,
    runs    uuid[] NOT NULL,
    keys    bytea NOT NULL,
    used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    back_at timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (parcel, per_ms)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, fillfactor = 50);
ALTER TABLE token_packs ALTER COLUMN runs SET STORAGE EXTERNAL, ALTER COLUMN keys SET STORAGE EXTERNAL;

-- An older binary knows neither: nothing is packed while a worker of one lives or one leads.
ALTER TABLE workers ADD COLUMN packs boolean NOT NULL DEFAULT false;
ALTER TABLE leader ADD COLUMN packs_term bigint NOT NULL DEFAULT 0; -- the last term whose leader knows them

-- +goose Down
LOCK TABLE parcels, token_packs;
ALTER TABLE leader DROP COLUMN packs_term;
ALTER TABLE workers DROP COLUMN packs;
INSERT INTO holds (run, scope, key)
    SELECT r.id, 'limit:' || r.task, r.concurrency_key FROM parcels p CROSS JOIN LATERAL unnest(p.runs) WITH ORDINALITY AS u(run, at)
    JOIN runs r ON r.id = u.run
    WHERE p.places IS NOT NULL AND substring(p.places FROM 8 * u.at::int - 7 FOR 8) <> '\x0000000000000000' AND r.finished_at IS NULL ON CONFLICT DO NOTHING;
INSERT INTO rate_uses (parcel, task, key, per_ms, used_at, back_at, tokens)
    SELECT t.parcel, r.task, r.rate_key, t.per_ms, t.used_at, t.back_at, count(*) FROM token_packs t CROSS JOIN LATERAL unnest(t.runs) AS u(run)
    JOIN runs r ON r.id = u.run GROUP BY 1, 2, 3, 4, 5, 6;
DROP TABLE token_packs;
DROP INDEX parcels_places;
ALTER TABLE parcels DROP COLUMN places;
