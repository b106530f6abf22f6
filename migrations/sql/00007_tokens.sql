-- +goose Up

-- Who waits behind a long reader lets nobody else at the table: rather try again.
SET LOCAL lock_timeout = '2s';

-- A token is written, gets its window at the claim and is deleted: back_at in no
-- index, and half-full pages, make the second of them an update in place (HOT).
CREATE INDEX rate_uses_of_key ON rate_uses (task, key);
DROP INDEX rate_uses_key, rate_uses_back;
ALTER TABLE rate_uses SET (fillfactor = 50);

-- +goose Down
ALTER TABLE rate_uses RESET (fillfactor);
CREATE INDEX rate_uses_key ON rate_uses (task, key, back_at);
CREATE INDEX rate_uses_back ON rate_uses (back_at);
DROP INDEX rate_uses_of_key;
