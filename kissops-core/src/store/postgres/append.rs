//! Group commit for rows that are only ever added: what several callers add at once is one statement.
//!
//! A row of `append_marks` says which statement of this process was the last to take effect. It is written by that
//! statement, under the condition that the one before it was the last. So after a lost connection the statement is simply
//! run again: if it had taken effect, or still does so on the lost connection, the second does nothing.
//!
//! Each call has a deadline of its own, however long those before it take; what nobody waits for is not begun.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use tokio::{
    sync::{Mutex as Turn, OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, sleep, timeout, timeout_at},
};

use self::{
    missed::{Missed, again},
    statement::Statement,
};
use super::{PostgresOptions, pool::Pool};
use crate::{
    Error, Result, clock,
    id::{IdMaker, RecordId},
    pg::{Place, broke_connection},
    store::sql::{Append, Value},
};

mod missed;
mod statement;

/// Rows that share a statement, at most: enough to make the round trip cheap, little enough to keep memory small.
const ROWS: usize = 4_096;
/// Bytes that share a statement, at most, unless one job has more by itself.
const BYTES: usize = 1 << 20;
/// Calls in the queue, at most; further ones wait before it, in their order.
const CALLERS: usize = 256;
/// Between attempts to reach a server that is away: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(100)];

#[derive(Debug)]
pub(super) struct Appender {
    waiting: Arc<Mutex<VecDeque<Job>>>,
    turn: Arc<Turn<Line>>,
    callers: Arc<Semaphore>,
    place: Place,
    /// How long one call may wait.
    patience: Duration,
}

#[derive(Debug)]
struct Job {
    append: Append,
    bytes: usize,
    /// No attempt is begun later.
    deadline: Instant,
    /// Taken when it is answered.
    reply: Option<oneshot::Sender<Result<Vec<RecordId>>>>,
    /// Given back with the answer.
    _caller: OwnedSemaphorePermit,
}

impl Job {
    fn answer(&mut self, answer: Result<Vec<RecordId>>) {
        if let Some(reply) = self.reply.take() {
            // Nobody waits any more where the caller was dropped.
            let _ = reply.send(answer);
        }
    }

    fn is_late(&self) -> bool {
        Instant::now() + PAUSES[0] >= self.deadline
    }

    /// Somebody waits for it.
    fn is_open(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }
}

/// What the one that runs a group needs.
#[derive(Debug)]
struct Line {
    pool: Arc<Pool>,
    place: Place,
    /// How long one attempt may take.
    limit: Duration,
    /// None at first, and after a statement whose outcome is not known: its successor must not depend on it.
    mark: Option<Mark>,
}

/// This process in `append_marks`.
#[derive(Debug)]
struct Mark {
    writer: String,
    /// The statement that is to come.
    seq: i64,
}

impl Appender {
    pub(super) fn new(pool: Arc<Pool>, place: Place, options: &PostgresOptions) -> Self {
        let limit = options.statement_timeout + options.connect_timeout;
        let line = Line { pool, place: place.clone(), limit, mark: None };
        Self {
            waiting: Arc::default(),
            turn: Arc::new(Turn::new(line)),
            callers: Arc::new(Semaphore::new(CALLERS)),
            place,
            patience: limit * 2,
        }
    }

    /// Adds rows, together with what others add meanwhile.
    ///
    /// # Cancel safety
    /// A dropped call may still take effect, whole.
    pub(super) async fn append(&self, append: Append) -> Result<Vec<RecordId>> {
        const CLOSED: Error = Error::Closed { what: "the store" };
        let deadline = Instant::now() + self.patience;
        let caller = match timeout_at(deadline, Arc::clone(&self.callers).acquire_owned()).await {
            Ok(caller) => caller.map_err(|_| CLOSED)?,
            Err(_) => return Err(self.place.overtaken()),
        };
        let (reply, mut answer) = oneshot::channel();
        let bytes = append.rows.iter().flatten().map(size).sum();
        let job = Job { append, bytes, deadline, reply: Some(reply), _caller: caller };
        self.lock().push_back(job);
        let mut line = tokio::select! {
            biased;
            answer = &mut answer => return answer.map_err(|_| CLOSED)?,
            line = Arc::clone(&self.turn).lock_owned() => line,
        };
        // A task of its own: this caller may be dropped, those that it works for still wait. It ends with the queue.
        let waiting = Arc::clone(&self.waiting);
        let work = tokio::spawn(async move {
            loop {
                let group = next_group(&waiting);
                if group.is_empty() {
                    return;
                }
                line.run_group(group).await;
            }
        });
        let answer = answer.await.map_err(|_| CLOSED)?;
        drop(work);
        answer
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Job>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// About how many bytes `value` is on its way to the server.
fn size(value: &Value) -> usize {
    match value {
        Value::Text(Some(text)) => text.len(),
        Value::Blob(Some(bytes)) => bytes.len(),
        _ => size_of::<i64>(),
    }
}

/// The next jobs that add to one table, in their order.
fn next_group(waiting: &Mutex<VecDeque<Job>>) -> Vec<Job> {
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let mut group: Vec<Job> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    while let Some(next) = waiting.front() {
        if !next.is_open() {
            waiting.pop_front();
            continue;
        }
        let fits = rows + next.append.rows.len() <= ROWS && bytes + next.bytes <= BYTES;
        let same = group.first().is_none_or(|job| job.append.table == next.append.table);
        if !(group.is_empty() || fits && same) {
            break;
        }
        rows += next.append.rows.len();
        bytes += next.bytes;
        group.extend(waiting.pop_front());
    }
    group
}

impl Line {
    /// Answers all of `group`. Those whose time is over go first, and the others on without them.
    async fn run_group(&mut self, mut group: Vec<Job>) {
        give_up(&mut group, || self.place.overtaken());
        while !group.is_empty() {
            let appends: Vec<&Append> = group.iter().map(|job| &job.append).collect();
            let statement = Statement::new(&appends);
            let count = appends.iter().map(|append| append.rows.len()).sum::<usize>();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            match self.run(&statement, count, &mut group).await {
                Ok(last) => {
                    let mut id = last - ((count - 1) << IdMaker::MAKER_BITS);
                    for mut job in mem::take(&mut group) {
                        let ids = job.append.rows.iter().map(|_| {
                            let this = RecordId(id);
                            id += 1 << IdMaker::MAKER_BITS;
                            this
                        });
                        let ids = ids.collect();
                        job.answer(Ok(ids));
                    }
                }
                // What one of them holds must not fail the others.
                Err(Missed { about_data: true, .. }) if group.len() > 1 => {
                    for job in mem::take(&mut group) {
                        Box::pin(self.run_group(vec![job])).await;
                    }
                }
                Err(Missed { error, passes: true, .. }) => {
                    give_up(&mut group, || again(&error));
                }
                Err(Missed { error, .. }) => {
                    for mut job in mem::take(&mut group) {
                        job.answer(Err(again(&error)));
                    }
                }
            }
        }
    }

    /// Runs the statement until it has taken effect once; gives the last id. Gives up when the time of one in `group` is
    /// over; but while the statement may have taken effect, only that one is told so, and the others go on waiting.
    async fn run(
        &mut self,
        statement: &Statement,
        count: i64,
        group: &mut [Job],
    ) -> Result<i64, Missed> {
        let [mut pause, longest] = PAUSES;
        // Put back once the outcome is known; so not if this is dropped, with its runtime.
        let mut mark = self.mark.take();
        let mut in_doubt = false;
        loop {
            let missed = match self.attempt(&mut mark, statement, count, &mut in_doubt).await {
                Ok(last) => {
                    self.mark = mark;
                    return Ok(last);
                }
                Err(missed) => missed,
            };
            if in_doubt {
                let error = self.place.uncertain(missed.error);
                if missed.passes {
                    tell_late(group, || again(&error));
                }
                if !missed.passes || !group.iter().any(Job::is_open) {
                    return Err(Missed { error, passes: false, about_data: false });
                }
                tracing::debug!(error = %error.chain(), "the store adds rows again");
            } else {
                let late = group.iter().any(|job| job.is_late() || !job.is_open());
                if late || !missed.passes {
                    self.mark = mark;
                    return Err(missed);
                }
                tracing::debug!(error = %missed.error.chain(), "the store adds rows again");
            }
            sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }

    /// One attempt on a connection of the pool.
    async fn attempt(
        &self,
        mark: &mut Option<Mark>,
        statement: &Statement,
        count: i64,
        in_doubt: &mut bool,
    ) -> Result<i64, Missed> {
        let mut lease = match self.pool.acquire().await {
            Ok(lease) => lease,
            Err(err) if err.is_transient() => return Err(Missed::passing(err)),
            Err(error) => return Err(Missed { error, passes: false, about_data: false }),
        };
        let attempt = attempt(&mut lease.conn, mark, statement, count, in_doubt);
        match timeout(self.limit, attempt).await {
            Ok(Ok(Some(last))) => {
                lease.give_back();
                Ok(last)
            }
            Ok(Ok(None)) => Err(Missed::mark_gone(&self.place, *in_doubt)),
            Ok(Err(err)) => {
                self.pool.doubt();
                Err(Missed::new(&self.place, err))
            }
            Err(_) => {
                self.pool.doubt();
                Err(Missed::passing(self.place.silent(self.limit)))
            }
        }
    }
}

/// Answers those whose time is over, and forgets them and those for whom nobody waits.
fn give_up(group: &mut Vec<Job>, why: impl Fn() -> Error) {
    tell_late(group, why);
    group.retain(Job::is_open);
}

/// Answers those whose time is over.
fn tell_late(group: &mut [Job], why: impl Fn() -> Error) {
    for job in group.iter_mut().filter(|job| job.is_late()) {
        job.answer(Err(why()));
    }
}

/// Runs the statement once; gives the last id, or `None` if the mark is gone. `in_doubt` is set while, and left set if,
/// nobody knows whether the statement takes effect.
async fn attempt(
    conn: &mut PgConnection,
    mark: &mut Option<Mark>,
    statement: &Statement,
    count: i64,
    in_doubt: &mut bool,
) -> sqlx::Result<Option<i64>> {
    let this = match &mut *mark {
        Some(mark) => mark,
        none => none.insert(Mark::begin(conn).await?),
    };
    let query = sqlx::query_with(
        AssertSqlSafe(statement.sql.as_str().to_owned()),
        statement.arguments(this, count)?,
    );
    let was_in_doubt = mem::replace(in_doubt, true);
    let done = query.fetch_optional(&mut *conn).await;
    // An answer speaks for this attempt; the ones before it may be on their way still.
    *in_doubt = was_in_doubt || done.as_ref().is_err_and(broke_connection);
    let last = match done? {
        Some(row) => Some(row.try_get(0)?),
        None => this.last(conn).await?,
    };
    if last.is_some() {
        this.seq += 1;
    } else {
        *mark = None;
    }
    Ok(last)
}

impl Mark {
    async fn begin(conn: &mut PgConnection) -> sqlx::Result<Self> {
        let random = || RandomState::new().hash_one(std::process::id());
        let writer = format!("{:016x}{:016x}", random(), random());
        let sql =
            "INSERT INTO append_marks (writer, seq, last_id, updated_at) VALUES ($1, 0, 0, $2)";
        sqlx::query(sql).bind(&writer).bind(clock::now().0).execute(conn).await?;
        Ok(Self { writer, seq: 1 })
    }

    /// The last id of the statement that had taken effect already.
    async fn last(&self, conn: &mut PgConnection) -> sqlx::Result<Option<i64>> {
        let sql = "SELECT last_id FROM append_marks WHERE writer = $1 AND seq = $2";
        let found = sqlx::query(sql).bind(&self.writer).bind(self.seq).fetch_optional(conn).await?;
        if found.is_some() {
            tracing::debug!("the store had added its rows before the connection broke");
        }
        found.map(|row| row.try_get(0)).transpose()
    }
}
