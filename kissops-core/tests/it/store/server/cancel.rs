//! Calls that are dropped half-way leave nothing behind: no open transaction, no connection in use, no silent neighbour.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use kissops_core::{
    Timestamp,
    id::InstanceName,
    store::{
        EventQuery, EventStore as _, InstanceRecord, InstanceStore as _, MemberRecord,
        MemberStore as _,
        postgres::{PostgresOptions, PostgresStore},
    },
};
use tokio::time::{sleep, timeout};

use super::{connect, number, options};
use crate::{postgres::scratch_database, store::event};

fn instance(restarts: u64) -> InstanceRecord {
    super::load::instance("web", restarts)
}

fn member(n: u64) -> MemberRecord {
    let name = InstanceName::new(&format!("m@{n}")).unwrap();
    MemberRecord { name, vars: BTreeMap::new(), added_at: Timestamp(1) }
}

/// Waits until no connection of `store` is in use and none of its sessions is inside a transaction.
async fn becomes_quiet(store: &PostgresStore, url: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'kissops' AND state <> 'idle'";
    loop {
        let status = store.pool_status();
        let busy = number(url, sql).await;
        if status.open == status.idle && busy == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{status:?}, {busy} sessions are busy");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn dropped_calls_leave_the_connections_as_they_were() {
    let Some(database) = scratch_database().await else { return };
    let store =
        connect(database.url(), PostgresOptions { connections: 2, ..options() }).await.unwrap();
    let mut dropped = 0;
    for n in 0..300 {
        // Not a wait for anything: the moment of the drop is what varies.
        let moment = Duration::from_micros(RandomState::new().hash_one(n) % 1_500);
        dropped += u32::from(match n % 4 {
            0 => timeout(moment, store.put_instance(instance(n))).await.is_err(),
            1 => timeout(moment, store.add_member(member(n))).await.is_err(),
            2 => timeout(moment, store.append_events(vec![event(&n.to_string())])).await.is_err(),
            _ => timeout(moment, store.instances()).await.is_err(),
        });
        if n % 10 == 0 {
            store.put_instance(instance(1_000 + n)).await.unwrap();
            let seen = number(database.url(), "SELECT restarts FROM instances").await;
            assert_eq!(seen, i64::try_from(1_000 + n).unwrap(), "acknowledged and not committed");
        }
    }
    assert!(dropped > 20, "{dropped}");
    becomes_quiet(&store, database.url()).await;
    let found =
        store.events(EventQuery { limit: u32::MAX, ..EventQuery::default() }).await.unwrap();
    let mut reasons: Vec<_> = found.iter().map(|one| &one.event.reason).collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), found.len());
    assert_eq!(store.pool_status().exhausted, 0);
}

/// Appends of several callers share a statement, and the one that runs it may go away.
#[tokio::test]
async fn an_append_goes_on_for_its_neighbours() {
    let Some(database) = scratch_database().await else { return };
    let store = Arc::new(connect(database.url(), options()).await.unwrap());
    for round in 0..30 {
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let store = Arc::clone(&store);
                let event = event(&format!("{round}.{task}"));
                tokio::spawn(async move { store.append_events(vec![event]).await.unwrap() })
            })
            .collect();
        // All have begun; the first runs the statement of all.
        tokio::task::yield_now().await;
        for (task, handle) in tasks.into_iter().enumerate() {
            if task % 3 == 0 {
                handle.abort();
            } else {
                let answer = timeout(Duration::from_secs(20), handle).await;
                answer.expect("a neighbour waits for ever").unwrap();
            }
        }
    }
    let found =
        store.events(EventQuery { limit: u32::MAX, ..EventQuery::default() }).await.unwrap();
    assert!(found.len() >= 30 * 5, "{}", found.len());
    becomes_quiet(&store, database.url()).await;
}

/// A store that is used from one runtime after the other, as from a host's tests.
#[test]
fn a_runtime_that_ends_half_way_harms_no_later_one() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let Some(database) = first.block_on(scratch_database()) else { return };
    drop(first);
    // Connections belong to the runtime that made them, so each runtime has its own store.
    for n in 0..10 {
        let runtime = runtime();
        let store = Arc::new(runtime.block_on(connect(database.url(), options())).unwrap());
        let cut = Arc::clone(&store);
        runtime.spawn(async move { cut.append_events(vec![event("cut")]).await });
        runtime.block_on(async { sleep(Duration::from_micros(n * 200)).await });
        drop(runtime);
        drop(store);
    }
    let runtime = runtime();
    runtime.block_on(async {
        let store = connect(database.url(), options()).await.unwrap();
        let ids = store.append_events(vec![event("last")]).await.unwrap();
        let found = store.events(EventQuery { limit: 1, ..EventQuery::default() }).await.unwrap();
        assert_eq!((found[0].id, &*found[0].event.reason), (ids[0], "last"));
    });
}
