//! Rules of [`MaintenanceStore`](crate::store::MaintenanceStore).

use super::{at, event, numbered, run};
use crate::store::{CheckReport, EventQuery, Store, TableSize};

async fn rows(store: &dyn Store, table: &str) -> Option<u64> {
    let CheckReport { tables, .. } = store.check().await.unwrap();
    let found: Option<TableSize> = tables.into_iter().find(|one| one.name == table);
    found.map(|one| one.rows)
}

/// Nothing is wrong with it, and it says what it is.
pub async fn a_new_store_is_sound(store: &dyn Store) {
    let report = store.check().await.unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.schema_version > 0 && !report.engine.is_empty(), "{report:?}");
    assert!(report.tables.is_sorted_by(|one, next| one.name < next.name), "{report:?}");
}

/// Table by table, as they are at that moment.
pub async fn a_check_counts_the_rows(store: &dyn Store) {
    numbered(store, "web", 7).await;
    store.begin_run(run(1, "web", at(0))).await.unwrap();
    assert_eq!(rows(store, "events").await, Some(7));
    assert_eq!(rows(store, "runs").await, Some(1));
    assert_eq!(rows(store, "crashes").await, Some(0));
    assert_eq!(rows(store, "no such table").await, None);
}

/// Neither rows nor the order of ids are touched, while others write.
pub async fn a_vacuum_loses_nothing(store: &dyn Store) {
    let before = numbered(store, "web", 50).await;
    store.prune_events(at(25), 1_000).await.unwrap();
    let (done, appended) = futures_util::join!(
        store.vacuum(),
        store.append_events(vec![event(None, at(99), "meanwhile")])
    );
    done.unwrap();
    assert!(before.iter().all(|id| *id < appended.as_ref().unwrap()[0]));
    let found = store.events(EventQuery { limit: 1_000, ..EventQuery::default() }).await.unwrap();
    assert_eq!(found.len(), 26);
    assert!(store.check().await.unwrap().problems.is_empty());
}
