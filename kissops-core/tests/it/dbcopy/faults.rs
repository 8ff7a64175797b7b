//! A copy that fails leaves nothing behind, and writes nothing to its source.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use kissops_core::{
    Error,
    dbcopy::{Copier, Phase, Watcher, silent},
};

use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{Bench, Options, answer, prepare};
use crate::postgres::PrivateServer;

const ROWS: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT, n INTEGER);
    WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 60000)
    INSERT INTO t SELECT i, 'some text of no great length, number ' || i, i % 7 FROM c;
    CREATE INDEX t_n ON t(n);";

const TABLES: &str = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";

/// Told once a phase has begun.
fn reached(phase: Phase) -> (Watcher, Arc<AtomicBool>) {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let watcher: Watcher = Arc::new(move |progress| {
        if progress.phase == phase {
            seen.store(true, Ordering::Relaxed);
        }
    });
    (watcher, flag)
}

async fn until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_mins(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_dropped_leaves_nothing() {
    for phase in [Phase::Load, Phase::Index, Phase::Proof] {
        let Some(bench) = Bench::new(ROWS).await else { return };
        let before = fs::read(bench.path()).unwrap();
        let copier = bench.prepare(Options::default()).await.unwrap();
        let (watcher, flag) = reached(phase);
        let running = tokio::spawn(async move { copier.run(&watcher).await });
        until(|| flag.load(Ordering::Relaxed)).await;
        running.abort();
        // It may have been done by then; what is there is all or nothing.
        match running.await {
            Ok(done) => drop(done.unwrap()),
            Err(_) => assert_eq!(bench.answer(TABLES).await, "0", "{phase:?}"),
        }
        assert_eq!(fs::read(bench.path()).unwrap(), before);
    }
}

#[tokio::test]
async fn a_server_that_dies_keeps_nothing_and_the_next_copy_works() {
    let Some(mut server) = PrivateServer::start() else { return };
    let Some(bench) = Bench::new(ROWS).await else { return };
    for phase in [Phase::Load, Phase::Index, Phase::Proof] {
        let copier = prepare(&bench.path(), &server.url(), Options::default()).await.unwrap();
        let (watcher, flag) = reached(phase);
        let run = tokio::spawn(async move { copier.run(&watcher).await });
        until(|| flag.load(Ordering::Relaxed)).await;
        server.kill_9();
        let failed = run.await.unwrap().unwrap_err();
        assert!(failed.is_transient(), "{}", failed.chain());
        server.restart();
        assert_eq!(answer(&server.url(), TABLES).await, "0", "{phase:?}");
    }
    prepare(&bench.path(), &server.url(), Options::default())
        .await
        .unwrap()
        .run(&silent())
        .await
        .unwrap();
    assert_eq!(answer(&server.url(), "SELECT count(*) FROM t").await, "60000");
}

#[tokio::test]
async fn what_the_server_refuses_is_told_and_undone() {
    // Equal for a boolean, different for SQLite.
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, b BOOLEAN UNIQUE); INSERT INTO t VALUES (1, 1), (2, 't')";
    let Some(bench) = Bench::new(sql).await else { return };
    let failed = bench.copy(Options::default()).await.unwrap_err().chain();
    assert!(failed.contains("unique") && failed.contains("(b)=(t)"), "{failed}");
    assert_eq!(bench.answer(TABLES).await, "0");
}

#[tokio::test]
async fn a_writer_goes_on_meanwhile_and_is_not_seen() {
    let Some(bench) = Bench::new(&format!("PRAGMA journal_mode = WAL; {ROWS}")).await else {
        return;
    };
    let copier = bench.prepare(Options::default()).await.unwrap();
    let writer = bench.sqlite();
    writer
        .execute_batch(
            "UPDATE t SET n = 'not a number'; CREATE TABLE later(x); DELETE FROM t WHERE id > 10",
        )
        .unwrap();
    let report = copier.run(&silent()).await.unwrap();
    assert_eq!(report.tables.iter().map(|table| table.rows).collect::<Vec<_>>(), [60_000]);
}

#[tokio::test]
async fn what_is_no_database_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let look =
        async || Copier::prepare(&path, None, Options::default(), &silent()).await.unwrap_err();
    assert!(matches!(look().await, Error::NotFound { .. }));
    fs::write(&path, "this is no database, but long enough to look like one ".repeat(50)).unwrap();
    assert!(matches!(look().await, Error::Corrupt { .. }));
}

#[tokio::test]
async fn a_connection_that_breaks_at_the_end_leaves_it_open_what_is_there() {
    let Some(bench) = Bench::new(ROWS).await else { return };
    // Whoever makes a table here is cut off when that is committed.
    let sql = "CREATE SCHEMA other; CREATE TABLE other.made(n int);
        CREATE FUNCTION other.cut() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON other.made DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION other.cut();
        CREATE FUNCTION other.note() RETURNS event_trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO other.made VALUES (1); END';
        CREATE EVENT TRIGGER note ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
            EXECUTE FUNCTION other.note()";
    let mut conn = PgConnection::connect(bench.database.url()).await.unwrap();
    conn.execute(sql).await.unwrap();
    let err = bench.copy(Options::default()).await.unwrap_err();
    assert!(matches!(err, Error::Uncertain { .. }), "{err:?}");
}

#[tokio::test]
async fn a_copy_that_is_stopped_says_so_and_leaves_nothing() {
    for phase in [Phase::Load, Phase::Index, Phase::Proof] {
        let Some(bench) = Bench::new(ROWS).await else { return };
        let copier = bench.prepare(Options::default()).await.unwrap();
        let (watcher, flag) = reached(phase);
        let stop = until(|| flag.load(Ordering::Relaxed));
        match copier.run_until(stop, &watcher).await {
            Err(Error::Closed { .. }) => assert_eq!(bench.answer(TABLES).await, "0", "{phase:?}"),
            // It was done by then, and says so.
            Ok(_) => assert_eq!(bench.answer("SELECT count(*) FROM t").await, "60000"),
            Err(err) => panic!("{phase:?}: {err:?}"),
        }
    }
}

/// A password must not switch off that the server proves who it is.
#[tokio::test]
async fn a_password_that_looks_like_a_setting_is_none() {
    use std::io::{Read as _, Write as _};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    // A server off this machine, as far as a name tells: it offers no TLS and keeps what it is told then.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.read_exact(&mut [0; 8]).unwrap();
        client.write_all(b"N").unwrap();
        let mut told = Vec::new();
        let _ = client.set_read_timeout(Some(Duration::from_secs(5)));
        let _ = client.read_to_end(&mut told);
        told
    });
    let url = format!("postgres://me:sslmode=disable-hunter2@0.0.0.0:{port}/db");
    let failed = prepare(&path, &url, Options::default()).await.unwrap_err();
    assert!(matches!(failed, Error::Denied { .. }), "{}", failed.chain());
    assert!(!format!("{failed:?} {}", failed.chain()).contains("hunter2"), "{failed:?}");
    assert!(server.join().unwrap().is_empty(), "it spoke without TLS");
}

#[tokio::test]
async fn passwords_are_in_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    for url in [
        "postgres://me:hunter2@/nowhere?host=/nonexistent",
        "postgres://me:hunter2@host:port/db",
        "mysql://me:hunter2@h/d",
    ] {
        let failed = prepare(&path, url, Options::default()).await.unwrap_err();
        assert!(!format!("{failed:?} {}", failed.chain()).contains("hunter2"), "{failed:?}");
    }
}
