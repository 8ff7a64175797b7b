-- An alert is open until ended_at is set; revision counts what was decided on it, occurrences how often it fired.
CREATE TABLE alerts (
    id          INTEGER NOT NULL PRIMARY KEY,
    key         TEXT    NOT NULL,
    revision    INTEGER NOT NULL,
    severity    TEXT    NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    source      TEXT    NOT NULL,
    summary     TEXT    NOT NULL,
    details     TEXT    NOT NULL,
    labels      TEXT    NOT NULL,
    runbook     TEXT,
    started_at  INTEGER NOT NULL,
    last_at     INTEGER NOT NULL,
    occurrences INTEGER NOT NULL,
    acked_at    INTEGER,
    acked_by    TEXT,
    ack_note    TEXT,
    ended_at    INTEGER,
    end_reason  TEXT,
    CHECK ((acked_at IS NULL) = (acked_by IS NULL) AND (acked_at IS NULL) = (ack_note IS NULL)),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL))
) STRICT;
CREATE UNIQUE INDEX alerts_open ON alerts (key) WHERE ended_at IS NULL;
CREATE INDEX alerts_by_key ON alerts (key, id);
CREATE INDEX alerts_by_end ON alerts (ended_at, id);

-- The outbox. claim_until is by the database's clock; attempts names a claim, so that an old one is known. A merged
-- one is told by the notification merged_into.
CREATE TABLE notifications (
    id          INTEGER NOT NULL PRIMARY KEY,
    alert       INTEGER REFERENCES alerts (id) ON DELETE CASCADE,
    revision    INTEGER NOT NULL,
    channel     TEXT    NOT NULL,
    kind        TEXT    NOT NULL CHECK (kind IN ('fire', 'update', 'resolve', 'passed', 'digest')),
    body        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    not_before  INTEGER NOT NULL,
    deadline    INTEGER,
    fallback    TEXT    NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('pending', 'claimed', 'delivered', 'dead', 'merged')),
    attempts    INTEGER NOT NULL,
    last_error  TEXT,
    claimed_by  TEXT,
    claim_until INTEGER,
    ended_at    INTEGER,
    remote_id   TEXT,
    merged_into INTEGER,
    CHECK ((state = 'claimed') = (claim_until IS NOT NULL) AND (state = 'claimed') = (claimed_by IS NOT NULL)),
    CHECK ((state IN ('delivered', 'dead', 'merged')) = (ended_at IS NOT NULL)),
    CHECK ((state = 'merged') = (merged_into IS NOT NULL))
) STRICT;
CREATE INDEX notifications_unsent ON notifications (channel, id) WHERE state IN ('pending', 'claimed');
CREATE INDEX notifications_dead ON notifications (channel, id) WHERE state = 'dead';
CREATE INDEX notifications_by_alert ON notifications (alert, channel, id);
CREATE INDEX notifications_by_end ON notifications (ended_at, id);
CREATE INDEX notifications_merged ON notifications (merged_into) WHERE merged_into IS NOT NULL;

CREATE TABLE channels (
    name         TEXT    NOT NULL PRIMARY KEY,
    disabled_at  INTEGER,
    disabled_why TEXT,
    retest_at    INTEGER,
    delivered_at INTEGER,
    failed_at    INTEGER,
    failure      TEXT,
    CHECK ((disabled_at IS NULL) = (disabled_why IS NULL) AND (disabled_at IS NULL) = (retest_at IS NULL)),
    CHECK ((failed_at IS NULL) = (failure IS NULL))
) STRICT;

CREATE TABLE channel_buckets (
    channel   TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    capacity  INTEGER NOT NULL,
    remaining INTEGER NOT NULL,
    resets_at INTEGER NOT NULL,
    PRIMARY KEY (channel, name)
) STRICT;

CREATE TABLE silences (
    id         INTEGER NOT NULL PRIMARY KEY,
    matchers   TEXT    NOT NULL,
    author     TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    starts_at  INTEGER NOT NULL,
    ends_at    INTEGER NOT NULL,
    ended_by   TEXT
) STRICT;
CREATE INDEX silences_by_end ON silences (ends_at, id);

-- last_due is apart from the runs: they are pruned, and a due time may pass without one.
CREATE TABLE jobs (
    name        TEXT    NOT NULL PRIMARY KEY,
    fingerprint INTEGER NOT NULL,
    last_due    INTEGER NOT NULL
) STRICT;

CREATE TABLE job_runs (
    id          INTEGER NOT NULL PRIMARY KEY,
    job         TEXT    NOT NULL,
    due         INTEGER NOT NULL,
    cause       TEXT    NOT NULL CHECK (cause IN ('schedule', 'catch_up', 'start', 'retry', 'manual')),
    host        TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    claim_until INTEGER,
    ended_at    INTEGER,
    outcome     TEXT CHECK (outcome IN ('succeeded', 'failed', 'timed_out', 'replaced', 'skipped', 'lost')),
    detail      TEXT,
    output      TEXT    NOT NULL,
    UNIQUE (job, due),
    CHECK ((ended_at IS NULL) = (outcome IS NULL) AND (ended_at IS NULL) = (claim_until IS NOT NULL))
) STRICT;
CREATE INDEX job_runs_by_job ON job_runs (job, id);
CREATE INDEX job_runs_by_end ON job_runs (ended_at, id);

-- id numbers a backup in this catalog, name is what every catalog calls it. The manifest is last since it may be large.
CREATE TABLE backups (
    id           INTEGER NOT NULL PRIMARY KEY,
    name         TEXT    NOT NULL UNIQUE,
    plan         TEXT    NOT NULL,
    kind         TEXT    NOT NULL CHECK (kind IN ('full', 'incremental', 'config_only', 'pre_restore')),
    parent       INTEGER REFERENCES backups (id),
    host         TEXT    NOT NULL,
    program      TEXT    NOT NULL,
    started_at   INTEGER NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('running', 'ok', 'partial', 'suspect', 'failed')),
    claim_until  INTEGER,
    ended_at     INTEGER,
    why          TEXT,
    plain_bytes  INTEGER,
    stored_bytes INTEGER,
    hash         TEXT,
    key_id       TEXT,
    counts       TEXT,
    rpo_us       INTEGER,
    verified_at  INTEGER,
    drilled_at   INTEGER,
    manifest     TEXT,
    CHECK ((state = 'running') = (claim_until IS NOT NULL) AND (state = 'running') = (ended_at IS NULL)),
    CHECK ((state IN ('partial', 'suspect', 'failed')) = (why IS NOT NULL)),
    CHECK ((state IN ('ok', 'partial', 'suspect')) = (hash IS NOT NULL AND counts IS NOT NULL
        AND plain_bytes IS NOT NULL AND stored_bytes IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX backups_running ON backups (plan) WHERE state = 'running';
CREATE INDEX backups_by_plan ON backups (plan, started_at, id);
CREATE INDEX backups_by_start ON backups (started_at, id);
CREATE INDEX backups_by_parent ON backups (parent);

CREATE TABLE backup_copies (
    backup   INTEGER NOT NULL REFERENCES backups (id),
    sink     TEXT    NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('pending', 'stored', 'failed', 'removed')),
    at       INTEGER,
    bytes    INTEGER,
    location TEXT,
    why      TEXT,
    PRIMARY KEY (backup, sink),
    CHECK ((state = 'pending') = (at IS NULL)),
    CHECK ((state = 'stored') = (bytes IS NOT NULL) AND (state = 'stored') = (location IS NOT NULL)),
    CHECK ((state = 'failed') = (why IS NOT NULL))
) STRICT;

-- A drill is history that outlives its backup: no foreign key.
CREATE TABLE drills (
    id          INTEGER NOT NULL PRIMARY KEY,
    plan        TEXT    NOT NULL,
    backup      INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    claim_until INTEGER,
    ended_at    INTEGER,
    failure     TEXT,
    rpo_us      INTEGER,
    rto_us      INTEGER,
    checks      TEXT,
    CHECK ((ended_at IS NULL) = (checks IS NULL) AND (ended_at IS NULL) = (claim_until IS NOT NULL)),
    CHECK (ended_at IS NOT NULL OR failure IS NULL)
) STRICT;
CREATE INDEX drills_by_plan ON drills (plan, id);
CREATE INDEX drills_by_end ON drills (ended_at, id);

-- The latest result of each probe with its words; history is without them, since there is much of it.
CREATE TABLE probe_latest (
    probe   TEXT    NOT NULL PRIMARY KEY,
    at      INTEGER NOT NULL,
    status  TEXT    NOT NULL CHECK (status IN ('pass', 'warn', 'fail', 'unknown')),
    value   REAL,
    unit    TEXT    NOT NULL,
    message TEXT    NOT NULL,
    details TEXT    NOT NULL,
    took_us INTEGER NOT NULL
) STRICT;

CREATE TABLE probe_samples (
    probe   TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    status  TEXT    NOT NULL CHECK (status IN ('pass', 'warn', 'fail', 'unknown')),
    value   REAL,
    took_us INTEGER NOT NULL,
    PRIMARY KEY (probe, at)
) STRICT;
CREATE INDEX probe_samples_by_time ON probe_samples (at);

CREATE TABLE probe_roll_ups (
    probe     TEXT    NOT NULL,
    span      TEXT    NOT NULL CHECK (span IN ('minute', 'hour')),
    start_at  INTEGER NOT NULL,
    passes    INTEGER NOT NULL,
    warns     INTEGER NOT NULL,
    fails     INTEGER NOT NULL,
    unknowns  INTEGER NOT NULL,
    readings  INTEGER NOT NULL,
    value_min REAL,
    value_max REAL,
    value_sum REAL,
    PRIMARY KEY (probe, span, start_at),
    CHECK ((readings = 0) = (value_min IS NULL) AND (readings = 0) = (value_max IS NULL) AND (readings = 0) = (value_sum IS NULL))
) STRICT;
CREATE INDEX probe_roll_ups_by_time ON probe_roll_ups (span, start_at);
