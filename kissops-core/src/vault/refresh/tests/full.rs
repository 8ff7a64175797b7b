//! A store that takes nothing more: full, or locked by another program. For the refresher that is the same error.

use std::{path::Path, sync::Arc, time::Duration};

use super::world::{Mood, Stage, World, key};
use crate::{
    Error,
    store::{
        Generation, Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
    vault::{RotationClass::OneTime, TokenVault as _},
};

/// The longest that a test waits for something.
const LIMIT: Duration = Duration::from_secs(30);

async fn stage(file: &Path) -> Stage {
    let options =
        SqliteOptions { busy_timeout: Duration::from_millis(10), ..SqliteOptions::default() };
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(file, options).unwrap());
    let mut stage = Stage::over(World::new(OneTime), store, 1).await;
    stage.rest().await;
    stage
}

fn blocked(file: &Path) -> rusqlite::Connection {
    let other = rusqlite::Connection::open(file).unwrap();
    other.busy_timeout(LIMIT).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    other
}

/// Lets time pass, for those who wait for its passing, until `done`.
async fn until(stage: &Stage, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            stage.world.time.go(Duration::from_millis(20));
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("it never happens");
}

#[tokio::test]
async fn nothing_is_sent_that_cannot_be_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kissops.db");
    let stage = stage(&file).await;
    let full = blocked(&file);
    let refused = stage.vault.refresh(&key(0)).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    assert_eq!(stage.world.requests(), 0);
    assert_eq!(stage.access(0).await.unwrap(), "access-0-1", "what is there is handed out");
    drop(full);
    let token = stage.vault.refresh(&key(0)).await.unwrap();
    assert_eq!((token.generation, stage.world.requests()), (Generation(2), 1));
}

#[tokio::test]
async fn an_answer_that_cannot_be_stored_is_kept_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kissops.db");
    let stage = stage(&file).await;
    stage.world.mood(Mood::Held);
    let vault = stage.vault.clone();
    let waiter = tokio::spawn(async move { vault.refresh(&key(0)).await });
    until(&stage, || stage.world.requests() == 1).await;
    let full = blocked(&file);
    stage.world.let_go.notify_one();
    let begun = crate::vault::VaultTime::elapsed(&*stage.world.time);
    // Long enough for some tries in vain.
    until(&stage, || {
        crate::vault::VaultTime::elapsed(&*stage.world.time) > begun + Duration::from_secs(3)
    })
    .await;
    assert!(!waiter.is_finished(), "nobody gets what is not stored");
    assert_eq!(stage.record(0).await.generation, Generation(1));
    drop(full);
    until(&stage, || waiter.is_finished()).await;
    assert_eq!(waiter.await.unwrap().unwrap().generation, Generation(2));
    assert_eq!((stage.world.requests(), stage.access(0).await.unwrap()), (1, "access-0-2".into()));
}
