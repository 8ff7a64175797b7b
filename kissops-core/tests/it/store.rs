//! The rules of a store: `SQLite` in a file and in memory, and Postgres.

#![expect(clippy::unwrap_used, reason = "the factories are not test functions themselves")]

use std::{future::ready, path::Path, sync::Arc};

use kissops_core::{
    Error, Timestamp,
    store::{
        EventKind, EventQuery, EventRecord, EventStore as _, NewEvent, Store,
        postgres::{PostgresOptions, PostgresStore},
        sqlite::{SqliteOptions, SqliteStore},
    },
    store_conformance,
};
use tempfile::TempDir;

mod lent;

use self::lent::{LentDatabase, lent_database};

fn in_a_file() -> (Arc<dyn Store>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("kissops.db"), SqliteOptions::default());
    (Arc::new(store.unwrap()), folder)
}

fn in_memory() -> (Arc<dyn Store>, ()) {
    (Arc::new(SqliteStore::in_memory().unwrap()), ())
}

async fn on_a_server() -> Option<(Arc<dyn Store>, LentDatabase)> {
    let database = lent_database().await?;
    // Few, since many tests run at once; more than one, so that calls do run at once.
    let options = PostgresOptions { connections: 4, ..PostgresOptions::default() };
    let store = PostgresStore::connect(&database.url().into(), options).await.unwrap();
    Some((Arc::new(store), database))
}

fn event(reason: &str) -> NewEvent {
    let kind = EventKind::Other("test.happened".into());
    NewEvent { at: Timestamp(1), instance: None, kind, reason: reason.into() }
}

fn open(path: &Path) -> Result<SqliteStore, Error> {
    SqliteStore::open(path, SqliteOptions::default())
}

async fn all(store: &SqliteStore) -> Vec<EventRecord> {
    store.events(EventQuery { limit: u32::MAX, ..EventQuery::default() }).await.unwrap()
}

mod copy;
mod copy_vault;
mod copy_watch;
mod disk;
mod files;
mod kill;
mod process;
mod races;
mod server;
mod shared;
mod tamper;
mod two_daemons;
mod upgrade;

store_conformance!(file, ready(Some(in_a_file())));
store_conformance!(memory, ready(Some(in_memory())));
store_conformance!(postgres, on_a_server());
