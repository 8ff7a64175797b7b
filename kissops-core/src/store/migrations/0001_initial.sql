-- Times are microseconds since the Unix epoch, UTC. Booleans are 0 or 1. Documents are JSON text.
-- Numbers that are unsigned in the program keep their 64 bits and show as negative above 2^63.

CREATE TABLE instances (
    name       TEXT    NOT NULL PRIMARY KEY,
    desired    TEXT    NOT NULL CHECK (desired IN ('running', 'stopped')),
    restarts   INTEGER NOT NULL,
    failed     TEXT,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE members (
    name     TEXT    NOT NULL PRIMARY KEY,
    vars     TEXT    NOT NULL,
    added_at INTEGER NOT NULL
) STRICT;

-- A run has ended when ended_at is set; ended with neither code nor signal means that nobody knows how.
CREATE TABLE runs (
    id          INTEGER NOT NULL PRIMARY KEY,
    instance    TEXT    NOT NULL,
    pid         INTEGER NOT NULL,
    start_ticks INTEGER NOT NULL,
    boot_id     TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    exit_code   INTEGER,
    exit_signal INTEGER,
    core_dumped INTEGER NOT NULL DEFAULT 0 CHECK (core_dumped IN (0, 1)),
    CHECK (exit_code IS NULL OR exit_signal IS NULL)
) STRICT;
CREATE INDEX runs_by_instance ON runs (instance, id);
CREATE INDEX runs_by_end ON runs (ended_at, id);

-- from_state and to_state are set for a change of state, and only then.
CREATE TABLE events (
    id         INTEGER NOT NULL PRIMARY KEY,
    at         INTEGER NOT NULL,
    instance   TEXT,
    kind       TEXT    NOT NULL,
    from_state TEXT,
    to_state   TEXT,
    reason     TEXT    NOT NULL,
    CHECK ((from_state IS NULL) = (to_state IS NULL))
) STRICT;
CREATE INDEX events_by_instance ON events (instance, id);
CREATE INDEX events_by_time ON events (at, id);

CREATE TABLE crashes (
    id             INTEGER NOT NULL PRIMARY KEY,
    instance       TEXT    NOT NULL,
    run            INTEGER NOT NULL,
    at             INTEGER NOT NULL,
    exit_code      INTEGER,
    exit_signal    INTEGER,
    core_dumped    INTEGER NOT NULL CHECK (core_dumped IN (0, 1)),
    reason         TEXT    NOT NULL,
    out_of_memory  INTEGER NOT NULL CHECK (out_of_memory IN (0, 1)),
    uptime_us      INTEGER NOT NULL,
    user_time_us   INTEGER,
    system_time_us INTEGER,
    max_rss_bytes  INTEGER,
    restarts       INTEGER NOT NULL,
    last_lines     TEXT    NOT NULL,
    CHECK (exit_code IS NULL OR exit_signal IS NULL),
    CHECK ((user_time_us IS NULL) = (system_time_us IS NULL) AND (user_time_us IS NULL) = (max_rss_bytes IS NULL))
) STRICT;
CREATE INDEX crashes_by_instance ON crashes (instance, id);
CREATE INDEX crashes_by_time ON crashes (at, id);

-- The largest id given when rows were last pruned: ids keep growing although the rows that held them are gone.
CREATE TABLE high_water (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    id       INTEGER NOT NULL
) STRICT;
INSERT INTO high_water (only_row, id) VALUES (1, 0);
