//! A bot's schema as bots write them: types, defaults, keys, indexes and checks, each looked up in Postgres' catalogue.

use super::{Bench, Options};

const SCHEMA: &str = "
CREATE TABLE users(
  id INTEGER PRIMARY KEY AUTOINCREMENT, platform TEXT NOT NULL, platform_id TEXT NOT NULL,
  login VARCHAR(25) NOT NULL COLLATE NOCASE, display_name TEXT, is_mod BOOLEAN NOT NULL DEFAULT 0,
  is_banned BOOLEAN DEFAULT 0, points REAL DEFAULT 0.0, balance NUMERIC(10,2), settings TEXT,
  created_at DATETIME DEFAULT CURRENT_TIMESTAMP, last_seen DATETIME, UNIQUE(platform, platform_id));
CREATE TABLE oauth_tokens(
  id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  provider TEXT NOT NULL CHECK(provider IN ('twitch','discord','telegram')),
  access_token BLOB NOT NULL, scopes TEXT, expires_at INTEGER, is_revoked BOOLEAN NOT NULL DEFAULT 0);
CREATE TABLE instances(
  id TEXT PRIMARY KEY, bot TEXT NOT NULL, pid INTEGER, started_jd REAL,
  status TEXT NOT NULL CHECK(status IN ('running','stopped','crashed')), restarts INTEGER DEFAULT 0, config TEXT);
CREATE TABLE messages(
  id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, user_id INTEGER REFERENCES users(id),
  body TEXT NOT NULL, sent_at DATETIME NOT NULL, deleted BOOLEAN NOT NULL DEFAULT 0);
CREATE INDEX messages_channel ON messages(channel, sent_at);
CREATE INDEX messages_live ON messages(user_id) WHERE deleted = 0;
CREATE TABLE events(
  id INTEGER PRIMARY KEY, instance_id TEXT REFERENCES instances(id), kind TEXT NOT NULL,
  payload TEXT, score REAL, at_ms INTEGER NOT NULL);
CREATE INDEX events_kind ON events(kind, at_ms);
INSERT INTO users(platform, platform_id, login, points, balance, last_seen)
  VALUES ('twitch', '1', 'Ann', 1.5, '12.30', '2024-01-02 03:04:05'), ('twitch', '2', 'bob', 0, 7, NULL);
INSERT INTO oauth_tokens(user_id, provider, access_token, expires_at) VALUES (1, 'twitch', x'00ff', 1700000000);
INSERT INTO instances VALUES ('a', 'bot', 1, 2460000.5, 'running', 0, '{}');
INSERT INTO messages(channel, user_id, body, sent_at, deleted) VALUES ('#c', 1, 'hi', '2024-01-02 03:04:05', 1);
INSERT INTO events VALUES (7, 'a', 'join', NULL, 0.25, 1700000000000);";

/// Column, the type's beginning, and what the default or the identity contains.
const COLUMNS: [(&str, &str, &str); 17] = [
    ("users.id", "bigint", "identity"),
    ("users.login", "citext", ""),
    ("users.is_mod", "boolean", "false"),
    ("users.is_banned", "boolean", "false"),
    ("users.points", "double precision", "0"),
    ("users.balance", "numeric(10,2)", ""),
    ("users.created_at", "timestamp with time zone", "CURRENT_TIMESTAMP"),
    ("users.last_seen", "timestamp with time zone", ""),
    ("oauth_tokens.access_token", "bytea", ""),
    ("oauth_tokens.expires_at", "bigint", ""),
    ("instances.id", "text", ""),
    ("instances.started_jd", "double precision", ""),
    ("instances.restarts", "bigint", "0"),
    ("messages.sent_at", "timestamp with time zone", ""),
    ("messages.deleted", "boolean", "false"),
    ("events.id", "bigint", "identity"),
    ("events.at_ms", "bigint", ""),
];

const RULES: [(&str, &str, &str); 8] = [
    (
        "primary keys",
        "5",
        "SELECT count(*) FROM pg_constraint WHERE contype='p' AND connamespace='public'::regnamespace",
    ),
    ("foreign keys", "3", "SELECT count(*) FROM pg_constraint WHERE contype='f' AND convalidated"),
    (
        "ON DELETE CASCADE",
        "1",
        "SELECT count(*) FROM pg_constraint WHERE contype='f' AND confdeltype='c'",
    ),
    (
        "checks",
        "2",
        "SELECT count(*) FROM pg_constraint WHERE contype='c' AND connamespace='public'::regnamespace",
    ),
    (
        "unique",
        "1",
        "SELECT count(*) FROM pg_indexes WHERE tablename='users' AND indexdef LIKE '%UNIQUE%platform%platform_id%'",
    ),
    (
        "partial index",
        "1",
        "SELECT count(*) FROM pg_indexes WHERE indexname = 'messages_live' AND indexdef LIKE '%WHERE%'",
    ),
    (
        "NOT NULL",
        "1",
        "SELECT count(*) FROM pg_attribute WHERE attrelid='messages'::regclass AND attname='body' AND attnotnull",
    ),
    (
        "next id",
        "true",
        "SELECT nextval(pg_get_serial_sequence('users','id')) = (SELECT max(id)+1 FROM users)",
    ),
];

#[tokio::test]
async fn a_bots_schema_arrives_whole() {
    let Some(bench) = Bench::new(SCHEMA).await else { return };
    let report = bench.copy(Options::default()).await.unwrap();
    assert_eq!(report.tables.iter().map(|table| table.rows).sum::<u64>(), 6);
    for (column, wanted, default) in COLUMNS {
        let (table, name) = column.split_once('.').unwrap();
        let has = bench
            .answer(&format!(
                "SELECT format_type(atttypid,atttypmod)||coalesce(' default '||pg_get_expr(adbin,adrelid),'')
                   ||CASE WHEN attidentity<>'' THEN ' identity' ELSE '' END
                 FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid=attrelid AND adnum=attnum
                 WHERE attrelid='{table}'::regclass AND attname='{name}'"
            ))
            .await;
        assert!(has.starts_with(wanted) && has.contains(default), "{column}: {has}");
    }
    for (rule, wanted, query) in RULES {
        assert_eq!(bench.answer(query).await, wanted, "{rule}");
    }
    assert_eq!(bench.answer("SELECT balance FROM users WHERE login = 'ANN'").await, "12.30");
    assert_eq!(bench.answer("SELECT started_jd FROM instances").await, "2460000.5");
}

#[tokio::test]
async fn sequences_go_on_after_ids_that_were_deleted() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, n INT);
               INSERT INTO t(n) VALUES (1),(2),(3); DELETE FROM t WHERE id = 3";
    let Some(bench) = Bench::new(sql).await else { return };
    assert_eq!(bench.copied("INSERT INTO t(n) VALUES (4) RETURNING id").await, "(4)");
}

#[tokio::test]
async fn the_widest_id_leaves_no_next_one() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (9223372036854775807)";
    let Some(bench) = Bench::new(sql).await else { return };
    let added = bench.copied("INSERT INTO t DEFAULT VALUES RETURNING id").await;
    assert!(added.contains("reached maximum"), "{added}");
}
