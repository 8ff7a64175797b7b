//! [`Store`](crate::store::Store) in one `SQLite` file: one writer with group commit, several readers, nothing that polls.
//!
//! The log is written ahead (WAL). A write is acknowledged after its `COMMIT`, so a killed process loses nothing.
//! For a power cut there are two levels. Desired states and members are decisions of an operator that nobody could
//! reconstruct: their transactions are synced before the answer (`synchronous=FULL`). Runs, events and crash reports
//! are history in large numbers: theirs are not (`NORMAL`), so a power cut may take the last of them, never the
//! database's integrity. The level is set for each transaction, since both kinds go through the one writer.
//!
//! A text with a NUL character is kept, but no other engine may take it: leave it out.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::Semaphore;

use self::{
    fault::Place,
    writer::{Durability, Transaction, Writer},
};
use super::migrate;
use crate::{ByteSize, Error, Result};

mod fault;
mod file;
mod records;
mod rows;
mod writer;

pub(super) use self::{
    fault::Failure,
    file::{beside, create as create_file},
};

/// `SQLite` before 3.51.3 may corrupt a file in WAL mode (sqlite.org/wal.html#walresetbug).
const OLDEST_SQLITE: (i32, &str) = (3_051_003, "3.51.3");

/// How a [`SqliteStore`] uses the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// Page cache of each connection, at most.
    pub cache: ByteSize,
    /// How much of the file is read through a memory map; zero for none.
    pub mmap: ByteSize,
    /// Most reads at once, each on a connection of its own that is opened when it is first needed; at least 1.
    pub readers: usize,
    /// How long to wait for another process that has locked the file.
    pub busy_timeout: Duration,
}

impl Default for SqliteOptions {
    /// Small: 256 KiB of cache per connection, no memory map, two readers, 5 s.
    fn default() -> Self {
        Self {
            cache: ByteSize(256 << 10),
            mmap: ByteSize(0),
            readers: 2,
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// All state in one file. Dropping it waits until what was queued is written.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kissops_core::Result<()> {
/// use kissops_core::store::{InstanceStore, sqlite::SqliteStore};
/// let store = SqliteStore::in_memory()?;
/// assert!(store.instances().await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SqliteStore {
    place: Place,
    writer: Writer,
    /// None in memory, where the writer's connection is the only one.
    readers: Option<Arc<Readers>>,
}

#[derive(Debug)]
struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    path: PathBuf,
    options: SqliteOptions,
}

impl SqliteStore {
    /// Opens the database at `path`, makes it (mode 600, a missing folder 700) if there is none, and brings its schema
    /// up to date. Blocks for some milliseconds; while another process migrates, up to `busy_timeout`.
    ///
    /// # Errors
    /// - [`Error::Denied`] if others have rights on it, with the `chmod` that mends it, or if it cannot be written.
    /// - [`Error::WrongState`] if it is a directory, a link, another program's database or newer than this program.
    /// - [`Error::Corrupt`] if it is no database, or a damaged one.
    /// - [`Error::Unavailable`] while it stays locked, or its disk is full; [`Error::Io`] for the folder's own troubles.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self> {
        check_version()?;
        let path = std::path::absolute(path.as_ref())
            .map_err(Error::io(format!("find {}", path.as_ref().display())))?;
        file::prepare(&path)?;
        let place = Place::File(path.clone());
        let conn = open_writer(&path, &options).map_err(|failure| place.explain(failure))?;
        let writer = Writer::start(conn, place.clone())?;
        let readers = Readers {
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(options.readers.clamp(1, 64))),
            path,
            options,
        };
        Ok(Self { place, writer, readers: Some(Arc::new(readers)) })
    }

    /// A store that is gone when it is dropped, for tests and dry runs.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no memory, [`Error::Io`] if there can be no further thread.
    pub fn in_memory() -> Result<Self> {
        check_version()?;
        let place = Place::Memory;
        let open = || -> Result<Connection, Failure> {
            let conn = Connection::open_in_memory()?;
            configure(&conn, &SqliteOptions::default())?;
            migrate::migrate(&conn, None, migrate::MIGRATIONS)?;
            Ok(conn)
        };
        let conn = open().map_err(|failure| place.explain(failure))?;
        Ok(Self { writer: Writer::start(conn, place.clone())?, place, readers: None })
    }

    /// Runs `run` as one transaction of the writer.
    async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        run: impl Fn(&mut Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        self.writer.write(durability, run).await
    }

    /// Runs `run`, one statement, on a connection that only reads, off the runtime.
    async fn read<T: Send + 'static>(
        &self,
        run: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(readers) = self.readers.clone() else {
            return self.write(Durability::Process, move |tx| Ok(run(tx.conn)?)).await;
        };
        let place = self.place.clone();
        let permit = Arc::clone(&readers.permits).acquire_owned().await;
        let permit = permit.map_err(|_| Error::Closed { what: "the store" })?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            readers.with(run).map_err(|err| place.explain_sql(err))
        });
        done.await.map_err(Error::unavailable("a reader of the store"))?
    }
}

impl Readers {
    fn with<T>(&self, run: impl Fn(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match idle {
            Some(conn) => conn,
            None => open_reader(&self.path, &self.options)?,
        };
        let result = run(&conn)?;
        // After an error the connection is closed instead: a new one starts from what is on the disk.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        Ok(result)
    }
}

fn check_version() -> Result<()> {
    if rusqlite::version_number() >= OLDEST_SQLITE.0 {
        return Ok(());
    }
    Err(Error::WrongState {
        what: "the SQLite library".into(),
        state: format!("{}, which may corrupt databases", rusqlite::version()),
        help: format!("build against {} or later, or use the bundled one", OLDEST_SQLITE.1),
    })
}

fn open_writer(path: &Path, options: &SqliteOptions) -> Result<Connection, Failure> {
    let conn = connect(path, options)?;
    if conn.is_readonly("main")? {
        // SQLite falls back to reading; nobody wants a store that finds that out at its first write.
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
        return Err(rusqlite::Error::SqliteFailure(code, None).into());
    }
    // Two processes that turn a new file to WAL at once make one of them fail without waiting, against its busy handler
    // (a lock would have to be upgraded, which could deadlock). So the waiting is done here.
    let deadline = Instant::now() + options.busy_timeout;
    loop {
        match conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)) {
            Ok(mode) if mode == "wal" => break,
            Ok(mode) => {
                let mode: String = mode;
                return Err(Failure::Refused(Error::WrongState {
                    what: format!("the store {}", path.display()),
                    state: format!("on a file system without shared memory (journal mode {mode})"),
                    help: "keep it on a local disk".into(),
                }));
            }
            Err(err) if is_busy(&err) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(err) => return Err(err.into()),
        }
    }
    configure(&conn, options)?;
    migrate::migrate(&conn, Some(path), migrate::MIGRATIONS)?;
    Ok(conn)
}

fn open_reader(path: &Path, options: &SqliteOptions) -> rusqlite::Result<Connection> {
    let conn = connect(path, options)?;
    configure(&conn, options)?;
    // Not opened read-only: a reader may have to rebuild the index of the log after another process was killed.
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}

fn connect(path: &Path, options: &SqliteOptions) -> rusqlite::Result<Connection> {
    // Each connection is used by one thread at a time, so SQLite needs no mutex. No CREATE: the file was made with its
    // mode already, and one that vanished since is an error.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(options.busy_timeout)?;
    Ok(conn)
}

fn configure(conn: &Connection, options: &SqliteOptions) -> rusqlite::Result<()> {
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    // A view or trigger that somebody planted in the file must not call functions with side effects.
    conn.pragma_update(None, "trusted_schema", false)?;
    let cache_kib = i64::try_from(options.cache.0 >> 10).unwrap_or(i64::MAX);
    // Negative means KiB instead of pages.
    conn.pragma_update(None, "cache_size", -cache_kib.max(1))?;
    let map = i64::try_from(options.mmap.0).unwrap_or(i64::MAX);
    conn.pragma_update_and_check(None, "mmap_size", map, |_| Ok(())).or_else(no_row)?;
    // After a checkpoint the log gives back what a burst had taken.
    conn.pragma_update_and_check(None, "journal_size_limit", 4 << 20, |_| Ok(()))
        .or_else(no_row)?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// Some settings answer with their new value only where they apply.
fn no_row(err: rusqlite::Error) -> rusqlite::Result<()> {
    if matches!(err, rusqlite::Error::QueryReturnedNoRows) { Ok(()) } else { Err(err) }
}

fn is_busy(err: &rusqlite::Error) -> bool {
    let code = err.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
