//! Files that are refused: of another program or version, damaged, with wrong rights. And locks, and ids over reopening.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use kissops_core::{
    Error, Timestamp,
    id::RecordId,
    store::{
        EventStore as _,
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use rusqlite::Connection;

use super::{
    all, event, open,
    process::{PATH, ROLE, command},
};

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// STO-3: modes do not depend on the umask, neither a wide nor a narrow one.
#[test]
fn files_are_600_in_a_folder_700_whatever_the_umask() {
    for umask in ["000", "022", "0277"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("kissops.db");
        // Made beforehand for the umask that would leave a folder that nobody can write to.
        if umask == "0277" {
            fs::create_dir(path.parent().unwrap()).unwrap();
            chmod(path.parent().unwrap(), 0o700);
        }
        let inner = command("modes", &path);
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask $0; exec \"$@\"", umask]).arg(inner.get_program());
        shell.args(inner.get_args()).env(PATH, &path).env(ROLE, "modes");
        let out = shell.output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let modes: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("mode ")).collect();
        assert_eq!(modes, ["600", "600", "600", "700"], "umask {umask}: {text}");
    }
}

#[test]
fn wider_rights_are_refused_with_the_chmod_that_mends_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    drop(open(&path).unwrap());
    for wide in [0o644, 0o640, 0o604, 0o660, 0o666] {
        chmod(&path, wide);
        let err = open(&path).unwrap_err();
        assert!(matches!(err, Error::Denied { .. }), "{err:?}");
        assert!(err.to_string().ends_with(&format!("run: chmod 600 {}", path.display())), "{err}");
    }
    chmod(&path, 0o400);
    let err = open(&path).unwrap_err();
    assert!(err.to_string().ends_with(&format!("run: chmod 600 {}", path.display())), "{err}");
    chmod(&path, 0o600);
    let wal = folder.path().join("kissops.db-wal");
    fs::write(&wal, "").unwrap();
    chmod(&wal, 0o644);
    let err = open(&path).unwrap_err();
    assert!(err.to_string().ends_with(&format!("run: chmod 600 {}", wal.display())), "{err}");
    chmod(&wal, 0o600);
    chmod(folder.path(), 0o777);
    let err = open(&path).unwrap_err();
    let expected = format!("run: chmod 700 {}", folder.path().display());
    assert!(err.to_string().ends_with(&expected), "{err}");
    chmod(folder.path(), 0o700);
    drop(open(&path).unwrap());
}

#[test]
fn what_is_not_a_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("kissops.db");
    drop(open(&target).unwrap());
    let link = folder.path().join("link.db");
    symlink(&target, &link).unwrap();
    let directory = folder.path().join("directory");
    fs::create_dir(&directory).unwrap();
    for (path, word) in [(&link, "symbolic link"), (&directory, "a directory")] {
        let err = open(path).unwrap_err();
        assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
        let text = err.to_string();
        assert!(text.contains(word) && text.contains(path.to_str().unwrap()), "{text}");
    }
}

#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let notes = "not a database, but a long text\n".repeat(100);
    fs::write(&path, &notes).unwrap();
    chmod(&path, 0o600);
    let err = open(&path).unwrap_err();
    assert!(matches!(err, Error::Corrupt { .. }), "{err:?}");
    assert!(err.to_string().contains(path.to_str().unwrap()), "{err}");
    assert_eq!(fs::read_to_string(&path).unwrap(), notes);
}

#[test]
fn another_programs_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bot.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE users (id INTEGER PRIMARY KEY)").unwrap();
    drop(conn);
    chmod(&path, 0o600);
    let err = open(&path).unwrap_err();
    assert!(err.to_string().contains("another program's database"), "{err}");
    let sql = "SELECT group_concat(name) FROM sqlite_schema";
    let conn = Connection::open(&path).unwrap();
    assert_eq!(conn.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap(), "users");
}

#[test]
fn a_damaged_database_is_corrupt_and_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    drop(open(&path).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let broken = bytes.len().min(4_096);
    bytes[100..broken].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let err = open(&path).unwrap_err();
    assert!(matches!(err, Error::Corrupt { .. }), "{err:?}");
    assert!(err.to_string().contains("backup"), "{err}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_newer_database_is_refused_and_names_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    drop(open(&path).unwrap());
    let sql = "INSERT INTO schema_migrations VALUES (99, 'later', '0', 0, 'kissops 9.9.9')";
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let text = open(&path).unwrap_err().to_string();
    for part in ["version 99", "kissops 9.9.9", concat!("kissops ", env!("CARGO_PKG_VERSION"))] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_changed_migration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    drop(open(&path).unwrap());
    let sql = "UPDATE schema_migrations SET checksum = '00000000deadbeef' WHERE version = 1";
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let err = open(&path).unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    assert!(err.to_string().contains("deadbeef"), "{err}");
}

#[tokio::test]
async fn a_lock_of_another_process_is_unavailable_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    let options = SqliteOptions { busy_timeout: Duration::ZERO, ..Default::default() };
    let store = SqliteStore::open(&path, options).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let err = store.append_events(vec![event("x")]).await.unwrap_err();
    assert!(err.is_transient() && err.chain().contains("fuser"), "{}", err.chain());
    other.execute_batch("ROLLBACK").unwrap();
    store.append_events(vec![event("y")]).await.unwrap();
    assert_eq!(all(&store).await.len(), 1);
}

#[tokio::test]
async fn ids_grow_over_reopening_although_the_latest_rows_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    let store = open(&path).unwrap();
    let before = store.append_events(vec![event("x")]).await.unwrap();
    // As after a life in a later year: ids of the future stay below those to come, also when no row has them any more.
    let far = RecordId(before[0].0 + (1 << 60));
    Connection::open(&path).unwrap().execute("UPDATE high_water SET id = ?1", [far.0]).unwrap();
    assert_eq!(store.prune_events(Timestamp(2), 10).await.unwrap(), 1);
    drop(store);
    let after = open(&path).unwrap().append_events(vec![event("y")]).await.unwrap();
    assert!(after[0] > far, "{after:?} {far:?}");
}

/// A runtime that ends while a read waits for a thread must not take that place with it.
#[test]
fn a_runtime_that_ends_half_way_harms_no_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions { readers: 1, ..SqliteOptions::default() };
    let store = Arc::new(SqliteStore::open(folder.path().join("kissops.db"), options).unwrap());
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(1).build().unwrap()
    };
    for _ in 0..3 {
        let first = runtime();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        first.spawn_blocking(move || wait.recv());
        let cut = Arc::clone(&store);
        first.block_on(async move {
            let read = tokio::spawn(async move { all(&cut).await });
            tokio::task::yield_now().await;
            read.abort();
        });
        first.shutdown_background();
        drop(go);
        let found = runtime()
            .block_on(async { tokio::time::timeout(Duration::from_secs(20), all(&store)).await });
        assert!(found.expect("no reader is left").is_empty());
    }
}
