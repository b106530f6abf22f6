-- +goose Up

-- Who waits behind a long reader lets nobody else at the table: rather try again.
SET LOCAL lock_timeout = '2s';

-- How far the clock of the host is ahead of the database's, in milliseconds, as
-- the worker or the master estimates it from its round trips.
ALTER TABLE workers ADD COLUMN clock_offset_ms float8;
ALTER TABLE masters ADD COLUMN clock_offset_ms float8;

-- +goose Down
ALTER TABLE masters DROP COLUMN clock_offset_ms;
ALTER TABLE workers DROP COLUMN clock_offset_ms;
