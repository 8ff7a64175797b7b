//! The one writer: a thread that owns the connection and lets concurrent writes share a transaction.

use std::{
    hash::{BuildHasher as _, RandomState},
    thread,
};

use rusqlite::{Connection, ErrorCode, ffi};
use tokio::sync::{mpsc, oneshot};

use super::fault::{Failure, Place};
use crate::{
    Error, Result, clock,
    id::{IdMaker, RecordId},
    store::sql::Durability,
};

/// Writes that share a transaction, at most. More would make the first of them wait for the last.
const GROUP: usize = 256;

/// A transaction as a job sees it.
pub(super) struct Transaction<'a> {
    /// The connection, inside the transaction.
    pub(super) conn: &'a Connection,
    ids: &'a mut Ids,
}

impl Transaction<'_> {
    /// The next id of a record, larger than any before.
    pub(super) fn next_id(&mut self) -> RecordId {
        self.ids.next()
    }
}

/// Something to be written. It may run twice: a transaction that did not work out is tried again without its neighbours.
pub(super) trait Job: Send {
    fn durability(&self) -> Durability;
    /// Runs it and keeps the answer. Whatever the outcome, nothing is rolled back yet.
    fn run(&mut self, tx: &mut Transaction<'_>) -> Outcome;
    /// Sends the answer, or `lost` if the transaction was.
    fn answer(self: Box<Self>, place: &Place, lost: Option<&Lost>);
}

/// How one job of a transaction went.
pub(super) enum Outcome {
    Done,
    /// The request is refused; the database is fine.
    Refused,
    /// The database could not.
    Failed(ffi::Error),
}

/// A transaction that was not committed, in a form that each waiter can be told.
pub(super) struct Lost {
    code: ffi::Error,
    message: Option<String>,
}

impl Lost {
    fn error(&self) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(self.code, self.message.clone())
    }
}

impl From<rusqlite::Error> for Lost {
    fn from(err: rusqlite::Error) -> Self {
        match err {
            rusqlite::Error::SqliteFailure(code, message) => Self { code, message },
            other => {
                Self { code: ffi::Error::new(ffi::SQLITE_ERROR), message: Some(other.to_string()) }
            }
        }
    }
}

struct Write<T, F> {
    durability: Durability,
    run: F,
    result: Option<Result<T, Failure>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Job for Write<T, F>
where
    T: Send,
    F: Fn(&mut Transaction<'_>) -> Result<T, Failure> + Send,
{
    fn durability(&self) -> Durability {
        self.durability
    }

    fn run(&mut self, tx: &mut Transaction<'_>) -> Outcome {
        let result = (self.run)(tx);
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(Failure::Sql(rusqlite::Error::SqliteFailure(err, _))) => Outcome::Failed(*err),
            Err(_) => Outcome::Refused,
        };
        self.result = Some(result);
        outcome
    }

    fn answer(self: Box<Self>, place: &Place, lost: Option<&Lost>) {
        let result = match (self.result, lost) {
            (Some(Ok(_)) | None, Some(lost)) => Err(place.explain_sql(lost.error())),
            (Some(result), _) => result.map_err(|failure| place.explain(failure)),
            (None, None) => Err(Error::Closed { what: "the store" }),
        };
        // Nobody waits any more where the caller was dropped.
        let _ = self.reply.send(result);
    }
}

type Alone = dyn FnOnce(&Connection, &Place) + Send;

/// What the thread is asked for.
enum Task {
    /// To be written together with others.
    Write(Box<dyn Job>),
    /// What no transaction may be around.
    Alone(Box<Alone>),
}

/// The writing side of a store. Dropping it lets the queue drain, closes the connection and joins the thread.
#[derive(Debug)]
pub(super) struct Writer {
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Io`] if there can be no further thread.
    pub(super) fn start(conn: Connection, place: Place) -> Result<Self> {
        let (tasks, queue) = mpsc::channel(GROUP);
        let maker = IdMaker::new(RandomState::new().hash_one(std::process::id()));
        // No mark is negative: the first transaction reads it.
        let ids = Ids { maker, given: 0, reserved: -1 };
        let thread = thread::Builder::new()
            .name("kissops-store".into())
            // The deepest statement needs far less; the rest of a larger stack would only be reserved.
            .stack_size(512 << 10)
            .spawn(move || Loop { conn, place, ids, synced: Durability::Process }.run(queue))
            .map_err(Error::io("start the thread of the store"))?;
        Ok(Self { tasks: Some(tasks), thread: Some(thread) })
    }

    /// Runs `run` in a transaction and answers once that is committed.
    ///
    /// # Cancel safety
    /// A dropped call that got into the queue takes effect, whole; one that did not does nothing.
    pub(super) async fn write<T, F>(&self, durability: Durability, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    {
        const CLOSED: Error = Error::Closed { what: "the store" };
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Write { durability, run, result: None, reply });
        self.tasks.as_ref().ok_or(CLOSED)?.send(Task::Write(job)).await.map_err(|_| CLOSED)?;
        answer.await.map_err(|_| CLOSED)?
    }

    /// Runs `run` outside of any transaction, while nothing is written.
    ///
    /// # Cancel safety
    /// As [`Writer::write`].
    pub(super) async fn alone<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        const CLOSED: Error = Error::Closed { what: "the store" };
        let (reply, answer) = oneshot::channel();
        let task = Task::Alone(Box::new(move |conn, place| {
            let _ = reply.send(run(conn).map_err(|err| place.explain_sql(err)));
        }));
        self.tasks.as_ref().ok_or(CLOSED)?.send(task).await.map_err(|_| CLOSED)?;
        answer.await.map_err(|_| CLOSED)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the host's hook; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

/// What keeps a job that is refused from taking its neighbours with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// Nothing: the transaction is rolled back and run again.
    Nothing,
    /// A savepoint around each job.
    Savepoints,
}

/// How a transaction ended that did not fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Committed,
    /// One of its unguarded jobs was refused.
    RolledBack,
}

struct Loop {
    conn: Connection,
    place: Place,
    ids: Ids,
    synced: Durability,
}

impl Loop {
    fn run(mut self, mut queue: mpsc::Receiver<Task>) {
        let (mut tasks, mut group) = (Vec::new(), Vec::new());
        while queue.blocking_recv_many(&mut tasks, GROUP) > 0 {
            for task in tasks.drain(..) {
                match task {
                    Task::Write(job) => group.push(job),
                    Task::Alone(run) => {
                        self.commit_group(&mut group);
                        run(&self.conn, &self.place);
                    }
                }
            }
            self.commit_group(&mut group);
        }
    }

    /// Commits `group` in one transaction; where one of them spoils it for all, each alone.
    fn commit_group(&mut self, group: &mut Vec<Box<dyn Job>>) {
        if group.is_empty() {
            return;
        }
        let lost = match self.try_group(group) {
            Ok(()) => None,
            // The one that does not fit must not fail those that do. After any other failure the disk is not to be
            // trusted with a second try: a repeated fsync may report success for pages that were dropped.
            Err(lost) if lost.code.code == ErrorCode::DiskFull && group.len() > 1 => {
                for job in group.drain(..) {
                    let mut alone = vec![job];
                    let lost = self.try_group(&mut alone).err();
                    self.answer(&mut alone, lost.as_ref());
                }
                return;
            }
            Err(lost) => Some(lost),
        };
        self.answer(group, lost.as_ref());
    }

    fn answer(&self, group: &mut Vec<Box<dyn Job>>, lost: Option<&Lost>) {
        for job in group.drain(..) {
            job.answer(&self.place, lost);
        }
    }

    fn try_group(&mut self, group: &mut [Box<dyn Job>]) -> Result<(), Lost> {
        let durability =
            group.iter().map(|job| job.durability()).max().unwrap_or(Durability::Process);
        self.sync_for(durability)?;
        // Savepoints are half of the work of a small write, and needed only where a neighbour is refused, which is rare.
        let first = if group.len() > 1 { Guard::Nothing } else { Guard::Savepoints };
        if self.transact(group, first)? == Ended::RolledBack {
            self.transact(group, Guard::Savepoints)?;
        }
        Ok(())
    }

    fn transact(&mut self, group: &mut [Box<dyn Job>], guard: Guard) -> Result<Ended, Lost> {
        let done = self.run_all(group, guard);
        let sql = if matches!(done, Ok(Ended::Committed)) { "COMMIT" } else { "ROLLBACK" };
        let ended = if self.conn.is_autocommit() {
            // SQLite has rolled back by itself, or BEGIN did not work.
            Ok(0)
        } else {
            self.conn.prepare_cached(sql).and_then(|mut end| end.execute([]))
        };
        if ended.is_err() && !self.conn.is_autocommit() {
            // A failed COMMIT leaves its transaction open. There is nothing to be done if this fails too.
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        let done = done?;
        ended?;
        Ok(done)
    }

    /// Everything between BEGIN and the end, which is the caller's.
    fn run_all(&mut self, group: &mut [Box<dyn Job>], guard: Guard) -> Result<Ended, Lost> {
        let Self { conn, ids, .. } = self;
        let step = |sql: &str| conn.prepare_cached(sql)?.execute([]);
        step("BEGIN IMMEDIATE")?;
        ids.begin(conn)?;
        for job in group {
            if guard == Guard::Savepoints {
                step("SAVEPOINT job")?;
            }
            match job.run(&mut Transaction { conn, ids }) {
                Outcome::Done => {}
                // Some failures roll the whole transaction back, the neighbours' part included.
                Outcome::Failed(code)
                    if code.code == ErrorCode::DiskFull || conn.is_autocommit() =>
                {
                    return Err(Lost { code, message: None });
                }
                Outcome::Refused | Outcome::Failed(_) if guard == Guard::Nothing => {
                    return Ok(Ended::RolledBack);
                }
                Outcome::Refused | Outcome::Failed(_) => {
                    step("ROLLBACK TO job")?;
                }
            }
            if guard == Guard::Savepoints {
                step("RELEASE job")?;
            }
        }
        ids.reserve(conn)?;
        Ok(Ended::Committed)
    }

    /// Sets how far COMMIT waits for the disk; not possible inside a transaction.
    fn sync_for(&mut self, durability: Durability) -> Result<(), Lost> {
        if self.synced != durability {
            let level = match durability {
                Durability::Process => "NORMAL",
                Durability::Power => "FULL",
            };
            self.conn.pragma_update(None, "synchronous", level)?;
            self.synced = durability;
        }
        Ok(())
    }
}

/// Gives ids that are larger than all that any process has given for this database.
struct Ids {
    maker: IdMaker,
    /// The largest that was given here.
    given: i64,
    /// What `high_water` says, and has said since this process wrote it.
    reserved: i64,
}

/// How far ahead ids are reserved, as a span of their time. Further means fewer writes of `high_water`, and ids that
/// are later than the clock by as much after a restart.
const RESERVED: i64 = 1_000_000 << IdMaker::MAKER_BITS;

impl Ids {
    fn next(&mut self) -> RecordId {
        self.given = self.maker.next(clock::now());
        RecordId(self.given)
    }

    /// Another process may have given ids meanwhile: then the mark is another than the one that was left.
    fn begin(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let found = conn
            .prepare_cached("SELECT id FROM high_water")?
            .query_row([], |row| row.get::<_, i64>(0))?;
        if found != self.reserved {
            self.maker.resume_after(found);
            self.reserved = found;
        }
        Ok(())
    }

    /// Moves the mark where ids were given beyond it. Belongs into the transaction that gave them.
    fn reserve(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        if self.given > self.reserved {
            let mark = self.given.saturating_add(RESERVED);
            conn.prepare_cached("UPDATE high_water SET id = ?1")?.execute([mark])?;
            self.reserved = mark;
        }
        Ok(())
    }
}
