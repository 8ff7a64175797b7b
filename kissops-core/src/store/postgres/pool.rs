//! Connections to one server: opened when they are needed, kept while they are good, dropped when in doubt.
//!
//! Not sqlx's pool, which takes a connection back whatever was going on: one whose `BEGIN` was cancelled stays inside a
//! transaction that nobody commits, one whose server is silent is waited for without an end, and a call that got none
//! is not told why.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{PostgresOptions, fault::comes_back};
use crate::{
    Error, Result,
    pg::{Place, chain},
    store::PoolStatus,
};

/// An idle connection is asked whether it still lives when it has been idle for longer.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// What has been idle for longer is closed,
const KEPT_IDLE: Duration = Duration::from_mins(10);
/// and what has lived for longer: a name may point to another server by now.
const LIFE: Duration = Duration::from_mins(30);
/// Between attempts to reach a server that is away: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(200)];

const CLOSED: Error = Error::Closed { what: "the store" };

pub(super) struct Pool {
    options: PgConnectOptions,
    place: Place,
    limit: u32,
    patience: Duration,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    exhausted: AtomicU64,
}

#[derive(Default)]
struct State {
    /// The one that was used last is at the end.
    idle: Vec<Idle>,
    in_use: u32,
    /// A connection broke then: those that have been idle since before are asked.
    doubted: Option<Instant>,
    /// Why the latest attempt to connect did not work, until one does.
    refused: Option<String>,
    closed: bool,
}

struct Idle {
    conn: PgConnection,
    born: Instant,
    since: Instant,
}

/// A connection in use. Unless it is [given back](Self::give_back), dropping it closes it: only who saw its last
/// statement end knows that it is inside none.
pub(super) struct Lease {
    pub(super) conn: PgConnection,
    born: Instant,
    turn: Turn,
}

/// The right to use one connection.
struct Turn {
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.place).field(&self.status()).finish()
    }
}

impl Pool {
    pub(super) fn new(connect: PgConnectOptions, place: Place, options: &PostgresOptions) -> Self {
        Self {
            options: connect,
            place,
            limit: options.connections,
            patience: options.connect_timeout,
            permits: Arc::new(Semaphore::new(options.connections as usize)),
            state: Mutex::default(),
            exhausted: AtomicU64::new(0),
        }
    }

    pub(super) fn status(&self) -> PoolStatus {
        let state = self.lock();
        let idle = u32::try_from(state.idle.len()).unwrap_or(u32::MAX);
        PoolStatus {
            open: state.in_use + idle,
            idle,
            limit: self.limit,
            exhausted: self.exhausted.load(Ordering::Relaxed),
        }
    }

    /// A connection that was good a moment ago. While the server is away, it is waited for.
    ///
    /// # Errors
    /// What keeps it from being had within the `connect_timeout`.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Lease> {
        let deadline = Instant::now() + self.patience;
        if self.lock().closed {
            return Err(CLOSED);
        }
        let permit = match timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| CLOSED)?,
            Err(_) => return Err(self.why_all_are_taken()),
        };
        while let Some(mut idle) = self.pop_idle() {
            if !self.is_doubtful(&idle) || self.lives(&mut idle.conn).await {
                return Ok(self.lease(idle.conn, idle.born, permit));
            }
            // What happened to the one that was used last has happened to the others.
            self.lock().idle.clear();
        }
        let conn = self.connect(deadline).await?;
        Ok(self.lease(conn, Instant::now(), permit))
    }

    /// A connection of the caller's own, whose statements may take as long as they need.
    ///
    /// # Errors
    /// As [`Pool::acquire`].
    pub(super) async fn connect_unlimited(&self) -> Result<PgConnection> {
        let options = self.options.clone().options([("statement_timeout", "0")]);
        match timeout(self.patience, PgConnection::connect_with(&options)).await {
            Ok(connected) => connected.map_err(|err| self.place.explain_sql(err)),
            Err(_) => Err(self.place.silent(self.patience)),
        }
    }

    /// A connection has broken: the idle ones may have as well.
    pub(super) fn doubt(&self) {
        self.lock().doubted = Some(Instant::now());
    }

    /// Refuses further calls, waits for those that run, and says good-bye on every connection.
    pub(super) async fn close(&self) {
        self.lock().closed = true;
        let all = self.permits.acquire_many(self.limit).await;
        self.permits.close();
        let idle = std::mem::take(&mut self.lock().idle);
        for one in idle {
            // It is going away either way.
            let _ = timeout(self.patience, one.conn.close()).await;
        }
        drop(all);
    }

    fn lease(
        self: &Arc<Self>,
        conn: PgConnection,
        born: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Lease {
        self.lock().in_use += 1;
        Lease { conn, born, turn: Turn { pool: Arc::clone(self), _permit: permit } }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last; those that are too old are closed on the way.
    fn pop_idle(&self) -> Option<Idle> {
        let mut state = self.lock();
        state.idle.retain(|one| one.since.elapsed() < KEPT_IDLE && one.born.elapsed() < LIFE);
        state.idle.pop()
    }

    fn is_doubtful(&self, idle: &Idle) -> bool {
        let broken_since = self.lock().doubted.is_some_and(|at| at >= idle.since);
        broken_since || idle.since.elapsed() > TRUSTED_IDLE
    }

    async fn lives(&self, conn: &mut PgConnection) -> bool {
        matches!(timeout(self.patience / 4, conn.ping()).await, Ok(Ok(())))
    }

    async fn connect(&self, deadline: Instant) -> Result<PgConnection> {
        let [mut pause, longest] = PAUSES;
        loop {
            let attempt = timeout_at(deadline, PgConnection::connect_with(&self.options)).await;
            let err = match attempt {
                Ok(Ok(conn)) => {
                    self.lock().refused = None;
                    return Ok(conn);
                }
                Ok(Err(err)) => err,
                // Whatever refused it before says more than the end of the wait.
                Err(_) => return Err(self.why_not_connected()),
            };
            let passes = comes_back(&err);
            let err = self.place.explain_sql(err);
            if let Error::Unavailable { source, .. } = &err {
                self.lock().refused = Some(chain(&**source));
            }
            if !passes || Instant::now() + pause >= deadline {
                return Err(err);
            }
            sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }

    fn why_not_connected(&self) -> Error {
        match self.lock().refused.clone() {
            Some(why) => Error::unavailable(self.place.to_string())(why),
            None => self.place.silent(self.patience),
        }
    }

    /// In use by those who work, or by those who try in vain to connect.
    fn why_all_are_taken(&self) -> Error {
        if self.lock().in_use < self.limit {
            return self.why_not_connected();
        }
        self.exhausted.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(limit = self.limit, "all connections of the store are in use");
        self.place.exhausted(self.limit, self.patience)
    }
}

impl Lease {
    /// For the next one. What was begun on it has to have ended.
    pub(super) fn give_back(self) {
        let Self { conn, born, turn } = self;
        turn.pool.lock().idle.push(Idle { conn, born, since: Instant::now() });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pool.lock().in_use -= 1;
    }
}
