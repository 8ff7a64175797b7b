//! `sqlx::Error` becomes [`Error`] here, once, with the server's name and what to do next.

use std::{borrow::Cow, fmt, io, time::Duration};

use sqlx::postgres::PgConnectOptions;

use crate::Error;

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

/// The server's five letters for what happened (Postgres manual, appendix A).
pub(super) fn code(err: &sqlx::Error) -> Option<String> {
    err.as_database_error().and_then(sqlx::error::DatabaseError::code).map(Cow::into_owned)
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

/// Nothing more can be done on the connection that answered so.
pub(super) fn broke_connection(err: &sqlx::Error) -> bool {
    match code(err) {
        // 25006: the server has become a standby; 25P03 and 57P01 to 57P05: it ends its sessions.
        Some(code) => {
            code.starts_with("57P")
                || code.starts_with("08")
                || matches!(code.as_str(), "25006" | "25P03")
        }
        None => {
            matches!(
                err,
                sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed
            )
        }
    }
}

/// Refused for what it holds, again and again: a value that does not fit (22), a constraint (23), a limit (54).
pub(super) fn is_about_data(code: &str) -> bool {
    ["22", "23", "54"].iter().any(|class| code.starts_with(class))
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

/// Which database it is, as messages name it.
#[derive(Clone, Debug)]
pub(in crate::store) struct Place {
    name: String,
    user: String,
    database: String,
    by_socket: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store {}", self.name)
    }
}

/// What the operator should do, in front of what the server or the driver said.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
struct Advised {
    advice: String,
    #[source]
    source: sqlx::Error,
}

impl Place {
    pub(super) fn new(options: &PgConnectOptions) -> Self {
        let user = options.get_username().to_owned();
        let database = options.get_database().unwrap_or(&user).to_owned();
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let name = format!("postgres://{user}@{host}:{}/{database}", options.get_port());
        Self {
            name,
            user,
            database,
            by_socket: options.get_socket().is_some() || options.get_host().starts_with('/'),
        }
    }

    /// The crate's error for `failure`.
    pub(super) fn explain(&self, failure: Failure) -> Error {
        let uncertain = failure.is_uncertain();
        match failure {
            Failure::Refused(err) => err,
            Failure::Sql(err, _) if uncertain => self.uncertain(self.explain_sql(err)),
            Failure::Sql(err, _) => self.explain_sql(err),
        }
    }

    pub(in crate::store) fn explain_sql(&self, err: sqlx::Error) -> Error {
        if let Some(code) = code(&err) {
            return self.explain_code(&code, err);
        }
        match err {
            sqlx::Error::Tls(source) => self.untrusted(&*source),
            // What is wrong with a certificate comes as bytes that cannot be right.
            sqlx::Error::Io(ref io) if io.kind() == io::ErrorKind::InvalidData => {
                self.untrusted(io)
            }
            sqlx::Error::Io(ref io) if io.kind() == io::ErrorKind::NotFound && !self.by_socket => {
                Error::invalid(
                    "the URL of the Postgres store",
                    "names a file for sslrootcert, sslcert or sslkey that is not there",
                )
            }
            sqlx::Error::Configuration(source) => Error::invalid(
                "the URL of the Postgres store",
                format!("cannot be used: {}", chain(&*source)),
            ),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Error::Corrupt { what: self.to_string(), detail: err.to_string() }
            }
            sqlx::Error::Encode(source) => {
                let rule = format!("cannot be sent: {}", chain(&*source));
                Error::invalid(format!("a value for {self}"), rule)
            }
            sqlx::Error::Io(ref io) => {
                let advice = match io.kind() {
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                        "no server listens there: start it, or mend host and port (pg_isready tells)"
                    }
                    io::ErrorKind::PermissionDenied => "this user may not use its socket",
                    _ => "the connection broke",
                };
                self.unavailable(advice, err)
            }
            err => self.unavailable("it gave no usable answer", err),
        }
    }

    fn untrusted(&self, why: &(dyn std::error::Error + 'static)) -> Error {
        Error::Denied {
            what: format!("{self} has no trusted certificate ({})", chain(why)),
            help: "name its authority with ?sslrootcert=FILE, or the host as its certificate does; ?sslmode=disable only on a network that you trust".into(),
        }
    }

    fn explain_code(&self, code: &str, err: sqlx::Error) -> Error {
        let denied = |help: String| Error::Denied { what: format!("{self}: {err}"), help };
        match code {
            "28P01" | "28000" => denied(format!(
                "mend the password or pg_hba.conf; psql -U {} {} tells when it works",
                self.user, self.database
            )),
            "3D000" => Error::NotFound {
                what: format!("database `{0}` for {self}; make it: createdb -O {1} {0}", self.database, self.user),
            },
            "42501" | "3F000" => denied(format!(
                "give {0} the database: ALTER DATABASE {1} OWNER TO {0}; ALTER SCHEMA public OWNER TO {0}",
                self.user, self.database
            )),
            "57014" => self.unavailable("a statement took longer than its time-out and was ended: nothing was changed", err),
            "55P03" => self.unavailable("another session keeps one of its tables locked: end it (pg_stat_activity names it), and try again", err),
            "53300" => self.unavailable("the server has no connection left: raise its max_connections, or lower store.connections", err),
            "53100" => self.unavailable("the server's disk is full: free some space there; nothing that was acknowledged is lost", err),
            "57P03" => self.unavailable("the server is starting or stopping: it goes on by itself", err),
            "25006" => self.unavailable("the server only reads (a standby, or default_transaction_read_only): name the primary", err),
            code if code.starts_with("57P") => self.unavailable("the server has ended the connection: it goes on by itself", err),
            code if is_about_data(code) => self.refused(code, &err),
            "XX001" | "XX002" => Error::Corrupt { what: self.to_string(), detail: err.to_string() },
            _ => self.unavailable("it refused the statement", err),
        }
    }

    /// A statement that will never succeed, with the table and constraint that refused it.
    fn refused(&self, code: &str, err: &sqlx::Error) -> Error {
        let said = err.as_database_error();
        let table = said.and_then(|said| said.table());
        let constraint = said.and_then(|said| said.constraint());
        let place = match (table, constraint) {
            (Some(table), Some(name)) => format!("table `{table}` (constraint `{name}`) of {self}"),
            (Some(table), None) => format!("table `{table}` of {self}"),
            _ => self.to_string(),
        };
        match code {
            "23505" => Error::Conflict {
                what: format!("a key in {place}"),
                holder: "the row that is there already".into(),
            },
            "23503" => {
                Error::NotFound { what: format!("row of the one that refers to it: {place}") }
            }
            _ => Error::invalid(format!("a value for {place}"), format!("is refused: {err}")),
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

    /// Nothing came back.
    pub(super) fn silent(&self, waited: Duration) -> Error {
        Error::Unavailable {
            what: self.to_string(),
            source: format!("no answer for {waited:?}: look at the network and at the server")
                .into(),
        }
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

    /// A write that may have taken effect, because of `why`.
    pub(super) fn uncertain(&self, why: Error) -> Error {
        let source = match why {
            Error::Unavailable { source, .. } => source,
            other => other.into(),
        };
        Error::Uncertain { what: self.to_string(), source }
    }

    fn unavailable(&self, advice: impl Into<String>, source: sqlx::Error) -> Error {
        Error::unavailable(self.to_string())(Advised { advice: advice.into(), source })
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(err: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(err), |err| err.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;

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
