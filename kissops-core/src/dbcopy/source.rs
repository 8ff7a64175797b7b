//! The `SQLite` file: opened to read, held at one moment, never written.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::{
    Connection, ErrorCode, InterruptHandle, OpenFlags, Row, functions::FunctionFlags,
    types::ValueRef,
};

use super::kind::Stored;
use crate::{Error, Result};

/// A file at one moment: what is written to it meanwhile is not seen.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) db: Connection,
    path: PathBuf,
    cancelled: Arc<AtomicBool>,
}

/// Dropping it ends what a thread reads from the source just then.
pub(super) struct CancelOnDrop {
    handle: InterruptHandle,
    cancelled: Arc<AtomicBool>,
}

impl std::fmt::Debug for CancelOnDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelOnDrop").finish_non_exhaustive()
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.handle.interrupt();
    }
}

impl Source {
    /// Opens the file and begins the one transaction in which all of it is read.
    pub(super) fn open(path: &Path) -> Result<(Self, CancelOnDrop)> {
        if !path.is_file() {
            return Err(Error::NotFound { what: format!("SQLite file {}", path.display()) });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).map_err(|err| cannot_read(path, err))?;
        let begun = db
            .busy_timeout(std::time::Duration::from_secs(30))
            .and_then(|()| db.create_scalar_function("kissops_fold", 1, deterministic(), fold))
            // A view or an index of the file may call functions; what they could do is not ours to run.
            .and_then(|()| {
                db.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; BEGIN")
            })
            .and_then(|()| db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())));
        begun.map_err(|err| cannot_read(path, err))?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let handle = db.get_interrupt_handle();
        let guard = CancelOnDrop { handle, cancelled: Arc::clone(&cancelled) };
        Ok((Self { db, path: path.to_owned(), cancelled }, guard))
    }

    /// What reading the file at `what` came to, as an error of ours.
    pub(super) fn failed(&self, what: &str) -> impl FnOnce(rusqlite::Error) -> Error {
        let what = format!("read {what} of {}", self.path.display());
        let damaged = self.path.display().to_string();
        move |err| match err.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Error::Corrupt { what: damaged, detail: err.to_string() }
            }
            Some(ErrorCode::OperationInterrupted) => Error::Closed { what: "the copy" },
            _ => Error::io(what)(std::io::Error::other(err)),
        }
    }

    /// Fails once whoever waited for the copy has gone.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            Err(Error::Closed { what: "the copy" })
        } else {
            Ok(())
        }
    }
}

fn deterministic() -> FunctionFlags {
    FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC
}

/// How citext folds a text before it compares, other than `SQLite`'s NOCASE, which knows ASCII alone.
#[expect(clippy::unnecessary_wraps, reason = "so functions are")]
fn fold(context: &rusqlite::functions::Context<'_>) -> rusqlite::Result<rusqlite::types::Value> {
    Ok(match context.get_raw(0) {
        ValueRef::Text(text) => String::from_utf8_lossy(text).to_lowercase().into(),
        ValueRef::Integer(n) => n.into(),
        ValueRef::Real(n) => n.into(),
        ValueRef::Blob(bytes) => bytes.to_vec().into(),
        ValueRef::Null => rusqlite::types::Value::Null,
    })
}

fn cannot_read(path: &Path, err: rusqlite::Error) -> Error {
    let what = path.display();
    match err.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::Corrupt {
            what: what.to_string(),
            detail: "it is no SQLite file, or encrypted".to_owned(),
        },
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            Error::Denied {
                what: format!("{what} cannot be read ({err})"),
                help: format!(
                    "beside a database that is being written lie {what}-wal and {what}-shm, and reading needs them and the right \
                 to write in their folder: run this as the user who runs the bot, or stop the bot and copy the file with its -wal"
                ),
            }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Conflict {
            what: what.to_string(),
            holder: "a program that is writing it: try again, or stop the bot meanwhile".to_owned(),
        },
        _ => Error::io(format!("open {what}"))(std::io::Error::other(err)),
    }
}

/// A value of a row, in `SQLite`'s own buffer.
pub(super) fn stored<'a>(row: &'a Row<'_>, at: usize) -> rusqlite::Result<Stored<'a>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Null => Stored::Null,
        ValueRef::Integer(n) => Stored::Int(n),
        ValueRef::Real(n) => Stored::Real(n),
        ValueRef::Text(text) => Stored::Text(text),
        ValueRef::Blob(bytes) => Stored::Blob(bytes),
    })
}
