-- +goose Up

-- Who waits behind a long reader lets nobody else at the table: rather try again.
SET LOCAL lock_timeout = '2s';

-- The trace that a run belongs to: W3C traceparent of what started it, then a space
-- and tracestate where there is one. It is written with the row and never changed; null
-- in runs that are not sampled. No CHECK: it would read all runs.
ALTER TABLE runs ADD COLUMN trace text;

-- +goose Down
ALTER TABLE runs DROP COLUMN trace;
