//! Statements of the seam, run by sqlx.

use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, Executor as _, PgConnection, Row as _,
    TypeInfo as _, ValueRef as _,
    postgres::{PgArguments, PgRow},
};

use super::fault::{Failure, Phase};
use crate::{
    clock,
    id::IdMaker,
    store::sql::{Answer, Batch, Dialect, Row, Statement, Value, translate},
};

/// The clock, not the transaction's start, which `now()` would be.
pub(super) const DIALECT: Dialect = Dialect {
    now: "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)",
    share: "FOR SHARE",
    update: "FOR UPDATE",
    skip_locked: "FOR UPDATE SKIP LOCKED",
    list: ["(SELECT unnest(", "))"],
    sha256: ["encode(sha256(convert_to(", ", 'UTF8')), 'hex')"],
    parameter: '$',
};

/// The statements are written for this level, whatever the server's default is.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// All rows of a statement that only reads.
pub(super) async fn query(
    conn: &mut PgConnection,
    statement: &Statement,
) -> Result<Vec<Row>, Failure> {
    // Reading twice harms nobody.
    let answer = execute(conn, statement, &mut Ids::default()).await;
    Ok(answer.map_err(|err| Failure::sql(err, Phase::Before))?.rows)
}

/// All steps of `batch`, as one transaction.
pub(super) async fn batch(conn: &mut PgConnection, batch: &Batch) -> Result<Vec<Answer>, Failure> {
    let wanted = count_ids(batch);
    if let ([step], 0) = (&*batch.steps, wanted) {
        // A statement is a transaction by itself; so it is committed by the same round trip.
        let answer = execute(conn, &step.statement, &mut Ids::default()).await;
        let answer = answer.map_err(|err| Failure::sql(err, Phase::Commit))?;
        return match &step.otherwise {
            Some(otherwise) if answer.changed == 0 => Err(otherwise().into()),
            _ => Ok(vec![answer]),
        };
    }
    let before = |err| Failure::sql(err, Phase::Before);
    // Not sqlx's transaction: cancelled while it begins, that leaves one open. Here, whatever does not reach one of
    // these two ends costs the connection.
    conn.execute(BEGIN).await.map_err(before)?;
    match steps(conn, batch, wanted).await {
        Ok(answers) => {
            conn.execute("COMMIT").await.map_err(|err| Failure::sql(err, Phase::Commit))?;
            Ok(answers)
        }
        Err(Failure::Refused(err)) => {
            conn.execute("ROLLBACK").await.map_err(before)?;
            Err(Failure::Refused(err))
        }
        Err(failure) => Err(failure),
    }
}

async fn steps(
    conn: &mut PgConnection,
    batch: &Batch,
    wanted: i64,
) -> Result<Vec<Answer>, Failure> {
    let before = |err| Failure::sql(err, Phase::Before);
    let mut ids =
        if wanted > 0 { Ids::take(conn, wanted).await.map_err(before)? } else { Ids::default() };
    let mut answers = Vec::with_capacity(batch.steps.len());
    for step in &batch.steps {
        let answer = execute(conn, &step.statement, &mut ids).await.map_err(before)?;
        match &step.otherwise {
            Some(otherwise) if answer.changed == 0 => return Err(otherwise().into()),
            _ => answers.push(answer),
        }
    }
    Ok(answers)
}

fn count_ids(batch: &Batch) -> i64 {
    let values = batch.steps.iter().flat_map(|step| &step.statement.values);
    values.filter(|value| matches!(value, Value::NextId)).map(|_| 1).sum()
}

/// Moves the mark of ids: to the clock's tick, or past what was given. The row stays locked until the transaction ends,
/// so that ids become visible in their order. `$1` the clock's tick, `$2` how many, `$3` the maker.
pub(super) const TAKE_IDS: &str = "UPDATE high_water SET id = ((CASE WHEN (id >> 12) >= $1 THEN (id >> 12) + 1 ELSE $1 END + $2 - 1) << 12) + $3 RETURNING id";

/// The clock's tick, as ids count it.
pub(super) fn tick() -> i64 {
    IdMaker::new(0).next(clock::now()) >> IdMaker::MAKER_BITS
}

/// Ids that the open transaction has taken.
#[derive(Default)]
struct Ids {
    next: i64,
}

impl Ids {
    async fn take(conn: &mut PgConnection, count: i64) -> sqlx::Result<Self> {
        let row =
            sqlx::query(TAKE_IDS).bind(tick()).bind(count).bind(0_i64).fetch_one(conn).await?;
        let last: i64 = row.try_get(0)?;
        Ok(Self { next: last - ((count - 1) << IdMaker::MAKER_BITS) })
    }

    fn next(&mut self) -> i64 {
        let id = self.next;
        self.next += 1 << IdMaker::MAKER_BITS;
        id
    }
}

async fn execute(
    conn: &mut PgConnection,
    statement: &Statement,
    ids: &mut Ids,
) -> sqlx::Result<Answer> {
    let sql = translate(&statement.sql, &DIALECT).into_owned();
    let mut arguments = PgArguments::default();
    for value in &statement.values {
        let added = match value {
            Value::Int(number) => arguments.add(*number),
            Value::Real(number) => arguments.add(*number),
            Value::Text(text) => arguments.add(text.as_deref()),
            Value::Blob(bytes) => arguments.add(bytes.as_deref()),
            Value::Ints(list) => arguments.add(list.as_slice()),
            Value::Texts(list) => arguments.add(list.as_slice()),
            Value::NextId => arguments.add(ids.next()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    let query = sqlx::query_with(AssertSqlSafe(sql), arguments);
    // Not `execute`, which would throw returned rows away; nor `fetch_all`, which hides how many were changed.
    let mut rows = Vec::new();
    let mut changed = 0;
    let mut stream = conn.fetch_many(query);
    while let Some(one) = futures_util::TryStreamExt::try_next(&mut stream).await? {
        match one {
            sqlx::Either::Left(done) => changed += done.rows_affected(),
            sqlx::Either::Right(row) => rows.push(decode(&row)?),
        }
    }
    Ok(Answer { rows, changed })
}

fn decode(row: &PgRow) -> sqlx::Result<Row> {
    let mut values = Vec::with_capacity(row.len());
    for (at, column) in row.columns().iter().enumerate() {
        let value = row.try_get_raw(at)?;
        values.push(match column.type_info().name() {
            "INT8" => Value::Int(row.try_get(at)?),
            "INT4" => Value::Int(row.try_get::<Option<i32>, _>(at)?.map(i64::from)),
            "BOOL" => Value::Int(row.try_get::<Option<bool>, _>(at)?.map(i64::from)),
            "FLOAT8" => Value::Real(row.try_get(at)?),
            "BYTEA" => Value::Blob(row.try_get(at)?),
            _ if value.is_null() => Value::Int(None),
            _ => Value::Text(row.try_get(at)?),
        });
    }
    Ok(Row(values))
}
