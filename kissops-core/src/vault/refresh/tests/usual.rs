//! What happens when nothing goes wrong.

use std::time::Duration;

use super::world::{LIFE, Stage, builder, builder_with, key, new_tokens};
use crate::{
    Error,
    store::{Generation, GrantState, GrantStateName},
    vault::{
        RotationClass::{OneTime, Reusable, Rotating},
        TokenVault as _, VaultEventKind, VaultState,
    },
};

#[tokio::test]
async fn tokens_come_back_as_they_were_put() {
    let mut stage = Stage::new(OneTime, 1).await;
    stage.rest().await;
    let token = stage.vault.token(&key(0)).await.unwrap();
    assert_eq!(stage.access(0).await.unwrap(), "access-0-1");
    assert_eq!((token.generation, token.key), (Generation(1), key(0)));
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::Active);
    assert!(!format!("{:?}", stage.vault.token(&key(0)).await).contains("access-0"));
    assert_eq!(stage.world.requests(), 0);
}

#[tokio::test]
async fn what_comes_due_is_refreshed_once_and_before_it_expires() {
    for rotation in [Reusable, Rotating, OneTime] {
        let mut stage = Stage::new(rotation, 20).await;
        stage.pass_until_due().await;
        assert_eq!(stage.world.requests(), 20, "{rotation:?}");
        for account in 0..20 {
            let record = stage.record(account).await;
            assert_eq!(record.generation, Generation(2));
            let early = record.refreshed_at.unwrap();
            assert!(record.expiry.access.unwrap() == early.plus(LIFE), "{record:?}");
            assert_eq!(stage.access(account).await.unwrap(), format!("access-{account}-2"));
        }
        assert_eq!(stage.told(VaultEventKind::Refreshed), 20);
        assert_eq!(stage.world.replays(), [""; 0]);
    }
}

#[tokio::test]
async fn grants_are_refreshed_again_and_again_for_days() {
    let mut stage = Stage::new(OneTime, 3).await;
    stage.pass_by(Duration::from_hours(48), Duration::from_secs(20)).await;
    assert!((40..=51).contains(&stage.world.requests()), "{}", stage.world.requests());
    assert_eq!(stage.in_state(GrantStateName::Active).await, 3);
    assert_eq!(stage.world.replays(), [""; 0]);
}

#[tokio::test]
async fn who_waits_for_the_next_pair_gets_it() {
    let mut stage = Stage::new(Rotating, 1).await;
    stage.rest().await;
    let vault = stage.vault.clone();
    let waiter = tokio::spawn(async move { vault.token_after(&key(0), Generation(1)).await });
    stage.vault.refresh(&key(0)).await.unwrap();
    let token = waiter.await.unwrap().unwrap();
    assert_eq!(token.generation, Generation(2));
    // One that is there already.
    let at_once = stage.vault.token_after(&key(0), Generation(0)).await.unwrap();
    assert_eq!(at_once.generation, Generation(2));
}

#[tokio::test]
async fn who_waits_gets_what_another_process_has_committed() {
    let mut stage = Stage::new(Rotating, 1).await;
    let other = builder(&stage.world, &stage.store).build().await.unwrap();
    let vault = stage.vault.clone();
    let waiter = tokio::spawn(async move { vault.token_after(&key(0), Generation(1)).await });
    other.refresh(&key(0)).await.unwrap();
    while !waiter.is_finished() {
        stage.pass(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(waiter.await.unwrap().unwrap().generation, Generation(2));
    other.close().await;
}

#[tokio::test]
async fn new_tokens_take_the_place_of_what_was() {
    let mut stage = Stage::new(OneTime, 1).await;
    stage.world.revoke("0");
    let _ = stage.vault.refresh(&key(0)).await;
    stage.pass(Duration::from_secs(90)).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::NeedsReauth);
    let tokens = stage.world.account("0");
    stage.vault.put(new_tokens(0, tokens)).await.unwrap();
    let record = stage.record(0).await;
    assert_eq!(record.status.state.name(), GrantStateName::Active);
    assert_eq!(record.status.failure, None);
    assert_eq!(stage.vault.refresh(&key(0)).await.unwrap().generation, record.generation.next());
    stage.rest().await;
    assert_eq!(stage.told(VaultEventKind::Authorized), 1);
}

#[tokio::test]
async fn a_revoked_grant_has_nothing_left() {
    let mut stage = Stage::new(OneTime, 2).await;
    let revocation = stage.vault.revoke(&key(0), "left the team").await.unwrap();
    assert_eq!(revocation.at_provider, Ok(()));
    let record = stage.record(0).await;
    assert!(
        matches!(&record.status.state, GrantState::Revoked { reason, .. } if reason == "left the team")
    );
    assert_eq!(stage.store.sealed_tokens(record.grant.id).await.unwrap(), []);
    for answer in [stage.vault.token(&key(0)).await, stage.vault.refresh(&key(0)).await] {
        assert!(matches!(answer, Err(Error::WrongState { .. })), "{answer:?}");
    }
    stage.vault.remove(&key(1)).await.unwrap();
    assert!(matches!(stage.vault.token(&key(1)).await, Err(Error::NotFound { .. })));
    stage.pass_until_due().await;
    assert_eq!(stage.world.requests(), 0);
}

#[tokio::test]
async fn a_sealed_vault_says_so_and_changes_nothing() {
    let stage = Stage::new(OneTime, 1).await;
    let keys = Err(Error::invalid("KISSOPS_SECRET_KEY", "is not set"));
    let sealed = builder_with(&stage.world, &stage.store, keys).build().await.unwrap();
    assert!(matches!(sealed.state(), VaultState::Sealed { .. }));
    sealed.start();
    let said = sealed.token(&key(0)).await.unwrap_err();
    assert!(matches!(&said, Error::WrongState { state, .. } if state == "sealed"), "{said}");
    sealed.close().await;
    assert!(stage.access(0).await.is_ok(), "who has the key is not concerned");
}

#[tokio::test]
async fn a_grant_of_a_client_needs_no_refresh_token() {
    let mut stage = Stage::new(OneTime, 0).await;
    let mut tokens = stage.world.account("client");
    tokens.refresh = None;
    let new = crate::vault::NewTokens {
        flow: crate::store::GrantFlow::ClientCredentials,
        ..new_tokens("client", tokens)
    };
    stage.vault.put(new).await.unwrap();
    stage.pass_until_due().await;
    assert_eq!(stage.access("client").await.unwrap(), "access-client-2");
}

#[tokio::test]
async fn an_access_token_alone_is_good_until_it_expires() {
    let mut stage = Stage::new(OneTime, 0).await;
    let tokens = crate::vault::TokenSet { refresh: None, ..stage.world.account("0") };
    stage.vault.put(new_tokens(0, tokens)).await.unwrap();
    assert!(matches!(stage.vault.refresh(&key(0)).await, Err(Error::WrongState { .. })));
    stage.pass_by(LIFE + Duration::from_mins(1), Duration::from_mins(1)).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::NeedsReauth);
    assert_eq!((stage.world.requests(), stage.told(VaultEventKind::NeedsReauth)), (0, 1));
}

#[tokio::test]
async fn the_witness_file_fences_a_copy_and_an_adopted_grant_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::new(OneTime, 2).await;
    let at = dir.path().join("vault.witness");
    // A store that was used without this file comes from elsewhere.
    let vault = builder(&stage.world, &stage.store).witness(&at).build().await.unwrap();
    for account in 0..2 {
        assert_eq!(stage.record(account).await.status.state.name(), GrantStateName::Fenced);
        assert!(stage.access(account).await.is_ok(), "handing out harms nobody");
        assert!(matches!(vault.refresh(&key(account)).await, Err(Error::WrongState { .. })));
    }
    vault.adopt(&key(0)).await.unwrap();
    assert_eq!(vault.refresh(&key(0)).await.unwrap().generation, Generation(2));
    vault.close().await;
    assert_eq!((stage.world.requests_of("0"), stage.world.requests_of("1")), (1, 0));
    // It went on: the file believes it now.
    let again = builder(&stage.world, &stage.store).witness(&at).build().await.unwrap();
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::Active);
    again.close().await;
}

#[tokio::test]
async fn fenced_grants_of_a_reusable_class_are_freed_by_a_probe() {
    let mut stage = Stage::new(Reusable, 3).await;
    stage.world.revoke("2");
    assert_eq!(stage.vault.fence_all("a drill").await.unwrap(), 3);
    stage.pass(Duration::from_secs(40)).await;
    assert_eq!(stage.in_state(GrantStateName::Active).await, 2);
    assert_eq!(stage.record(2).await.status.state.name(), GrantStateName::Fenced);
    assert_eq!((stage.told(VaultEventKind::Adopted), stage.world.requests_of("2")), (2, 0));
}

#[tokio::test]
async fn a_wall_clock_that_jumps_lets_nothing_expire() {
    const HOUR: i64 = 3_600_000_000;
    for jump in [-10 * HOUR, 3 * HOUR, -HOUR, 40 * HOUR] {
        let mut stage = Stage::new(OneTime, 5).await;
        stage.pass_by(Duration::from_mins(30), Duration::from_mins(1)).await;
        stage.world.time.set(jump);
        // By the clock that does not jump, all of them are due within a life.
        stage.pass_by(LIFE, Duration::from_secs(30)).await;
        for account in 0..5 {
            assert!(stage.world.requests_of(&account.to_string()) >= 1, "{jump}");
        }
        assert!(stage.world.requests() <= 15, "{jump}: {}", stage.world.requests());
        assert_eq!(stage.world.replays(), [""; 0]);
    }
}
