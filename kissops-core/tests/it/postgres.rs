//! Postgres for tests: a fresh database on the shared server, or a whole server to break.
//!
//! `.ci/with-postgres COMMAND` sets what these need. Without it, they say `skipped: …` and give `None`.

#![allow(clippy::unwrap_used, reason = "what tests need has to be there")]
#![allow(dead_code, reason = "each test takes what it needs")]

use std::{
    env, fs,
    hash::{BuildHasher, RandomState},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, postgres::PgConnectOptions};
use tempfile::TempDir;

/// The shared server. Tests may only create databases of their own in it.
const SERVER: &str = "KISSOPS_TEST_POSTGRES";
/// Where `initdb` and `postgres` are.
const PROGRAMS: &str = "KISSOPS_TEST_POSTGRES_BIN";
const DEADLINE: Duration = Duration::from_mins(1);

/// A database of one test; dropping it drops the database, also when the test panics.
#[derive(Debug)]
pub(crate) struct ScratchDatabase {
    server: PgConnectOptions,
    name: String,
    url: String,
}

/// Creates an empty database, or gives `None` where no server is named.
pub(crate) async fn scratch_database() -> Option<ScratchDatabase> {
    let server: PgConnectOptions = from_environment(SERVER)?.parse().unwrap();
    let name = format!("test_{:016x}", RandomState::new().hash_one(std::process::id()));
    let mut connection = server.connect().await.unwrap();
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    connection.close().await.unwrap();
    let url = with_database(&env::var(SERVER).unwrap(), &name);
    Some(ScratchDatabase { server, name, url })
}

impl ScratchDatabase {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The folder of the server's socket, and the database's name.
    pub(crate) fn socket(&self) -> (PathBuf, String) {
        let folder = self.server.get_socket().expect("these tests need a server with a socket");
        (folder.clone(), self.name.clone())
    }
}

impl Drop for ScratchDatabase {
    fn drop(&mut self) {
        let server = self.server.clone();
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // On a thread of its own: this one may be inside a runtime, where nothing can be waited for.
        let dropped = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = server.connect().await?;
                connection.execute(AssertSqlSafe(sql)).await?;
                connection.close().await
            })
        });
        let done = matches!(dropped.join(), Ok(Ok(())));
        assert!(done || thread::panicking(), "the database {} could not be dropped", self.name);
    }
}

/// A server of one test, to be killed and restarted. Dropping it ends it and removes its files.
#[derive(Debug)]
pub(crate) struct PrivateServer {
    programs: PathBuf,
    folder: TempDir,
    settings: Vec<String>,
    server: Option<Child>,
}

impl PrivateServer {
    /// Makes a cluster and starts its server, or gives `None` where its programs are not named.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same with settings, each `name=value`.
    pub(crate) fn start_with(settings: &[&str]) -> Option<Self> {
        let programs = PathBuf::from(from_environment(PROGRAMS)?);
        // Below /tmp and not below TMPDIR: the path of a Unix socket may be about 100 bytes long.
        let folder = tempfile::Builder::new().prefix("kissops-pg.").tempdir_in("/tmp").unwrap();
        if let Some((user, group)) = unprivileged() {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let mut server = Self { programs, folder, settings: Vec::new(), server: None };
        server.set(settings);
        let data = server.data();
        let made = server
            .command("initdb")
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        server.restart();
        Some(server)
    }

    /// Where its database `postgres` is; the same after every restart.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.folder.path().display())
    }

    /// What it is started with from the next [`restart`](Self::restart) on.
    pub(crate) fn set(&mut self, settings: &[&str]) {
        self.settings = settings.iter().map(ToString::to_string).collect();
    }

    /// The folder of its socket and its data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file to its data folder that only the server can read.
    pub(crate) fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Self::give(&path);
    }

    /// Makes its user the owner of a file or folder.
    pub(crate) fn give(path: &Path) {
        if let Some((user, group)) = unprivileged() {
            std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
        }
    }

    /// Stops or continues all its processes, as they are at this moment.
    pub(crate) fn freeze(&self, frozen: bool) {
        let Some(server) = &self.server else { return };
        let wanted = if frozen { Signal::STOP } else { Signal::CONT };
        // The first process first, so that it starts no further one.
        signal(server.id(), wanted);
        for child in self.children() {
            signal(child, wanted);
        }
    }

    /// Ends one process of the server without a chance to clean up; the first one then restarts all others.
    pub(crate) fn kill_backend(pid: i32) {
        if let Ok(pid) = pid.try_into() {
            signal(pid, Signal::KILL);
        }
    }

    fn children(&self) -> Vec<u32> {
        let Some(pid) = self.server.as_ref().map(Child::id) else { return Vec::new() };
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Ends every process of the server at once, as a power cut would.
    pub(crate) fn kill_9(&mut self) {
        // The first process stands still meanwhile, or it would start new ones.
        self.freeze(true);
        let children = self.children();
        let Some(mut server) = self.server.take() else { return };
        for child in children {
            signal(child, Signal::KILL);
        }
        signal(server.id(), Signal::KILL);
        server.wait().unwrap();
    }

    /// Lets it drop everything ("immediate" shutdown): it recovers at the next start.
    pub(crate) fn quit(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal(server.id(), Signal::QUIT);
            server.wait().unwrap();
        }
    }

    /// Shuts down in good order, without waiting for clients.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal(server.id(), Signal::INT);
            server.wait().unwrap();
        }
    }

    /// Starts the server again, stopping it first if it runs, and waits until it takes connections.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let started = Instant::now();
        loop {
            let mut server = self.spawn();
            loop {
                assert!(started.elapsed() < DEADLINE, "Postgres did not start: {}", self.log());
                // After a kill, it refuses to start while a process of the former server still ends.
                if server.try_wait().unwrap().is_some() {
                    break;
                }
                if self.is_ready() {
                    self.server = Some(server);
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Waits until it takes connections, after something that it recovers from by itself.
    pub(crate) fn wait_until_ready(&mut self) {
        let started = Instant::now();
        while !self.is_ready() {
            assert!(started.elapsed() < DEADLINE, "Postgres did not recover: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the server wrote to its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn spawn(&self) -> Child {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("server.log"))
            .unwrap();
        let socket = self.folder.path().display().to_string();
        self.command("postgres")
            .arg("-D")
            .arg(self.data())
            // In its folder, where it goes with the rest: one that is killed leaves what is in /dev/shm.
            .args(["-c", "dynamic_shared_memory_type=mmap"])
            .args(["-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c"])
            .arg(format!("unix_socket_directories={socket}"))
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap()
    }

    pub(crate) fn is_ready(&self) -> bool {
        let mut ready = self.command("pg_isready");
        ready
            .args(["-q", "-U", "postgres", "-h"])
            .arg(self.folder.path())
            .args(
                self.settings
                    .iter()
                    .filter_map(|one| one.strip_prefix("port="))
                    .flat_map(|port| ["-p", port]),
            )
            .status()
            .unwrap()
            .success()
    }

    /// A program of Postgres as the user who may run it; told to stop should this thread end without doing so.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "INT"]).current_dir(self.folder.path());
        if let Some((user, group)) = unprivileged() {
            command
                .arg(format!("--reuid={user}"))
                .arg(format!("--regid={group}"))
                .arg("--clear-groups");
        }
        command.arg(self.programs.join(program));
        command
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// Whom Postgres runs as when the tests run as root, which it refuses.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("Debian's postgres has a user");
    let mut ids = line.split(':').skip(2).map(|id| id.parse().unwrap());
    Some((ids.next().unwrap(), ids.next().unwrap()))
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may be gone already.
        let _ = kill_process(pid, signal);
    }
}

fn from_environment(name: &str) -> Option<String> {
    let value = env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        println!("skipped: {name} is not set (.ci/with-postgres sets it)");
    }
    value
}

/// `url` with another database in its path.
fn with_database(url: &str, name: &str) -> String {
    let (before, query) =
        url.split_once('?').map_or((url, String::new()), |(url, q)| (url, format!("?{q}")));
    let authority = before.find("://").map_or(0, |at| at + 3);
    let end = before[authority..].find('/').map_or(before.len(), |at| authority + at);
    format!("{}/{name}{query}", &before[..end])
}

#[tokio::test]
async fn scratch_databases_are_separate_and_go_away() {
    let (Some(one), Some(two)) = (scratch_database().await, scratch_database().await) else {
        return;
    };
    let mut first = sqlx::PgConnection::connect(one.url()).await.unwrap();
    first.execute("CREATE TABLE only_here (n bigint)").await.unwrap();
    let mut second = sqlx::PgConnection::connect(two.url()).await.unwrap();
    second.execute("SELECT * FROM only_here").await.unwrap_err();
    let url = one.url().to_owned();
    drop(one);
    first.execute("SELECT 1").await.unwrap_err();
    sqlx::PgConnection::connect(&url).await.unwrap_err();
}

#[tokio::test]
async fn a_private_server_survives_its_kill() {
    let Some(mut server) = PrivateServer::start() else { return };
    let mut before = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    before.execute("CREATE TABLE kept AS SELECT 42 AS n").await.unwrap();
    server.kill_9();
    before.execute("SELECT 1").await.unwrap_err();
    server.restart();
    let mut after = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let n: i32 = sqlx::query_scalar("SELECT n FROM kept").fetch_one(&mut after).await.unwrap();
    assert_eq!(n, 42);
    server.stop();
    assert!(Path::new(&server.data()).exists());
    sqlx::PgConnection::connect(&server.url()).await.unwrap_err();
}
