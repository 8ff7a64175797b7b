//! `sqlx::Error` becomes [`Error`] here, once, with the server's name and what to do next.

use std::{borrow::Cow, fmt, io, time::Duration};

use sqlx::postgres::PgConnectOptions;

use crate::Error;

/// Which database it is, as messages name it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// What it is to this program.
    what: &'static str,
    name: String,
    user: String,
    database: String,
    by_socket: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.name)
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
    pub(crate) fn new(what: &'static str, options: &PgConnectOptions) -> Self {
        let user = options.get_username().to_owned();
        let database = options.get_database().unwrap_or(&user).to_owned();
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let name = format!("postgres://{user}@{host}:{}/{database}", options.get_port());
        Self {
            what,
            name,
            user,
            database,
            by_socket: options.get_socket().is_some() || options.get_host().starts_with('/'),
        }
    }

    pub(crate) fn explain_sql(&self, err: sqlx::Error) -> Error {
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
                    "the Postgres URL",
                    "names a file for sslrootcert, sslcert or sslkey that is not there",
                )
            }
            sqlx::Error::Configuration(source) => {
                Error::invalid("the Postgres URL", format!("cannot be used: {}", chain(&*source)))
            }
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

    /// Nothing came back.
    pub(crate) fn silent(&self, waited: Duration) -> Error {
        Error::Unavailable {
            what: self.to_string(),
            source: format!("no answer for {waited:?}: look at the network and at the server")
                .into(),
        }
    }

    /// A write that may have taken effect, because of `why`.
    pub(crate) fn uncertain(&self, why: Error) -> Error {
        let source = match why {
            Error::Unavailable { source, .. } => source,
            other => other.into(),
        };
        Error::Uncertain { what: self.to_string(), source }
    }

    /// What came of a COMMIT that did not answer with success.
    pub(crate) fn explain_commit(&self, err: sqlx::Error) -> Error {
        // A standby, or a session that was silent for too long, says itself that nothing was committed.
        let undone = matches!(code(&err).as_deref(), Some("25006" | "25P03"));
        let uncertain = broke_connection(&err) && !undone;
        let err = self.explain_sql(err);
        if uncertain { self.uncertain(err) } else { err }
    }

    fn unavailable(&self, advice: impl Into<String>, source: sqlx::Error) -> Error {
        Error::unavailable(self.to_string())(Advised { advice: advice.into(), source })
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(err: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(err), |err| err.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ").replace('\n', " ")
}

/// The server's five letters for what happened (Postgres manual, appendix A).
pub(crate) fn code(err: &sqlx::Error) -> Option<String> {
    err.as_database_error().and_then(sqlx::error::DatabaseError::code).map(Cow::into_owned)
}

/// Nothing more can be done on the connection that answered so.
pub(crate) fn broke_connection(err: &sqlx::Error) -> bool {
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
pub(crate) fn is_about_data(code: &str) -> bool {
    ["22", "23", "54"].iter().any(|class| code.starts_with(class))
}
