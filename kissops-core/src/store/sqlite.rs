//! [`Store`](crate::store::Store) in one `SQLite` file: one writer with group commit, several readers, nothing that polls.
//!
//! The log is written ahead (WAL). A write is acknowledged after its `COMMIT`, so a killed process loses nothing.
//! For a power cut there are two levels. Desired states and members are decisions of an operator that nobody could
//! reconstruct: their transactions are synced before the answer (`synchronous=FULL`). Runs, events and crash reports
//! are history in large numbers: theirs are not (`NORMAL`), so a power cut may take the last of them, never the
//! database's integrity. The level is set for each transaction, since both kinds go through the one writer.
//!
//! Reads are statements of their own, on connections that only read.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

pub(super) use self::fault::Place;
#[cfg(feature = "postgres")]
pub(super) use self::file::beside;
use self::{fault::Failure, reader::Readers, writer::Writer};
use super::{
    migrate::MIGRATIONS,
    sql::{Answer, Append, Batch, Durability, Engine, Row, Statement},
};
use crate::{ByteSize, Error, Result, id::RecordId};

mod fault;
mod file;
mod maintenance;
mod migrate;
mod reader;
mod run;
mod writer;

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
    /// The statements of appends, by table: as many as there are kinds of them.
    inserts: Mutex<HashMap<&'static str, Arc<str>>>,
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
        Ok(Self {
            place,
            writer,
            readers: Some(Arc::new(Readers::new(path, options))),
            inserts: Mutex::default(),
        })
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
            run::add_functions(&conn)?;
            migrate::migrate(&conn, None, MIGRATIONS)?;
            Ok(conn)
        };
        let conn = open().map_err(|failure| place.explain(failure))?;
        Ok(Self {
            writer: Writer::start(conn, place.clone())?,
            place,
            readers: None,
            inserts: Mutex::default(),
        })
    }
}

impl SqliteStore {
    fn insert(&self, rows: &Append) -> Arc<str> {
        let mut inserts = self.inserts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(inserts.entry(rows.table).or_insert_with(|| run::insert(rows).into()))
    }
}

impl Engine for SqliteStore {
    fn place(&self) -> String {
        self.place.to_string()
    }

    async fn read(&self, statement: Statement) -> Result<Vec<Row>> {
        let Some(readers) = &self.readers else {
            let read = move |tx: &mut writer::Transaction<'_>| Ok(run::query(tx.conn, &statement)?);
            return self.writer.write(Durability::Process, read).await;
        };
        readers.read(statement).await?.map_err(|err| self.place.explain_sql(err))
    }

    async fn write(&self, batch: Batch) -> Result<Vec<Answer>> {
        self.writer.write(batch.durability, move |tx| run::batch(tx, &batch)).await
    }

    async fn append(&self, rows: Append) -> Result<Vec<RecordId>> {
        if rows.rows.is_empty() {
            return Ok(Vec::new());
        }
        let sql = self.insert(&rows);
        self.writer
            .write(Durability::Process, move |tx| Ok(run::append(tx, &sql, &rows.rows)?))
            .await
    }
}

/// A database in memory as the migrations make it.
#[cfg(feature = "postgres")]
pub(super) fn empty() -> Result<Connection> {
    let open = || -> Result<Connection, Failure> {
        let conn = Connection::open_in_memory()?;
        migrate::migrate(&conn, None, MIGRATIONS)?;
        Ok(conn)
    };
    open().map_err(|failure| Place::Memory.explain(failure))
}

/// The version of the schema in the file, without any change to it; `None` where there is none.
pub(super) fn schema_version(path: &Path) -> Result<Option<u32>> {
    let empty = std::fs::metadata(path).map_or(true, |file| file.len() == 0);
    if empty {
        return Ok(None);
    }
    let look = || -> rusqlite::Result<Option<u32>> {
        let conn = open_existing(path)?;
        let sql = "SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'schema_migrations'";
        if !conn.query_row(sql, [], |row| row.get(0))? {
            return Ok(None);
        }
        conn.query_row("SELECT max(version) FROM schema_migrations", [], |row| row.get(0))
    };
    look().map_err(|err| Place::File(path.to_owned()).explain_sql(err))
}

/// A connection to a file that is there, without any change to it.
pub(super) fn open_existing(path: &Path) -> rusqlite::Result<Connection> {
    let options = SqliteOptions::default();
    let conn = connect(path, &options)?;
    configure(&conn, &options)?;
    Ok(conn)
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
    run::add_functions(&conn)?;
    migrate::migrate(&conn, Some(path), MIGRATIONS)?;
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
    // A plan may not depend on what is bound: else each read with a bound limit is parsed and planned anew.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
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
