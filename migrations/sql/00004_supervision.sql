-- +goose Up

-- Who waits behind a long reader lets nobody else at the table: rather try again.
SET LOCAL lock_timeout = '2s';

-- Which of its master's places the worker fills; null: it was started alone, or by
-- a master that does not tell.
ALTER TABLE workers
    ADD COLUMN slot integer,
    ADD COLUMN cpu  real NOT NULL DEFAULT 0;   -- share of one core

-- The masters, each written by itself once a second.
CREATE TABLE masters (
    name       text PRIMARY KEY,
    host       text NOT NULL,
    pid        integer NOT NULL,
    version    text NOT NULL,
    admin      text NOT NULL DEFAULT '',       -- address of its API
    settings   json NOT NULL DEFAULT '{}',     -- those that masters of one cluster should have in common
    slots      json NOT NULL DEFAULT '[]',     -- what became of each of its places for workers
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz
) WITH (fillfactor = 50);

-- What somebody wants of a worker. Its master carries it out, or the worker
-- itself when it was started alone.
CREATE TABLE worker_orders (
    worker     bigint PRIMARY KEY REFERENCES workers (epoch) ON DELETE CASCADE,
    kind       text NOT NULL CHECK (kind IN ('restart', 'drain')),
    asked_by   text NOT NULL DEFAULT '',
    asked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    state      text NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'replacing', 'draining', 'done', 'failed')),
    detail     text NOT NULL DEFAULT '',
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX worker_orders_open ON worker_orders (worker) WHERE state NOT IN ('done', 'failed');

-- +goose Down
DROP TABLE worker_orders, masters;
ALTER TABLE workers DROP COLUMN slot, DROP COLUMN cpu;
