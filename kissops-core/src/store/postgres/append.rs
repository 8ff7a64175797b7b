//! Group commit for rows that are only ever added: what several callers add at once is one statement.
//!
//! A row of `append_marks` says which statement of this process was the last to take effect. It is written by that
//! statement, under the condition that the one before it was the last. So after a lost connection the statement is simply
//! run again: if it had taken effect, or still does so on the lost connection, the second does nothing.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{Arguments as _, AssertSqlSafe, PgConnection, Row as _, postgres::PgArguments};
use tokio::{
    sync::{Mutex as Turn, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    PostgresOptions,
    fault::{Place, broke_connection, chain, code},
    pool::Pool,
    run::{TAKE_IDS, tick},
};
use crate::{
    Error, Result, clock,
    id::{IdMaker, RecordId},
    store::sql::{Append, Value},
};

/// Rows that share a statement, at most: enough to make the round trip cheap, little enough to keep memory small.
const ROWS: usize = 4_096;
/// Bytes that share a statement, at most, unless one job has more by itself.
const BYTES: usize = 1 << 20;
/// Between attempts to reach a server that is away: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(100)];

#[derive(Debug)]
pub(super) struct Appender {
    waiting: Arc<Mutex<VecDeque<Job>>>,
    turn: Arc<Turn<Line>>,
}

#[derive(Debug)]
struct Job {
    append: Append,
    bytes: usize,
    reply: oneshot::Sender<Result<Vec<RecordId>>>,
}

/// What the one that runs a group needs.
#[derive(Debug)]
struct Line {
    pool: Arc<Pool>,
    place: Place,
    /// How long one attempt may take, and all of them together.
    limits: [Duration; 2],
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
        let attempt = options.statement_timeout + options.connect_timeout;
        let limits = [attempt, attempt * 2];
        let line = Line { pool, place, limits, mark: None };
        Self { waiting: Arc::default(), turn: Arc::new(Turn::new(line)) }
    }

    /// Adds rows, together with what others add meanwhile.
    ///
    /// # Cancel safety
    /// A dropped call may still take effect, whole.
    pub(super) async fn append(&self, append: Append) -> Result<Vec<RecordId>> {
        const CLOSED: Error = Error::Closed { what: "the store" };
        let (reply, mut answer) = oneshot::channel();
        let bytes = append.rows.iter().flatten().map(size).sum();
        self.lock().push_back(Job { append, bytes, reply });
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
    async fn run_group(&mut self, group: Vec<Job>) {
        let Some(first) = group.first() else { return };
        let (table, columns) = (first.append.table, first.append.columns);
        let rows: Vec<&[Value]> =
            group.iter().flat_map(|job| &job.append.rows).map(Vec::as_slice).collect();
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let statement = Statement { sql: sql(table, columns, rows[0]), columns: transpose(&rows) };
        match self.run(&statement, count).await {
            Ok(last) => {
                let mut id = last - ((count - 1) << IdMaker::MAKER_BITS);
                for job in group {
                    let ids = job.append.rows.iter().map(|_| {
                        let this = RecordId(id);
                        id += 1 << IdMaker::MAKER_BITS;
                        this
                    });
                    // Nobody waits any more where the caller was dropped.
                    let _ = job.reply.send(Ok(ids.collect()));
                }
            }
            // What one of them holds must not fail the others.
            Err(Missed { about_data: true, .. }) if group.len() > 1 => {
                for job in group {
                    Box::pin(self.run_group(vec![job])).await;
                }
            }
            Err(Missed { error, .. }) => {
                for job in group {
                    let _ = job.reply.send(Err(again(&error)));
                }
            }
        }
    }

    /// Runs the statement until it has taken effect once; gives the last id.
    async fn run(&mut self, statement: &Statement, count: i64) -> Result<i64, Missed> {
        let [limit, all] = self.limits;
        let deadline = Instant::now() + all;
        let [mut pause, longest] = PAUSES;
        // Put back once the outcome is known; so not if this is dropped, with its runtime.
        let mut mark = self.mark.take();
        let mut in_doubt = false;
        loop {
            let missed = match self.pool.acquire().await {
                Ok(mut lease) => {
                    let attempt =
                        attempt(&mut lease.conn, &mut mark, statement, count, &mut in_doubt);
                    match timeout(limit, attempt).await {
                        Ok(Ok(Some(last))) => {
                            lease.give_back();
                            self.mark = mark;
                            return Ok(last);
                        }
                        Ok(Ok(None)) => Missed::mark_gone(&self.place, in_doubt),
                        Ok(Err(err)) => {
                            self.pool.doubt();
                            Missed::new(&self.place, err)
                        }
                        Err(_) => {
                            self.pool.doubt();
                            Missed::passing(self.place.silent(limit))
                        }
                    }
                }
                Err(err) if err.is_transient() => Missed::passing(err),
                Err(error) => Missed { error, passes: false, about_data: false },
            };
            if missed.passes && Instant::now() + pause < deadline {
                tracing::debug!(error = %missed.error.chain(), "the store adds rows again");
                sleep(pause).await;
                pause = longest.min(pause * 2);
            } else if in_doubt {
                let error = self.place.uncertain(missed.error);
                return Err(Missed { error, passes: false, about_data: false });
            } else {
                return Err(missed);
            }
        }
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

/// Why rows were not added.
struct Missed {
    error: Error,
    /// Another attempt may work: it did nothing, or it can be told whether it did.
    passes: bool,
    about_data: bool,
}

impl Missed {
    fn new(place: &Place, err: sqlx::Error) -> Self {
        let passes = broke_connection(&err)
            || code(&err).is_some_and(|code| code.starts_with("40") || code == "53300");
        let about_data = is_about_data(&err);
        Self { error: place.explain_sql(err), passes, about_data }
    }

    fn passing(error: Error) -> Self {
        Self { error, passes: true, about_data: false }
    }

    /// Marks are kept for a week. One that added nothing for longer begins a new one.
    fn mark_gone(place: &Place, in_doubt: bool) -> Self {
        let error = Error::unavailable(place.to_string())("its row of append_marks is gone");
        Self { error, passes: !in_doubt, about_data: false }
    }
}

/// The same error for each that waited.
fn again(error: &Error) -> Error {
    match error {
        Error::Denied { what, help } => Error::Denied { what: what.clone(), help: help.clone() },
        Error::Closed { what } => Error::Closed { what },
        Error::Unavailable { what, source } => Error::unavailable(what.clone())(chain(&**source)),
        other => Error::unavailable("the store")(other.chain()),
    }
}

fn is_about_data(err: &sqlx::Error) -> bool {
    code(err).is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
        || matches!(err, sqlx::Error::Encode(_))
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

struct Statement {
    sql: String,
    columns: Vec<Column>,
}

impl Statement {
    fn arguments(&self, mark: &Mark, count: i64) -> sqlx::Result<PgArguments> {
        let mut arguments = PgArguments::default();
        let mut add = || {
            arguments.add(tick())?;
            arguments.add(count)?;
            // One mark orders all ids of a database, so nothing else need tell their makers apart.
            arguments.add(0_i64)?;
            arguments.add(&mark.writer)?;
            arguments.add(mark.seq)?;
            arguments.add(clock::now().0)?;
            for column in &self.columns {
                match column {
                    Column::Ints(all) => arguments.add(all)?,
                    Column::Reals(all) => arguments.add(all)?,
                    Column::Texts(all) => arguments.add(all)?,
                    Column::Blobs(all) => arguments.add(all)?,
                }
            }
            Ok(())
        };
        add().map_err(sqlx::Error::Encode)?;
        Ok(arguments)
    }
}

/// All values of one column.
enum Column {
    Ints(Vec<Option<i64>>),
    Reals(Vec<Option<f64>>),
    Texts(Vec<Option<String>>),
    Blobs(Vec<Option<Vec<u8>>>),
}

fn transpose(rows: &[&[Value]]) -> Vec<Column> {
    let first = rows.first().copied().unwrap_or_default();
    let mut columns: Vec<Column> = first
        .iter()
        .map(|value| match value {
            Value::Real(_) => Column::Reals(Vec::with_capacity(rows.len())),
            Value::Text(_) => Column::Texts(Vec::with_capacity(rows.len())),
            Value::Blob(_) => Column::Blobs(Vec::with_capacity(rows.len())),
            _ => Column::Ints(Vec::with_capacity(rows.len())),
        })
        .collect();
    for (at, value) in rows.iter().flat_map(|row| row.iter().enumerate()) {
        match (columns.get_mut(at), value) {
            (Some(Column::Ints(all)), Value::Int(number)) => all.push(*number),
            (Some(Column::Reals(all)), Value::Real(number)) => all.push(*number),
            (Some(Column::Texts(all)), Value::Text(text)) => all.push(text.clone()),
            (Some(Column::Blobs(all)), Value::Blob(bytes)) => all.push(bytes.clone()),
            _ => debug_assert!(false, "rows of one table have the same types"),
        }
    }
    columns
}

/// `$1` to `$3` as in [`TAKE_IDS`], then the writer, its statement's number and the time; then one array for each column.
fn sql(table: &str, columns: &[&str], row: &[Value]) -> String {
    let names = columns.join(", ");
    let mut arrays = String::new();
    for (at, value) in row.iter().enumerate() {
        let kind = match value {
            Value::Real(_) => "double precision",
            Value::Text(_) => "text",
            Value::Blob(_) => "bytea",
            _ => "bigint",
        };
        // Writing to a String cannot fail.
        let _ = write!(arrays, "CAST(${} AS {kind}[]), ", at + 7);
    }
    let arrays = arrays.trim_end_matches(", ");
    format!(
        "WITH taken AS ({TAKE_IDS}),
        mark AS (UPDATE append_marks SET seq = $5, last_id = taken.id, updated_at = $6 FROM taken
            WHERE writer = $4 AND seq = $5 - 1 RETURNING last_id),
        added AS (INSERT INTO {table} (id, {names})
            SELECT mark.last_id - (($2 - new.place) << 12), {names} FROM mark,
            unnest({arrays}) WITH ORDINALITY AS new ({names}, place))
        SELECT last_id FROM mark"
    )
}
