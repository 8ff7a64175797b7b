//! [`Store`](crate::store::Store) in a Postgres database: a pool of connections, one transaction a call.
//!
//! An acknowledged write has been committed with `synchronous_commit`, so neither a killed process nor a killed server
//! loses it. A call whose connection breaks before its transaction is committed is made again on another connection. One
//! that breaks while it commits answers [`Error::Uncertain`]: nobody knows then, except for appends, which can tell.
//!
//! Works through a pooler in transaction mode (`PgBouncer`), if that lets `statement_timeout` pass as a start-up
//! parameter (`ignore_startup_parameters` would drop it) and keeps prepared statements (1.21 or later).

use std::{fmt, sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::Row as _;
use tokio::time::{sleep, timeout};

use self::{
    append::Appender,
    fault::{Failure, Retry},
    pool::Pool,
};
use super::{
    PoolStatus,
    sql::{Answer, Append, Batch, Engine, Row, Statement},
};
use crate::{
    Error, Result,
    id::RecordId,
    pg::{self, Place, url},
};

mod append;
mod fault;
mod maintenance;
mod migrate;
mod pool;
mod run;
#[cfg(test)]
mod tests;

/// How often a transaction is run again that provably did nothing: a deadlock, a connection that was cut before.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; before each further one twice as long as before the last.
const PAUSE: Duration = Duration::from_millis(2);

/// How a [`PostgresStore`] uses its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresOptions {
    /// Connections at once, at most; 1 to 1000.
    pub connections: u32,
    /// How long a call waits for a connection, a new one included.
    pub connect_timeout: Duration,
    /// How long the server may take for one statement.
    pub statement_timeout: Duration,
}

impl Default for PostgresOptions {
    /// Ten connections, 5 s to get one, 30 s for a statement.
    fn default() -> Self {
        Self {
            connections: 10,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

/// All state in one Postgres database.
///
/// ```no_run
/// # async fn open() -> kissops_core::Result<()> {
/// use kissops_core::store::{InstanceStore, postgres::{PostgresOptions, PostgresStore}};
/// let url = std::env::var("DATABASE_URL").unwrap_or_default().into();
/// let store = PostgresStore::connect(&url, PostgresOptions::default()).await?;
/// assert!(store.instances().await?.is_empty());
/// # Ok(())
/// # }
/// ```
pub struct PostgresStore {
    pool: Arc<Pool>,
    place: Place,
    options: PostgresOptions,
    appender: Appender,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("place", &self.place)
            .field("pool", &self.pool.status())
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects to the database of `url` and brings its schema up to date.
    ///
    /// The URL is libpq's: `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`, or a socket by
    /// `?host=/run/postgresql`. Without an `sslmode`, a server that is not on this machine must show a certificate for its
    /// name that a known authority has signed (`verify-full`).
    ///
    /// # Errors
    /// - [`Error::InvalidConfig`] for a URL that is none; [`Error::NotFound`] if there is no such database.
    /// - [`Error::Denied`] for a wrong password, missing rights, or a certificate that is not trusted.
    /// - [`Error::WrongState`] if it is another program's database, newer than this program, or may lose commits.
    /// - [`Error::Unavailable`] if the server does not answer within `connect_timeout`.
    pub async fn connect(url: &SecretString, options: PostgresOptions) -> Result<Self> {
        if !(1..=1000).contains(&options.connections) {
            return Err(Error::invalid("store.connections", "must be 1 to 1000"));
        }
        let shortest = Duration::from_millis(1);
        if options.connect_timeout < shortest || options.statement_timeout < shortest {
            return Err(Error::invalid("a time-out of the store", "must be 1 ms or more"));
        }
        let connect = url::parse(url.expose_secret(), options.statement_timeout)?;
        let place = Place::new("the store", &connect);
        let pool = Arc::new(Pool::new(connect, place.clone(), &options));
        let appender = Appender::new(Arc::clone(&pool), place.clone(), &options);
        let store = Self { pool, place, options, appender };
        let mut lease = store.pool.acquire().await?;
        let migrated = migrate::migrate(&mut lease.conn, &store.place, store.patience()).await;
        migrated.map_err(|failure| store.place.explain(failure))?;
        lease.give_back();
        Ok(store)
    }

    /// How the connections are used at this moment.
    #[must_use]
    pub fn pool_status(&self) -> PoolStatus {
        self.pool.status()
    }

    /// Closes all connections, once what is running has ended. Calls from then on answer [`Error::Closed`].
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// How long a call may take on one connection. The server ends a statement at its time-out; this is for a network,
    /// or a server, that has stopped to answer.
    fn patience(&self) -> Duration {
        self.options.statement_timeout + self.options.connect_timeout
    }

    /// Runs `work` until it has worked, or failed in a way that another attempt would not mend.
    async fn attempts<T>(&self, work: impl AsyncWork<T>) -> Result<T> {
        let (mut attempt, mut pause) = (1, PAUSE);
        loop {
            let mut lease = self.pool.acquire().await?;
            let failure = match timeout(self.patience(), work.run(&mut lease.conn)).await {
                Ok(Ok(done)) => {
                    lease.give_back();
                    return Ok(done);
                }
                Ok(Err(Failure::Refused(err))) => {
                    lease.give_back();
                    return Err(err);
                }
                Ok(Err(failure)) => failure,
                Err(_) => {
                    self.pool.doubt();
                    return Err(work.unanswered(&self.place, self.patience()));
                }
            };
            // It may be inside a transaction still, so it is not given back.
            drop(lease);
            if failure.broke_connection() {
                self.pool.doubt();
            }
            if attempt == ATTEMPTS || failure.retry() == Retry::Never {
                return Err(self.place.explain(failure));
            }
            tracing::debug!(attempt, error = %failure, "the store runs a transaction again");
            // Time for whoever it met to be done.
            sleep(pause).await;
            attempt += 1;
            pause *= 2;
        }
    }
}

/// The version of the schema in the database, without any change to it; `None` where there is none.
pub(super) async fn schema_version(url: &SecretString) -> Result<Option<u32>> {
    let (mut conn, place) = pg::connect("the store", url).await?;
    let look = async {
        let there = "SELECT to_regclass('schema_migrations') IS NOT NULL";
        if !sqlx::query(there).fetch_one(&mut conn).await?.try_get::<bool, _>(0)? {
            return Ok(None);
        }
        let newest = "SELECT max(version) FROM schema_migrations";
        sqlx::query(newest).fetch_one(&mut conn).await?.try_get::<Option<i64>, _>(0)
    };
    let found = look.await.map_err(|err| place.explain_sql(err))?;
    Ok(found.map(|version| u32::try_from(version).unwrap_or(u32::MAX)))
}

/// What can be run on one connection after the other. A closure cannot say that its future is `Send`.
trait AsyncWork<T>: Sync {
    fn run(&self, conn: &mut sqlx::PgConnection)
    -> impl Future<Output = Result<T, Failure>> + Send;

    /// What to say when no answer came.
    fn unanswered(&self, place: &Place, waited: Duration) -> Error;
}

impl AsyncWork<Vec<Row>> for Statement {
    async fn run(&self, conn: &mut sqlx::PgConnection) -> Result<Vec<Row>, Failure> {
        run::query(conn, self).await
    }

    fn unanswered(&self, place: &Place, waited: Duration) -> Error {
        place.silent(waited)
    }
}

impl AsyncWork<Vec<Answer>> for Batch {
    async fn run(&self, conn: &mut sqlx::PgConnection) -> Result<Vec<Answer>, Failure> {
        run::batch(conn, self).await
    }

    fn unanswered(&self, place: &Place, waited: Duration) -> Error {
        place.uncertain(place.silent(waited))
    }
}

impl Engine for PostgresStore {
    fn place(&self) -> String {
        self.place.to_string()
    }

    async fn read(&self, statement: Statement) -> Result<Vec<Row>> {
        self.attempts(statement).await
    }

    async fn write(&self, batch: Batch) -> Result<Vec<Answer>> {
        self.attempts(batch).await
    }

    async fn append(&self, rows: Append) -> Result<Vec<RecordId>> {
        if rows.rows.is_empty() {
            return Ok(Vec::new());
        }
        self.appender.append(rows).await
    }
}
