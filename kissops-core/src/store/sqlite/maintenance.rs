//! [`MaintenanceStore`] for a file.

use std::fs;

use async_trait::async_trait;
use rusqlite::Connection;

use super::{SqliteStore, fault::Place, file, open_reader};
use crate::{
    Error, Result,
    store::{CheckReport, MaintenanceStore, PoolStatus, TableSize, VacuumReport, sql::Durability},
};

/// Damage comes in masses: the first lines say it all.
const PROBLEMS: usize = 100;

#[async_trait]
impl MaintenanceStore for SqliteStore {
    async fn check(&self) -> Result<CheckReport> {
        let (place, readers) = (self.place.clone(), self.readers.clone());
        let size_bytes = size(&self.place)?;
        let Some(readers) = readers else {
            return self
                .writer
                .write(Durability::Process, move |tx| Ok(report(tx.conn, &place, size_bytes)?))
                .await;
        };
        // A connection of its own: it is at work for long, and others want to read.
        let done = tokio::task::spawn_blocking(move || {
            let (path, options) = readers.opened();
            let conn = open_reader(path, options).map_err(|err| place.explain_sql(err))?;
            report(&conn, &place, size_bytes).map_err(|err| place.explain_sql(err))
        });
        done.await.map_err(Error::unavailable("the check of the store"))?
    }

    async fn vacuum(&self) -> Result<VacuumReport> {
        let before_bytes = size(&self.place)?;
        self.writer
            .alone(|conn| {
                conn.execute_batch("VACUUM; PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE)")
            })
            .await?;
        Ok(VacuumReport { before_bytes, after_bytes: size(&self.place)? })
    }

    fn pool(&self) -> Option<PoolStatus> {
        None
    }
}

fn report(conn: &Connection, place: &Place, size_bytes: u64) -> rusqlite::Result<CheckReport> {
    // One snapshot, so that what is counted is what was checked.
    let tx = conn.is_autocommit().then(|| conn.unchecked_transaction()).transpose()?;
    let mut problems = Vec::new();
    each(conn, &format!("PRAGMA integrity_check({PROBLEMS})"), |row| {
        let line: String = row.get(0)?;
        if line != "ok" {
            problems.push(line);
        }
        Ok(())
    })?;
    each(conn, "PRAGMA foreign_key_check", |row| {
        let (table, id, parent): (String, Option<i64>, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        if problems.len() < PROBLEMS {
            let id = id.map_or_else(|| "a row".into(), |id| format!("row {id}"));
            problems.push(format!("{id} of {table} refers to a row of {parent} that is not there"));
        }
        Ok(())
    })?;
    let mut names: Vec<String> = Vec::new();
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    each(conn, sql, |row| {
        names.push(row.get(0)?);
        Ok(())
    })?;
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        // Names of our own tables: plain words.
        let rows = count(conn, &format!("SELECT count(*) FROM \"{name}\""))?;
        tables.push(TableSize { name, rows, size_bytes: None });
    }
    let version = count(conn, "SELECT coalesce(max(version), 0) FROM schema_migrations")?;
    drop(tx);
    Ok(CheckReport {
        store: place.to_string(),
        engine: format!("SQLite {}", rusqlite::version()),
        schema_version: u32::try_from(version).unwrap_or(u32::MAX),
        size_bytes,
        tables,
        problems,
    })
}

fn each(
    conn: &Connection,
    sql: &str,
    mut take: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut query = conn.prepare(sql)?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

fn count(conn: &Connection, sql: &str) -> rusqlite::Result<u64> {
    conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

/// The file with its log, in bytes.
fn size(place: &Place) -> Result<u64> {
    let Place::File(path) = place else { return Ok(0) };
    let mut bytes =
        fs::metadata(path).map_err(Error::io(format!("look at {}", path.display())))?.len();
    // A log comes and goes.
    bytes += fs::metadata(file::beside(path, "-wal")).map_or(0, |wal| wal.len());
    Ok(bytes)
}
