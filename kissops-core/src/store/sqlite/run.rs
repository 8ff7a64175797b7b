//! Statements of the seam, run by rusqlite.

use std::fmt::Write as _;

use rusqlite::{
    CachedStatement, Connection, Rows,
    functions::FunctionFlags,
    types::{Null, ToSqlOutput, Type, ValueRef},
};

use super::{fault::Failure, writer::Transaction};
use crate::{
    id::RecordId,
    store::{
        audit::sha256_hex,
        sql::{Answer, Append, Batch, Dialect, Row, Statement, Value, translate},
    },
};

const DIALECT: Dialect = Dialect {
    now: "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
    // The one writer has the whole database to itself.
    share: "",
    update: "",
    skip_locked: "",
    list: ["(SELECT value FROM json_each(", "))"],
    sha256: ["sha256(", ")"],
    parameter: '?',
};

/// What statements need and `SQLite` lacks.
pub(super) fn add_functions(conn: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    conn.create_scalar_function("sha256", 1, flags, |call| {
        Ok(sha256_hex(call.get_raw(0).as_str()?))
    })
}

/// All rows of a statement that only reads.
pub(super) fn query(conn: &Connection, statement: &Statement) -> rusqlite::Result<Vec<Row>> {
    let mut prepared = conn.prepare_cached(&translate(&statement.sql, &DIALECT))?;
    bind(&mut prepared, &statement.values, || RecordId(0))?;
    let width = prepared.column_count();
    collect(prepared.raw_query(), width)
}

/// All steps of `batch`.
pub(super) fn batch(tx: &mut Transaction<'_>, batch: &Batch) -> Result<Vec<Answer>, Failure> {
    let mut answers = Vec::with_capacity(batch.steps.len());
    for step in &batch.steps {
        let answer = execute(tx, &step.statement)?;
        if let Some(otherwise) = &step.otherwise
            && answer.changed == 0
        {
            return Err(otherwise().into());
        }
        answers.push(answer);
    }
    Ok(answers)
}

fn execute(tx: &mut Transaction<'_>, statement: &Statement) -> rusqlite::Result<Answer> {
    let mut prepared = tx.conn.prepare_cached(&translate(&statement.sql, &DIALECT))?;
    bind(&mut prepared, &statement.values, || tx.next_id())?;
    let width = prepared.column_count();
    if width == 0 {
        let changed = prepared.raw_execute()?;
        return Ok(Answer {
            rows: Vec::new(),
            changed: u64::try_from(changed).unwrap_or(u64::MAX),
        });
    }
    let rows = collect(prepared.raw_query(), width)?;
    let changed = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    Ok(Answer { rows, changed })
}

/// The statement of an [`Append`].
pub(super) fn insert(rows: &Append) -> String {
    let mut sql =
        format!("INSERT INTO {} (id, {}) VALUES (?1", rows.table, rows.columns.join(", "));
    for at in 0..rows.columns.len() {
        // Writing to a String cannot fail.
        let _ = write!(sql, ", ?{}", at + 2);
    }
    sql.push(')');
    sql
}

/// Adds `rows` by `sql`, in their order.
pub(super) fn append(
    tx: &mut Transaction<'_>,
    sql: &str,
    rows: &[Vec<Value>],
) -> rusqlite::Result<Vec<RecordId>> {
    let mut prepared = tx.conn.prepare_cached(sql)?;
    let mut ids = Vec::with_capacity(rows.len());
    for row in rows {
        let id = tx.next_id();
        prepared.raw_bind_parameter(1, id.0)?;
        for (at, value) in (2..).zip(row) {
            bind_one(&mut prepared, at, value)?;
        }
        prepared.raw_execute()?;
        ids.push(id);
    }
    Ok(ids)
}

fn bind(
    prepared: &mut CachedStatement<'_>,
    values: &[Value],
    mut next_id: impl FnMut() -> RecordId,
) -> rusqlite::Result<()> {
    for (at, value) in (1..).zip(values) {
        if matches!(value, Value::NextId) {
            prepared.raw_bind_parameter(at, next_id().0)?;
        } else {
            bind_one(prepared, at, value)?;
        }
    }
    Ok(())
}

fn bind_one(prepared: &mut CachedStatement<'_>, at: usize, value: &Value) -> rusqlite::Result<()> {
    let borrowed = match value {
        Value::Int(Some(number)) => ValueRef::Integer(*number),
        Value::Real(Some(number)) => ValueRef::Real(*number),
        Value::Text(Some(text)) => ValueRef::Text(text.as_bytes()),
        Value::Blob(Some(bytes)) => ValueRef::Blob(bytes),
        // A list is one value, so that a statement's text does not depend on its length. It always serializes.
        Value::Ints(list) => {
            return prepared
                .raw_bind_parameter(at, serde_json::to_string(list).unwrap_or_default());
        }
        Value::Texts(list) => {
            return prepared
                .raw_bind_parameter(at, serde_json::to_string(list).unwrap_or_default());
        }
        _ => return prepared.raw_bind_parameter(at, Null),
    };
    prepared.raw_bind_parameter(at, ToSqlOutput::Borrowed(borrowed))
}

fn collect(mut rows: Rows<'_>, width: usize) -> rusqlite::Result<Vec<Row>> {
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(width);
        for at in 0..width {
            values.push(match row.get_ref(at)? {
                ValueRef::Null => Value::Int(None),
                ValueRef::Integer(number) => Value::Int(Some(number)),
                ValueRef::Real(number) => Value::Real(Some(number)),
                ValueRef::Text(text) => Value::Text(Some(utf8(at, text)?)),
                ValueRef::Blob(bytes) => Value::Blob(Some(bytes.to_vec())),
            });
        }
        all.push(Row(values));
    }
    Ok(all)
}

fn utf8(at: usize, text: &[u8]) -> rusqlite::Result<String> {
    let text = std::str::from_utf8(text)
        .map_err(|err| rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(err)))?;
    Ok(text.to_owned())
}
