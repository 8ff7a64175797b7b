//! CTL-3: whoever can write to the database can change the audit, but not without being found out.

use std::path::Path;

use kissops_core::{
    Timestamp,
    store::{
        Actor, AuditLink, AuditOutcome, AuditQuery, AuditSeq, AuditStore, AuditVerdict, NewAudit,
        postgres::{PostgresOptions, PostgresStore},
        sqlite::{SqliteOptions, SqliteStore},
        verify_audit,
    },
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::postgres::scratch_database;

fn entry(second: i64) -> NewAudit {
    NewAudit {
        at: Timestamp(1_790_000_000_000_000 + second * 1_000_000),
        actor: Actor::User("ada".into()),
        action: "secret.reveal".into(),
        target: format!("secret {second}"),
        origin: "control.sock".into(),
        outcome: AuditOutcome::Done,
    }
}

async fn newest(store: &dyn AuditStore) -> AuditLink {
    store.audit_ends().await.unwrap().newest
}

/// What to do to a chain of ten, and where that shows.
const TAMPERINGS: &[(&str, u64)] = &[
    ("UPDATE audit SET target = 'secret 0' WHERE seq = 3", 3),
    ("UPDATE audit SET actor = 'bob' WHERE seq = 10", 10),
    ("UPDATE audit SET actor_kind = 'api_key' WHERE seq = 1", 1),
    ("UPDATE audit SET action = 'secret.list' WHERE seq = 5", 5),
    ("UPDATE audit SET origin = '' WHERE seq = 5", 5),
    ("UPDATE audit SET outcome = 'refused' WHERE seq = 5", 5),
    ("UPDATE audit SET at = at - 1 WHERE seq = 5", 5),
    ("UPDATE audit SET hash = 'x' WHERE seq = 5", 5),
    ("DELETE FROM audit WHERE seq = 1", 1),
    ("DELETE FROM audit WHERE seq = 4", 4),
    ("DELETE FROM audit WHERE seq >= 9", 9),
    ("UPDATE audit_ends SET hash = 'x'", 10),
    ("UPDATE audit_ends SET pruned_seq = 2, pruned_hash = 'x'", 3),
    // Two entries change places, each with its number and hash as it should be.
    (
        "UPDATE audit SET target = CASE seq WHEN 6 THEN 'secret 7' ELSE 'secret 6' END WHERE seq IN (6, 7)",
        6,
    ),
];

async fn broken_at(store: &dyn AuditStore, known: Option<&AuditLink>) -> Option<AuditSeq> {
    match verify_audit(store, known).await.unwrap() {
        AuditVerdict::Intact { .. } => None,
        AuditVerdict::Broken { at, .. } => Some(at),
    }
}

fn sqlite_run(path: &Path, sql: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

async fn ten(store: &dyn AuditStore) {
    store.append_audit((1..=10).map(entry).collect()).await.unwrap();
    assert_eq!(broken_at(store, None).await, None);
}

#[tokio::test]
async fn tampering_with_a_file_is_found_where_it_was_done() {
    for (sql, seq) in TAMPERINGS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kissops.db");
        let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
        ten(&store).await;
        sqlite_run(&path, sql);
        assert_eq!(broken_at(&store, None).await, Some(AuditSeq(*seq)), "{sql}");
    }
}

#[tokio::test]
async fn tampering_with_a_server_is_found_where_it_was_done() {
    let Some(database) = scratch_database().await else { return };
    let options = PostgresOptions { connections: 2, ..PostgresOptions::default() };
    let store = PostgresStore::connect(&database.url().into(), options).await.unwrap();
    ten(&store).await;
    let mut raw = sqlx::PgConnection::connect(database.url()).await.unwrap();
    let save = "CREATE TABLE saved AS TABLE audit; CREATE TABLE saved_ends AS TABLE audit_ends";
    raw.execute(save).await.unwrap();
    for (sql, seq) in TAMPERINGS {
        raw.execute(AssertSqlSafe(*sql)).await.unwrap();
        assert_eq!(broken_at(&store, None).await, Some(AuditSeq(*seq)), "{sql}");
        let restore = "DELETE FROM audit; DELETE FROM audit_ends;
            INSERT INTO audit SELECT * FROM saved; INSERT INTO audit_ends SELECT * FROM saved_ends";
        raw.execute(restore).await.unwrap();
        assert_eq!(broken_at(&store, None).await, None);
    }
}

/// Who cuts the newest entries off and moves the end leaves a chain that holds in itself. What was known shows it.
#[tokio::test]
async fn a_chain_that_was_cut_is_found_by_what_was_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    ten(&store).await;
    let known = newest(&store).await;
    let cut = "DELETE FROM audit WHERE seq > 8;
        UPDATE audit_ends SET seq = 8, hash = (SELECT hash FROM audit WHERE seq = 8)";
    sqlite_run(&path, cut);
    assert_eq!(broken_at(&store, None).await, None);
    assert_eq!(broken_at(&store, Some(&known)).await, Some(AuditSeq(10)));
    // Nor does it help to fill the gap with others.
    store.append_audit((20..=23).map(entry).collect()).await.unwrap();
    assert_eq!(broken_at(&store, None).await, None);
    assert_eq!(broken_at(&store, Some(&known)).await, Some(AuditSeq(10)));
}

/// An entry that is forged with the right hash does not fit the next one.
#[tokio::test]
async fn a_forged_entry_does_not_fit_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    ten(&store).await;
    let query = AuditQuery { after: Some(AuditSeq(3)), limit: 1, ..AuditQuery::default() };
    let before = store.audit(query).await.unwrap().remove(0).link.hash;
    let forged = NewAudit { target: "nothing".into(), ..entry(5) };
    let hash = before.next(&forged.digest()).0;
    sqlite_run(
        &path,
        &format!("UPDATE audit SET target = 'nothing', hash = '{hash}' WHERE seq = 5"),
    );
    assert_eq!(broken_at(&store, None).await, Some(AuditSeq(6)));
}

/// What cannot be told as an entry is damage, named with its place.
#[tokio::test]
async fn an_entry_that_cannot_be_read_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    ten(&store).await;
    sqlite_run(&path, "UPDATE audit SET actor_kind = 'uid', actor = 'root' WHERE seq = 5");
    let err = verify_audit(&store, None).await.unwrap_err();
    assert!(matches!(err, kissops_core::Error::Corrupt { .. }), "{err:?}");
    assert!(err.to_string().contains("`root` is no user id"), "{err}");
}
