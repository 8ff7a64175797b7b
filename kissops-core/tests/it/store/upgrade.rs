//! STO-5: a file of the first schema version, with rows in it, opened by this program.

use std::{fs, os::unix::fs::PermissionsExt as _};

use kissops_core::store::{
    CrashQuery, CrashStore as _, EventStore as _, InstanceStore as _, MemberStore as _,
    RunStore as _,
};
use rusqlite::Connection;

use super::{all, event, open};

const FIRST: &str = include_str!("../../../src/store/migrations/0001_initial.sql");

/// How the first version wrote down that it had made the tables.
const HISTORY: &str =
    "CREATE TABLE schema_migrations (version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL,
        checksum TEXT NOT NULL, applied_at INTEGER NOT NULL, applied_by TEXT NOT NULL) STRICT;
    INSERT INTO schema_migrations VALUES (1, 'initial', 'c0169317793577e9', 0, 'kissops 0.0.1');";

/// Rows in every table. The largest id of an event is later than the mark, as it was then.
const ROWS: &str = "INSERT INTO instances VALUES ('web', 'running', 3, NULL, 5), ('old', 'stopped', 0, 'it crashed', 6);
    INSERT INTO members VALUES ('twitch@a', '{\"channel\":\"a\"}', 7);
    INSERT INTO runs VALUES (4096, 'web', 10, 11, 'boot', 12, NULL, NULL, NULL, 0);
    INSERT INTO events VALUES (8192, 1, 'web', 'instance.transition', 'starting', 'running', 'ready'),
        (4611686018427387904, 2, NULL, 'test.happened', NULL, NULL, 'of the future');
    INSERT INTO crashes VALUES (12288, 'web', 4096, 3, 1, NULL, 0, 'exit code 1', 0, 5, NULL, NULL, NULL, 1, '[\"a\"]');
    UPDATE high_water SET id = 16384;";

#[tokio::test]
async fn a_file_of_the_first_version_keeps_its_rows_and_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(&format!("PRAGMA journal_mode = WAL; {FIRST} {HISTORY} {ROWS}")).unwrap();
    drop(old);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

    let store = open(&path).unwrap();
    let instances = store.instances().await.unwrap();
    assert_eq!(instances.iter().map(|one| one.restarts).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(store.members().await.unwrap()[0].vars["channel"], "a");
    assert_eq!(store.open_runs().await.unwrap().len(), 1);
    let crashes = store.crashes(CrashQuery { limit: 9, ..CrashQuery::default() }).await.unwrap();
    assert_eq!(crashes[0].report.last_lines, ["a"]);
    let events = all(&store).await;
    assert_eq!(events.len(), 2);
    let next = store.append_events(vec![event("new")]).await.unwrap();
    assert!(next[0] > events[1].id, "ids go on growing");
    drop(store);

    let copy = folder.path().join("kissops.db.before-v2");
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let copy = Connection::open(copy).unwrap();
    let sql = "SELECT (SELECT count(*) FROM events) + (SELECT max(version) FROM schema_migrations)";
    assert_eq!(copy.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(), 3);
}
