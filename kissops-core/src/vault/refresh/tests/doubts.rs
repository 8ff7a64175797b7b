//! Grants that are lost, and those that only seem to be.

use std::time::Duration;

use super::world::{LIFE, Mood, Stage, key};
use crate::{
    Error,
    store::{Generation, GrantState, GrantStateName},
    vault::{
        RotationClass::{OneTime, Reusable, Rotating},
        TokenVault as _, Undecidable, VaultEventKind,
    },
};

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_revoked_account_is_marked_once_and_the_others_are_not() {
    for rotation in [Reusable, Rotating, OneTime] {
        let mut stage = Stage::new(rotation, 10).await;
        stage.world.revoke("4");
        assert!(stage.vault.refresh(&key(4)).await.is_err());
        stage.pass(Duration::from_secs(30)).await;
        let record = stage.record(4).await;
        assert_eq!(record.status.state.name(), GrantStateName::NeedsReauth, "{rotation:?}");
        assert_eq!(stage.told(VaultEventKind::NeedsReauth), 1);
        assert_eq!(stage.in_state(GrantStateName::Active).await, 9);
        assert_eq!(stage.told(VaultEventKind::ProviderRefuses), 0);
        let requests = stage.world.requests_of("4");
        stage.pass_by(2 * LIFE, MINUTE).await;
        assert_eq!(stage.world.requests_of("4"), requests, "nothing is asked for it any more");
        let said = stage.vault.token(&key(4)).await.unwrap_err();
        assert!(said.to_string().contains("kissops token authorize mock 4"), "{said}");
        let GrantState::NeedsReauth { keep_until, since, .. } = record.status.state else {
            panic!()
        };
        assert_eq!(keep_until.since(since), Duration::from_hours(30 * 24));
        assert!(!stage.store.sealed_tokens(record.grant.id).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn tokens_of_a_lost_grant_are_shredded_after_a_month() {
    let mut stage = Stage::new(OneTime, 1).await;
    stage.world.revoke("0");
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.pass(MINUTE).await;
    let id = stage.record(0).await.grant.id;
    assert!(!stage.store.sealed_tokens(id).await.unwrap().is_empty());
    stage.pass_by(Duration::from_hours(30 * 24 + 2), Duration::from_mins(30)).await;
    assert_eq!(stage.store.sealed_tokens(id).await.unwrap(), []);
}

#[tokio::test]
async fn the_only_grant_of_a_provider_needs_no_witness() {
    let mut stage = Stage::new(Rotating, 1).await;
    stage.world.revoke("0");
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.pass(Duration::from_secs(10)).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::NeedsReauth);
}

#[tokio::test]
async fn a_refusal_that_is_not_confirmed_lets_the_bot_run_on() {
    let mut stage = Stage::new(Reusable, 5).await;
    stage.world.mood_of("0", Mood::Refusing { probes_too: false });
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.pass(3 * MINUTE).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::Suspect);
    assert_eq!(stage.told(VaultEventKind::Degraded), 1, "the owner is told early");
    assert!(stage.access(0).await.is_ok());
    stage.pass_by(LIFE + 16 * MINUTE, Duration::from_secs(10)).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::NeedsReauth);
    assert_eq!(stage.told(VaultEventKind::NeedsReauth), 1);
    assert_eq!(stage.told(VaultEventKind::Degraded), 1);
}

#[tokio::test]
async fn a_lost_answer_to_a_one_time_token_is_reported_within_a_minute_and_never_replayed() {
    let mut stage = Stage::new(OneTime, 5).await;
    stage.world.mood_of("0", Mood::Silent { carried_out: true });
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::Ambiguous);
    stage.world.mood_of("0", Mood::Well);
    stage.pass(MINUTE).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::NeedsReauth);
    assert_eq!((stage.world.requests_of("0"), stage.world.replays().len()), (1, 0));
    assert_eq!(stage.store.refresh(stage.record(0).await.grant.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_refusal_after_silence_is_the_loss() {
    // A class that rotates without killing the old access token: the probe says nothing, the next refusal does.
    let mut stage = Stage::new(Rotating, 5).await;
    stage.world.mood_of("0", Mood::Silent { carried_out: true });
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.world.mood_of("0", Mood::Well);
    stage.pass(MINUTE).await;
    let record = stage.record(0).await;
    assert!(
        matches!(&record.status.state, GrantState::NeedsReauth { reason, .. } if reason.contains("used up")),
        "{record:?}"
    );
}

#[tokio::test]
async fn while_a_probe_says_nothing_a_one_time_token_waits() {
    let mut stage = Stage::new(OneTime, 3).await;
    stage.world.probe_works(false);
    stage.world.mood_of("0", Mood::Silent { carried_out: true });
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.world.mood_of("0", Mood::Well);
    stage.pass_by(60 * MINUTE, Duration::from_secs(10)).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::Ambiguous);
    assert_eq!(stage.world.requests_of("0"), 1);
    stage.world.probe_works(true);
    stage.pass_by(16 * MINUTE, Duration::from_secs(10)).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::NeedsReauth);
    assert_eq!(stage.world.replays(), [""; 0]);
}

#[tokio::test]
async fn where_nobody_can_tell_the_policy_decides() {
    for (undecidable, state) in [
        (Undecidable::Try, GrantStateName::Active),
        (Undecidable::Flag, GrantStateName::NeedsReauth),
    ] {
        let mut stage = Stage::new(OneTime, 1).await;
        *stage.world.undecidable.lock().unwrap() = undecidable;
        // The token has expired by itself when the answer is lost.
        stage.world.time.go(LIFE + MINUTE);
        stage.world.mood(Mood::Silent { carried_out: false });
        stage.rest().await;
        assert!(stage.vault.token(&key(0)).await.is_err());
        stage.world.mood(Mood::Well);
        stage.pass(MINUTE).await;
        assert_eq!(stage.record(0).await.status.state.name(), state, "{undecidable:?}");
    }
}

#[tokio::test]
async fn an_expired_token_of_a_lost_grant_is_not_handed_out() {
    let mut stage = Stage::new(OneTime, 2).await;
    stage.world.revoke("0");
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.pass(MINUTE).await;
    stage.world.time.go(LIFE);
    stage.rest().await;
    assert!(matches!(stage.vault.token(&key(0)).await, Err(Error::WrongState { .. })));
    // Refreshed for the caller, and before that as a witness.
    assert_eq!(stage.vault.token(&key(1)).await.unwrap().generation, Generation(3));
}
