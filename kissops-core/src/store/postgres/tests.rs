//! What needs a server and the inside of the store: migrations that are not released, batches of no concept.

use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::timeout;

use super::{PostgresOptions, PostgresStore, migrate::migrate_to, pool::Lease};
use crate::{
    Timestamp,
    store::{
        EventKind, EventQuery, EventStore as _, InstanceStore as _, NewEvent,
        migrate::{MIGRATIONS, Migration},
        sql::{
            Batch, Durability, Engine as _, Statement, values,
            what_cannot_be_stored_is_not_transient,
        },
    },
};

#[path = "../../../tests/it/postgres.rs"]
mod server;

use server::{ScratchDatabase, scratch_database};

const PATIENCE: Duration = Duration::from_secs(20);

const ONE: Migration =
    Migration { version: 1, name: "one", sql: "CREATE TABLE a (x INTEGER) STRICT" };
const TWO: Migration = Migration {
    version: 2,
    name: "two",
    sql: "ALTER TABLE a ADD COLUMN y INTEGER; INSERT INTO a VALUES (7, 8)",
};
const BROKEN: Migration =
    Migration { version: 3, name: "broken", sql: "DROP TABLE a; SELECT nonsense" };

const FIRST: &[Migration] = &[ONE];
const BOTH: &[Migration] = &[ONE, TWO];
const ALL: &[Migration] = &[ONE, TWO, BROKEN];

/// A database whose schema `known` has made, or why it has not.
async fn migrated(
    database: &ScratchDatabase,
    known: &'static [Migration],
) -> Result<Lease, crate::Error> {
    let url = super::url::parse(database.url(), PATIENCE)?;
    let place = super::Place::new("the store", &url);
    let pool = super::Pool::new(url, place.clone(), &PostgresOptions::default());
    let mut lease = std::sync::Arc::new(pool).acquire().await?;
    let done = migrate_to(&mut lease.conn, &place, PATIENCE, known).await;
    done.map_err(|failure| place.explain(failure))?;
    Ok(lease)
}

async fn number(conn: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(conn).await.unwrap()
}

fn event(reason: &str) -> NewEvent {
    let kind = EventKind::Other("test.happened".into());
    NewEvent { at: Timestamp(3), instance: None, kind, reason: reason.into() }
}

const TABLES: &str = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
const SCHEMAS: &str = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'kissops_before%'";

/// STO-5: all steps are one transaction, the copy before them included.
#[tokio::test]
async fn a_migration_that_fails_half_way_leaves_nothing() {
    let Some(database) = scratch_database().await else { return };
    let err = migrated(&database, ALL).await.err().unwrap();
    assert!(err.chain().contains("migration 3 (`broken`)"), "{}", err.chain());
    let mut first = migrated(&database, FIRST).await.unwrap();
    first.conn.execute("INSERT INTO a VALUES (1)").await.unwrap();
    assert_eq!(number(&mut first.conn, TABLES).await, 2);
    migrated(&database, ALL).await.err().unwrap();
    assert_eq!(number(&mut first.conn, "SELECT sum(x)::bigint FROM a").await, 1);
    assert_eq!(number(&mut first.conn, "SELECT count(*) FROM schema_migrations").await, 1);
    assert_eq!(number(&mut first.conn, SCHEMAS).await, 0);
    migrated(&database, BOTH).await.unwrap();
    assert_eq!(number(&mut first.conn, "SELECT sum(x)::bigint FROM a").await, 8);
    assert_eq!(number(&mut first.conn, "SELECT count(*) FROM kissops_before_v2.a").await, 1);
    let err = migrated(&database, FIRST).await.err().unwrap();
    assert!(err.chain().contains("kissops_before_v2"), "{}", err.chain());
}

#[tokio::test]
async fn programs_that_migrate_at_once_apply_each_step_once() {
    let Some(database) = scratch_database().await else { return };
    migrated(&database, FIRST).await.unwrap();
    let all = (0..6).map(|_| migrated(&database, BOTH));
    for one in futures_util::future::join_all(all).await {
        let mut one = one.unwrap();
        assert_eq!(number(&mut one.conn, "SELECT count(*) FROM a").await, 1);
    }
}

/// A database of the first schema version, with rows in it.
#[tokio::test]
async fn a_database_of_the_first_version_keeps_its_rows_and_a_copy() {
    let Some(database) = scratch_database().await else { return };
    let mut old = migrated(&database, &MIGRATIONS[..1]).await.unwrap();
    let rows = "INSERT INTO instances VALUES ('web', 'running', 3, NULL, 5);
        INSERT INTO members VALUES ('twitch@a', '{\"channel\":\"a\"}', 7);
        INSERT INTO events VALUES (8192, 1, 'web', 'instance.transition', 'starting', 'running', 'ready'),
            (4611686018427387904, 2, NULL, 'test.happened', NULL, NULL, 'of the future');
        UPDATE high_water SET id = 16384";
    old.conn.execute(rows).await.unwrap();

    let url = database.url().into();
    let store = PostgresStore::connect(&url, PostgresOptions::default()).await.unwrap();
    assert_eq!(store.instances().await.unwrap()[0].restarts, 3);
    let found = store.events(EventQuery { limit: 9, ..EventQuery::default() }).await.unwrap();
    assert_eq!(found.len(), 2);
    let next = store.append_events(vec![event("new")]).await.unwrap();
    assert!(next[0] > found[1].id, "ids go on growing");
    let mut copy = store.pool.acquire().await.unwrap();
    let sql = "SELECT count(*) FROM kissops_before_v2.events";
    assert_eq!(number(&mut copy.conn, sql).await, 2);
    let sql = "SELECT max(version) FROM kissops_before_v2.schema_migrations";
    assert_eq!(number(&mut copy.conn, sql).await, 1);
}

/// A transaction that is cut off while it begins, runs or commits is not continued by the next call.
/// What `call` comes to, unless it is not done when it was polled for so many times.
async fn until_poll<T>(polls: i64, call: impl Future<Output = T>) -> Option<T> {
    let (mut call, mut left) = (std::pin::pin!(call), polls);
    std::future::poll_fn(|cx| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        call.as_mut().poll(cx).map(Some)
    })
    .await
}

#[tokio::test]
async fn a_dropped_batch_leaves_no_open_transaction() {
    let Some(database) = scratch_database().await else { return };
    let options = PostgresOptions { connections: 1, ..PostgresOptions::default() };
    let store = PostgresStore::connect(&database.url().into(), options).await.unwrap();
    let mut observer = PgConnection::connect(database.url()).await.unwrap();
    let put =
        "INSERT INTO instances (name, desired, restarts, updated_at) VALUES (?1, 'running', ?2, 0)
        ON CONFLICT (name) DO UPDATE SET restarts = excluded.restarts";
    let (mut dropped, mut taken) = (0, 0);
    for n in 0..200_i64 {
        let pair = Batch::new(Durability::Power)
            .step(Statement::new(put, values!["left", n]))
            .step(Statement::new(put, values!["right", n]));
        // Dropped after so many steps, early or late; or never, where it is done by then.
        match until_poll(n % 12, store.write(pair)).await {
            Some(done) => taken += done.unwrap().len() / 2,
            None => dropped += 1,
        }
        let single = Batch::new(Durability::Power).step(Statement::new(put, values!["single", n]));
        store.write(single).await.unwrap();
        let seen = "SELECT restarts FROM instances WHERE name = 'single'";
        assert_eq!(number(&mut observer, seen).await, n, "acknowledged and not committed");
        let halves = "SELECT count(DISTINCT restarts) FROM instances WHERE name <> 'single'";
        assert!(number(&mut observer, halves).await <= 1, "half of a batch");
    }
    assert!(dropped > 10 && taken > 10, "{dropped} dropped, {taken} not");
}

#[tokio::test]
async fn what_postgres_cannot_store_is_not_transient() {
    let Some(database) = scratch_database().await else { return };
    let options = PostgresOptions { connections: 2, ..PostgresOptions::default() };
    let store = PostgresStore::connect(&database.url().into(), options).await.unwrap();
    what_cannot_be_stored_is_not_transient(&store).await;
}

/// A machine that is cut off while it holds the mark of ids stalls the others for less than a statement may take.
#[tokio::test]
async fn a_transaction_that_goes_silent_does_not_stall_the_others() {
    let Some(database) = scratch_database().await else { return };
    let options = PostgresOptions {
        connections: 2,
        statement_timeout: Duration::from_mins(2),
        ..PostgresOptions::default()
    };
    let store = PostgresStore::connect(&database.url().into(), options).await.unwrap();
    let mut silent = store.pool.acquire().await.unwrap();
    silent.conn.execute("BEGIN; UPDATE high_water SET id = id").await.unwrap();
    let append = store.append_events(vec![event("behind it")]);
    timeout(Duration::from_mins(1), append).await.unwrap().unwrap();
    silent.conn.execute("COMMIT").await.unwrap_err();
}
