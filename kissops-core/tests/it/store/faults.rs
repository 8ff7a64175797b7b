//! What must not harm a store: kills, wrong files, wrong rights, a full disk. Writers are processes of their own.

use std::{
    collections::HashMap,
    fs::{self, Permissions},
    hash::{BuildHasher as _, RandomState},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use kissops_core::{
    Error, Timestamp,
    id::{InstanceName, RecordId},
    store::{
        Desired, EventKind, EventQuery, EventRecord, EventStore, InstanceRecord, InstanceStore,
        NewEvent,
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use rusqlite::Connection;

const PATH: &str = "KISSOPS_TEST_STORE_PATH";
const ROLE: &str = "KISSOPS_TEST_STORE_ROLE";

fn open(path: &Path) -> Result<SqliteStore, Error> {
    SqliteStore::open(path, SqliteOptions::default())
}

fn event(reason: &str) -> NewEvent {
    let kind = EventKind::Other("test.happened".into());
    NewEvent { at: Timestamp(1), instance: None, kind, reason: reason.into() }
}

async fn all(store: &SqliteStore) -> Vec<EventRecord> {
    store.events(EventQuery { limit: u32::MAX, ..EventQuery::default() }).await.unwrap()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// This test binary again, as a process that runs only [`child`].
fn command(role: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "store::faults::child", "--nocapture"])
        .env(PATH, path)
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Runs only in a process that another test here starts.
#[tokio::test]
async fn child() {
    let (Some(path), Ok(role)) = (std::env::var_os(PATH), std::env::var(ROLE)) else { return };
    let path = PathBuf::from(path);
    if role == "together" {
        println!("\nwaiting");
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
    let store = Arc::new(open(&path).unwrap());
    if role == "modes" {
        store.append_events(vec![event("x")]).await.unwrap();
        for suffix in ["", "-wal", "-shm"] {
            println!("\nmode {:o}", mode(format!("{}{suffix}", path.display())));
        }
        println!("\nmode {:o}", mode(path.parent().unwrap()));
        return;
    }
    let writers = if role == "together" { 1 } else { 8 };
    let tasks: Vec<_> = (0..writers)
        .map(|task| tokio::spawn(write_on(Arc::clone(&store), role.clone(), task)))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Writes and says what was acknowledged, until the process is killed; one event where several come together.
async fn write_on(store: Arc<SqliteStore>, role: String, task: u32) {
    for n in 0_u64.. {
        let reason = format!("{role}.{}.{task}.{n}", std::process::id());
        let ids = store.append_events(vec![event(&reason)]).await.unwrap();
        let line = format!("\nack {} {reason}\n", ids[0].0);
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        if role == "together" {
            return;
        }
        if n % 16 == 0 {
            let name = InstanceName::new("web").unwrap();
            let failed = Some(n.to_string());
            let (desired, updated_at) = (Desired::Running, Timestamp(n.cast_signed()));
            let record = InstanceRecord { name, desired, restarts: n, failed, updated_at };
            store.put_instance(record).await.unwrap();
        }
    }
}

type Acknowledged = HashMap<RecordId, String>;

/// Reads acknowledgements up to the `enough`th, or to the end.
fn listen(out: &mut impl std::io::BufRead, enough: usize, acks: &mut Acknowledged) {
    let mut seen = 0;
    let mut line = String::new();
    while seen < enough && out.read_line(&mut line).unwrap() > 0 {
        // The kill may have cut the last line.
        if let Some((id, reason)) = line
            .strip_suffix('\n')
            .and_then(|line| line.strip_prefix("ack "))
            .and_then(|rest| rest.split_once(' '))
        {
            acks.insert(RecordId(id.parse().unwrap()), reason.to_owned());
            seen += 1;
        }
        line.clear();
    }
}

/// A number below `end`, of no quality but different at each call.
fn random(end: u64) -> u64 {
    RandomState::new().hash_one(0) % end
}

async fn verify(path: &Path, acks: &Acknowledged) {
    let conn = Connection::open(path).unwrap();
    let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    drop(conn);
    let found = all(&open(path).unwrap()).await;
    let by_id: HashMap<_, _> = found.iter().map(|one| (one.id, &one.event.reason)).collect();
    for (id, reason) in acks {
        assert_eq!(by_id.get(id), Some(&reason), "acknowledged and lost");
    }
    let mut reasons: Vec<_> = by_id.values().collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), found.len(), "an event is there twice");
}

/// STO-6: what was acknowledged is there, once, whenever the writer is killed; the last file's next writer goes on.
#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    let mut acks = Acknowledged::new();
    for _ in 0..100 {
        let mut writer = command("kill", &path).spawn().unwrap();
        let mut out = BufReader::new(writer.stdout.take().unwrap());
        listen(&mut out, 1 + usize::try_from(random(120)).unwrap(), &mut acks);
        writer.kill().unwrap();
        listen(&mut out, usize::MAX, &mut acks);
        writer.wait().unwrap();
    }
    assert!(acks.len() > 100, "{}", acks.len());
    verify(&path, &acks).await;
}

/// STO-6: the same for a database that is just being made.
#[tokio::test]
async fn kill_9_while_opening_leaves_a_database_that_opens() {
    for _ in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kissops.db");
        let mut acks = Acknowledged::new();
        let mut writer = command("kill", &path).spawn().unwrap();
        let mut out = BufReader::new(writer.stdout.take().unwrap());
        // Not a wait for anything: the moment of the kill is what varies.
        std::thread::sleep(std::time::Duration::from_micros(random(25_000)));
        writer.kill().unwrap();
        listen(&mut out, usize::MAX, &mut acks);
        writer.wait().unwrap();
        drop(open(&path).unwrap());
        verify(&path, &acks).await;
    }
}

/// STO-5: processes that open a new database at the same moment all succeed, and it is migrated once.
#[tokio::test]
async fn many_processes_open_a_new_database_at_once() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kissops.db");
        let mut writers: Vec<Child> =
            (0..8).map(|_| command("together", &path).spawn().unwrap()).collect();
        let mut outs = Vec::new();
        for writer in &mut writers {
            let mut out = BufReader::new(writer.stdout.take().unwrap());
            let mut line = String::new();
            while line != "waiting\n" {
                line.clear();
                assert!(out.read_line(&mut line).unwrap() > 0);
            }
            outs.push(out);
        }
        for writer in &mut writers {
            drop(writer.stdin.take());
        }
        let mut acks = Acknowledged::new();
        for (writer, out) in writers.iter_mut().zip(&mut outs) {
            listen(out, usize::MAX, &mut acks);
            assert!(writer.wait().unwrap().success());
        }
        assert_eq!(acks.len(), 8, "none failed, no id was given twice");
        verify(&path, &acks).await;
        let conn = Connection::open(&path).unwrap();
        let sql = "SELECT count(*) = max(version) FROM schema_migrations";
        assert!(conn.query_row(sql, [], |row| row.get::<_, bool>(0)).unwrap());
    }
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
    let options = SqliteOptions { busy_timeout: std::time::Duration::ZERO, ..Default::default() };
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

/// A small file system of its own, gone at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_read_only_file_system_is_refused_when_opening() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(folder.path().join("disk"), "size=1m,mode=700") else {
        eprintln!("skipped: mounting a tmpfs needs more rights");
        return;
    };
    let path = disk.0.join("kissops.db");
    drop(open(&path).unwrap());
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).status();
    assert!(remount.unwrap().success());
    let err = open(&path).unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
    let text = err.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("for writing"), "{text}");
    let err = open(&disk.0.join("new.db")).unwrap_err();
    assert!(err.chain().contains("new.db"), "{}", err.chain());
}

/// Nothing acknowledged is lost, the error says what to do, and it works again once there is space.
#[tokio::test]
async fn a_full_disk_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(folder.path().join("disk"), "size=1m,mode=700") else {
        eprintln!("skipped: mounting a tmpfs needs more rights");
        return;
    };
    let path = disk.0.join("kissops.db");
    let filler = disk.0.join("filler");
    fs::write(&filler, vec![0; 400 << 10]).unwrap();
    let store = open(&path).unwrap();
    let mut acknowledged = Vec::new();
    let err = loop {
        let reason = format!("{} {}", acknowledged.len(), "x".repeat(4_000));
        match store.append_events(vec![event(&reason)]).await {
            Ok(_) => acknowledged.push(reason),
            Err(err) => break err,
        }
    };
    assert!(err.is_transient(), "{err:?}");
    let text = err.chain();
    assert!(text.contains("full") && text.contains(path.to_str().unwrap()), "{text}");
    assert!(!acknowledged.is_empty());
    fs::remove_file(&filler).unwrap();
    acknowledged.push("there is space again".into());
    store.append_events(vec![event("there is space again")]).await.unwrap();
    let found = all(&store).await;
    let found: Vec<_> = found.into_iter().map(|record| record.event.reason).collect();
    assert_eq!(found, acknowledged);
    drop(store);
    let store = open(&path).unwrap();
    assert_eq!(all(&store).await.len(), acknowledged.len());
    drop(store);
}

/// A write that does not fit fails alone, not those that share its transaction.
#[tokio::test]
async fn one_write_that_does_not_fit_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(folder.path().join("disk"), "size=2m,mode=700") else {
        eprintln!("skipped: mounting a tmpfs needs more rights");
        return;
    };
    let store = Arc::new(open(&disk.0.join("kissops.db")).unwrap());
    let tasks: Vec<_> = (0..30_usize)
        .map(|i| {
            let store = Arc::clone(&store);
            let reason = if i == 11 { "x".repeat(8 << 20) } else { i.to_string() };
            tokio::spawn(async move { store.append_events(vec![event(&reason)]).await.is_ok() })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), i != 11, "{i}");
    }
    assert_eq!(all(&store).await.len(), 29);
    drop(store);
}
