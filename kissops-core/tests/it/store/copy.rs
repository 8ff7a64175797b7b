//! STO-10: everything goes over, both ways, and is proven; a copy that fails leaves its target as it was.

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kissops_core::{
    Error, Timestamp,
    id::{BootId, InstanceName, ProcessIdentity, RunId},
    store::{
        self, CopyPhase, CopyReport, CrashQuery, CrashReport, Desired, EventKind, EventQuery,
        InstanceRecord, MemberRecord, NewEvent, RunEnd, RunRecord, Store, StoreOptions, StoreUrl,
    },
    supervisor::{ExitStatus, ResourceUse},
};

use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::postgres::{PrivateServer, ScratchDatabase, scratch_database};

fn name(text: &str) -> InstanceName {
    InstanceName::new(text).unwrap()
}

fn sqlite(path: &Path) -> StoreUrl {
    StoreUrl::Sqlite(path.to_owned())
}

fn server(url: &str) -> StoreUrl {
    StoreUrl::parse(url, Path::new("/")).unwrap()
}

async fn quiet(from: &StoreUrl, to: &StoreUrl) -> Result<CopyReport, Error> {
    store::copy(from, to, |_| {}).await
}

/// Something in every table of the fleet, with what is hard to carry.
async fn fill(store: &dyn Store, events: u32) {
    let odd = "naïve 🦀 \t\n\\N \\. \"'`\u{feff} \0 end";
    let (at, boot_id) = (Timestamp(1_790_000_000_000_001), BootId("b".into()));
    for (restarts, failed) in [(0, None), (u64::MAX, Some(odd.to_owned()))] {
        let name = name(&format!("bot-{}", restarts % 7));
        let (desired, updated_at) = (Desired::Stopped, at);
        let record = InstanceRecord { name, desired, restarts, failed, updated_at };
        store.put_instance(record).await.unwrap();
    }
    let vars = [("lang".to_owned(), odd.to_owned())].into();
    let member = MemberRecord { name: name("twitch@el_serda"), vars, added_at: at };
    store.add_member(member).await.unwrap();
    let process = ProcessIdentity { pid: i32::MAX, start_ticks: u64::MAX, boot_id };
    let end = Some(RunEnd { at, status: ExitStatus::Code(-1) });
    let run =
        RunRecord { id: RunId(i64::MAX), instance: name("web"), process, started_at: at, end };
    store.begin_run(run).await.unwrap();
    let report = CrashReport {
        instance: name("web"),
        run: RunId(1),
        at,
        status: ExitStatus::Unknown,
        reason: odd.into(),
        out_of_memory: true,
        uptime: Duration::from_micros(1),
        usage: Some(ResourceUse {
            user_time: Duration::ZERO,
            system_time: Duration::from_micros(i64::MAX.unsigned_abs()),
            max_rss_bytes: u64::MAX,
        }),
        restarts: 1 << 63,
        last_lines: vec![odd.into(), String::new()],
    };
    store.add_crash(report).await.unwrap();
    for from in (0..events).step_by(1_000) {
        let some = (from..events.min(from + 1_000)).map(|n| NewEvent {
            at: Timestamp(i64::from(n)),
            instance: (n % 3 == 0).then(|| name("web")),
            kind: EventKind::Other(odd.into()),
            reason: format!("{n} {odd}"),
        });
        store.append_events(some.collect()).await.unwrap();
    }
}

async fn open(url: &StoreUrl) -> std::sync::Arc<dyn Store> {
    store::open(url, StoreOptions::default()).await.unwrap()
}

/// All that the fleet's traits show.
async fn contents(store: &dyn Store) -> String {
    let events = EventQuery { limit: u32::MAX, ..EventQuery::default() };
    let crashes = CrashQuery { limit: u32::MAX, ..CrashQuery::default() };
    format!(
        "{:?} {:?} {:?} {:?} {:?}",
        store.instances().await.unwrap(),
        store.members().await.unwrap(),
        store.runs(&name("web"), 9).await.unwrap(),
        store.events(events).await.unwrap(),
        store.crashes(crashes).await.unwrap(),
    )
}

#[tokio::test]
async fn everything_goes_to_a_server_and_back() {
    let Some(database) = scratch_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (first, last) = (sqlite(&folder.path().join("a.db")), sqlite(&folder.path().join("b.db")));
    let middle = server(database.url());
    let before = {
        let store = open(&first).await;
        fill(&*store, 5_000).await;
        contents(&*store).await
    };
    let (copied, proven) = (AtomicU64::new(0), AtomicU64::new(0));
    let there = store::copy(&first, &middle, |progress| {
        assert!(progress.rows <= progress.total, "{progress:?}");
        let phase = if progress.phase == CopyPhase::Copying { &copied } else { &proven };
        phase.store(progress.rows, Ordering::Relaxed);
    })
    .await
    .unwrap();
    assert_eq!(contents(&*open(&middle).await).await, before);
    let back = quiet(&middle, &last).await.unwrap();
    assert_eq!(there.tables, back.tables);
    let rows: u64 = there.tables.iter().map(|table| table.rows).sum();
    assert_eq!((copied.into_inner(), proven.into_inner()), (rows, rows));
    let store = open(&last).await;
    assert_eq!(contents(&*store).await, before);
    // Sequences are ahead of the largest id.
    let new = NewEvent {
        at: Timestamp(0),
        instance: None,
        kind: EventKind::Other("x".into()),
        reason: String::new(),
    };
    let events = store.events(EventQuery { limit: 1, ..EventQuery::default() }).await.unwrap();
    for store in [store, open(&middle).await] {
        let id = store.append_events(vec![new.clone()]).await.unwrap();
        assert!(id[0] > events[0].id, "{id:?} {events:?}");
    }
}

#[tokio::test]
async fn a_target_in_use_is_left_as_it_is() {
    let Some(database) = scratch_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (from, file) = (sqlite(&folder.path().join("a.db")), folder.path().join("b.db"));
    fill(&*open(&from).await, 10).await;
    let to = server(database.url());
    let store = open(&to).await;
    let vars = std::collections::BTreeMap::new();
    let member = MemberRecord { name: name("only@me"), vars, added_at: Timestamp(1) };
    store.add_member(member).await.unwrap();
    let before = contents(&*store).await;
    drop(store);
    let err = quiet(&from, &to).await.unwrap_err();
    assert!(matches!(&err, Error::WrongState { state, .. } if state.contains("members")), "{err}");
    assert_eq!(contents(&*open(&to).await).await, before);
    std::fs::write(&file, "precious").unwrap();
    let err = quiet(&from, &sqlite(&file)).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let err = quiet(&from, &from).await.unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err}");
}

#[tokio::test]
async fn a_database_is_not_copied_onto_itself_whatever_it_is_called() {
    let Some(private) = PrivateServer::start() else { return };
    let url = private.url();
    let from = server(&url);
    fill(&*open(&from).await, 10).await;
    let before = contents(&*open(&from).await).await;
    // One who may not ask for the cluster's number.
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let sql = "CREATE ROLE plain LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO plain;
        REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC";
    admin.execute(sql).await.unwrap();
    let others = [
        url.replace("postgres://", "postgresql://"),
        url.replace("host=/", "host=/./"),
        url.replace("postgres@localhost", "plain@127.0.0.1"),
    ];
    for to in others {
        assert_ne!(to, url);
        let target = server(&to);
        let done = tokio::time::timeout(Duration::from_secs(20), quiet(&from, &target)).await;
        let err = done.expect("waited for its own lock").unwrap_err();
        assert!(err.to_string().contains("another database"), "{to}: {}", err.chain());
    }
    assert_eq!(contents(&*open(&from).await).await, before);
    // Another schema of the same database is another place.
    admin.execute("CREATE SCHEMA other").await.unwrap();
    let other = format!("{url}&options=-csearch_path%3Dother");
    quiet(&from, &server(&other)).await.unwrap();
    assert_eq!(contents(&*open(&server(&other)).await).await, before);
}

#[tokio::test]
async fn a_target_that_somebody_keeps_locked_is_not_waited_for() {
    let Some(database) = scratch_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (sqlite(&folder.path().join("a.db")), server(database.url()));
    fill(&*open(&from).await, 10).await;
    drop(open(&to).await);
    let mut other = PgConnection::connect(database.url()).await.unwrap();
    other.execute("BEGIN; LOCK TABLE members IN ACCESS SHARE MODE").await.unwrap();
    let done = tokio::time::timeout(Duration::from_secs(20), quiet(&from, &to)).await;
    let err = done.expect("waited for the lock without a limit").unwrap_err();
    assert!(err.is_transient() && err.chain().contains("pg_stat_activity"), "{}", err.chain());
    other.execute("ROLLBACK").await.unwrap();
    quiet(&from, &to).await.unwrap();
}

/// A function `at_commit` that is called when the transaction that fills `members` is committed.
const AT_COMMIT: &str = "
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON members DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION at_commit()";

/// An empty store on a server, that does `what` when it is filled.
async fn that_commits(database: &ScratchDatabase, what: &str) -> (StoreUrl, PgConnection) {
    let to = server(database.url());
    drop(open(&to).await);
    let mut conn = PgConnection::connect(database.url()).await.unwrap();
    let sql = format!(
        "CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN PERFORM {what}; RETURN NULL; END$$; {AT_COMMIT}"
    );
    conn.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    (to, conn)
}

#[tokio::test]
async fn a_connection_that_breaks_at_the_end_leaves_it_open_what_is_there() {
    let Some(database) = scratch_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let from = sqlite(&folder.path().join("a.db"));
    fill(&*open(&from).await, 10).await;
    let (to, _conn) = that_commits(&database, "pg_terminate_backend(pg_backend_pid())").await;
    let err = quiet(&from, &to).await.unwrap_err();
    assert!(matches!(err, Error::Uncertain { .. }), "{err:?}");
}

#[tokio::test]
async fn a_copy_that_is_stopped_while_it_ends_says_that_it_was_made() {
    let Some(database) = scratch_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let from = sqlite(&folder.path().join("a.db"));
    fill(&*open(&from).await, 10).await;
    let (to, mut conn) = that_commits(&database, "pg_advisory_xact_lock(7)").await;
    conn.execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let copy = store::copy_until(&from, &to, async { drop(stopped.await) }, |_| {});
    let interrupt = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let begun = std::time::Instant::now();
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut conn).await.unwrap() == 0 {
            assert!(begun.elapsed() < Duration::from_mins(1));
            tokio::task::yield_now().await;
        }
        stop.send(()).unwrap();
        conn.execute("SELECT pg_advisory_unlock(7)").await.unwrap();
    };
    let (report, ()) = tokio::join!(copy, interrupt);
    assert!(report.unwrap().tables.iter().any(|table| table.name == "members" && table.rows == 1));
    assert_eq!(contents(&*open(&to).await).await, contents(&*open(&from).await).await);
}

#[tokio::test]
async fn a_copy_that_is_stopped_says_so_and_leaves_nothing() {
    let Some(database) = scratch_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let from = sqlite(&folder.path().join("a.db"));
    fill(&*open(&from).await, 20_000).await;
    for to in [server(database.url()), sqlite(&folder.path().join("b.db"))] {
        for phase in [CopyPhase::Copying, CopyPhase::Proving] {
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let mut stop = Some(stop);
            let copy = store::copy_until(&from, &to, async { drop(stopped.await) }, |progress| {
                if progress.phase == phase
                    && let Some(stop) = stop.take()
                {
                    stop.send(()).unwrap();
                }
            });
            match copy.await {
                Err(Error::Closed { .. }) => {}
                // The file's thread may have been faster than what it tells.
                Ok(_) if matches!(to, StoreUrl::Sqlite(_)) && phase == CopyPhase::Proving => break,
                other => panic!("{to} {phase:?}: {other:?}"),
            }
            if let StoreUrl::Sqlite(path) = &to {
                assert!(!path.exists(), "{phase:?}");
            }
        }
    }
    quiet(&from, &server(database.url())).await.unwrap();
}

#[tokio::test]
async fn only_our_tables_are_analysed_and_before_the_end() {
    let Some(database) = scratch_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let from = sqlite(&folder.path().join("a.db"));
    fill(&*open(&from).await, 1_000).await;
    // A neighbour whose table cannot be analysed.
    let mut conn = PgConnection::connect(database.url()).await.unwrap();
    let sql = "CREATE SCHEMA other; CREATE TABLE other.t(n int);
        CREATE FUNCTION other.f(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1 / n';
        CREATE INDEX ON other.t(other.f(n)); INSERT INTO other.t VALUES (1), (2);
        CREATE OR REPLACE FUNCTION other.f(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql
        AS 'BEGIN RAISE EXCEPTION ''not today''; END'";
    conn.execute(sql).await.unwrap();
    assert!(conn.execute("ANALYZE other.t").await.is_err());
    quiet(&from, &server(database.url())).await.unwrap();
    let known =
        "SELECT count(*) FROM pg_stats WHERE schemaname = 'public' AND tablename = 'events'";
    assert!(sqlx::query_scalar::<_, i64>(known).fetch_one(&mut conn).await.unwrap() > 0);
}

#[tokio::test]
async fn a_dropped_copy_leaves_nothing_and_can_be_made_again() {
    let Some(database) = scratch_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (from, file) = (sqlite(&folder.path().join("a.db")), folder.path().join("b.db"));
    fill(&*open(&from).await, 20_000).await;
    for to in [server(database.url()), sqlite(&file)] {
        // Stopped by its own progress: in the middle of the rows, and while they are read back.
        for phase in [CopyPhase::Copying, CopyPhase::Proving] {
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let stop = Mutex::new(Some(stop));
            let copy = store::copy(&from, &to, |progress| {
                if progress.phase == phase
                    && progress.rows > 0
                    && let Some(stop) = stop.lock().unwrap().take()
                {
                    stop.send(()).unwrap();
                }
            });
            tokio::select! {
                biased;
                _ = stopped => {}
                done = copy => panic!("was not stopped: {done:?}"),
            }
        }
        let report = loop {
            // What was dropped may still be on its way out.
            match quiet(&from, &to).await {
                Ok(report) => break report,
                Err(Error::WrongState { state, .. }) if state == "there already" => {
                    panic!("a dropped copy left a file")
                }
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert!(report.tables.iter().any(|table| table.rows == 20_000), "{report:?}");
    }
}

#[tokio::test]
async fn a_source_that_is_not_there_or_of_another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("a.db"), folder.path().join("b.db"));
    let err = quiet(&sqlite(&from), &sqlite(&to)).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err}");
    assert!(!from.exists());
    drop(open(&sqlite(&from)).await);
    let conn = rusqlite::Connection::open(&from).unwrap();
    conn.execute("DELETE FROM schema_migrations WHERE version > 1", []).unwrap();
    drop(conn);
    let err = quiet(&sqlite(&from), &sqlite(&to)).await.unwrap_err();
    assert!(err.to_string().contains("version 1"), "{err}");
    assert!(!to.exists());
}

#[tokio::test]
async fn a_damaged_source_is_named_and_leaves_no_target() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("a.db"), folder.path().join("b.db"));
    {
        let store = open(&sqlite(&from)).await;
        fill(&*store, 5_000).await;
    }
    let mut bytes = std::fs::read(&from).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64_000].fill(0xa5);
    std::fs::write(&from, &bytes).unwrap();
    let err = quiet(&sqlite(&from), &sqlite(&to)).await.unwrap_err();
    assert!(matches!(err, Error::Corrupt { .. }), "{err:?}");
    assert!(err.to_string().contains("a.db"), "{err}");
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("b.db")), "{left:?}");
}
