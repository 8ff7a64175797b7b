//! An `SQLite` file of somebody else's: read, and neither changed nor given company.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{Error, Result};

/// In a file's header stands here which version of the format is needed to read it: 2 is the one with a log beside it.
const READ_VERSION: usize = 19;
const WITH_LOG: u8 = 2;

/// A file that is open for reading.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) db: Connection,
    path: PathBuf,
    /// What it was like when it was opened without the locks that keep writers away.
    unlocked: Option<Mark>,
}

/// Differs once a file was written to.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    node: u64,
    size: u64,
    changed: (i64, i64),
}

impl Foreign {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        // SQLite looks for a log beside the file itself, not beside a link to it.
        let path = path.canonicalize().map_err(|err| match err.kind() {
            ErrorKind::NotFound => Error::NotFound { what: format!("SQLite file {shown}") },
            _ => Error::io(format!("open {shown}"))(err),
        })?;
        let unlocked = if with_log(&path)? { alone(&path)? } else { None };
        let mode = if unlocked.is_some() { "immutable=1" } else { "mode=ro" };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let db = Connection::open_with_flags(uri(&path, mode), flags);
        let db = db.map_err(|err| failed(&path, &err))?;
        let ready = db
            .busy_timeout(Duration::from_secs(10))
            // A view or an index of the file may call functions; what they could do is not ours to run.
            .and_then(|()| {
                db.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON")
            })
            .and_then(|()| db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())));
        ready.map_err(|err| failed(&path, &err))?;
        Ok(Self { db, path, unlocked })
    }

    /// The names of a table's or a view's columns.
    pub(super) fn columns(&self, table: &str) -> Result<Vec<String>> {
        let names = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
        let tables: rusqlite::Result<Vec<String>> = self
            .db
            .prepare(names)
            .and_then(|mut all| all.query_map([], |row| row.get(0))?.collect());
        let tables = tables.map_err(|err| self.failed(&err))?;
        if !tables.iter().any(|name| name.eq_ignore_ascii_case(table)) {
            let what = format!(
                "table `{}` in {}: there is {}",
                table.escape_debug(),
                self.path.display(),
                listed(&tables)
            );
            return Err(Error::NotFound { what });
        }
        let empty = self.db.prepare(&format!("SELECT * FROM {} LIMIT 0", quoted(table)));
        let empty = empty.map_err(|err| self.failed(&err))?;
        Ok(empty.column_names().map(str::to_owned).collect())
    }

    pub(super) fn failed(&self, err: &rusqlite::Error) -> Error {
        failed(&self.path, err)
    }

    /// Fails if somebody has written to it where no lock has kept them away.
    pub(super) fn unchanged(&self) -> Result<()> {
        match &self.unlocked {
            Some(before) if mark(&self.path)? != *before => Err(Error::Conflict {
                what: self.path.display().to_string(),
                holder: "a program that has written to it meanwhile: import again".into(),
            }),
            _ => Ok(()),
        }
    }
}

/// A name in a statement. In double quotes, what is no column would be a text.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

pub(super) fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Whether the file goes with a write-ahead log.
fn with_log(path: &Path) -> Result<bool> {
    let mut header = Vec::new();
    let shown = path.display();
    let file = File::open(path).map_err(Error::io(format!("open {shown}")))?;
    let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
    if !is_file {
        return Err(Error::invalid(shown.to_string(), "must be an SQLite file"));
    }
    file.take(100).read_to_end(&mut header).map_err(Error::io(format!("read {shown}")))?;
    Ok(header.get(READ_VERSION) == Some(&WITH_LOG))
}

/// Whether a file with a log is in use by nobody. Opened in the usual way, it would be given a log and an index, which
/// nobody removes and which its own program may not be able to open.
fn alone(path: &Path) -> Result<Option<Mark>> {
    let beside = |end: &str| {
        let mut name = OsString::from(path);
        name.push(end);
        fs::metadata(name).ok()
    };
    let (log, index) = (beside("-wal"), beside("-shm"));
    match (log.map(|log| log.len()), index) {
        (Some(_), Some(_)) => Ok(None),
        (None | Some(0), _) => mark(path).map(Some),
        (Some(_), None) => Err(Error::WrongState {
            what: path.display().to_string(),
            state: "not whole without its log".into(),
            help: format!(
                "let its own user take the log up: sqlite3 {} 'PRAGMA wal_checkpoint(TRUNCATE)'",
                path.display()
            ),
        }),
    }
}

fn mark(path: &Path) -> Result<Mark> {
    let meta = fs::metadata(path).map_err(Error::io(format!("inspect {}", path.display())))?;
    Ok(Mark { node: meta.ino(), size: meta.len(), changed: (meta.mtime(), meta.mtime_nsec()) })
}

fn uri(path: &Path, query: &str) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                uri.push(char::from(*byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri + "?" + query
}

fn failed(path: &Path, err: &rusqlite::Error) -> Error {
    let shown = path.display();
    match err.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::Corrupt {
            what: shown.to_string(),
            detail: "it is no SQLite file, or encrypted".into(),
        },
        Some(ErrorCode::DatabaseCorrupt) => {
            Error::Corrupt { what: shown.to_string(), detail: err.to_string() }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Conflict {
            what: shown.to_string(),
            holder: "a program that is writing to it: import again, or stop it meanwhile".into(),
        },
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Error::Denied {
            what: format!("{shown} cannot be read ({err})"),
            help: "run this as the user of the program that it belongs to, or stop that and import a copy".into(),
        },
        // No statement here holds a value, so no message does.
        _ => Error::io(format!("read {shown}"))(std::io::Error::other(err.to_string())),
    }
}
