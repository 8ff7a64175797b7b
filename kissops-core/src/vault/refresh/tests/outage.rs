//! Providers that are down, that refuse everybody, that do not know the client.

use std::time::Duration;

use super::world::{Mood, Stage, key};
use crate::{
    Error,
    store::{FailureClass, Generation, GrantStateName},
    vault::{
        RotationClass::{OneTime, Reusable, Rotating},
        TokenVault as _, VaultEventKind,
    },
};

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn half_an_hour_of_false_revocations_marks_nobody_and_is_over_within_a_minute() {
    for rotation in [Reusable, Rotating, OneTime] {
        for probes_too in [false, true] {
            let mut stage = Stage::new(rotation, 100).await;
            // Some are due before it begins, most while it lasts.
            stage.pass_by(Duration::from_mins(182), Duration::from_mins(1)).await;
            stage.world.mood(Mood::Refusing { probes_too });
            stage.pass(30 * MINUTE).await;
            let at = format!("{rotation:?}, probes too: {probes_too}");
            assert_eq!(stage.in_state(GrantStateName::NeedsReauth).await, 0, "{at}");
            assert_eq!(stage.told(VaultEventKind::NeedsReauth), 0, "{at}");
            assert_eq!(stage.told(VaultEventKind::ProviderRefuses), 1, "{at}");
            assert!(stage.in_state(GrantStateName::Suspect).await > 0, "{at}: nobody was refused");
            stage.world.mood(Mood::Well);
            stage.pass(MINUTE).await;
            assert_eq!(stage.in_state(GrantStateName::Suspect).await, 0, "{at}: recovery");
            assert_eq!(stage.in_state(GrantStateName::Active).await, 100, "{at}");
            assert_eq!(stage.told(VaultEventKind::ProviderUp), 1, "{at}");
            assert_eq!(stage.world.replays(), [""; 0], "{at}");
        }
    }
}

#[tokio::test]
async fn a_provider_that_is_down_is_told_once_and_degrades_nobody() {
    for mood in [Mood::Away, Mood::Unavailable] {
        let mut stage = Stage::new(OneTime, 50).await;
        stage.pass_by(Duration::from_mins(182), Duration::from_mins(1)).await;
        let before = stage.world.requests();
        stage.world.mood(mood);
        stage.pass(20 * MINUTE).await;
        assert_eq!(stage.told(VaultEventKind::ProviderDown), 1, "{mood:?}");
        // Of the first one alone nobody could tell.
        assert!(stage.told(VaultEventKind::Degraded) <= 1, "{mood:?}");
        assert!(
            stage.world.requests() - before < 70,
            "{mood:?}: {} requests",
            stage.world.requests()
        );
        stage.world.mood(Mood::Well);
        stage.pass(MINUTE).await;
        assert_eq!(stage.told(VaultEventKind::ProviderUp), 1, "{mood:?}");
        assert_eq!(stage.in_state(GrantStateName::Active).await, 50, "{mood:?}");
        stage.pass(20 * MINUTE).await;
        for account in 0..50 {
            assert_eq!(stage.record(account).await.generation, Generation(2), "{mood:?}");
        }
    }
}

#[tokio::test]
async fn while_it_is_down_nobody_waits_in_vain() {
    let mut stage = Stage::new(OneTime, 8).await;
    stage.world.mood(Mood::Away);
    for account in 0..8 {
        let answer = stage.vault.refresh(&key(account)).await;
        assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
    }
    stage.rest().await;
    assert_eq!(stage.told(VaultEventKind::ProviderDown), 1);
    assert!(stage.access(3).await.is_ok(), "bots go on with what they have");
}

#[tokio::test]
async fn three_failed_rounds_of_one_grant_degrade_it_once() {
    let mut stage = Stage::new(Rotating, 1).await;
    stage.world.mood(Mood::Unavailable);
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.pass(Duration::from_secs(10)).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::Degraded);
    assert_eq!(stage.told(VaultEventKind::Degraded), 1);
    stage.pass(30 * MINUTE).await;
    assert_eq!(stage.told(VaultEventKind::Degraded), 1);
    assert!(stage.world.requests() < 12, "{} requests", stage.world.requests());
    assert!(stage.access(0).await.is_ok(), "it runs on");
    stage.world.mood(Mood::Well);
    stage.pass(16 * MINUTE).await;
    assert_eq!(stage.told(VaultEventKind::Recovered), 1);
    assert_eq!(stage.record(0).await.status.failure, None);
}

#[tokio::test]
async fn a_refused_client_freezes_the_provider_and_marks_no_account() {
    let mut stage = Stage::new(OneTime, 30).await;
    stage.world.mood(Mood::ClientRefused);
    stage.pass_until_due().await;
    assert_eq!(stage.told(VaultEventKind::ClientRefused), 1);
    assert_eq!(stage.told(VaultEventKind::Degraded) + stage.told(VaultEventKind::NeedsReauth), 0);
    assert_eq!(stage.in_state(GrantStateName::Active).await, 30);
    assert!(stage.world.requests() < 30, "{} requests", stage.world.requests());
    stage.world.mood(Mood::Well);
    stage.world.reload();
    stage.pass_by(15 * MINUTE, Duration::from_secs(5)).await;
    assert_eq!(stage.told(VaultEventKind::ProviderUp), 1);
    assert!(stage.world.requests() >= 30, "{} requests", stage.world.requests());
}

#[tokio::test]
async fn no_single_bad_answer_loses_a_grant() {
    let moods = [
        Mood::Unavailable,
        Mood::Away,
        Mood::Silent { carried_out: false },
        Mood::Refusing { probes_too: false },
        Mood::ClientRefused,
    ];
    for rotation in [Reusable, Rotating, OneTime] {
        for mood in moods {
            let mut stage = Stage::new(rotation, 3).await;
            stage.world.mood_of("0", mood);
            assert!(stage.vault.refresh(&key(0)).await.is_err());
            assert!(stage.access(0).await.is_ok());
            stage.world.mood_of("0", Mood::Well);
            stage.pass_by(10 * MINUTE, Duration::from_secs(2)).await;
            let record = stage.record(0).await;
            let at = format!("{rotation:?} {mood:?} {record:?}");
            assert_eq!(record.status.state.name(), GrantStateName::Active, "{at}");
            assert_eq!(record.generation, Generation(2), "{at}");
            assert_eq!(stage.world.replays(), [""; 0], "{at}");
        }
    }
}

#[tokio::test]
async fn an_answer_without_tokens_is_not_thrown_away() {
    let mut stage = Stage::new(Reusable, 1).await;
    stage.world.mood(Mood::Garbled);
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.world.mood(Mood::Well);
    stage.pass(Duration::from_secs(5)).await;
    assert_eq!(stage.record(0).await.generation, Generation(2), "a reusable token is sent again");

    let mut stage = Stage::new(OneTime, 2).await;
    stage.world.mood_of("0", Mood::Garbled);
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    let record = stage.record(0).await;
    assert_eq!(record.status.state.name(), GrantStateName::Ambiguous);
    assert_eq!(record.status.failure.unwrap().class, FailureClass::Ambiguous);
    assert_eq!(stage.store.landings(record.grant.id).await.unwrap().len(), 1);
    stage.world.mood_of("0", Mood::Well);
    stage.pass(Duration::from_mins(1)).await;
    // It was carried out: the token is not presented again.
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::NeedsReauth);
    assert_eq!(stage.world.replays(), [""; 0]);
}
