//! Looking after the database itself: is it whole, how large is it, give back what it no longer needs.

use std::fmt;

use async_trait::async_trait;
use serde::Serialize;

use crate::Result;

/// What a look at the whole database found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Which database; without a password.
    pub store: String,
    /// Which engine, with its version.
    pub engine: String,
    /// The schema's version.
    pub schema_version: u32,
    /// What it takes on the disk, indexes and logs included.
    pub size_bytes: u64,
    /// Its tables, by name.
    pub tables: Vec<TableSize>,
    /// What is wrong, one line each; empty for a sound database.
    pub problems: Vec<String>,
}

/// How large a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableSize {
    /// Its name.
    pub name: String,
    /// Its rows, counted.
    pub rows: u64,
    /// What it takes on the disk, with its indexes; `None` where the engine does not say.
    pub size_bytes: Option<u64>,
}

/// What tidying up has gained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct VacuumReport {
    /// What the database took before.
    pub before_bytes: u64,
    /// What it takes now.
    pub after_bytes: u64,
}

/// How the connections to a server are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PoolStatus {
    /// Connections that are open.
    pub open: u32,
    /// Those of them that nobody uses.
    pub idle: u32,
    /// Connections at once, at most.
    pub limit: u32,
    /// Calls that gave up waiting for one, since the store was opened.
    pub exhausted: u64,
}

/// The database as a thing that needs care.
#[async_trait]
pub trait MaintenanceStore: fmt::Debug + Send + Sync + 'static {
    /// Reads all of it and looks for damage: pages, indexes, references, rows that break a rule. What is wrong is in the
    /// report, not an error. Others may go on writing; it takes about as long as reading the whole database.
    async fn check(&self) -> Result<CheckReport>;

    /// Gives back what deleted rows have left, and renews what the planner knows. Needs as much free space as the
    /// database has. `SQLite`: writers wait meanwhile. Postgres: nobody waits, and space is kept for new rows.
    async fn vacuum(&self) -> Result<VacuumReport>;

    /// How its connections are used at this moment; `None` for a file, which has none that could run out.
    fn pool(&self) -> Option<PoolStatus>;
}
