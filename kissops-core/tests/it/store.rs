//! `SqliteStore`: the rules of a store, in a file and in memory.

#![expect(clippy::unwrap_used, reason = "the factories are not test functions themselves")]

use std::{future::ready, sync::Arc};

use kissops_core::{
    store::{
        Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
    store_conformance,
};
use tempfile::TempDir;

fn in_a_file() -> (Arc<dyn Store>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("kissops.db"), SqliteOptions::default());
    (Arc::new(store.unwrap()), folder)
}

fn in_memory() -> (Arc<dyn Store>, ()) {
    (Arc::new(SqliteStore::in_memory().unwrap()), ())
}

mod faults;

store_conformance!(file, ready(in_a_file()));
store_conformance!(memory, ready(in_memory()));
