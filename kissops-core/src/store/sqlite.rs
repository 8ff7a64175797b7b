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
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, named_params, params};
use tokio::sync::Semaphore;

use self::{
    fault::Place,
    writer::{Durability, Transaction, Writer},
};
use super::{
    CrashQuery, CrashRecord, CrashReport, CrashStore, Desired, EventQuery, EventRecord, EventStore,
    InstanceRecord, InstanceStore, MemberRecord, MemberStore, NewEvent, RunEnd, RunRecord,
    RunStore, migrate,
};
use crate::{
    ByteSize, Error, Result, Timestamp,
    id::{InstanceName, RecordId, RunId},
};

mod fault;
mod file;
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
    path: std::path::PathBuf,
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

/// All rows of a statement.
fn all<T>(
    conn: &Connection,
    sql: &str,
    values: &[(&str, &dyn ToSql)],
    read: fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    conn.prepare_cached(sql)?.query_map(values, read)?.collect()
}

fn changed(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

#[async_trait]
impl InstanceStore for SqliteStore {
    async fn instances(&self) -> Result<Vec<InstanceRecord>> {
        let sql = format!("SELECT {} FROM instances ORDER BY name", rows::INSTANCE);
        self.read(move |conn| all(conn, &sql, &[], rows::instance)).await
    }

    async fn put_instance(&self, record: InstanceRecord) -> Result<()> {
        let sql = "INSERT INTO instances (name, desired, restarts, failed, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (name) DO UPDATE SET desired = excluded.desired, restarts = excluded.restarts, failed = excluded.failed, updated_at = excluded.updated_at";
        let desired = match record.desired {
            Desired::Running => "running",
            Desired::Stopped => "stopped",
        };
        self.write(Durability::Power, move |tx| {
            let restarts = record.restarts.cast_signed();
            let values = params![
                record.name.as_str(),
                desired,
                restarts,
                record.failed,
                record.updated_at.0
            ];
            tx.conn.prepare_cached(sql)?.execute(values)?;
            Ok(())
        })
        .await
    }

    async fn remove_instance(&self, name: &InstanceName) -> Result<()> {
        let name = name.clone();
        self.write(Durability::Power, move |tx| {
            let sql = "DELETE FROM instances WHERE name = ?1";
            tx.conn.prepare_cached(sql)?.execute([name.as_str()])?;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl MemberStore for SqliteStore {
    async fn members(&self) -> Result<Vec<MemberRecord>> {
        let sql = format!("SELECT {} FROM members ORDER BY name", rows::MEMBER);
        self.read(move |conn| all(conn, &sql, &[], rows::member)).await
    }

    async fn add_member(&self, member: MemberRecord) -> Result<()> {
        // A map of texts always serializes.
        let vars = serde_json::to_string(&member.vars).unwrap_or_default();
        self.write(Durability::Power, move |tx| {
            let sql = "INSERT INTO members (name, vars, added_at) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO NOTHING";
            let values = params![member.name.as_str(), vars, member.added_at.0];
            if tx.conn.prepare_cached(sql)?.execute(values)? == 1 {
                return Ok(());
            }
            let what = format!("member `{}`", member.name);
            Err(Error::Conflict { what, holder: "the member that is there already".into() }.into())
        })
        .await
    }

    async fn remove_member(&self, name: &InstanceName) -> Result<()> {
        let name = name.clone();
        self.write(Durability::Power, move |tx| {
            let sql = "DELETE FROM members WHERE name = ?1";
            match tx.conn.prepare_cached(sql)?.execute([name.as_str()])? {
                0 => Err(Error::NotFound { what: format!("member `{name}`") }.into()),
                _ => Ok(()),
            }
        })
        .await
    }
}

#[async_trait]
impl RunStore for SqliteStore {
    async fn begin_run(&self, run: RunRecord) -> Result<()> {
        let sql = format!(
            "INSERT INTO runs ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id) DO NOTHING",
            rows::RUN
        );
        self.write(Durability::Process, move |tx| {
            let (code, signal, core) =
                run.end.as_ref().map_or((None, None, false), |end| rows::exit_columns(end.status));
            let ended_at = run.end.as_ref().map(|end| end.at.0);
            let values = params![
                run.id.0,
                run.instance.as_str(),
                run.process.pid,
                run.process.start_ticks.cast_signed(),
                run.process.boot_id.0,
                run.started_at.0,
                ended_at,
                code,
                signal,
                core
            ];
            tx.conn.prepare_cached(&sql)?.execute(values)?;
            Ok(())
        })
        .await
    }

    async fn end_run(&self, run: RunId, end: RunEnd) -> Result<()> {
        self.write(Durability::Process, move |tx| {
            let sql =
                "UPDATE runs SET ended_at = ?2, exit_code = ?3, exit_signal = ?4, core_dumped = ?5
                WHERE id = ?1 AND ended_at IS NULL";
            let (code, signal, core) = rows::exit_columns(end.status);
            tx.conn.prepare_cached(sql)?.execute(params![run.0, end.at.0, code, signal, core])?;
            Ok(())
        })
        .await
    }

    async fn open_runs(&self) -> Result<Vec<RunRecord>> {
        let sql = format!("SELECT {} FROM runs WHERE ended_at IS NULL ORDER BY id", rows::RUN);
        self.read(move |conn| all(conn, &sql, &[], rows::run)).await
    }

    async fn runs(&self, instance: &InstanceName, limit: u32) -> Result<Vec<RunRecord>> {
        let sql = format!(
            "SELECT {} FROM runs WHERE instance = :name ORDER BY id DESC LIMIT :limit",
            rows::RUN
        );
        let name = instance.clone();
        self.read(move |conn| {
            let values = named_params! { ":name": name.as_str(), ":limit": limit };
            all(conn, &sql, values, rows::run)
        })
        .await
    }

    async fn prune_runs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(Durability::Process, move |tx| {
            let sql = "DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE ended_at < ?1 ORDER BY ended_at, id LIMIT ?2)";
            Ok(changed(tx.conn.prepare_cached(sql)?.execute(params![before.0, limit])?))
        })
        .await
    }
}

#[async_trait]
impl EventStore for SqliteStore {
    async fn append_events(&self, events: Vec<NewEvent>) -> Result<Vec<RecordId>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let sql =
            format!("INSERT INTO events ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", rows::EVENT);
        self.write(Durability::Process, move |tx| {
            let mut insert = tx.conn.prepare_cached(&sql)?;
            let mut ids = Vec::with_capacity(events.len());
            for event in &events {
                let id = tx.next_id();
                let (kind, from, to) = rows::kind_columns(&event.kind);
                let instance = event.instance.as_ref().map(InstanceName::as_str);
                insert.execute(params![
                    id.0,
                    event.at.0,
                    instance,
                    kind,
                    from,
                    to,
                    event.reason
                ])?;
                ids.push(id);
            }
            Ok(ids)
        })
        .await
    }

    async fn events(&self, query: EventQuery) -> Result<Vec<EventRecord>> {
        let mut latest = Filter::new(&query.instances, query.since);
        if query.until.is_some() {
            latest.and("at < :until");
        }
        if query.after.is_some() {
            latest.and("id > :after");
        }
        let order = if query.after.is_some() { "ASC" } else { "DESC" };
        let sql = format!(
            "SELECT {0} FROM (SELECT {0} FROM events{1} ORDER BY id {order} LIMIT :limit) ORDER BY id",
            rows::EVENT,
            latest.sql
        );
        self.read(move |conn| {
            let names = rows::name_list(&query.instances);
            let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &query.limit)];
            if let Some(names) = &names {
                values.push((":names", names));
            }
            let since = query.since.map(|at| at.0);
            let until = query.until.map(|at| at.0);
            let after = query.after.map(|id| id.0);
            for (name, value) in [(":since", &since), (":until", &until), (":after", &after)] {
                if let Some(value) = value {
                    values.push((name, value));
                }
            }
            all(conn, &sql, &values, rows::event)
        })
        .await
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(Durability::Process, move |tx| {
            tx.keep_high_water()?;
            let sql = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < ?1 ORDER BY at, id LIMIT ?2)";
            Ok(changed(tx.conn.prepare_cached(sql)?.execute(params![before.0, limit])?))
        })
        .await
    }
}

#[async_trait]
impl CrashStore for SqliteStore {
    async fn add_crash(&self, report: CrashReport) -> Result<RecordId> {
        let sql = format!(
            "INSERT INTO crashes ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            rows::CRASH
        );
        // A list of texts always serializes.
        let last_lines = serde_json::to_string(&report.last_lines).unwrap_or_default();
        self.write(Durability::Process, move |tx| {
            let id = tx.next_id();
            let (code, signal, core) = rows::exit_columns(report.status);
            let usage = report.usage.as_ref();
            let values = params![
                id.0,
                report.instance.as_str(),
                report.run.0,
                report.at.0,
                code,
                signal,
                core,
                report.reason,
                report.out_of_memory,
                rows::micros(report.uptime),
                usage.map(|usage| rows::micros(usage.user_time)),
                usage.map(|usage| rows::micros(usage.system_time)),
                usage.map(|usage| usage.max_rss_bytes.cast_signed()),
                report.restarts.cast_signed(),
                last_lines
            ];
            tx.conn.prepare_cached(&sql)?.execute(values)?;
            Ok(id)
        })
        .await
    }

    async fn crashes(&self, query: CrashQuery) -> Result<Vec<CrashRecord>> {
        let filter = Filter::new(&query.instances, query.since);
        let sql = format!(
            "SELECT {} FROM crashes{} ORDER BY id DESC LIMIT :limit",
            rows::CRASH,
            filter.sql
        );
        self.read(move |conn| {
            let names = rows::name_list(&query.instances);
            let since = query.since.map(|at| at.0);
            let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &query.limit)];
            if let Some(names) = &names {
                values.push((":names", names));
            }
            if let Some(since) = &since {
                values.push((":since", since));
            }
            all(conn, &sql, &values, rows::crash)
        })
        .await
    }

    async fn prune_crashes(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(Durability::Process, move |tx| {
            tx.keep_high_water()?;
            let sql = "DELETE FROM crashes WHERE id IN (SELECT id FROM crashes WHERE at < ?1 ORDER BY at, id LIMIT ?2)";
            Ok(changed(tx.conn.prepare_cached(sql)?.execute(params![before.0, limit])?))
        })
        .await
    }
}

/// The conditions that queries of events and of crashes have in common. It writes only the ones that apply, so that
/// the planner can use an index for each.
struct Filter {
    sql: String,
}

impl Filter {
    fn new(instances: &[InstanceName], since: Option<Timestamp>) -> Self {
        let mut filter = Self { sql: String::new() };
        if !instances.is_empty() {
            filter.and("instance IN (SELECT value FROM json_each(:names))");
        }
        if since.is_some() {
            filter.and("at >= :since");
        }
        filter
    }

    fn and(&mut self, condition: &str) {
        self.sql.push_str(if self.sql.is_empty() { " WHERE " } else { " AND " });
        self.sql.push_str(condition);
    }
}
