//! What is due is done once, and no provider is asked more often than it has to be.

use std::{sync::Arc, time::Duration};

use super::world::{LIFE, Mood, Stage, World, key, new_tokens};
use crate::{
    Error,
    store::{Generation, GrantStateName, Store, sqlite::SqliteStore},
    vault::{
        RotationClass::{self, OneTime, Reusable, Rotating},
        TokenSet, TokenVault as _, VaultEventKind,
    },
};

const MINUTE: Duration = Duration::from_mins(1);

/// With a provider that wants its tokens to be validated each hour.
async fn validated(rotation: RotationClass, accounts: usize) -> Stage {
    let world = World::new(rotation);
    *world.validate_every.lock().unwrap() = Some(60 * MINUTE);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
    Stage::over(world, store, accounts).await
}

#[tokio::test]
async fn a_suspect_is_not_validated_for_ever() {
    let mut stage = validated(Reusable, 5).await;
    stage.world.mood_of("0", Mood::Refusing { probes_too: false });
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    let before = stage.world.probes();
    stage.pass_by(150 * MINUTE, Duration::from_secs(10)).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::Suspect);
    // Four others each hour, and the suspect's own question each quarter of an hour.
    let probes = stage.world.probes() - before;
    assert!(probes < 40, "{probes} probes");
}

#[tokio::test]
async fn a_dead_token_of_a_provider_that_is_busy_backs_off() {
    for (mood, most) in [(Mood::Unavailable, 14), (Mood::Limited, 10)] {
        let mut stage = validated(OneTime, 1).await;
        stage.world.kill_access("0");
        stage.world.mood_of("0", mood);
        stage.pass_by(80 * MINUTE, Duration::from_secs(1)).await;
        let (requests, probes) = (stage.world.requests(), stage.world.probes());
        assert!(requests > 0 && requests <= most, "{mood:?}: {requests} requests");
        assert!(probes <= 2, "{mood:?}: {probes} probes");
    }
}

#[tokio::test]
async fn an_access_token_alone_that_is_found_dead_is_told_and_left_alone() {
    let mut stage = validated(OneTime, 2).await;
    let alone = TokenSet { refresh: None, ..stage.world.account("alone") };
    stage.vault.put(new_tokens("alone", alone)).await.unwrap();
    stage.world.kill_access("alone");
    stage.pass_by(65 * MINUTE, Duration::from_secs(1)).await;
    assert_eq!(stage.record("alone").await.status.state.name(), GrantStateName::NeedsReauth);
    assert_eq!(stage.told(VaultEventKind::NeedsReauth), 1);
    let probes = stage.world.probes();
    assert!(probes < 12, "{probes} probes");
}

#[tokio::test]
async fn a_token_whose_end_nobody_knows_is_condemned_by_no_refresh() {
    let mut stage = Stage::new(OneTime, 0).await;
    let tokens = TokenSet { refresh: None, access_expires_at: None, ..stage.world.account("0") };
    stage.vault.put(new_tokens(0, tokens)).await.unwrap();
    let before = stage.record(0).await;
    assert!(matches!(stage.vault.refresh(&key(0)).await, Err(Error::WrongState { .. })));
    assert_eq!(stage.record(0).await, before);
    assert!(stage.access(0).await.is_ok());
    // What its provider says is another matter.
    stage.world.kill_access("0");
    assert!(stage.vault.report_invalid(&key(0), Generation(1)).await.is_err());
    stage.pass(MINUTE).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::NeedsReauth);
}

#[tokio::test]
async fn two_accounts_that_both_withdrew_are_believed_in_the_end() {
    for rotation in [Reusable, Rotating, OneTime] {
        let mut stage = Stage::new(rotation, 2).await;
        stage.world.revoke("0");
        stage.world.revoke("1");
        assert!(stage.vault.refresh(&key(0)).await.is_err());
        stage.pass(45 * MINUTE).await;
        assert_eq!(stage.in_state(GrantStateName::NeedsReauth).await, 0, "{rotation:?}: too soon");
        assert_eq!(stage.told(VaultEventKind::ProviderRefuses), 1, "{rotation:?}");
        stage.pass(30 * MINUTE).await;
        assert_eq!(stage.in_state(GrantStateName::NeedsReauth).await, 2, "{rotation:?}");
        assert_eq!(stage.told(VaultEventKind::NeedsReauth), 2, "{rotation:?}");
        assert_eq!(stage.told(VaultEventKind::ProviderUp), 1, "{rotation:?}");
        let requests = stage.world.requests();
        stage.pass_by(5 * LIFE, MINUTE).await;
        assert_eq!(stage.world.requests(), requests, "{rotation:?}");
    }
}

#[tokio::test]
async fn an_answer_that_the_exchanger_has_after_all_is_asked_for() {
    for rotation in [Rotating, OneTime] {
        let mut stage = Stage::new(rotation, 2).await;
        *stage.world.keeps.lock().unwrap() = true;
        stage.world.mood_of("0", Mood::Silent { carried_out: true });
        assert!(stage.vault.refresh(&key(0)).await.is_err());
        stage.world.mood_of("0", Mood::Well);
        stage.pass(MINUTE).await;
        assert_eq!(stage.access(0).await.unwrap(), "access-0-2", "{rotation:?}");
        assert_eq!(stage.world.requests_of("0"), 1, "{rotation:?}");
        assert!(stage.world.kept.lock().unwrap().is_empty(), "settled");
    }
}

#[tokio::test]
async fn what_the_exchanger_cannot_read_is_nothing() {
    let mut stage = Stage::new(OneTime, 2).await;
    *stage.world.corrupt.lock().unwrap() = true;
    stage.world.mood_of("0", Mood::Silent { carried_out: true });
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.world.mood_of("0", Mood::Well);
    stage.pass(MINUTE).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::NeedsReauth);
    assert_eq!(stage.world.replays(), [""; 0]);
}

#[tokio::test]
async fn a_silent_provider_of_one_grant_is_told_and_asked_ever_more_seldom() {
    for rotation in [Rotating, OneTime] {
        let mut stage = Stage::new(rotation, 1).await;
        stage.world.time.go(LIFE + MINUTE);
        stage.world.mood(Mood::Silent { carried_out: false });
        stage.rest().await;
        stage.pass(30 * MINUTE).await;
        assert_eq!(stage.told(VaultEventKind::Degraded), 1, "{rotation:?}");
        let requests = stage.world.requests();
        assert!((5..=9).contains(&requests), "{rotation:?}: {requests} requests");
        stage.world.mood(Mood::Well);
        stage.pass(16 * MINUTE).await;
        assert_eq!(stage.access(0).await.unwrap(), "access-0-2", "{rotation:?}");
        assert_eq!(stage.told(VaultEventKind::Recovered), 1, "{rotation:?}");
    }
}

#[tokio::test]
async fn a_grant_in_doubt_is_asked_about_as_seldom_as_it_is_planned() {
    let mut stage = Stage::new(OneTime, 2).await;
    stage.world.mood_of("0", Mood::Silent { carried_out: false });
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.pass(30 * MINUTE).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::Ambiguous);
    let (requests, probes) = (stage.world.requests_of("0"), stage.world.probes());
    assert!(requests <= 9 && probes <= 9, "{requests} requests, {probes} probes");
}

#[tokio::test]
async fn what_a_later_attempt_is_told_to_wait_is_waited() {
    let mut stage = Stage::new(Rotating, 2).await;
    stage.world.mood_of("0", Mood::Silent { carried_out: false });
    assert!(stage.vault.refresh(&key(0)).await.is_err());
    stage.world.mood_of("0", Mood::Limited);
    stage.pass(MINUTE).await;
    assert_eq!(stage.world.requests_of("0"), 2);
    stage.pass(8 * MINUTE).await;
    assert_eq!(stage.world.requests_of("0"), 2, "before the ten minutes are over");
    stage.world.mood_of("0", Mood::Well);
    stage.pass(3 * MINUTE).await;
    assert_eq!(stage.access(0).await.unwrap(), "access-0-2");
}

#[tokio::test]
async fn nothing_of_a_grant_that_is_given_up_stays_with_the_exchanger() {
    for give_up in ["revoke", "remove", "put"] {
        let mut stage = Stage::new(OneTime, 1).await;
        stage.rest().await;
        *stage.world.keeps.lock().unwrap() = true;
        stage.world.mood(Mood::Silent { carried_out: true });
        assert!(stage.vault.refresh(&key(0)).await.is_err());
        assert_eq!(stage.world.kept.lock().unwrap().len(), 1);
        match give_up {
            "revoke" => drop(stage.vault.revoke(&key(0), "leaked").await.unwrap()),
            "remove" => stage.vault.remove(&key(0)).await.unwrap(),
            _ => {
                let tokens = stage.world.account("0");
                stage.vault.put(new_tokens(0, tokens)).await.unwrap();
            }
        }
        assert!(stage.world.kept.lock().unwrap().is_empty(), "{give_up}");
    }
}

#[tokio::test]
async fn who_asks_in_vain_takes_nothing_of_the_rate() {
    let mut stage = Stage::new(OneTime, 2).await;
    *stage.world.rate.lock().unwrap() = Some(1.0);
    stage.rest().await;
    let before = stage.world.requests();
    let alone = TokenSet { refresh: None, ..stage.world.account("alone") };
    stage.vault.put(new_tokens("alone", alone)).await.unwrap();
    // Each of these looks, and sends nothing.
    for _ in 0..20 {
        assert!(stage.vault.refresh(&key("alone")).await.is_err());
    }
    assert!(stage.vault.refresh(&key(0)).await.is_ok(), "at once, without the clock going on");
    assert_eq!(stage.world.requests() - before, 1);
}
