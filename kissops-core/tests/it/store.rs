//! `SqliteStore`: the rules of a store, in a file and in memory.

use std::sync::Arc;

use kissops_core::{
    store::{
        Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
    store_conformance,
};
use tempfile::TempDir;

async fn in_a_file() -> (Arc<dyn Store>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("kissops.db"), SqliteOptions::default());
    (Arc::new(store.unwrap()), folder)
}

async fn in_memory() -> (Arc<dyn Store>, ()) {
    (Arc::new(SqliteStore::in_memory().unwrap()), ())
}

store_conformance!(file, in_a_file());
store_conformance!(memory, in_memory());
