//! A file as the source or the target of a copy. All of it blocks, so it runs on a thread of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use rusqlite::{Connection, ToSql, params_from_iter, types::ValueRef};
use tokio::sync::mpsc;

use super::{
    CopyPhase, PIECE, Piece, STOPPED, Watch, broken_off, other_version, prove,
    schema::{Kind, Schema, Table},
    tuple,
};
use crate::{
    Error, Result,
    pg::{Digest, quoted},
    store::sqlite::{Place, SqliteOptions, SqliteStore, beside, open_existing},
};

/// Begins to send all tables; says how many rows there are.
pub(super) async fn begin(path: &Path, schema: &Schema, send: mpsc::Sender<Piece>) -> Result<u64> {
    let (path, schema) = (path.to_owned(), schema.clone());
    let (counted, count) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let place = Place::File(path.clone());
        let conn = match open_source(&path, &place, &schema) {
            Ok((conn, rows)) => {
                // Nobody waits for it: the copy was dropped.
                let _ = counted.send(Ok(rows));
                conn
            }
            Err(err) => return drop(counted.send(Err(err))),
        };
        if let Err(err) = send_all(&conn, &schema, &send) {
            let _ = send.blocking_send(Piece::Failed(place.explain_sql(err)));
        }
    });
    count.await.map_err(|_| broken_off(None))?
}

/// Opens the file for reading and holds a snapshot of it.
fn open_source(path: &Path, place: &Place, schema: &Schema) -> Result<(Connection, u64)> {
    if !path.exists() {
        return Err(Error::NotFound { what: format!("store {}", path.display()) });
    }
    let open = || -> rusqlite::Result<(Connection, i64, u64)> {
        let conn = open_existing(path)?;
        conn.execute_batch("BEGIN")?;
        let sql = "SELECT coalesce(max(version), 0) FROM schema_migrations";
        let version: i64 = conn.query_row(sql, [], |row| row.get(0))?;
        let mut rows = 0;
        if version == schema.version {
            for table in &schema.tables {
                let sql = format!("SELECT count(*) FROM {}", quoted(&table.name));
                rows += conn.query_row(&sql, [], |row| row.get::<_, i64>(0))?;
            }
        }
        Ok((conn, version, rows.cast_unsigned()))
    };
    let (conn, version, rows) = open().map_err(|err| place.explain_sql(err))?;
    if version != schema.version {
        return Err(other_version(&place.to_string(), version, schema.version));
    }
    Ok((conn, rows))
}

fn send_all(
    conn: &Connection,
    schema: &Schema,
    send: &mpsc::Sender<Piece>,
) -> rusqlite::Result<()> {
    for (at, table) in schema.tables.iter().enumerate() {
        // Where the other side has gone, it has said why.
        if send.blocking_send(Piece::Table(at)).is_err() {
            return Ok(());
        }
        let digest = read(conn, table, Some(send))?;
        if send.blocking_send(Piece::End(digest)).is_err() {
            return Ok(());
        }
    }
    let _ = send.blocking_send(Piece::Done);
    Ok(())
}

/// Reads a table, sends its rows where somebody wants them, and sums them up.
fn read(
    conn: &Connection,
    table: &Table,
    send: Option<&mpsc::Sender<Piece>>,
) -> rusqlite::Result<Digest> {
    let sql = format!("SELECT {} FROM {}", table.list(), quoted(&table.name));
    let mut query = conn.prepare(&sql)?;
    let mut rows = query.raw_query();
    let (mut digest, mut piece, mut count) = (Digest::default(), Vec::with_capacity(PIECE), 0);
    while let Some(row) = rows.next()? {
        let start = piece.len();
        tuple::begin(&mut piece, table.columns.len());
        for (at, column) in table.columns.iter().enumerate() {
            encode(&mut piece, column.kind, row.get_ref(at)?);
        }
        digest.add(piece.get(start..).unwrap_or_default());
        count += 1;
        if piece.len() >= PIECE {
            let bytes = std::mem::replace(&mut piece, Vec::with_capacity(PIECE + PIECE / 4));
            if let Some(send) = send
                && send.blocking_send(Piece::Rows { bytes, rows: count }).is_err()
            {
                return Ok(digest);
            }
            count = 0;
        }
    }
    if let Some(send) = send
        && count > 0
    {
        // As above.
        let _ = send.blocking_send(Piece::Rows { bytes: piece, rows: count });
    }
    Ok(digest)
}

fn encode(out: &mut Vec<u8>, kind: Kind, value: ValueRef<'_>) {
    match (kind, value) {
        (Kind::Integer, ValueRef::Integer(number)) => {
            tuple::field(out, Some(&number.to_be_bytes()));
        }
        (Kind::Real, ValueRef::Real(number)) => tuple::field(out, Some(&number.to_be_bytes())),
        // A first version kept NUL, which Postgres does not have.
        (Kind::Text, ValueRef::Text(text)) if text.contains(&0) => {
            let text = String::from_utf8_lossy(text).replace('\0', "\u{fffd}");
            tuple::field(out, Some(text.as_bytes()));
        }
        (_, ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => tuple::field(out, Some(bytes)),
        // The tables are STRICT: nothing else can be there.
        _ => tuple::field(out, None),
    }
}

/// Writes all that comes to a new file, which gets its name when it is whole.
pub(super) async fn load(
    path: &Path,
    schema: &Schema,
    receive: mpsc::Receiver<Piece>,
    watch: &mut Watch<'_>,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<Vec<Digest>> {
    if path.exists() {
        return Err(there_already(path));
    }
    let (path, schema) = (path.to_owned(), schema.clone());
    let (tell, mut told) = mpsc::channel::<(CopyPhase, usize, u64)>(AHEAD_TOLD);
    let names: Vec<_> = schema.tables.iter().map(|table| table.name.clone()).collect();
    // Passed once: by the file that gets its name, or by who stops that.
    let gate = Arc::new(AtomicBool::new(false));
    let passed = Arc::clone(&gate);
    let work = tokio::task::spawn_blocking(move || {
        remove_left_over(&path);
        let partial = Partial::new(&path);
        let digests = fill(&partial.0, &schema, receive, &tell)?;
        if tell.is_closed() || passed.swap(true, Ordering::AcqRel) {
            return Err(abandoned(()));
        }
        // Not a rename, which would replace what has appeared there meanwhile. The other name goes with `partial`.
        fs::hard_link(&partial.0, &path).map_err(|err| match err.kind() {
            io::ErrorKind::AlreadyExists => there_already(&path),
            _ => Error::io(format!("name {}", path.display()))(err),
        })?;
        sync_folder(&path).map_err(Error::io(format!(
            "make sure that a power cut does not take {}: it is there and whole; sync its folder",
            path.display()
        )))?;
        Ok(digests)
    });
    let mut proving = false;
    loop {
        let next = tokio::select! {
            biased;
            () = &mut stop, if !gate.load(Ordering::Acquire) => {
                if gate.swap(true, Ordering::AcqRel) { None } else { return Err(STOPPED) }
            }
            next = told.recv() => next,
        };
        let Some((phase, table, rows)) = next else { break };
        if phase == CopyPhase::Proving && !proving {
            proving = true;
            watch.next_phase();
        }
        watch.tell(phase, names.get(table).map_or("", String::as_str), rows);
    }
    work.await.map_err(Error::unavailable("the target of the copy"))?
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn there_already(path: &Path) -> Error {
    Error::WrongState {
        what: format!("the file {}", path.display()),
        state: "there already".into(),
        help: "nothing was changed: name a new one, or move it away".into(),
    }
}

/// The caller was dropped, so nobody hears this.
fn abandoned<T>(_: T) -> Error {
    Error::Closed { what: "the copy" }
}

/// Reports that may wait to be shown.
const AHEAD_TOLD: usize = 16;

const PARTIAL: &str = ".partial-";

/// What processes have left that were killed while they copied to `path`.
fn remove_left_over(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let start = format!("{}{PARTIAL}", name.to_string_lossy());
    // A folder that cannot be read will be reported when the file is made.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let Some(rest) = found.to_str().and_then(|name| name.strip_prefix(&start)) else {
            continue;
        };
        let pid: Option<u32> = rest.split_once('-').and_then(|(pid, _)| pid.parse().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A file that is not finished; it goes when this does.
struct Partial(PathBuf);

impl Partial {
    /// A name that no other copy has, not even one of this process that was dropped and is on its way out.
    fn new(path: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(beside(path, &format!("{PARTIAL}{}-{count}", std::process::id())))
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm"] {
            // Not there: so much the better.
            let _ = fs::remove_file(beside(&self.0, suffix));
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.remove();
    }
}

fn fill(
    path: &Path,
    schema: &Schema,
    receive: mpsc::Receiver<Piece>,
    tell: &mpsc::Sender<(CopyPhase, usize, u64)>,
) -> Result<Vec<Digest>> {
    // Makes the file with its rights, and its tables.
    drop(SqliteStore::open(path, SqliteOptions::default())?);
    let place = Place::File(path.to_owned());
    let failed = |err| place.explain_sql(err);
    let conn = open_existing(path).map_err(failed)?;
    conn.execute_batch("PRAGMA foreign_keys = OFF; BEGIN").map_err(failed)?;
    for table in &schema.tables {
        conn.execute(&format!("DELETE FROM {}", quoted(&table.name)), []).map_err(failed)?;
    }
    let sent = insert_all(&conn, schema, receive, tell, &place)?;
    let mut digests = Vec::with_capacity(sent.len());
    for (at, (table, sent)) in schema.tables.iter().zip(sent).enumerate() {
        let found = read(&conn, table, None).map_err(failed)?;
        digests.push(prove(&table.name, sent, found)?);
        tell.blocking_send((CopyPhase::Proving, at, found.rows)).map_err(abandoned)?;
    }
    let orphan = conn.prepare("PRAGMA foreign_key_check").and_then(|mut q| q.exists([]));
    if orphan.map_err(failed)? {
        return Err(Error::Corrupt {
            what: "the copy".into(),
            detail: "a row refers to one that is not there; `kissops store check` on the source names it".into(),
        });
    }
    conn.execute_batch("COMMIT; PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE)")
        .map_err(failed)?;
    conn.close().map_err(|(_, err)| failed(err))?;
    Ok(digests)
}

fn insert_all(
    conn: &Connection,
    schema: &Schema,
    mut receive: mpsc::Receiver<Piece>,
    tell: &mpsc::Sender<(CopyPhase, usize, u64)>,
    place: &Place,
) -> Result<Vec<Digest>> {
    let mut sent = Vec::with_capacity(schema.tables.len());
    let mut current = 0;
    loop {
        match receive.blocking_recv() {
            last @ (None | Some(Piece::Failed(_))) => return Err(broken_off(last)),
            Some(Piece::Done) => return Ok(sent),
            Some(Piece::Table(at)) => current = at,
            Some(Piece::End(digest)) => sent.push(digest),
            Some(Piece::Rows { bytes, rows }) => {
                let table = schema.tables.get(current).ok_or_else(|| broken_off(None))?;
                insert(conn, table, &bytes).map_err(|err| place.explain_sql(err))?;
                tell.blocking_send((CopyPhase::Copying, current, rows)).map_err(abandoned)?;
            }
        }
    }
}

fn insert(conn: &Connection, table: &Table, mut bytes: &[u8]) -> rusqlite::Result<()> {
    let marks = vec!["?"; table.columns.len()].join(", ");
    let name = quoted(&table.name);
    let sql = format!("INSERT INTO {name} ({}) VALUES ({marks})", table.list());
    let mut insert = conn.prepare_cached(&sql)?;
    while let Some(row) = tuple::split(&mut bytes) {
        let values = tuple::fields(row)
            .zip(&table.columns)
            .map(|(value, column)| Field { kind: column.kind, value });
        insert.execute(params_from_iter(values))?;
    }
    Ok(())
}

/// A column in the form of COPY, to be bound.
struct Field<'a> {
    kind: Kind,
    value: Option<&'a [u8]>,
}

impl ToSql for Field<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        let Some(value) = self.value else { return Ok(rusqlite::types::Null.into()) };
        let word = || value.first_chunk().copied().unwrap_or_default();
        let value = match self.kind {
            Kind::Integer => ValueRef::Integer(i64::from_be_bytes(word())),
            Kind::Real => ValueRef::Real(f64::from_be_bytes(word())),
            Kind::Text => ValueRef::Text(value),
            Kind::Blob => ValueRef::Blob(value),
        };
        Ok(rusqlite::types::ToSqlOutput::Borrowed(value))
    }
}
