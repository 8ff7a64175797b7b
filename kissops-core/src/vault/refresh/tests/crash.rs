//! Processes that end, or stall, in the middle of a refresh.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::world::{Mood, Stage, builder, key};
use crate::{
    store::{Generation, GrantStateName, RefreshPhase},
    vault::{
        Checkpoint,
        RotationClass::{self, OneTime, Reusable, Rotating},
        TokenVault as _, Vault, VaultEventKind,
    },
};

/// A vault that never comes back from `at`, and the moment when it got there.
async fn stuck_at(stage: &Stage, at: Checkpoint) -> Vault {
    let (reached, arrived) = std::sync::mpsc::channel();
    let reached = Mutex::new(reached);
    let once = AtomicBool::new(true);
    let hook = Arc::new(move |point, _| {
        if point == at && once.swap(false, Ordering::SeqCst) {
            reached.lock().unwrap().send(()).unwrap();
            panic!("killed at {at:?}");
        }
    });
    let vault = builder(&stage.world, &stage.store).checkpoints(hook).build().await.unwrap();
    let caller = vault.clone();
    let call = tokio::spawn(async move { caller.refresh(&key(0)).await });
    tokio::task::spawn_blocking(move || arrived.recv_timeout(Duration::from_secs(20)).unwrap())
        .await
        .unwrap();
    assert!(call.await.unwrap().is_err());
    vault
}

async fn dies_at(rotation: RotationClass, at: Checkpoint) -> Stage {
    let mut stage = Stage::new(rotation, 4).await;
    let vault = stuck_at(&stage, at).await;
    // Its session ends as if it had run out.
    vault.engine_for_tests().session.end().await.unwrap();
    drop(vault);
    stage.pass(Duration::from_mins(1)).await;
    stage
}

#[tokio::test]
async fn a_process_that_dies_before_sending_costs_nothing() {
    for rotation in [Reusable, Rotating, OneTime] {
        for at in [Checkpoint::BeforeIntent, Checkpoint::Intended] {
            let stage = dies_at(rotation, at).await;
            let record = stage.record(0).await;
            let expected = if at == Checkpoint::Intended { 2 } else { 1 };
            assert_eq!(record.generation, Generation(expected), "{rotation:?} {at:?} {record:?}");
            assert_eq!(record.status.state.name(), GrantStateName::Active);
            assert_eq!(stage.store.open_refreshes(None, 9).await.unwrap(), []);
            assert_eq!(stage.world.replays(), [""; 0]);
        }
    }
}

#[tokio::test]
async fn an_answer_that_has_landed_is_never_lost() {
    for rotation in [Reusable, Rotating, OneTime] {
        for at in [Checkpoint::Landed, Checkpoint::BeforeCommit, Checkpoint::Committed] {
            let stage = dies_at(rotation, at).await;
            let record = stage.record(0).await;
            assert_eq!(record.generation, Generation(2), "{rotation:?} {at:?} {record:?}");
            assert_eq!(record.status.state.name(), GrantStateName::Active);
            assert_eq!(stage.access(0).await.unwrap(), "access-0-2", "{rotation:?} {at:?}");
            assert_eq!(stage.world.requests_of("0"), 1, "{rotation:?} {at:?}");
            assert_eq!(stage.store.open_refreshes(None, 9).await.unwrap(), []);
        }
    }
}

#[tokio::test]
async fn an_answer_that_has_not_landed_is_a_loss_that_is_reported() {
    let stage = dies_at(Reusable, Checkpoint::Answered).await;
    assert_eq!(stage.record(0).await.generation, Generation(2), "sent again");
    for rotation in [Rotating, OneTime] {
        let stage = dies_at(rotation, Checkpoint::Answered).await;
        let record = stage.record(0).await;
        assert_eq!(
            record.status.state.name(),
            GrantStateName::NeedsReauth,
            "{rotation:?} {record:?}"
        );
        assert_eq!(stage.told(VaultEventKind::NeedsReauth), 1);
        assert_eq!(stage.world.replays(), [""; 0]);
    }
}

#[tokio::test]
async fn an_exchanger_that_outlives_the_process_saves_the_answer() {
    for rotation in [Rotating, OneTime] {
        let mut stage = Stage::new(rotation, 2).await;
        *stage.world.keeps.lock().unwrap() = true;
        stage.world.mood(Mood::Held);
        let vault = builder(&stage.world, &stage.store).build().await.unwrap();
        let caller = vault.clone();
        let call = tokio::spawn(async move { caller.refresh(&key(0)).await });
        while stage.world.requests() == 0 {
            tokio::task::yield_now().await;
        }
        stage.world.mood(Mood::Well);
        // Killed: nothing of it goes on.
        let engine = vault.engine_for_tests();
        engine.session.end().await.unwrap();
        stage.pass(Duration::from_secs(30)).await;
        assert_eq!(stage.access(0).await.unwrap(), "access-0-2", "{rotation:?}");
        assert_eq!(stage.world.requests_of("0"), 1);
        assert!(stage.world.kept.lock().unwrap().is_empty(), "settled");
        call.abort();
        stage.world.let_go.notify_one();
        vault.close().await;
    }
}

#[tokio::test]
async fn a_live_process_is_left_alone() {
    let mut stage = Stage::new(OneTime, 1).await;
    stage.world.mood(Mood::Held);
    let other = builder(&stage.world, &stage.store).build().await.unwrap();
    let caller = other.clone();
    let call = tokio::spawn(async move { caller.refresh(&key(0)).await });
    while stage.world.requests() == 0 {
        tokio::task::yield_now().await;
    }
    // Its session lasts by the database's clock, whatever this one shows.
    stage.pass(Duration::from_secs(29)).await;
    assert_eq!((stage.world.requests(), stage.world.probes()), (1, 0));
    let open = stage.store.open_refreshes(None, 9).await.unwrap();
    assert_eq!(open[0].phase, RefreshPhase::Sent);
    stage.world.let_go.notify_one();
    assert_eq!(call.await.unwrap().unwrap().generation, Generation(2));
    other.close().await;
}

#[tokio::test]
async fn a_session_that_was_taken_over_commits_nothing_and_begins_anew() {
    let mut stage = Stage::new(OneTime, 2).await;
    stage.world.mood(Mood::Held);
    let caller = stage.vault.clone();
    let call = tokio::spawn(async move { caller.refresh(&key(0)).await });
    while stage.world.requests() == 0 {
        tokio::task::yield_now().await;
    }
    // As somebody does who finds it run out, while this process is stopped.
    let open = stage.store.open_refreshes(None, 9).await.unwrap();
    let fence = open[0].refresh.fence.clone();
    let engine = stage.vault.engine_for_tests();
    let stalled = engine.session.lease_for_tests();
    stage.store.release_lease(&stalled).await.unwrap();
    assert_eq!(stage.store.lease(&fence.name).await.unwrap().unwrap().holder, None);
    stage.world.mood(Mood::Well);
    stage.world.let_go.notify_one();
    // The answer is kept, the stale commit is refused, and the new session goes on from the answer.
    while !call.is_finished() {
        stage.world.time.go(Duration::from_millis(100));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(call.await.unwrap().unwrap().generation, Generation(2));
    stage.rest().await;
    assert_eq!(stage.world.requests(), 1);
    assert_ne!(engine.session.lease_for_tests().name, stalled.name);
}

#[tokio::test]
async fn a_visit_that_fails_half_way_is_taken_up_again_by_the_same_process() {
    let mut stage = Stage::new(OneTime, 1).await;
    let vault = stuck_at(&stage, Checkpoint::BeforeCommit).await;
    stage.vault.close().await;
    stage.replace(vault);
    stage.pass(Duration::from_secs(80)).await;
    assert_eq!(stage.access(0).await.unwrap(), "access-0-2");
    assert_eq!(stage.world.requests(), 1);
}

#[tokio::test]
async fn every_checkpoint_is_passed_by_some_refresh() {
    let stage = Stage::new(OneTime, 3).await;
    let passed = Arc::new(Mutex::new(std::collections::HashSet::new()));
    let seen = Arc::clone(&passed);
    let hook = Arc::new(move |point, _| {
        seen.lock().unwrap().insert(point);
    });
    stage.vault.close().await;
    let mut stage = stage;
    let vault = builder(&stage.world, &stage.store).checkpoints(hook).build().await.unwrap();
    stage.replace(vault);
    stage.world.mood_of("0", Mood::Silent { carried_out: false });
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.world.mood_of("0", Mood::Well);
    stage.world.revoke("1");
    assert!(stage.vault.refresh(&key(1)).await.is_err());
    stage.pass(Duration::from_secs(90)).await;
    for point in Checkpoint::ALL {
        assert!(passed.lock().unwrap().contains(&point), "{point:?}");
    }
}
