//! [`MaintenanceStore`] for a server's database.

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};

use super::PostgresStore;
use crate::{
    Result,
    pg::quoted,
    store::{CheckReport, MaintenanceStore, PoolStatus, TableSize, VacuumReport},
};

const TABLES: &str = "SELECT CAST(relname AS TEXT), pg_total_relation_size(oid) FROM pg_class
    WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind = 'r' ORDER BY relname";
/// An index whose making has failed is left invalid: it is written, and never read.
const INDEXES: &str = "SELECT CAST(CAST(indexrelid AS regclass) AS TEXT) FROM pg_index
    JOIN pg_class ON pg_class.oid = indrelid
    WHERE relnamespace = CAST(current_schema() AS regnamespace) AND NOT (indisvalid AND indisready) ORDER BY 1";
const CONSTRAINTS: &str =
    "SELECT CAST(conname AS TEXT), CAST(CAST(conrelid AS regclass) AS TEXT) FROM pg_constraint
    WHERE connamespace = CAST(current_schema() AS regnamespace) AND NOT convalidated ORDER BY 1";
/// Reads each index and compares it with its table, where the server has the module for it.
const DEEP: &str = "SELECT CAST(CAST(indexrelid AS regclass) AS TEXT), CAST(bt_index_check(indexrelid, true) AS TEXT) FROM pg_index
    JOIN pg_class ON pg_class.oid = indrelid
    JOIN pg_class AS index ON index.oid = indexrelid JOIN pg_am ON pg_am.oid = index.relam
    WHERE pg_class.relnamespace = CAST(current_schema() AS regnamespace) AND amname = 'btree' AND indisvalid";

#[async_trait]
impl MaintenanceStore for PostgresStore {
    async fn check(&self) -> Result<CheckReport> {
        let mut conn = self.pool.connect_unlimited().await?;
        let report = report(&mut conn, self.place.to_string()).await;
        report.map_err(|err| self.place.explain_sql(err))
    }

    async fn vacuum(&self) -> Result<VacuumReport> {
        let mut conn = self.pool.connect_unlimited().await?;
        vacuum(&mut conn).await.map_err(|err| self.place.explain_sql(err))
    }

    fn pool(&self) -> Option<PoolStatus> {
        Some(self.pool_status())
    }
}

async fn report(conn: &mut PgConnection, store: String) -> sqlx::Result<CheckReport> {
    let mut problems = Vec::new();
    for row in sqlx::query(INDEXES).fetch_all(&mut *conn).await? {
        let index: String = row.try_get(0)?;
        problems.push(format!("the index {index} is not valid: REINDEX INDEX {index}"));
    }
    for row in sqlx::query(CONSTRAINTS).fetch_all(&mut *conn).await? {
        let (name, table): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        problems.push(format!(
            "the rows of {table} were never checked against {name}: ALTER TABLE {table} VALIDATE CONSTRAINT {name}"
        ));
    }
    let sql = "SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'";
    if sqlx::query(sql).fetch_one(&mut *conn).await?.try_get::<i64, _>(0)? > 0
        && let Err(err) = sqlx::query(DEEP).fetch_all(&mut *conn).await
    {
        if err.as_database_error().is_none() {
            return Err(err);
        }
        problems.push(err.to_string());
    }
    let mut tables = Vec::new();
    for row in sqlx::query(TABLES).fetch_all(&mut *conn).await? {
        let (name, size): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        // Counting reads every row: a page that cannot be read shows here.
        let sql = format!("SELECT count(*) FROM {}", quoted(&name));
        match sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *conn).await {
            Ok(row) => {
                let rows = row.try_get::<i64, _>(0)?.cast_unsigned();
                tables.push(TableSize { name, rows, size_bytes: Some(size.cast_unsigned()) });
            }
            Err(err) if err.as_database_error().is_some() => {
                problems.push(format!("the table {name} cannot be read: {err}"));
            }
            Err(err) => return Err(err),
        }
    }
    let sql =
        "SELECT current_setting('server_version'), (SELECT max(version) FROM schema_migrations)";
    let row = sqlx::query(sql).fetch_one(&mut *conn).await?;
    Ok(CheckReport {
        store,
        engine: format!("Postgres {}", row.try_get::<String, _>(0)?),
        schema_version: u32::try_from(row.try_get::<i64, _>(1)?).unwrap_or(u32::MAX),
        size_bytes: size(conn).await?,
        tables,
        problems,
    })
}

async fn vacuum(conn: &mut PgConnection) -> sqlx::Result<VacuumReport> {
    let before_bytes = size(conn).await?;
    for row in sqlx::query(TABLES).fetch_all(&mut *conn).await? {
        let name: String = row.try_get(0)?;
        // Table by table: without a name it would look after every table of the database, whoever's.
        let sql = format!("VACUUM ANALYZE {}", quoted(&name));
        conn.execute(AssertSqlSafe(sql)).await?;
    }
    Ok(VacuumReport { before_bytes, after_bytes: size(conn).await? })
}

/// Our tables with their indexes, in bytes.
async fn size(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let sql = "SELECT CAST(coalesce(sum(pg_total_relation_size(oid)), 0) AS BIGINT) FROM pg_class
        WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind = 'r'";
    let row = sqlx::query(sql).fetch_one(conn).await?;
    Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
}
