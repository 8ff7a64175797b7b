-- People and programs that may call, what they did, the grants and secrets of bots, leases, hosts.
-- What is sealed is ciphertext: nothing in these tables is a secret in clear. Ids come from the program, growing with time.

CREATE TABLE users (
    id            INTEGER NOT NULL PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    role          TEXT    NOT NULL CHECK (role IN ('admin', 'operator', 'viewer')),
    password      TEXT,
    disabled_at   INTEGER,
    session_epoch INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    last_login_at INTEGER
) STRICT;

CREATE TABLE api_keys (
    id           INTEGER NOT NULL PRIMARY KEY,
    name         TEXT    NOT NULL,
    prefix       TEXT    NOT NULL UNIQUE,
    hash         BLOB    NOT NULL,
    role         TEXT    NOT NULL CHECK (role IN ('admin', 'operator', 'viewer', 'bot')),
    instance     TEXT,
    created_by   TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER,
    CHECK ((role = 'bot') = (instance IS NOT NULL))
) STRICT;
-- A name is free again once its key was revoked.
CREATE UNIQUE INDEX api_keys_by_name ON api_keys (name) WHERE revoked_at IS NULL;

-- Each entry's hash covers its content and the hash before it, so that nothing can be edited, dropped or put between.
CREATE TABLE audit (
    seq         INTEGER NOT NULL PRIMARY KEY,
    hash        TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    actor_kind  TEXT    NOT NULL CHECK (actor_kind IN ('system', 'user', 'api_key', 'uid', 'instance')),
    actor       TEXT    NOT NULL,
    action      TEXT    NOT NULL,
    target      TEXT    NOT NULL,
    origin      TEXT    NOT NULL,
    outcome     TEXT    NOT NULL CHECK (outcome IN ('done', 'refused', 'failed')),
    reason      TEXT    NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (at, seq);
CREATE INDEX audit_by_actor ON audit (actor_kind, actor, seq);
CREATE INDEX audit_by_action ON audit (action, seq);
CREATE INDEX audit_by_target ON audit (target, seq);

-- Both ends of the chain: the newest entry, and the newest of those that were pruned.
CREATE TABLE audit_ends (
    only_row    INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    seq         INTEGER NOT NULL,
    hash        TEXT    NOT NULL,
    pruned_seq  INTEGER NOT NULL,
    pruned_hash TEXT    NOT NULL,
    CHECK (pruned_seq <= seq)
) STRICT;
INSERT INTO audit_ends (only_row, seq, hash, pruned_seq, pruned_hash) VALUES (1, 0, '', 0, '');

-- Keys that seal rows, each wrapped by a key-encryption key that is kept elsewhere.
CREATE TABLE data_keys (
    id         INTEGER NOT NULL PRIMARY KEY,
    kek        TEXT    NOT NULL,
    wrapped    BLOB    NOT NULL,
    seals      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    retired_at INTEGER
) STRICT;

CREATE TABLE grants (
    id                 INTEGER NOT NULL PRIMARY KEY,
    provider           TEXT    NOT NULL,
    account            TEXT    NOT NULL,
    client             TEXT    NOT NULL,
    flow               TEXT    NOT NULL CHECK (flow IN ('authorization_code', 'device_code', 'client_credentials', 'imported')),
    scopes             TEXT    NOT NULL,
    version            INTEGER NOT NULL,
    generation         INTEGER NOT NULL,
    state              TEXT    NOT NULL CHECK (state IN ('pending', 'active', 'degraded', 'ambiguous', 'suspect', 'fenced', 'needs_reauth', 'revoked')),
    state_since        INTEGER NOT NULL,
    state_until        INTEGER,
    state_reason       TEXT,
    failure_class      TEXT    CHECK (failure_class IN ('retryable', 'ambiguous', 'terminal', 'misconfigured')),
    failure_count      INTEGER,
    failure_votes      INTEGER,
    failure_at         INTEGER,
    access_expires_at  INTEGER,
    refresh_expires_at INTEGER,
    idle_expires_at    INTEGER,
    next_refresh_at    INTEGER,
    next_validate_at   INTEGER,
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,
    refreshed_at       INTEGER,
    UNIQUE (provider, account),
    CHECK ((failure_class IS NULL) = (failure_at IS NULL)),
    CHECK ((failure_class IS NULL) = (failure_count IS NULL) AND (failure_class IS NULL) = (failure_votes IS NULL))
) STRICT;
CREATE INDEX grants_by_refresh ON grants (next_refresh_at, id) WHERE next_refresh_at IS NOT NULL;
CREATE INDEX grants_by_validate ON grants (next_validate_at, id) WHERE next_validate_at IS NOT NULL;
CREATE INDEX grants_to_shred ON grants (state_until, id) WHERE state = 'needs_reauth';

-- Which instances a grant is handed to.
CREATE TABLE grant_instances (
    grant_id INTEGER NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    instance TEXT    NOT NULL,
    PRIMARY KEY (grant_id, instance)
) STRICT;
CREATE INDEX grant_instances_by_instance ON grant_instances (instance, grant_id);

CREATE TABLE sealed_tokens (
    grant_id   INTEGER NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    kind       TEXT    NOT NULL CHECK (kind IN ('access', 'refresh')),
    generation INTEGER NOT NULL,
    data_key   INTEGER NOT NULL REFERENCES data_keys (id),
    sealed     BLOB    NOT NULL,
    PRIMARY KEY (grant_id, kind, generation)
) STRICT;
CREATE INDEX sealed_tokens_by_key ON sealed_tokens (data_key, grant_id);

-- A refresh that is about to be, or was, sent with the tokens of a generation.
CREATE TABLE refresh_intents (
    grant_id   INTEGER NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    attempt    INTEGER NOT NULL CHECK (attempt > 0),
    phase      TEXT    NOT NULL CHECK (phase IN ('intended', 'sent', 'unanswered', 'landed')),
    lease      TEXT    NOT NULL,
    token      INTEGER NOT NULL,
    began_at   INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (grant_id, generation)
) STRICT;

-- The sealed answer of a provider as it came, before anybody has read it.
CREATE TABLE refresh_landings (
    grant_id   INTEGER NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    status     INTEGER NOT NULL,
    data_key   INTEGER NOT NULL REFERENCES data_keys (id),
    sealed     BLOB    NOT NULL,
    landed_at  INTEGER NOT NULL,
    PRIMARY KEY (grant_id, generation, attempt)
) STRICT;
CREATE INDEX refresh_landings_by_key ON refresh_landings (data_key);

CREATE TABLE secrets (
    id          INTEGER NOT NULL PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    kind        TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    data_key    INTEGER NOT NULL REFERENCES data_keys (id),
    sealed      BLOB    NOT NULL,
    fingerprint BLOB    NOT NULL,
    source      TEXT    NOT NULL CHECK (source IN ('given', 'generated')),
    created_at  INTEGER NOT NULL,
    rotated_at  INTEGER NOT NULL,
    max_age_us  INTEGER,
    due_at      INTEGER,
    CHECK ((max_age_us IS NULL) = (due_at IS NULL))
) STRICT;
CREATE INDEX secrets_by_key ON secrets (data_key);
CREATE INDEX secrets_by_fingerprint ON secrets (fingerprint);
CREATE INDEX secrets_by_due ON secrets (due_at, name) WHERE due_at IS NOT NULL;

-- Times here are of the database's own clock. A lease is free without a holder, or past valid_until.
CREATE TABLE leases (
    name        TEXT    NOT NULL PRIMARY KEY,
    holder      INTEGER,
    token       INTEGER NOT NULL,
    valid_until INTEGER NOT NULL
) STRICT;
CREATE INDEX leases_by_end ON leases (valid_until);

-- No lease that is new here gets a token up to this one: those of leases that were removed.
CREATE TABLE lease_floor (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    token    INTEGER NOT NULL
) STRICT;
INSERT INTO lease_floor (only_row, token) VALUES (1, 0);

-- What the hosts of a cluster have in common. After a promotion or a restored backup the timeline is another; nobody
-- is fenced before hold_until.
CREATE TABLE cluster (
    only_row   INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    timeline   INTEGER NOT NULL,
    hold_until INTEGER NOT NULL
) STRICT;
INSERT INTO cluster (only_row, timeline, hold_until) VALUES (1, 0, 0);

-- Renewed by every host every few seconds. No index on expires_at: a renewal that touches none is the cheapest kind of
-- update that Postgres has. The database's clock dates expires_at and nothing else.
CREATE TABLE hosts (
    id         INTEGER NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    session    INTEGER,
    epoch      INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    nonce      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('joining', 'ready', 'draining', 'drained', 'fenced')),
    capacity   INTEGER NOT NULL,
    labels     TEXT    NOT NULL,
    program    TEXT    NOT NULL,
    joined_at  INTEGER NOT NULL,
    CHECK ((state = 'fenced') = (session IS NULL))
) STRICT;

-- Which host runs an instance. The token grows with every assignment and never repeats.
CREATE TABLE placements (
    instance   TEXT    NOT NULL PRIMARY KEY,
    host       INTEGER REFERENCES hosts (id),
    epoch      INTEGER NOT NULL,
    token      INTEGER NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('free', 'assigned', 'running', 'releasing')),
    policy     TEXT    NOT NULL CHECK (policy IN ('exclusive', 'sticky', 'duplicable')),
    not_before INTEGER NOT NULL,
    moves      INTEGER NOT NULL,
    CHECK ((state = 'free') = (host IS NULL))
) STRICT;
CREATE INDEX placements_free ON placements (not_before, instance) WHERE host IS NULL;
CREATE INDEX placements_by_host ON placements (host);

-- What one host asks of another.
CREATE TABLE host_commands (
    id         INTEGER NOT NULL PRIMARY KEY,
    host       INTEGER NOT NULL REFERENCES hosts (id),
    instance   TEXT,
    verb       TEXT    NOT NULL,
    arguments  TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    request    TEXT    NOT NULL UNIQUE,
    token      INTEGER,
    expires_at INTEGER NOT NULL,
    result     TEXT,
    ended_at   INTEGER,
    CHECK ((result IS NULL) = (ended_at IS NULL))
) STRICT;
CREATE INDEX host_commands_open ON host_commands (host, id) WHERE result IS NULL;
