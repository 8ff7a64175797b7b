//! Brings a database's schema up to date; safe when two daemons start at once.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};
use tokio::time::timeout;

use super::{
    fault::{Failure, Phase},
    run::{BEGIN, DIALECT},
};
use crate::{
    Error, clock,
    pg::{Place, code},
    store::{
        migrate::{
            Applied, HISTORY, INSERT_HISTORY, MIGRATIONS, Migration, Pending, SELECT_HISTORY,
            checksum, foreign, pending, program,
        },
        sql::translate,
    },
};

/// Any number that no other program would take for its lock on this database.
const LOCK: i64 = 0x6b69_7373_6f70_7301;
/// How long marks of processes are kept, in microseconds: far longer than any of them tries to reconnect.
const MARKS_KEPT: i64 = 7 * 86_400_000_000;

/// How long the steps of a migration may take together: with millions of rows, far longer than a statement otherwise.
const LIMIT: Duration = Duration::from_hours(1);

fn failed(err: sqlx::Error) -> Failure {
    Failure::sql(err, Phase::Before)
}

/// Applies what is missing, all of it in one transaction. On `Ok`, the connection can be used further.
///
/// Before it changes what another version has made, the tables are copied to the schema `kissops_before_v<version>` of
/// the same database.
pub(super) async fn migrate(
    conn: &mut PgConnection,
    place: &Place,
    patience: Duration,
) -> Result<(), Failure> {
    migrate_to(conn, place, patience, MIGRATIONS).await?;
    let marks = "DELETE FROM append_marks WHERE updated_at < $1";
    let old = sqlx::query(marks).bind(clock::now().0 - MARKS_KEPT).execute(conn);
    let done = timeout(patience, old).await.map_err(|_| place.silent(patience))?;
    done.map(drop).map_err(failed)
}

/// Brings the schema to the last of `known`.
pub(super) async fn migrate_to(
    conn: &mut PgConnection,
    place: &Place,
    patience: Duration,
    known: &'static [Migration],
) -> Result<(), Failure> {
    let silent = |limit| Failure::Refused(place.silent(limit));
    let begun = timeout(patience, begin(conn, place, known)).await;
    let (todo, tables) = begun.map_err(|_| silent(patience))??;
    if !todo.steps.is_empty() {
        let applied = timeout(LIMIT, apply(conn, place, &todo, &tables)).await;
        applied.map_err(|_| silent(LIMIT))??;
    }
    let ended = timeout(patience, conn.execute("COMMIT")).await.map_err(|_| silent(patience))?;
    ended.map(drop).map_err(failed)
}

/// Begins a transaction in which no other program migrates, and looks what is to be done, and which tables there are.
async fn begin(
    conn: &mut PgConnection,
    place: &Place,
    known: &'static [Migration],
) -> Result<(Pending, Vec<String>), Failure> {
    let what = place.to_string();
    refuse_lossy(conn, &what).await?;
    conn.execute(BEGIN).await.map_err(failed)?;
    // Held until the transaction ends, so it is safe behind a pooler as well.
    let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *conn);
    lock.await.map_err(|err| match code(&err).as_deref() {
        Some("57014") => Failure::Refused(Error::unavailable(&what)(
            "another program changes its schema at this moment: try again when it is done",
        )),
        _ => failed(err),
    })?;
    let tables = tables(conn).await.map_err(failed)?;
    let has_history = tables.iter().any(|table| table == "schema_migrations");
    if !tables.is_empty() && !has_history {
        return Err(foreign(&what, "give kissops a database of its own").into());
    }
    let mut applied = Vec::new();
    if has_history {
        let rows = sqlx::query(SELECT_HISTORY).fetch_all(&mut *conn).await.map_err(failed)?;
        applied = rows.iter().map(row).collect::<sqlx::Result<_>>().map_err(failed)?;
    }
    let older =
        |version| format!(", or the tables in the schema kissops_before_v{version} if it is there");
    Ok((pending(&what, &applied, known, older)?, tables))
}

async fn apply(
    conn: &mut PgConnection,
    place: &Place,
    todo: &Pending,
    tables: &[String],
) -> Result<(), Failure> {
    let limit = format!("SET LOCAL statement_timeout = {}", LIMIT.as_millis());
    conn.execute(AssertSqlSafe(limit)).await.map_err(failed)?;
    conn.execute(AssertSqlSafe(ddl(HISTORY))).await.map_err(failed)?;
    if let Some(step) = todo.steps.first().filter(|_| !todo.fresh) {
        copy_before(conn, tables, step.version).await.map_err(failed)?;
    }
    for step in todo.steps {
        let wrong = |source| {
            let what = format!("migration {} (`{}`)", step.version, step.name);
            Failure::Refused(place.within(&what, source))
        };
        conn.execute(AssertSqlSafe(ddl(step.sql))).await.map_err(wrong)?;
        sqlx::query(AssertSqlSafe(translate(INSERT_HISTORY, &DIALECT).into_owned()))
            .bind(i64::from(step.version))
            .bind(step.name)
            .bind(checksum(step.sql))
            .bind(clock::now().0)
            .bind(program())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// A server that acknowledges before the log is on its disk cannot keep what the store promises.
async fn refuse_lossy(conn: &mut PgConnection, what: &str) -> Result<(), Failure> {
    let sql = "SELECT current_setting('synchronous_commit'), current_setting('fsync'), quote_ident(current_database())";
    let row = sqlx::query(sql).fetch_one(conn).await.map_err(failed)?;
    let text = |at: usize| row.try_get::<String, _>(at).map_err(failed);
    let (commit, fsync) = (text(0)?, text(1)?);
    if commit == "off" {
        return Err(Failure::Refused(Error::WrongState {
            what: what.into(),
            state: "set to lose what it has acknowledged (synchronous_commit=off)".into(),
            help: format!("ALTER DATABASE {} SET synchronous_commit = on", text(2)?),
        }));
    }
    if fsync == "off" {
        tracing::warn!("the store's server has fsync=off: a power cut may destroy the database");
    }
    Ok(())
}

async fn tables(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let sql = "SELECT CAST(relname AS TEXT) FROM pg_class
        WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind IN ('r', 'p') ORDER BY relname";
    let rows = sqlx::query(sql).fetch_all(conn).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

fn row(row: &sqlx::postgres::PgRow) -> sqlx::Result<Applied> {
    let version: i64 = row.try_get(0)?;
    Ok(Applied {
        version: u32::try_from(version).unwrap_or(u32::MAX),
        name: row.try_get(1)?,
        checksum: row.try_get(2)?,
        by: row.try_get(3)?,
    })
}

/// Copies all rows to a schema of their own, so that a look back, or the way back, needs no other program.
async fn copy_before(conn: &mut PgConnection, tables: &[String], version: u32) -> sqlx::Result<()> {
    let schema = format!("kissops_before_v{version}");
    let mut sql = format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema};");
    for table in tables {
        // Names of our own tables: plain words.
        sql.extend(["CREATE TABLE ", &schema, ".", table, " AS TABLE ", table, ";"]);
    }
    conn.execute(AssertSqlSafe(sql)).await?;
    tracing::info!(schema, "copied the store before its schema changes");
    Ok(())
}

/// The shared text of a migration in Postgres' types. Text sorts by its bytes, as in `SQLite`.
fn ddl(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() + sql.len() / 8);
    for line in sql.lines() {
        let code = line.split_once("--").map_or(line, |(code, _comment)| code);
        for (at, part) in code.split('\'').enumerate() {
            // Every other part stands between quotes.
            if at % 2 == 1 {
                out.extend(["'", part, "'"]);
            } else {
                words(part, &mut out);
            }
        }
        out.push('\n');
    }
    out
}

fn words(code: &str, out: &mut String) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = code;
    while let Some(start) = rest.find(is_word) {
        let (before, from) = rest.split_at(start);
        let (word, after) = from.split_at(from.find(|c| !is_word(c)).unwrap_or(from.len()));
        out.push_str(before);
        out.push_str(match word {
            "INTEGER" => "BIGINT",
            "TEXT" => "TEXT COLLATE \"C\"",
            "BLOB" => "BYTEA",
            "REAL" => "DOUBLE PRECISION",
            "STRICT" => "",
            other => other,
        });
        rest = after;
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_become_those_of_postgres_and_nothing_else_changes() {
        let sql = "CREATE TABLE a (x INTEGER, y TEXT CHECK (y IN ('TEXT', 'b''s')), z BLOB) STRICT; -- TEXT";
        let expected = "CREATE TABLE a (x BIGINT, y TEXT COLLATE \"C\" CHECK (y IN ('TEXT', 'b''s')), z BYTEA) ; \n";
        assert_eq!(ddl(sql), expected);
    }
}
