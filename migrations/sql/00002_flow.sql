-- +goose Up

-- Expands only: the binary of schema 1 goes on beside it, and knows nothing of the new
-- columns. What they say (limits, tags, waits) holds once every process has the new binary.

-- ---------------------------------------------------------------- tasks

ALTER TABLE tasks
    ADD COLUMN tags        text[] NOT NULL DEFAULT '{}',      -- a worker must have all of them
    ADD COLUMN rate        json CHECK (json_typeof(rate) = 'object'),
    ADD COLUMN concurrency json CHECK (json_typeof(concurrency) = 'object'),
    ADD COLUMN dedupe      json CHECK (json_typeof(dedupe) = 'object'),
    ADD COLUMN keep_ms     bigint CHECK (keep_ms > 0),        -- how long ended runs are kept; null: as the cluster does
    ADD COLUMN lane        text NOT NULL DEFAULT '';          -- written by the trigger: the queue and the tags
ALTER TABLE task_revisions
    ADD COLUMN rate        json,
    ADD COLUMN concurrency json,
    ADD COLUMN dedupe      json,
    ADD COLUMN lane        text NOT NULL DEFAULT '';

-- +goose StatementBegin
CREATE FUNCTION catena_lane(queue text, tags text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT queue || coalesce((SELECT string_agg('+' || t, '' ORDER BY t) FROM (SELECT DISTINCT unnest(tags) AS t) d), '')
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tasks_revise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.lane := catena_lane(NEW.queue, NEW.tags);
    IF TG_OP = 'INSERT' OR (NEW.name, NEW.chain::text, NEW.params::text, NEW.timeout_ms, NEW.retry::text, NEW.lane, NEW.priority, NEW.durable,
            NEW.rate::text, NEW.concurrency::text, NEW.dedupe::text)
        IS DISTINCT FROM (OLD.name, OLD.chain::text, OLD.params::text, OLD.timeout_ms, OLD.retry::text, OLD.lane, OLD.priority, OLD.durable,
            OLD.rate::text, OLD.concurrency::text, OLD.dedupe::text) THEN
        NEW.revision := nextval('task_revision_ids');
        NEW.updated_at := clock_timestamp();
        INSERT INTO task_revisions (id, task, chain, params, timeout_ms, retry, queue, priority, durable, rate, concurrency, dedupe, lane)
        VALUES (NEW.revision, NEW.name, NEW.chain, NEW.params, NEW.timeout_ms, NEW.retry, NEW.queue, NEW.priority, NEW.durable,
            NEW.rate, NEW.concurrency, NEW.dedupe, NEW.lane);
    ELSE
        NEW.revision := OLD.revision;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
UPDATE task_revisions SET lane = queue;
ALTER TABLE tasks DISABLE TRIGGER tasks_revise;
UPDATE tasks SET lane = queue;
ALTER TABLE tasks ENABLE TRIGGER tasks_revise;
CREATE INDEX tasks_lane ON tasks (lane);

ALTER TABLE workers ADD COLUMN tags text[] NOT NULL DEFAULT '{}';

-- ---------------------------------------------------------------- schedules

-- Named sets of days that schedules exclude, such as public holidays.
CREATE TABLE calendars (
    name       text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$' AND length(name) <= 200),
    days       json NOT NULL CHECK (json_typeof(days) = 'array'),
    checked    boolean NOT NULL DEFAULT false,     -- invalid speaks of these days
    invalid    text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX calendars_unchecked ON calendars (name) WHERE NOT checked;
-- +goose StatementBegin
CREATE FUNCTION calendars_revise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.name, NEW.days::text) IS DISTINCT FROM (OLD.name, OLD.days::text) THEN
        NEW.checked := false;
        NEW.updated_at := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER calendars_revise BEFORE UPDATE ON calendars FOR EACH ROW EXECUTE FUNCTION calendars_revise();

ALTER TABLE schedules DROP CONSTRAINT schedules_check, DROP CONSTRAINT schedules_overlap_check;
ALTER TABLE schedules
    ADD COLUMN interval_ms      bigint CHECK (interval_ms >= 1000),
    ADD COLUMN offset_ms        bigint NOT NULL DEFAULT 0 CHECK (offset_ms >= 0),
    ADD COLUMN calendar         json CHECK (json_typeof(calendar) = 'object'),
    ADD COLUMN exclude          text[] NOT NULL DEFAULT '{}',       -- names of calendars
    ADD COLUMN starts_at        timestamptz,                         -- no due time before
    ADD COLUMN ends_at          timestamptz,                         -- no due time from then on
    ADD COLUMN jitter_ms        bigint NOT NULL DEFAULT 0 CHECK (jitter_ms >= 0),
    ADD COLUMN dst              text NOT NULL DEFAULT 'auto' CHECK (dst IN ('auto', 'skip', 'once', 'twice')),
    ADD COLUMN catch_up_ms      bigint NOT NULL DEFAULT 3600000 CHECK (catch_up_ms >= 0),
    ADD COLUMN buffer           integer NOT NULL DEFAULT 100 CHECK (buffer BETWEEN 1 AND 10000),
    ADD COLUMN pause_on_failure integer NOT NULL DEFAULT 0 CHECK (pause_on_failure >= 0),   -- failures in a row; 0: never
    ADD COLUMN note             text NOT NULL DEFAULT '',            -- why it is paused
    ADD CONSTRAINT schedules_spec_check CHECK (num_nonnulls(cron, at, interval_ms, calendar) = 1),
    ADD CONSTRAINT schedules_overlap_check CHECK (overlap IN ('skip', 'buffer-one', 'buffer-all', 'cancel-other', 'terminate-other', 'allow-all'));

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION schedules_revise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' OR (NEW.task, NEW.cron, NEW.at, NEW.timezone, NEW.interval_ms, NEW.offset_ms, NEW.calendar::text, NEW.exclude,
            NEW.starts_at, NEW.ends_at, NEW.dst)
        IS DISTINCT FROM (OLD.task, OLD.cron, OLD.at, OLD.timezone, OLD.interval_ms, OLD.offset_ms, OLD.calendar::text, OLD.exclude,
            OLD.starts_at, OLD.ends_at, OLD.dst) THEN
        NEW.version := nextval('schedule_versions');
        NEW.updated_at := clock_timestamp();
    ELSE
        NEW.version := OLD.version;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- A changed calendar has the schedules planned again that exclude it.
-- +goose StatementBegin
CREATE FUNCTION calendars_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed text[] := ARRAY[]::text[];
BEGIN
    IF TG_OP <> 'INSERT' THEN changed := changed || OLD.name; END IF;
    IF TG_OP <> 'DELETE' THEN changed := changed || NEW.name; END IF;
    UPDATE schedules SET planned = NULL, updated_at = clock_timestamp() WHERE exclude && changed AND exclude <> '{}';
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER calendars_changed AFTER INSERT OR UPDATE OF name, days OR DELETE ON calendars FOR EACH ROW EXECUTE FUNCTION calendars_changed();
CREATE INDEX schedules_exclude ON schedules USING gin (exclude) WHERE exclude <> '{}';

-- due_at is infinity while the schedule is over and its last run still counts.
ALTER TABLE schedule_due
    ADD COLUMN failures  integer NOT NULL DEFAULT 0,   -- of its runs, in a row
    ADD COLUMN open_fire timestamptz;                  -- the ledger's newest row, while it can be extended

-- Due times that passed while nobody was there and that are made up for, oldest
-- first. They leave schedule_due at once, so that what is due now never waits for them.
CREATE TABLE catch_ups (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schedule   bigint NOT NULL REFERENCES schedules (id) ON DELETE CASCADE,
    next_at    timestamptz NOT NULL,          -- the first due time that nothing covers
    last_at    timestamptz NOT NULL,
    count      bigint NOT NULL CHECK (count > 0),
    noticed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (next_at <= last_at)
);
CREATE INDEX catch_ups_next ON catch_ups (next_at, id);
CREATE INDEX catch_ups_schedule ON catch_ups (schedule);

-- Which task a schedule belongs or belonged to, so that a task's ledger is found by index.
CREATE TABLE schedule_tasks (
    schedule bigint NOT NULL,
    task     text NOT NULL,
    PRIMARY KEY (task, schedule)
);
INSERT INTO schedule_tasks SELECT id, task FROM schedules;
INSERT INTO schedule_tasks SELECT DISTINCT schedule, task FROM fires ON CONFLICT DO NOTHING;
-- +goose StatementBegin
CREATE FUNCTION schedules_remember() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO schedule_tasks VALUES (NEW.id, NEW.task) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER schedules_remember AFTER INSERT OR UPDATE OF task ON schedules FOR EACH ROW EXECUTE FUNCTION schedules_remember();

ALTER TABLE fires DROP CONSTRAINT fires_outcome_check, DROP CONSTRAINT fires_check1;
ALTER TABLE fires
    ADD CONSTRAINT fires_outcome_check CHECK (outcome IN ('started', 'skipped', 'missed', 'caught_up', 'buffered', 'paused')),
    ADD CONSTRAINT fires_run_check CHECK ((outcome IN ('started', 'caught_up', 'buffered')) = (run IS NOT NULL));

-- Runs of past due times, made on request. They stand beside the ledger, which says what the schedule did.
CREATE TABLE backfills (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task        text NOT NULL,
    schedule    bigint NOT NULL,
    version     bigint NOT NULL,                   -- of the schedule: an edit ends the backfill
    from_at     timestamptz NOT NULL,
    to_at       timestamptz NOT NULL,
    overlap     text NOT NULL CHECK (overlap IN ('skip', 'buffer-all', 'allow-all')),
    state       text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'cancelled')),
    next_at     timestamptz,                       -- the next due time to make a run of
    last_run    uuid,
    started     bigint NOT NULL DEFAULT 0,
    skipped     bigint NOT NULL DEFAULT 0,
    ended       bigint NOT NULL DEFAULT 0,         -- of those started, up to ended_to
    failed      bigint NOT NULL DEFAULT 0,         -- of those ended
    ended_to    uuid,
    total       bigint NOT NULL,
    reason      text NOT NULL DEFAULT '',
    created_by  text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    CHECK (from_at < to_at),
    CHECK ((finished_at IS NOT NULL) = (state <> 'running'))
);
CREATE INDEX backfills_running ON backfills (id) WHERE state = 'running';

-- ---------------------------------------------------------------- runs

ALTER TABLE runs
    ADD COLUMN lane                text,           -- null: its queue
    ADD COLUMN parent              uuid,           -- the run that started it as its child
    ADD COLUMN parent_path         text,           -- the parent's item
    ADD COLUMN inherit_cancel      boolean,        -- it is cancelled with its parent
    ADD COLUMN child_group         text,           -- of the children that the parent waits for; null: it waits for none
    ADD COLUMN child_index         integer,        -- of the element that it was spawned for
    ADD COLUMN entry               json,           -- the part of the chain that it runs; null: all
    ADD COLUMN backfill            bigint,
    ADD COLUMN held                boolean,        -- rows in holds end with it
    ADD COLUMN rate_key            text,           -- of its task's limits, found when it was accepted; null: none
    ADD COLUMN concurrency_key     text,
    ADD COLUMN concurrency_limit   integer,        -- null: the task's own
    ADD COLUMN cancel_requested_at timestamptz,    -- the stages of a cancellation
    ADD COLUMN interrupted_at      timestamptz,
    ADD COLUMN killed_at           timestamptz,
    ADD COLUMN retried_at          timestamptz,    -- by hand
    ADD COLUMN retried_by          text;
ALTER TABLE run_keys ADD COLUMN passed_on boolean NOT NULL DEFAULT false;   -- dedupe answered with an earlier run
ALTER TABLE run_keys ADD COLUMN at timestamptz;   -- not before, as asked for; with the run's params it tells a repetition from another request
CREATE INDEX runs_parent ON runs (parent, id) WHERE parent IS NOT NULL;

ALTER TABLE cancels
    ADD COLUMN at_once boolean NOT NULL DEFAULT false,
    ADD COLUMN fence   integer NOT NULL DEFAULT 2147483647;   -- of the run when it was asked: it holds for no later one

-- How often each stage of a cancellation was reached, for the metrics.
CREATE TABLE cancel_stages (
    stage text PRIMARY KEY CHECK (stage IN ('requested', 'interrupted', 'killed')),
    count bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO cancel_stages (stage) VALUES ('requested'), ('interrupted'), ('killed');

-- A worker that its supervisor killed for its memory, and the run that did it,
-- where that can be told.
ALTER TABLE workers
    ADD COLUMN killed boolean NOT NULL DEFAULT false,
    ADD COLUMN guilty uuid;

-- What a run occupies until it has ended: a place of a concurrency limit, or
-- its place among the children that its parent waits for.
CREATE TABLE holds (
    run      uuid NOT NULL,
    scope    text NOT NULL,      -- limit:TASK, children or children-stop (the others are cancelled when it fails)
    key      text NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, scope)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX holds_key ON holds (scope, key);

-- Tokens of rate limits that were taken, a row for each key in a parcel. Their
-- window begins when a worker claims the parcel; until then back_at is infinity. So
-- no window of that length, wherever it begins, has more claims than the limit.
CREATE TABLE rate_uses (
    parcel  bigint NOT NULL,
    task    text NOT NULL,
    key     text NOT NULL,
    per_ms  bigint NOT NULL,
    used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    back_at timestamptz NOT NULL DEFAULT 'infinity',
    tokens  integer NOT NULL CHECK (tokens >= 0)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX rate_uses_key ON rate_uses (task, key, back_at);
CREATE INDEX rate_uses_back ON rate_uses (back_at);
CREATE INDEX rate_uses_parcel ON rate_uses (parcel);

-- Keys of dedupe stand beside idempotency keys, with a prefix of their own.
ALTER TABLE run_keys DROP CONSTRAINT run_keys_key_check, ADD CONSTRAINT run_keys_key_check CHECK (length(key) BETWEEN 1 AND 210);

-- rank orders a lane: a run's age and its priority in one, so that nothing starves.
ALTER TABLE ready DROP CONSTRAINT ready_hold_check;
ALTER TABLE ready
    ADD COLUMN rank              timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN rate_key          text,
    ADD COLUMN concurrency_key   text,
    ADD COLUMN concurrency_limit integer,          -- null: the task's own
    ADD COLUMN limit_keys        text COLLATE "C" GENERATED ALWAYS AS (
        coalesce('c' || concurrency_key, '') || E'\x1f' || coalesce('r' || rate_key, '')) STORED,   -- runs of one task that wait for the same
    ADD COLUMN schedule          bigint,           -- of a buffered run
    ADD CONSTRAINT ready_hold_check CHECK (hold IN ('', 'later', 'paused', 'limited', 'buffered'));
DROP INDEX ready_order;
CREATE INDEX ready_order ON ready (lane, rank, run) WHERE hold = '';
CREATE INDEX ready_limited ON ready (lane, task, limit_keys, rank, run) WHERE hold = 'limited';
CREATE INDEX ready_buffered ON ready (schedule, run) WHERE hold = 'buffered';

-- What runs wait for, or waited for, without a worker. The outcome is there once
-- the wait is over; the run then goes on with it at the same item.
CREATE TABLE waits (
    run        uuid NOT NULL,
    attempt    smallint NOT NULL,
    iteration  integer NOT NULL,
    path       text NOT NULL,                       -- of the item; #2 follows for the second attempt of its retry
    kind       text NOT NULL CHECK (kind IN ('event', 'approval', 'delay', 'children')),
    task       text NOT NULL,
    name       text,                                -- of the event; the role of an approval
    key        text,                                -- of the event
    until      timestamptz,                         -- null: for ever
    detail     json,
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    outcome    json,
    event      bigint,                              -- that it took
    ended_by   text,
    ended_at   timestamptz,
    PRIMARY KEY (run, attempt, iteration, path),
    CHECK ((outcome IS NULL) = (ended_at IS NULL))
);
CREATE INDEX waits_event ON waits (name, key, run) WHERE kind = 'event' AND outcome IS NULL;
CREATE INDEX waits_taken ON waits (event) WHERE event IS NOT NULL;
CREATE INDEX waits_until ON waits (until) WHERE outcome IS NULL AND until IS NOT NULL;
CREATE INDEX waits_children ON waits (run) WHERE kind = 'children' AND outcome IS NULL;
CREATE INDEX waits_open ON waits (run) WHERE outcome IS NULL;
CREATE INDEX waits_approval ON waits (since) WHERE kind = 'approval' AND outcome IS NULL;

-- Runs whose children are to be cancelled: all that inherit it, or those of one
-- group that the parent waits for.
CREATE TABLE child_cancels (
    parent   uuid NOT NULL,
    children text NOT NULL,      -- the group; '': all that inherit
    by       text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (parent, children)
);

CREATE TABLE events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    key        text NOT NULL DEFAULT '' CHECK (length(key) <= 200),
    data       json,
    sent_by    text NOT NULL DEFAULT '',
    sent_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX events_name ON events (name, key, sent_at);
CREATE INDEX events_expiry ON events (expires_at);

-- Runs that ended without success, since runs has no index on state. Triggers
-- keep it, so that whoever ends a run, an older binary too, need not know of it.
CREATE TABLE failed_runs (
    run   uuid NOT NULL PRIMARY KEY,
    task  text NOT NULL,
    state text NOT NULL CHECK (state IN ('failed', 'cancelled', 'timed_out', 'quarantined'))
);
CREATE INDEX failed_runs_task ON failed_runs (task, state, run);
CREATE INDEX failed_runs_state ON failed_runs (state, run);

-- +goose StatementBegin
CREATE FUNCTION runs_failed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state IN ('failed', 'cancelled', 'timed_out', 'quarantined') THEN
        INSERT INTO failed_runs (run, task, state) VALUES (NEW.id, NEW.task, NEW.state)
        ON CONFLICT (run) DO UPDATE SET state = excluded.state;
    ELSE
        DELETE FROM failed_runs WHERE run = NEW.id;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER runs_failed AFTER UPDATE OF state ON runs FOR EACH ROW
    WHEN (OLD.state <> NEW.state AND (NEW.state IN ('failed', 'cancelled', 'timed_out', 'quarantined')
        OR OLD.state IN ('failed', 'cancelled', 'timed_out', 'quarantined')))
    EXECUTE FUNCTION runs_failed();
CREATE TRIGGER runs_born_failed AFTER INSERT ON runs FOR EACH ROW
    WHEN (NEW.state IN ('failed', 'cancelled', 'timed_out', 'quarantined')) EXECUTE FUNCTION runs_failed();
INSERT INTO failed_runs (run, task, state)
SELECT id, task, state FROM runs WHERE state IN ('failed', 'cancelled', 'timed_out', 'quarantined');

-- +goose Down
-- Takes back what only this schema can hold: waiting and limited runs are opened, fires of new outcomes keep their run as started.
DROP TRIGGER runs_failed ON runs;
DROP TRIGGER runs_born_failed ON runs;
DROP FUNCTION runs_failed();
DELETE FROM run_keys WHERE length(key) > 200 OR key LIKE 'dedupe:%';
ALTER TABLE run_keys DROP CONSTRAINT run_keys_key_check, ADD CONSTRAINT run_keys_key_check CHECK (length(key) BETWEEN 1 AND 200);
INSERT INTO fires (schedule, due_at, last_due_at, count, task, outcome, reason)
SELECT c.schedule, c.next_at, c.last_at, c.count, s.task, 'missed', 'nobody was there to start it'
FROM catch_ups c JOIN schedules s ON s.id = c.schedule ON CONFLICT DO NOTHING;
DROP TABLE failed_runs, events, child_cancels, waits, rate_uses, holds, backfills, schedule_tasks, catch_ups;
UPDATE runs SET state = 'queued', parcel = NULL WHERE state = 'waiting';
INSERT INTO ready (run, lane, priority, revision, task, available_at)
SELECT id, queue, priority, revision, task, clock_timestamp() FROM runs WHERE state = 'queued' ON CONFLICT DO NOTHING;
UPDATE ready SET hold = '' WHERE hold IN ('limited', 'buffered');
DROP INDEX ready_order, ready_limited, ready_buffered;
ALTER TABLE ready DROP CONSTRAINT ready_hold_check, DROP COLUMN limit_keys, DROP COLUMN rank, DROP COLUMN rate_key, DROP COLUMN concurrency_key,
    DROP COLUMN concurrency_limit, DROP COLUMN schedule,
    ADD CONSTRAINT ready_hold_check CHECK (hold IN ('', 'later', 'paused'));
CREATE INDEX ready_order ON ready (lane, priority DESC, run) WHERE hold = '';
DROP INDEX runs_parent;
ALTER TABLE run_keys DROP COLUMN at, DROP COLUMN passed_on;
ALTER TABLE runs DROP COLUMN lane, DROP COLUMN parent, DROP COLUMN parent_path, DROP COLUMN inherit_cancel, DROP COLUMN child_group,
    DROP COLUMN child_index, DROP COLUMN entry, DROP COLUMN backfill,
    DROP COLUMN held, DROP COLUMN rate_key, DROP COLUMN concurrency_key, DROP COLUMN concurrency_limit,
    DROP COLUMN cancel_requested_at, DROP COLUMN interrupted_at, DROP COLUMN killed_at, DROP COLUMN retried_at, DROP COLUMN retried_by;
ALTER TABLE fires DROP CONSTRAINT fires_outcome_check, DROP CONSTRAINT fires_run_check;
UPDATE fires SET outcome = 'started' WHERE outcome IN ('caught_up', 'buffered');
ALTER TABLE fires
    ADD CONSTRAINT fires_outcome_check CHECK (outcome IN ('started', 'skipped', 'missed', 'paused')),
    ADD CONSTRAINT fires_check1 CHECK ((outcome = 'started') = (run IS NOT NULL));
ALTER TABLE schedule_due DROP COLUMN failures, DROP COLUMN open_fire;
DELETE FROM schedule_due WHERE due_at = 'infinity';
DROP TRIGGER schedules_remember ON schedules;
DROP FUNCTION schedules_remember();
DROP TABLE calendars;
DROP FUNCTION calendars_changed(), calendars_revise();
DELETE FROM schedules WHERE num_nonnulls(cron, at) <> 1;
DROP INDEX schedules_exclude;
ALTER TABLE schedules DROP CONSTRAINT schedules_spec_check, DROP CONSTRAINT schedules_overlap_check;
UPDATE schedules SET overlap = 'skip' WHERE overlap NOT IN ('skip', 'allow-all');
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION schedules_revise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' OR (NEW.task, NEW.cron, NEW.at, NEW.timezone) IS DISTINCT FROM (OLD.task, OLD.cron, OLD.at, OLD.timezone) THEN
        NEW.version := nextval('schedule_versions');
        NEW.updated_at := clock_timestamp();
    ELSE
        NEW.version := OLD.version;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
ALTER TABLE schedules DROP COLUMN interval_ms, DROP COLUMN offset_ms, DROP COLUMN calendar, DROP COLUMN exclude, DROP COLUMN starts_at,
    DROP COLUMN ends_at, DROP COLUMN jitter_ms, DROP COLUMN dst, DROP COLUMN catch_up_ms, DROP COLUMN buffer, DROP COLUMN pause_on_failure, DROP COLUMN note,
    ADD CONSTRAINT schedules_overlap_check CHECK (overlap IN ('skip', 'allow-all')),
    ADD CONSTRAINT schedules_check CHECK (num_nonnulls(cron, at) = 1);
ALTER TABLE workers DROP COLUMN tags, DROP COLUMN killed, DROP COLUMN guilty;
ALTER TABLE cancels DROP COLUMN at_once, DROP COLUMN fence;
DROP TABLE cancel_stages;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tasks_revise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' OR (NEW.name, NEW.chain::text, NEW.params::text, NEW.timeout_ms, NEW.retry::text, NEW.queue, NEW.priority, NEW.durable)
        IS DISTINCT FROM (OLD.name, OLD.chain::text, OLD.params::text, OLD.timeout_ms, OLD.retry::text, OLD.queue, OLD.priority, OLD.durable) THEN
        NEW.revision := nextval('task_revision_ids');
        NEW.updated_at := clock_timestamp();
        INSERT INTO task_revisions (id, task, chain, params, timeout_ms, retry, queue, priority, durable)
        VALUES (NEW.revision, NEW.name, NEW.chain, NEW.params, NEW.timeout_ms, NEW.retry, NEW.queue, NEW.priority, NEW.durable);
    ELSE
        NEW.revision := OLD.revision;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
DROP INDEX tasks_lane;
DROP FUNCTION catena_lane(text, text[]);
ALTER TABLE tasks DROP COLUMN tags, DROP COLUMN rate, DROP COLUMN concurrency, DROP COLUMN dedupe, DROP COLUMN keep_ms, DROP COLUMN lane;
ALTER TABLE task_revisions DROP COLUMN rate, DROP COLUMN concurrency, DROP COLUMN dedupe, DROP COLUMN lane;
