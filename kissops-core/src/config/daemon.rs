//! `[daemon]` and `[store]`.

use std::{
    net::SocketAddr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use crate::{
    ByteSize,
    store::{StoreOptions, StoreUrl},
    supervisor::SecretRef,
};

use super::{
    definition, limits,
    node::{Place, Value},
    reader::{Item, Pass, Section},
    secret,
    suggest::shown,
};

/// The longest name, in bytes, that a socket may have below [`DaemonConfig::runtime_dir`].
pub const SOCKET_NAME_MAX: usize = 24;

/// The longest path of a unix socket in bytes, without its NUL: unix(7).
const SOCKET_PATH_MAX: usize = 107;

/// `[daemon]`: the fleet as a whole. All folders are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// The fleet's name.
    pub name: String,
    /// What outlives the daemon.
    pub state_dir: PathBuf,
    /// Sockets. A name of at most [`SOCKET_NAME_MAX`] bytes in it fits a unix socket's path.
    pub runtime_dir: PathBuf,
    /// What instances print.
    pub log_dir: PathBuf,
    /// Most instances that start at once, 1 to 10000.
    pub start_concurrency: u32,
    /// Each start of many is delayed by a random time up to this.
    pub start_jitter: Duration,
    /// Where the HTTP API listens besides its socket.
    pub listen: Option<SocketAddr>,
    /// Account that the daemon changes to once it is set up.
    pub user: Option<String>,
    /// Group that it changes to; the user's own when left out.
    pub group: Option<String>,
    /// The daemon's own log.
    pub log: DaemonLog,
}

/// The daemon's own log, on its standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonLog {
    /// A level, or levels by module: `info,kissops_core::supervisor=debug`.
    pub level: String,
    /// How lines look.
    pub format: DaemonLogFormat,
}

/// How the lines of the daemon's own log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DaemonLogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[store]`: where the state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The database; a file's path is absolute.
    pub url: StoreUrl,
    /// `Postgres`: connections at once, at most; 1 to 1000.
    pub connections: u32,
    /// `SQLite`: how much of the file is read through a memory map; at most 1 TiB.
    pub mmap: ByteSize,
}

impl StoreConfig {
    /// What the engines are told.
    #[must_use]
    pub fn options(&self) -> StoreOptions {
        let mut options = StoreOptions::default();
        #[cfg(feature = "sqlite")]
        {
            options.sqlite.mmap = self.mmap;
        }
        #[cfg(feature = "postgres")]
        {
            options.postgres.connections = self.connections;
        }
        options
    }

    fn new(url: StoreUrl) -> Self {
        Self { url, connections: 10, mmap: ByteSize(0) }
    }
}

/// The scalar keys that a variable of the environment can set, with the variable.
pub(super) const VARIABLES: [(&str, &[&str]); 12] = [
    ("KISSOPS_DAEMON_NAME", &["daemon", "name"]),
    ("KISSOPS_DAEMON_STATE_DIR", &["daemon", "state_dir"]),
    ("KISSOPS_DAEMON_RUNTIME_DIR", &["daemon", "runtime_dir"]),
    ("KISSOPS_DAEMON_LOG_DIR", &["daemon", "log_dir"]),
    ("KISSOPS_DAEMON_START_CONCURRENCY", &["daemon", "start_concurrency"]),
    ("KISSOPS_DAEMON_START_JITTER", &["daemon", "start_jitter"]),
    ("KISSOPS_DAEMON_LISTEN", &["daemon", "listen"]),
    ("KISSOPS_DAEMON_USER", &["daemon", "user"]),
    ("KISSOPS_DAEMON_GROUP", &["daemon", "group"]),
    ("KISSOPS_DAEMON_LOG_LEVEL", &["daemon", "log", "level"]),
    ("KISSOPS_DAEMON_LOG_FORMAT", &["daemon", "log", "format"]),
    ("KISSOPS_STORE_URL", &["store", "url"]),
];

pub(super) fn read(section: Section<'_>) -> DaemonConfig {
    let folder = &section.pass.shared.folder;
    let name = section.get("name").and_then(|item| fleet_name(&item));
    let name = name.unwrap_or_else(|| default_name(folder));
    let dir = |key| section.get(key).and_then(|item: Item<'_>| item.path());
    let (state, run, logs) = default_folders(folder, &name);
    let runtime = section.get("runtime_dir");
    let config = DaemonConfig {
        state_dir: dir("state_dir").unwrap_or(state),
        runtime_dir: runtime.as_ref().and_then(Item::path).unwrap_or(run),
        log_dir: dir("log_dir").unwrap_or(logs),
        start_concurrency: section
            .get("start_concurrency")
            .and_then(|item| item.integer(1..=10_000))
            .unwrap_or(20),
        start_jitter: section
            .get("start_jitter")
            .and_then(|item| item.duration(Duration::ZERO))
            .unwrap_or_default(),
        listen: section.get("listen").and_then(|item| listen(&item)),
        user: section.get("user").and_then(|item| definition::account(&item)),
        group: section.get("group").and_then(|item| definition::account(&item)),
        log: section.get("log").and_then(|item| log(&item)).unwrap_or_else(DaemonLog::usual),
        name,
    };
    let at = runtime.map_or(section.at, |item| item.node.at);
    check_runtime(section.pass, at, &config);
    section.finish();
    config
}

impl DaemonLog {
    fn usual() -> Self {
        Self { level: "info".to_owned(), format: DaemonLogFormat::Text }
    }
}

fn check_runtime(pass: &Pass<'_>, at: Place, config: &DaemonConfig) {
    let length = config.runtime_dir.as_os_str().as_bytes().len();
    let most = SOCKET_PATH_MAX - SOCKET_NAME_MAX - 1;
    if length > most {
        let message = format!(
            "is too long for unix sockets: {} has {length} bytes, at most {most} fit",
            config.runtime_dir.display()
        );
        let uid = rustix::process::getuid();
        let base =
            if uid.is_root() { "/run".into() } else { format!("/run/user/{}", uid.as_raw()) };
        let help =
            format!("set a shorter one in [daemon]: runtime_dir = \"{base}/{}\"", config.name);
        pass.error(at, "daemon.runtime_dir", message, help);
    }
}

/// Checked, so that a file which is right now stays right; but nothing is served there yet, which must not go unsaid.
fn listen(item: &Item<'_>) -> Option<SocketAddr> {
    let address = item.parse("an address and port", "for example \"127.0.0.1:7788\"")?;
    item.pass.warn(
        item.key_at,
        &item.path,
        "is not supported by this version yet and has no effect",
        "the API is served at control.sock in runtime_dir",
    );
    Some(address)
}

fn fleet_name(item: &Item<'_>) -> Option<String> {
    let name = item.string()?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > 64 || name.starts_with(['.', '-']) || !name.chars().all(fits)
    {
        return item.fail(
            "is not a name",
            "1 to 64 letters, digits, _, - and ., not beginning with - or .",
        );
    }
    Some(name.to_owned())
}

/// The name of the file's folder, in the letters that a name may have.
fn default_name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
    let name: String = name.chars().map(|c| if fits(c) { c } else { '-' }).take(64).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "kissops".to_owned() } else { name.to_owned() }
}

/// State, runtime and log folder where the file names none.
fn default_folders(folder: &Path, name: &str) -> (PathBuf, PathBuf, PathBuf) {
    if folder.starts_with("/etc") && rustix::process::geteuid().is_root() {
        let under = |parent: &str| Path::new(parent).join(name);
        return (under("/var/lib"), under("/run"), under("/var/log"));
    }
    let state = folder.join(".kissops");
    (state.clone(), state.join("run"), state.join("logs"))
}

fn log(item: &Item<'_>) -> Option<DaemonLog> {
    let section = item.section("write log = { level = \"info\", format = \"text\" }")?;
    let mut log = DaemonLog::usual();
    if let Some(level) = section.get("level").and_then(|item| level(&item)) {
        log.level = level;
    }
    let format = section.get("format").and_then(|item| {
        item.one_of(&[("text", DaemonLogFormat::Text), ("json", DaemonLogFormat::Json)])
    });
    log.format = format.unwrap_or_default();
    section.finish();
    Some(log)
}

/// Levels, each for all or `module=level`.
fn level(item: &Item<'_>) -> Option<String> {
    let text = item.string()?;
    let good = text.split(',').all(|part| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
        ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
    });
    if good {
        return Some(text.to_owned());
    }
    item.fail(
        format!("`{}` is not a level", shown(text)),
        "off, error, warn, info, debug or trace; by module: \"info,kissops_core=debug\"",
    )
}

pub(super) fn read_store(section: Section<'_>, state_dir: &Path) -> StoreConfig {
    let url = section.get("url").and_then(|item| store_url(&item, state_dir));
    let url = url.unwrap_or_else(|| StoreUrl::Sqlite(state_dir.join("kissops.db")));
    let mut store = StoreConfig::new(url);
    if let Some(connections) = section.get("connections").and_then(|item| item.integer(1..=1000)) {
        store.connections = connections;
    }
    if let Some(mmap) = section.get("mmap").and_then(|item| limits::size(&item, 0, 1 << 40)) {
        store.mmap = mmap;
    }
    section.finish();
    store
}

fn store_url(item: &Item<'_>, state_dir: &Path) -> Option<StoreUrl> {
    const LIKE: &str = "for example \"sqlite:kissops.db\", a file in state_dir, or { env = \"DATABASE_URL\" } with postgres://…";
    let looked_up;
    let text = if let Value::Table(_) = item.node.value {
        let reference = secret::reference(item)?;
        if let SecretRef::Secret(_) = reference {
            return item.fail("cannot be in the vault, which is in the store", LIKE);
        }
        if item.pass.rehearsal {
            return None;
        }
        match item.pass.shared.environment.lookup(&reference) {
            Ok(value) => looked_up = value,
            Err(err) => return item.fail(format!("cannot be looked up: {}", err.chain()), ""),
        }
        super::Environment::text(&looked_up)
    } else {
        item.string()?
    };
    // Neither the text nor the error shows it: it may hold a password.
    match StoreUrl::parse(text.trim(), state_dir) {
        Ok(url) => {
            if matches!(item.node.value, Value::String(_)) && url.has_password() {
                let help = "write url = { env = \"DATABASE_URL\" } and put it there";
                item.pass.warn(item.node.at, &item.path, "holds a password in clear text", help);
            }
            Some(url)
        }
        Err(_) if text.starts_with("sqlite:") => item.fail("must name a file", LIKE),
        Err(_) => item.fail("is not a URL of a store", LIKE),
    }
}
