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
            // Rolled back by the server: it could not serialize, or there was a deadlock.
            Some("40001" | "40P01") => Retry::Now,
            _ if *phase == Phase::Before && self.broke_connection() => Retry::Now,
            _ => Retry::Never,
        }
    }

    /// The connection broke while the transaction was being committed: it may be there or not. One that an administrator
    /// ended (57P01) may have been waiting for a standby, with its commit already done.
    pub(super) fn is_uncertain(&self) -> bool {
        let Self::Sql(err, Phase::Commit) = self else { return false };
        // A server that only reads has refused; one that ended an idle session had not been asked to commit.
        broke_connection(err) && !matches!(code(err).as_deref(), Some("25006" | "25P03"))
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

    /// Its time was over before its turn came.
    pub(super) fn overtaken(&self) -> Error {
        Error::unavailable(self.to_string())("too much is waiting to be added: nothing was begun")
    }

    /// What went wrong in one part of the work.
    pub(super) fn within(&self, part: &str, err: sqlx::Error) -> Error {
        match self.explain_sql(err) {
            Error::Unavailable { what, source } => {
                Error::Unavailable { what: format!("{part} of {what}"), source }
            }
            Error::Conflict { what, holder } => {
                Error::Conflict { what: format!("{part}: {what}"), holder }
            }
            Error::NotFound { what } => Error::NotFound { what: format!("{what} ({part})") },
            Error::InvalidConfig { key, rule } => {
                Error::InvalidConfig { key: format!("{part}: {key}"), rule }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error as StdError};

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// What a server says, by its code alone.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str);

    impl DatabaseError for Said {
        fn message(&self) -> &str {
            self.0
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }
        fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn said(code: &'static str, phase: Phase) -> Failure {
        Failure::sql(sqlx::Error::Database(Box::new(Said(code))), phase)
    }

    #[test]
    fn only_what_was_surely_rolled_back_is_run_again() {
        use Phase::{Before, Commit};
        use Retry::{Never, Now};
        // What may have been committed is neither run again nor called undone.
        for (code, phase, retry, uncertain) in [
            ("40001", Before, Now, false),
            ("40001", Commit, Now, false),
            ("40P01", Commit, Now, false),
            ("57P01", Before, Now, false),
            ("57P01", Commit, Never, true),
            ("57P02", Commit, Never, true),
            ("08006", Before, Now, false),
            ("08006", Commit, Never, true),
            ("25006", Commit, Never, false),
            ("25P03", Before, Now, false),
            ("25P03", Commit, Never, false),
            ("57014", Commit, Never, false),
            ("23505", Before, Never, false),
            ("23505", Commit, Never, false),
        ] {
            let failure = said(code, phase);
            assert_eq!(
                (failure.retry(), failure.is_uncertain()),
                (retry, uncertain),
                "{code} {phase:?}"
            );
        }
        let cut = |phase| Failure::sql(sqlx::Error::Io(io::ErrorKind::UnexpectedEof.into()), phase);
        assert_eq!((cut(Before).retry(), cut(Before).is_uncertain()), (Now, false));
        assert_eq!((cut(Commit).retry(), cut(Commit).is_uncertain()), (Never, true));
    }
}
