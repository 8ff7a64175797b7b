//! Two programs on one database: what the rules promise of one store's callers holds between stores as well.

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::future::join_all;
use kissops_core::{
    Error, Timestamp,
    store::{
        Actor, AuditOutcome, AuditVerdict, HolderId, Lease, LeaseName, NewAudit, Store,
        postgres::{PostgresOptions, PostgresStore},
        sqlite::{SqliteOptions, SqliteStore},
        verify_audit,
    },
};

use crate::postgres::{ScratchDatabase, scratch_database};

const LONG: Duration = Duration::from_mins(10);

fn on_file(path: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(path, SqliteOptions::default()).unwrap())
}

async fn on_server(database: &ScratchDatabase) -> Arc<dyn Store> {
    let options = PostgresOptions { connections: 4, ..PostgresOptions::default() };
    Arc::new(PostgresStore::connect(&database.url().into(), options).await.unwrap())
}

fn name() -> LeaseName {
    LeaseName::new("grant/7")
}

/// Both append as fast as they can.
async fn append_to_one_chain(stores: [Arc<dyn Store>; 2]) {
    let calls = (0..60).map(|i: usize| {
        let store = Arc::clone(&stores[i % 2]);
        let entry = NewAudit {
            at: Timestamp(1_790_000_000_000_000),
            actor: Actor::System("test".into()),
            action: "test.acted".into(),
            target: i.to_string(),
            origin: "here".into(),
            outcome: AuditOutcome::Done,
        };
        tokio::spawn(async move { store.append_audit(vec![entry]).await.unwrap().remove(0).0 })
    });
    let mut seqs: Vec<u64> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    seqs.sort_unstable();
    assert!(seqs.into_iter().eq(1..=60));
    let verdict = verify_audit(&*stores[0], None).await.unwrap();
    assert!(matches!(verdict, AuditVerdict::Intact { entries: 60, .. }), "{verdict:?}");
}

/// Both want the same lease, again and again; whoever has it gives it back.
async fn take_turns(stores: [Arc<dyn Store>; 2]) {
    let calls = (0..60).map(|i: usize| {
        let store = Arc::clone(&stores[i % 2]);
        tokio::spawn(async move {
            let holder = HolderId(i64::try_from(i).unwrap());
            let lease = match store.acquire_lease(&name(), holder, LONG).await {
                Ok(lease) => lease,
                Err(Error::Conflict { .. }) => return None,
                Err(err) => panic!("{}", err.chain()),
            };
            let seen = store.lease(&name()).await.unwrap().unwrap();
            assert_eq!((seen.holder, seen.token), (Some(holder), lease.token));
            store.release_lease(&lease).await.unwrap();
            Some(lease.token)
        })
    });
    let mut tokens: Vec<_> = join_all(calls).await.into_iter().filter_map(Result::unwrap).collect();
    let granted = tokens.len();
    tokens.sort_unstable();
    tokens.dedup();
    assert!(granted > 0);
    assert_eq!(tokens.len(), granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_append_to_one_chain_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    append_to_one_chain([on_file(&path), on_file(&path)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_append_to_one_chain_on_a_server() {
    let Some(database) = scratch_database().await else { return };
    append_to_one_chain([on_server(&database).await, on_server(&database).await]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_take_turns_with_a_lease_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    take_turns([on_file(&path), on_file(&path)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_take_turns_with_a_lease_on_a_server() {
    let Some(database) = scratch_database().await else { return };
    take_turns([on_server(&database).await, on_server(&database).await]).await;
}

/// A program that starts again finds its leases as they were, and gets larger tokens.
#[tokio::test]
async fn tokens_grow_from_one_life_of_a_program_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kissops.db");
    let mut last: Option<Lease> = None;
    for life in 0..3 {
        let store = on_file(&path);
        if let Some(last) = &last {
            let held = store.acquire_lease(&name(), HolderId(life), LONG).await;
            assert!(matches!(held, Err(Error::Conflict { .. })), "{held:?}");
            store.release_lease(last).await.unwrap();
            while store.prune_leases(Duration::ZERO, 9).await.unwrap() == 0 {
                // The same microsecond, or millisecond, by the database's clock.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let lease = store.acquire_lease(&name(), HolderId(life), LONG).await.unwrap();
        assert!(last.is_none_or(|last| last.token < lease.token));
        last = Some(lease);
    }
}
