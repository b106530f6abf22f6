-- +goose Up

-- Expands only: tables of their own, which older binaries know nothing of.

-- Who lists due work from elsewhere and is told what became of it. Ordinary rows: insert
-- and change them with SQL as you like.
CREATE TABLE sources (
    name            text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$' AND length(name) <= 180),
    description     text NOT NULL DEFAULT '',
    http            json CHECK (json_typeof(http) = 'object'),      -- {"url", "method", "headers"}
    call            text,                                           -- pkg:module?function
    every_ms        bigint NOT NULL DEFAULT 10000 CHECK (every_ms >= 100),
    loop            boolean NOT NULL DEFAULT true,                  -- false: polled once
    runtime         text NOT NULL DEFAULT '',                       -- a tag that workers must have
    "limit"         integer NOT NULL DEFAULT 100 CHECK ("limit" BETWEEN 1 AND 1000),
    timeout_ms      bigint NOT NULL DEFAULT 30000 CHECK (timeout_ms > 0),
    queue           text NOT NULL DEFAULT 'default' CHECK (queue ~ '^[a-z0-9][a-z0-9_-]*$' AND length(queue) <= 60),
    task            text NOT NULL DEFAULT '',                       -- of items that name neither a task nor a chain
    params          json NOT NULL DEFAULT '{}' CHECK (json_typeof(params) = 'object'),
    paused          boolean NOT NULL DEFAULT false,
    note            text NOT NULL DEFAULT '',
    version         bigint NOT NULL DEFAULT 1,                      -- written by the trigger
    next_poll_at    timestamptz DEFAULT clock_timestamp(),          -- null: polled once
    polled_at       timestamptz,
    poll_run        uuid,                                           -- under way
    listed          integer NOT NULL DEFAULT 0,                     -- items of the last answer
    failures        integer NOT NULL DEFAULT 0,
    error           text NOT NULL DEFAULT '',
    record_at       timestamptz,                                    -- no record before; null: at once
    record_run      uuid,
    record_failures integer NOT NULL DEFAULT 0,
    record_error    text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (num_nonnulls(http, call) = 1)
) WITH (fillfactor = 50);

-- A changed source is polled at once, by its new text.
-- +goose StatementBegin
CREATE FUNCTION sources_revise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.http::text, NEW.call, NEW.every_ms, NEW."loop", NEW.runtime, NEW."limit", NEW.timeout_ms, NEW.queue, NEW.task, NEW.params::text)
        IS DISTINCT FROM (OLD.http::text, OLD.call, OLD.every_ms, OLD."loop", OLD.runtime, OLD."limit", OLD.timeout_ms, OLD.queue, OLD.task, OLD.params::text) THEN
        NEW.version := OLD.version + 1;
        NEW.updated_at := clock_timestamp();
        NEW.next_poll_at := clock_timestamp();
        NEW.failures := 0;
        NEW.record_at := NULL;
        NEW.record_failures := 0;
    ELSE
        NEW.version := OLD.version;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER sources_revise BEFORE UPDATE ON sources FOR EACH ROW EXECUTE FUNCTION sources_revise();

-- What sources have listed, a row for each key. The row of a key that is not yet
-- recorded keeps the same key from being started again.
CREATE TABLE source_items (
    source      text NOT NULL REFERENCES sources (name) ON DELETE CASCADE ON UPDATE CASCADE,
    key         text NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    attempt     integer NOT NULL DEFAULT 1 CHECK (attempt > 0),     -- rises with every run of the key
    state       text NOT NULL CHECK (state IN ('running', 'ended', 'refused', 'recorded')),
    task        text NOT NULL,
    params      json,
    chain       json,                                               -- null: that of the task
    priority    smallint,                                           -- null: that of the task
    run         uuid,                                               -- null: it was refused
    result      text,                                               -- the state that the run ended in
    reason      text NOT NULL DEFAULT '',                           -- why it was refused
    record_at   timestamptz,                                        -- when the source is to be told; null: nothing is to be told
    record_run  uuid,                                               -- that tells it
    tries       integer NOT NULL DEFAULT 0,                         -- records that failed
    error       text NOT NULL DEFAULT '',
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at    timestamptz,
    recorded_at timestamptz,
    PRIMARY KEY (source, key),
    CHECK ((record_at IS NOT NULL) = (state IN ('ended', 'refused'))),
    CHECK ((recorded_at IS NOT NULL) = (state = 'recorded')),
    CHECK (run IS NOT NULL OR state IN ('refused', 'recorded'))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX source_items_open ON source_items (source, state, started_at) WHERE state <> 'recorded';
CREATE INDEX source_items_running ON source_items (run) WHERE state = 'running';
CREATE INDEX source_items_record ON source_items (source, record_at) WHERE record_at IS NOT NULL;
CREATE INDEX source_items_recorded ON source_items (recorded_at) WHERE state = 'recorded';
CREATE INDEX source_items_latest ON source_items (source, recorded_at) WHERE state = 'recorded';

-- +goose Down
DROP TABLE source_items, sources;
DROP FUNCTION sources_revise();
