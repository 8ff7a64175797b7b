//! The Postgres side: one connection, one transaction, which holds everything or nothing.

use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use super::plan::Traits;
use crate::{
    Error, Result,
    pg::{self, Place},
};

/// Generated columns came with version 12.
const OLDEST: i32 = 120_000;

#[derive(Debug)]
pub(super) struct Target {
    pub(super) connection: PgConnection,
    /// Where it is, without a password.
    pub(super) place: Place,
}

impl Target {
    /// Connects. The password may also be in `PGPASSWORD` or in `~/.pgpass`.
    pub(super) async fn connect(url: &SecretString) -> Result<Self> {
        let (connection, place) = pg::connect("the database", url).await?;
        Ok(Self { connection, place })
    }

    /// Runs a statement without parameters.
    pub(super) async fn execute(&mut self, what: &str, sql: &str) -> Result<()> {
        // One round trip and no plan to keep: these statements run once.
        let done = self.connection.execute(AssertSqlSafe(sql)).await;
        done.map(|_| ()).map_err(|err| refused(what, &err))
    }

    pub(super) async fn begin(&mut self) -> Result<()> {
        let sql = "BEGIN;
            SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
            SET LOCAL lock_timeout = '10s'; SET LOCAL TimeZone = 'UTC'; SET LOCAL standard_conforming_strings = on;
            SET LOCAL client_min_messages = warning; SET LOCAL maintenance_work_mem = '128MB';
            SET LOCAL work_mem = '64MB'; SET LOCAL jit = off";
        self.execute("begin the transaction", sql).await
    }

    /// What the plan has to know.
    pub(super) async fn traits(&mut self) -> Result<Traits> {
        let sql = "SELECT current_setting('server_version_num')::int4, datcollate,
            EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'citext')
            OR (has_database_privilege(current_database(), 'CREATE')
                AND EXISTS (SELECT 1 FROM pg_available_extension_versions WHERE name = 'citext' AND (trusted OR NOT superuser
                    OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)))),
            current_setting('server_encoding')
            FROM pg_database WHERE datname = current_database()";
        let row = sqlx::raw_sql(sql)
            .fetch_one(&mut self.connection)
            .await
            .map_err(|err| refused("look at the server", &err))?;
        let get = |err: sqlx::Error| refused("look at the server", &err);
        let version: i32 = row.try_get(0).map_err(get)?;
        if version < OLDEST {
            let state = format!("of version {}", version / 10_000);
            return Err(Error::WrongState {
                what: "the server".to_owned(),
                state,
                help: "12 is the oldest that will do".to_owned(),
            });
        }
        let encoding: String = row.try_get(3).map_err(get)?;
        if encoding != "UTF8" {
            let help =
                "make one with CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'".to_owned();
            return Err(Error::WrongState {
                what: self.place.to_string(),
                state: format!("encoded in {encoding}"),
                help,
            });
        }
        let collation: String = row.try_get(1).map_err(get)?;
        let by_bytes = matches!(collation.as_str(), "C" | "POSIX" | "C.UTF-8" | "C.utf8");
        Ok(Traits {
            citext: row.try_get(2).map_err(get)?,
            sorts_by: (!by_bytes).then_some(collation),
        })
    }

    pub(super) async fn has_schema(&mut self, name: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)";
        let found = sqlx::query_scalar(sql).bind(name).fetch_one(&mut self.connection).await;
        found.map_err(|err| refused("look for the schema", &err))
    }

    /// Which of these names are there already.
    pub(super) async fn taken(&mut self, schema: &str, names: &[String]) -> Result<Vec<String>> {
        let sql = "SELECT relname::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
                   WHERE nspname = $1 AND relname = ANY($2) ORDER BY 1";
        let found =
            sqlx::query_scalar(sql).bind(schema).bind(names).fetch_all(&mut self.connection).await;
        found.map_err(|err| refused("look for tables of these names", &err))
    }

    /// Moves an identity column's sequence past `last` and says what it gives next.
    pub(super) async fn move_sequence(
        &mut self,
        table: &str,
        column: &str,
        last: i64,
    ) -> Result<i64> {
        let what = format!("move the sequence of {table}");
        let sequence: String = sqlx::query_scalar("SELECT pg_get_serial_sequence($1, $2)")
            .bind(table)
            .bind(column)
            .fetch_one(&mut self.connection)
            .await
            .map_err(|err| refused(&what, &err))?;
        if last >= 1 {
            let moved = sqlx::query("SELECT setval($1::regclass, $2)").bind(&sequence).bind(last);
            moved.execute(&mut self.connection).await.map_err(|err| refused(&what, &err))?;
        }
        // A sequence's name comes quoted as it has to be.
        let next = format!(
            "SELECT CASE WHEN is_called THEN last_value::numeric + 1 ELSE last_value END::text FROM {sequence}"
        );
        let next: String = sqlx::query_scalar(AssertSqlSafe(next))
            .fetch_one(&mut self.connection)
            .await
            .map_err(|err| refused(&what, &err))?;
        // One past the last number that there is: nothing is left, as it was in SQLite.
        Ok(next.parse().unwrap_or(i64::MAX))
    }

    /// Keeps everything.
    pub(super) async fn commit(&mut self) -> Result<()> {
        let done = self.connection.execute("COMMIT").await;
        done.map(|_| ()).map_err(|err| self.place.explain_commit(err))
    }

    /// Gives everything up.
    pub(super) async fn roll_back(mut self) {
        // A lost connection has rolled back by itself.
        let _ = self.connection.execute("ROLLBACK").await;
        let _ = self.connection.close().await;
    }
}

/// What the server said, without the parts that sqlx adds.
pub(super) fn refused(what: &str, err: &sqlx::Error) -> Error {
    match err {
        sqlx::Error::Database(said) => {
            let said = said.downcast_ref::<sqlx::postgres::PgDatabaseError>();
            let detail = said.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            Error::io(what)(std::io::Error::other(format!("{}{detail}", said.message())))
        }
        other => Error::unavailable(format!("Postgres, which was to {what},"))(other.to_string()),
    }
}
