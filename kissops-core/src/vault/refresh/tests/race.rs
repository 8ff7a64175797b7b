//! Many who ask at once: tasks, processes, those who do not wait for the end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::world::{Mood, Stage, World, builder, key};
use crate::{
    store::{
        Generation, Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
    vault::{
        RotationClass::{OneTime, Reusable, Rotating},
        TokenVault as _, VaultEventKind,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_callers_share_one_refresh() {
    let stage = Stage::new(OneTime, 10).await;
    let calls = (0..1000).map(|call| {
        let vault = stage.vault.clone();
        tokio::spawn(async move { vault.refresh(&key(call % 10)).await })
    });
    let tokens = join_all(calls).await.into_iter().map(|call| call.unwrap().unwrap());
    let generations: BTreeSet<_> = tokens.map(|token| token.generation).collect();
    assert_eq!(generations, BTreeSet::from([Generation(2)]));
    assert_eq!(stage.world.requests(), 10);
}

#[tokio::test]
async fn a_refresh_goes_on_without_those_who_asked() {
    let mut stage = Stage::new(OneTime, 1).await;
    stage.world.mood(Mood::Held);
    for _ in 0..3 {
        let vault = stage.vault.clone();
        let call = tokio::spawn(async move { vault.refresh(&key(0)).await });
        while stage.world.requests() == 0 {
            tokio::task::yield_now().await;
        }
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    stage.world.mood(Mood::Well);
    stage.world.let_go.notify_one();
    assert_eq!(
        stage.vault.token_after(&key(0), Generation(1)).await.unwrap().generation,
        Generation(2)
    );
    stage.rest().await;
    assert_eq!(stage.world.requests(), 1);
}

#[tokio::test]
async fn who_comes_late_shares_what_is_under_way() {
    let stage = Stage::new(OneTime, 1).await;
    stage.world.mood(Mood::Held);
    let call =
        |vault: crate::vault::Vault| tokio::spawn(async move { vault.refresh(&key(0)).await });
    let first = call(stage.vault.clone());
    while stage.world.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let late = call(stage.vault.clone());
    tokio::task::yield_now().await;
    stage.world.let_go.notify_one();
    let (first, late) = (first.await.unwrap().unwrap(), late.await.unwrap().unwrap());
    assert_eq!((first.generation, late.generation), (Generation(2), Generation(2)));
    assert_eq!(stage.world.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_file_refresh_each_grant_once() {
    for rotation in [OneTime, Rotating, Reusable] {
        let dir = tempfile::tempdir().unwrap();
        let open = || -> Arc<dyn Store> {
            let path = dir.path().join("kissops.db");
            Arc::new(SqliteStore::open(path, SqliteOptions::default()).unwrap())
        };
        let world = World::new(rotation);
        let stage = Stage::over(Arc::clone(&world), open(), 40).await;
        let other = builder(&world, &open()).build().await.unwrap();
        let calls = (0..400).map(|call| {
            let vault = if call % 2 == 0 { stage.vault.clone() } else { other.clone() };
            tokio::spawn(async move { vault.refresh(&key(call / 10)).await })
        });
        let calls = join_all(calls);
        let time = Arc::clone(&world.time);
        // Whoever waits for the other process looks from time to time.
        let clock = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                time.go(Duration::from_millis(20));
            }
        });
        for call in calls.await {
            assert_eq!(call.unwrap().unwrap().generation, Generation(2), "{rotation:?}");
        }
        clock.abort();
        assert_eq!(world.requests(), 40, "{rotation:?}");
        assert_eq!(world.replays(), [""; 0]);
        other.close().await;
        stage.vault.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_reports_asks_the_provider_once() {
    let stage = Stage::new(OneTime, 1).await;
    let report = |generation| {
        let vault = stage.vault.clone();
        tokio::spawn(async move { vault.report_invalid(&key(0), Generation(generation)).await })
    };
    for call in join_all((0..200).map(|_| report(1))).await {
        assert_eq!(call.unwrap().unwrap().generation, Generation(1), "the provider calls it good");
    }
    assert_eq!((stage.world.probes(), stage.world.requests()), (1, 0));
    // Some minutes later it is not.
    stage.world.time.go(Duration::from_mins(5));
    stage.vault.refresh(&key(0)).await.unwrap();
    for call in join_all((0..200).map(|_| report(1))).await {
        assert_eq!(call.unwrap().unwrap().generation, Generation(2), "an old pair is no news");
    }
    assert_eq!((stage.world.probes(), stage.world.requests()), (1, 1));
}

#[tokio::test]
async fn a_dead_token_that_is_reported_is_refreshed_once() {
    let stage = Stage::new(Rotating, 1).await;
    stage.world.kill_access("0");
    let reports = (0..100).map(|_| {
        let vault = stage.vault.clone();
        tokio::spawn(async move { vault.report_invalid(&key(0), Generation(1)).await })
    });
    for call in join_all(reports).await {
        assert_eq!(call.unwrap().unwrap().generation, Generation(2));
    }
    assert_eq!((stage.world.probes(), stage.world.requests()), (1, 1));
}

#[tokio::test]
async fn a_closed_vault_has_finished_what_it_began_and_begins_nothing() {
    let stage = Stage::new(OneTime, 1).await;
    stage.world.mood(Mood::Held);
    let vault = stage.vault.clone();
    let call = tokio::spawn(async move { vault.refresh(&key(0)).await });
    while stage.world.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let vault = stage.vault.clone();
    let closing = tokio::spawn(async move { vault.close().await });
    tokio::task::yield_now().await;
    stage.world.let_go.notify_one();
    closing.await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().generation, Generation(2), "it was under way");
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    assert_eq!(stage.world.requests(), 1);
    let mut events = stage.vault.events();
    assert!(!matches!(events.try_recv(), Ok(event) if event.kind == VaultEventKind::Refreshed));
}
