-- +goose Up

-- The least binary schema version that may work on this database; see docs/operations.md.
CREATE TABLE schema_info (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    min_compatible integer NOT NULL
);
INSERT INTO schema_info (min_compatible) VALUES (1);

-- ---------------------------------------------------------------- cluster

CREATE TABLE cluster (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    tick        bigint NOT NULL DEFAULT 0,
    ticked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    redis_epoch text NOT NULL DEFAULT ''
);
INSERT INTO cluster DEFAULT VALUES;

-- One row. A new leader changes term, which is in a unique key, so that it waits
-- for every write that holds the row FOR KEY SHARE; a renewal changes only expires_at.
CREATE TABLE leader (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    term       bigint NOT NULL UNIQUE,
    holder     text NOT NULL,
    elected_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE SEQUENCE worker_epochs;
CREATE TABLE workers (
    epoch      bigint PRIMARY KEY DEFAULT nextval('worker_epochs'),
    id         text NOT NULL UNIQUE,
    host       text NOT NULL,
    pid        integer NOT NULL,
    version    text NOT NULL,
    master     text NOT NULL DEFAULT '',
    state      text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'stopped', 'lost')),
    reason     text NOT NULL DEFAULT '',
    queues     text[] NOT NULL,
    slots      integer NOT NULL CHECK (slots > 0),
    running    integer NOT NULL DEFAULT 0,
    rss        bigint NOT NULL DEFAULT 0,
    tick       bigint NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz
) WITH (fillfactor = 50);
CREATE INDEX workers_live ON workers (epoch) WHERE state IN ('active', 'draining');

-- ---------------------------------------------------------------- tasks

CREATE SEQUENCE task_revision_ids;

-- The catalogue. Ordinary rows: insert and change them with SQL as you like.
-- A trigger keeps task_revisions; the leader checks a changed row within a second
-- and writes what is wrong with it into invalid.
CREATE TABLE tasks (
    name        text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$' AND length(name) <= 200),
    description text NOT NULL DEFAULT '',
    chain       json NOT NULL,
    params      json NOT NULL DEFAULT '{}' CHECK (json_typeof(params) = 'object'),
    timeout_ms  bigint NOT NULL DEFAULT 3600000 CHECK (timeout_ms > 0),
    retry       json NOT NULL DEFAULT '{}' CHECK (json_typeof(retry) = 'object'),
    queue       text NOT NULL DEFAULT 'default' CHECK (queue ~ '^[a-z0-9][a-z0-9_-]*$' AND length(queue) <= 60),
    priority    smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
    durable     boolean NOT NULL DEFAULT true,
    paused      boolean NOT NULL DEFAULT false,
    note        text NOT NULL DEFAULT '',
    revision    bigint NOT NULL DEFAULT 0,        -- written by the trigger
    checked     bigint,                           -- the revision that invalid speaks of
    invalid     text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX tasks_queue ON tasks (queue);
CREATE INDEX tasks_paused ON tasks (name) WHERE paused;
CREATE INDEX tasks_unchecked ON tasks (name) WHERE checked IS DISTINCT FROM revision;

-- Immutable copies of the part of a task that a run needs.
CREATE TABLE task_revisions (
    id         bigint PRIMARY KEY,
    task       text NOT NULL,
    chain      json NOT NULL,
    params     json NOT NULL,
    timeout_ms bigint NOT NULL,
    retry      json NOT NULL,
    queue      text NOT NULL,
    priority   smallint NOT NULL,
    durable    boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX task_revisions_task ON task_revisions (task, id);

-- Moving average of how long a run of a revision takes, reported by the workers.
CREATE TABLE task_costs (
    revision bigint PRIMARY KEY,
    micros   double precision NOT NULL CHECK (micros > 0)
) WITH (fillfactor = 50);

-- +goose StatementBegin
CREATE FUNCTION tasks_revise() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER tasks_revise BEFORE INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION tasks_revise();

-- ---------------------------------------------------------------- schedules

CREATE SEQUENCE schedule_versions;
CREATE TABLE schedules (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    task       text NOT NULL REFERENCES tasks (name) ON DELETE CASCADE ON UPDATE CASCADE,
    cron       text,
    at         timestamptz,
    timezone   text NOT NULL DEFAULT 'UTC',
    overlap    text NOT NULL DEFAULT 'skip' CHECK (overlap IN ('skip', 'allow-all')),
    paused     boolean NOT NULL DEFAULT false,
    version    bigint NOT NULL DEFAULT 0,         -- written by the trigger
    planned    bigint,                            -- the version that schedule_due and invalid speak of
    invalid    text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (num_nonnulls(cron, at) = 1)
);
CREATE INDEX schedules_task ON schedules (task);
CREATE INDEX schedules_unplanned ON schedules (id) WHERE planned IS DISTINCT FROM version;

-- +goose StatementBegin
CREATE FUNCTION schedules_revise() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER schedules_revise BEFORE INSERT OR UPDATE ON schedules FOR EACH ROW EXECUTE FUNCTION schedules_revise();

-- The narrow table of due times: one row per schedule that fires again.
CREATE TABLE schedule_due (
    schedule bigint PRIMARY KEY REFERENCES schedules (id) ON DELETE CASCADE,
    due_at   timestamptz NOT NULL,
    last_run uuid                                 -- the run that it made last, for the overlap policy
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX schedule_due_at ON schedule_due (due_at);

-- The ledger: each due time of a schedule is covered by exactly one row. A row
-- without a run may cover a range of due times, first and last included.
CREATE TABLE fires (
    schedule    bigint NOT NULL,
    due_at      timestamptz NOT NULL,
    last_due_at timestamptz NOT NULL,
    count       bigint NOT NULL CHECK (count > 0),
    task        text NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('started', 'skipped', 'missed', 'paused')),
    reason      text NOT NULL DEFAULT '',
    run         uuid,
    fired_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (schedule, due_at),
    CHECK (last_due_at >= due_at),
    CHECK ((outcome = 'started') = (run IS NOT NULL)),
    CHECK (count = 1 OR run IS NULL)
) PARTITION BY RANGE (due_at);

-- ---------------------------------------------------------------- runs

-- The least id of a time, for conditions on partitioned tables; see docs/database.md.
-- +goose StatementBegin
CREATE FUNCTION catena_id_floor(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
-- +goose StatementEnd

-- No index on state: it would end HOT updates. What is ready stands in ready,
-- what is claimed in parcels.
CREATE TABLE runs (
    id               uuid NOT NULL PRIMARY KEY,
    task             text NOT NULL,
    revision         bigint NOT NULL,
    state            text NOT NULL CHECK (state IN ('queued', 'dispatched', 'running', 'waiting',
                         'succeeded', 'failed', 'cancelled', 'timed_out', 'quarantined')),
    attempt          smallint NOT NULL DEFAULT 1 CHECK (attempt > 0),
    fence            integer NOT NULL DEFAULT 0,
    losses           smallint NOT NULL DEFAULT 0,
    kills            smallint NOT NULL DEFAULT 0,   -- deaths alone in the suspect lane
    parcel           bigint,
    priority         smallint NOT NULL,
    queue            text NOT NULL,
    params           json,                          -- null: the task's own
    release          bigint,                        -- pins the packages; set at the first dispatch
    schedule         bigint,
    due_at           timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    created_at       timestamptz NOT NULL,
    available_at     timestamptz,
    started_at       timestamptz,
    finished_at      timestamptz,
    worker           bigint,                        -- epoch of the worker that ran it last
    outcome          json,
    reason           text,
    packages         json,                          -- name to digest, in the order of first use
    tail             json,                          -- the steps that were committed with the end of the run
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled', 'timed_out', 'quarantined')))
) PARTITION BY RANGE (id);
CREATE INDEX runs_task ON runs (task, id);

CREATE TABLE steps (
    run         uuid NOT NULL,
    iteration   integer NOT NULL,
    path        text NOT NULL,
    name        text NOT NULL DEFAULT '',
    attempt     smallint NOT NULL,
    outcome     json NOT NULL,
    vars        json,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    PRIMARY KEY (run, iteration, path)
) PARTITION BY RANGE (run);

CREATE TABLE run_logs (
    run     uuid NOT NULL,
    seq     bigint NOT NULL,
    at      timestamptz NOT NULL,
    level   text NOT NULL CHECK (level IN ('debug', 'info', 'warn', 'error')),
    step    text NOT NULL DEFAULT '',
    message bytea NOT NULL,                          -- bytes: text would refuse NUL
    PRIMARY KEY (run, seq)
) PARTITION BY RANGE (run);

-- Runs that wait for room in their lane, for their time (hold later) or for the
-- end of their task's pause (hold paused). Those without hold are taken in order.
CREATE TABLE ready (
    run          uuid PRIMARY KEY,
    lane         text NOT NULL,
    priority     smallint NOT NULL,
    revision     bigint NOT NULL,
    task         text NOT NULL,
    hold         text NOT NULL DEFAULT '' CHECK (hold IN ('', 'later', 'paused')),
    available_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX ready_order ON ready (lane, priority DESC, run) WHERE hold = '';
CREATE INDEX ready_later ON ready (available_at) WHERE hold = 'later';
CREATE INDEX ready_paused ON ready (task) WHERE hold = 'paused';

-- An unclaimed parcel is the outbox: what its row says is enqueued until a worker
-- claims it. A finished or revoked parcel is deleted.
CREATE SEQUENCE parcel_ids CACHE 100;
CREATE TABLE parcels (
    id            bigint PRIMARY KEY DEFAULT nextval('parcel_ids'),
    lane          text NOT NULL,
    dispatch_no   integer NOT NULL DEFAULT 1,
    state         text NOT NULL DEFAULT 'unclaimed' CHECK (state IN ('unclaimed', 'claimed')),
    worker        bigint,
    runs          uuid[] NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    dispatched_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_at    timestamptz,
    CHECK ((state = 'claimed') = (worker IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX parcels_unclaimed ON parcels (lane, dispatched_at) WHERE state = 'unclaimed';
CREATE INDEX parcels_worker ON parcels (worker) WHERE state = 'claimed';

-- Cancel requests that a worker must hear of.
CREATE TABLE cancels (
    run    uuid PRIMARY KEY,
    worker bigint NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX cancels_worker ON cancels (worker);

-- Idempotency keys.
CREATE TABLE run_keys (
    task       text NOT NULL,
    key        text NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    run        uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (task, key)
);
CREATE INDEX run_keys_expiry ON run_keys (expires_at);

-- ---------------------------------------------------------------- packages

CREATE TABLE package_versions (
    digest      text PRIMARY KEY CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
    package     text NOT NULL,
    manifest    json NOT NULL,
    archive     bytea NOT NULL,                      -- the canonical content
    modules     bytea NOT NULL,                      -- what push made of it: code and source maps
    size        bigint NOT NULL,
    files       integer NOT NULL,
    pushed_by   text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX package_versions_package ON package_versions (package, created_at);

-- Every change of a channel. The ids rise in the order of the commits (writers hold
-- the lock of pkgstore), so that one number pins every package of a run.
CREATE TABLE releases (
    id      bigint PRIMARY KEY,
    package text NOT NULL,
    channel text NOT NULL,
    digest  text REFERENCES package_versions (digest),   -- null: the channel was removed
    action  text NOT NULL CHECK (action IN ('push', 'promote', 'rollback', 'delete')),
    by      text NOT NULL DEFAULT '',
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX releases_channel ON releases (package, channel, id);
CREATE INDEX releases_digest ON releases (digest);

-- ---------------------------------------------------------------- access

CREATE TABLE tokens (
    id         text PRIMARY KEY,
    hash       bytea NOT NULL UNIQUE CHECK (length(hash) = 32),   -- SHA-256 of the secret
    name       text NOT NULL,
    role       text NOT NULL CHECK (role IN ('admin', 'operator', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz
);

CREATE TABLE audit (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor  text NOT NULL,
    action text NOT NULL,
    target text NOT NULL DEFAULT '',
    detail json
);
CREATE INDEX audit_at ON audit (at);

-- +goose Down
DROP TABLE audit, tokens, releases, package_versions, run_keys, cancels, parcels, ready, run_logs, steps, runs,
    fires, schedule_due, schedules, task_costs, task_revisions, tasks, workers, leader, cluster, schema_info;
DROP FUNCTION catena_id_floor(timestamptz);
DROP FUNCTION schedules_revise();
DROP FUNCTION tasks_revise();
DROP SEQUENCE parcel_ids, schedule_versions, task_revision_ids, worker_epochs;
