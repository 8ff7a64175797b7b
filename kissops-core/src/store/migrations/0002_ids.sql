-- high_water is now written with every row that takes an id from it: it is the largest id given, or reserved.
UPDATE high_water SET id = (
    SELECT coalesce(max(id), 0)
    FROM (SELECT id FROM events UNION ALL SELECT id FROM crashes UNION ALL SELECT id FROM high_water) AS given
);

-- Which rows a process has added last, so that it can tell after a lost connection. Only Postgres needs it.
CREATE TABLE append_marks (
    writer     TEXT    NOT NULL PRIMARY KEY,
    seq        INTEGER NOT NULL,
    last_id    INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
