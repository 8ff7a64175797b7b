//! How a transaction failed, and whether it may be run again.

use std::{fmt, io, time::Duration};

use crate::{
    Error,
    pg::{Place, broke_connection, code},
};

/// How far a transaction was when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It cannot have taken effect.
    Before,
    /// It was being committed.
    Commit,
}

/// Whether the same call may be made again by the store itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// It did nothing, and may work.
    Now,
    Never,
}

/// Why a call did not work.
#[derive(Debug)]
pub(super) enum Failure {
    Sql(sqlx::Error, Phase),
    /// The request itself is refused: there is one already, there is none.
    Refused(Error),
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        Self::Refused(err)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(err, _) => err.fmt(f),
            Self::Refused(err) => err.fmt(f),
        }
    }
}

impl Failure {
    pub(super) fn sql(err: sqlx::Error, phase: Phase) -> Self {
        Self::Sql(err, phase)
    }

    /// Nothing more can be done on this connection.
    pub(super) fn broke_connection(&self) -> bool {
        matches!(self, Self::Sql(err, _) if broke_connection(err))
    }

    pub(super) fn retry(&self) -> Retry {
        let Self::Sql(err, phase) = self else { return Retry::Never };
        match code(err).as_deref() {
            // Rolled back by the server: could not serialize, deadlock, ended by the administrator.
            Some("40001" | "40P01" | "57P01") => Retry::Now,
            _ if *phase == Phase::Before && self.broke_connection() => Retry::Now,
            _ => Retry::Never,
        }
    }

    /// The connection broke while the transaction was being committed: it may be there or not.
    pub(super) fn is_uncertain(&self) -> bool {
        matches!(self, Self::Sql(_, Phase::Commit)) && self.broke_connection()
    }
}

/// A server that cannot be connected to now, and may be in a moment: it is being started, restarted or is full.
pub(super) fn comes_back(err: &sqlx::Error) -> bool {
    match err {
        sqlx::Error::Io(err) => {
            !matches!(err.kind(), io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied)
        }
        err => code(err).is_some_and(|code| code.starts_with("57P") || code == "53300"),
    }
}

impl Place {
    /// The crate's error for `failure`.
    pub(super) fn explain(&self, failure: Failure) -> Error {
        let uncertain = failure.is_uncertain();
        match failure {
            Failure::Refused(err) => err,
            Failure::Sql(err, _) if uncertain => self.uncertain(self.explain_sql(err)),
            Failure::Sql(err, _) => self.explain_sql(err),
        }
    }

    /// Every connection is in use.
    pub(super) fn exhausted(&self, limit: u32, waited: Duration) -> Error {
        Error::Unavailable {
            what: self.to_string(),
            source: format!(
                "all {limit} connections were in use for {waited:?}: raise store.connections, or look why statements take so long"
            )
            .into(),
        }
    }

    /// What went wrong in one part of the work.
    pub(super) fn within(&self, part: &str, err: sqlx::Error) -> Error {
        match self.explain_sql(err) {
            Error::Unavailable { what, source } => {
                Error::Unavailable { what: format!("{part} of {what}"), source }
            }
            other => other,
        }
    }
}
