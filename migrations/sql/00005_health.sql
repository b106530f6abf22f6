-- +goose Up
-- How far the clock of a worker's host is ahead of the database's, in
-- milliseconds, as the worker estimates it from its heartbeats.
ALTER TABLE workers ADD COLUMN clock_offset_ms float8;

-- +goose Down
ALTER TABLE workers DROP COLUMN clock_offset_ms;
