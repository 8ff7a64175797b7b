//! `rusqlite::Error` becomes [`Error`] here, once, with the file's name and what to do next.

use std::{fmt, path::PathBuf};

use rusqlite::{ErrorCode, ffi};

use crate::Error;

/// Why a job did not work.
#[derive(Debug)]
pub(in crate::store) enum Failure {
    /// The database could not, or its rows are not what was written.
    Sql(rusqlite::Error),
    /// The request itself is refused: there is one already, there is none.
    Refused(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(err: rusqlite::Error) -> Self {
        Self::Sql(err)
    }
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        Self::Refused(err)
    }
}

/// Which database it is, as messages name it.
#[derive(Clone, Debug)]
pub(in crate::store) enum Place {
    /// In this file.
    File(PathBuf),
    /// In memory.
    Memory,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the store {}", path.display()),
            Self::Memory => f.write_str("the store in memory"),
        }
    }
}

/// What the operator should do, in front of what `SQLite` said.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
struct Advised {
    advice: String,
    #[source]
    source: rusqlite::Error,
}

impl Place {
    /// The crate's error for `failure`.
    pub(super) fn explain(&self, failure: Failure) -> Error {
        match failure {
            Failure::Refused(err) => err,
            Failure::Sql(err) => self.explain_sql(err),
        }
    }

    pub(in crate::store) fn explain_sql(&self, err: rusqlite::Error) -> Error {
        let code = match &err {
            rusqlite::Error::SqliteFailure(failure, _) => failure.code,
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => {
                return Error::Corrupt { what: self.to_string(), detail: one_line(&err) };
            }
            _ => return self.unavailable("it gave no usable answer".into(), err),
        };
        let advice = match code {
            ErrorCode::NotADatabase => {
                return self.corrupt(&err, "it is not an SQLite database, or its first page is overwritten; nothing was changed: name another file, or put a backup in its place");
            }
            ErrorCode::DatabaseCorrupt => {
                return self.corrupt(&err, "stop the daemon, keep a copy of the file with its -wal for salvage, and put a backup in its place");
            }
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
                return Error::Denied {
                    what: format!("{self} cannot be written ({})", one_line(&err)),
                    help: self.writable_help(),
                };
            }
            ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch => return self.refused(&err),
            ErrorCode::TooBig => {
                return Error::invalid("a value for the store", "must be shorter than 1 GB");
            }
            ErrorCode::DiskFull => "its disk is full: free some space there, then it goes on by itself; nothing that was acknowledged is lost".into(),
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                format!("another process has kept it locked; {}", self.who_holds())
            }
            ErrorCode::CannotOpen => "it cannot be opened: look at the rights of its folder and at the limit of open files (ulimit -n)".into(),
            ErrorCode::SystemIoFailure => "its disk reports an error: look at the kernel's log (dmesg) and at the free space".into(),
            ErrorCode::OutOfMemory => "there is no memory left".into(),
            _ => "it refused the statement".to_owned(),
        };
        self.unavailable(advice, err)
    }

    /// A statement that will never succeed. `SQLite`'s own words name the table and its columns, or the rule.
    fn refused(&self, err: &rusqlite::Error) -> Error {
        let kind = err.sqlite_error().map(|failure| failure.extended_code);
        let said = one_line(err);
        match kind {
            Some(
                ffi::SQLITE_CONSTRAINT_UNIQUE
                | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                | ffi::SQLITE_CONSTRAINT_ROWID,
            ) => Error::Conflict {
                what: format!("a key in {self} ({said})"),
                holder: "the row that is there already".into(),
            },
            Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => Error::NotFound {
                what: format!("row of the one that refers to it: {self} ({said})"),
            },
            _ => Error::invalid(format!("a value for {self}"), format!("is refused: {said}")),
        }
    }

    fn corrupt(&self, err: &rusqlite::Error, advice: &str) -> Error {
        Error::Corrupt { what: self.to_string(), detail: format!("{} ({advice})", one_line(err)) }
    }

    fn unavailable(&self, advice: String, source: rusqlite::Error) -> Error {
        Error::unavailable(self.to_string())(Advised { advice, source })
    }

    fn writable_help(&self) -> String {
        match self {
            Self::File(path) => format!(
                "mount its file system for writing, and give this user the file and its folder: chown \"$USER\" {0}*",
                path.display()
            ),
            Self::Memory => "report this: a database in memory is never read-only".into(),
        }
    }

    fn who_holds(&self) -> String {
        match self {
            Self::File(path) => format!("`fuser {}` names it", path.display()),
            Self::Memory => "try again".into(),
        }
    }
}

/// The message with its causes, as a detail.
fn one_line(err: &rusqlite::Error) -> String {
    err.to_string().replace('\n', " ")
}
