//! The one statement that adds rows: an array for each column, under the condition that the mark stands where it should.

use std::fmt::Write as _;

use sqlx::{Arguments as _, postgres::PgArguments};

use super::{
    super::run::{TAKE_IDS, tick},
    Mark,
};
use crate::{
    clock,
    store::sql::{Append, Value},
};

pub(super) struct Statement {
    pub(super) sql: String,
    columns: Vec<Column>,
}

impl Statement {
    /// Adds all rows of `appends`, which go to one table.
    pub(super) fn new(appends: &[&Append]) -> Self {
        let Some(first) = appends.first() else {
            return Self { sql: String::new(), columns: Vec::new() };
        };
        let rows: Vec<&[Value]> =
            appends.iter().flat_map(|append| &append.rows).map(Vec::as_slice).collect();
        let types = rows.first().copied().unwrap_or_default();
        Self { sql: sql(first.table, first.columns, types), columns: transpose(&rows) }
    }

    pub(super) fn arguments(&self, mark: &Mark, count: i64) -> sqlx::Result<PgArguments> {
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
