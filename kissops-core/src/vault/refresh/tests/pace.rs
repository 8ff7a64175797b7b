//! How much is asked of a provider, and what is told without anything having failed.

use std::{sync::Arc, time::Duration};

use super::world::{LIFE, Mood, Stage, Terms, World};
use crate::{
    store::{GrantStateName, Store, sqlite::SqliteStore},
    vault::{
        RotationClass::{OneTime, Reusable},
        TokenVault as _, VaultEventKind,
    },
};

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);

async fn stage(terms: Terms, accounts: usize) -> Stage {
    let world = World::new(Reusable);
    *world.terms.lock().unwrap() = terms;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
    Stage::over(world, store, accounts).await
}

#[tokio::test]
async fn every_token_is_validated_each_hour_and_not_all_at_once() {
    let terms = Terms { validate_every: Some(HOUR), ..Terms::default() };
    let mut stage = stage(terms, 60).await;
    let mut most = 0;
    for _ in 0..120 {
        let before = stage.world.probes();
        stage.pass_by(MINUTE, Duration::from_secs(10)).await;
        most = most.max(stage.world.probes() - before);
    }
    let probes = stage.world.probes();
    assert!((115..=125).contains(&probes), "each of 60 twice: {probes}");
    assert!(most <= 8, "{most} in one minute");
    assert_eq!(stage.world.requests(), 0);
}

#[tokio::test]
async fn a_token_that_is_found_dead_is_refreshed_at_once() {
    let terms = Terms { validate_every: Some(HOUR), ..Terms::default() };
    let mut stage = stage(terms, 2).await;
    stage.world.kill_access("1");
    stage.pass_by(HOUR + MINUTE, Duration::from_secs(10)).await;
    assert_eq!((stage.world.requests_of("0"), stage.world.requests_of("1")), (0, 1));
}

#[tokio::test]
async fn a_provider_is_asked_at_its_rate_and_whoever_expires_first_comes_first() {
    let terms = Terms { per_second: Some(2.0), ..Terms::default() };
    let mut stage = stage(terms, 100).await;
    // Everything came due while nobody was there.
    stage.world.time.go(LIFE * 9 / 10);
    let mut last = stage.world.requests();
    for _ in 0..20 {
        stage.pass(Duration::from_secs(1)).await;
        let now = stage.world.requests();
        assert!(now - last <= 4, "{} in one second", now - last);
        last = now;
    }
    assert!((36..=46).contains(&last), "{last} in 20 s");
    stage.pass(Duration::from_secs(40)).await;
    assert_eq!(stage.world.requests(), 100);
}

#[tokio::test]
async fn the_end_of_a_refresh_token_is_told_fourteen_and_three_days_before() {
    let world = World::new(OneTime);
    let ends = {
        use crate::vault::VaultTime as _;
        world.time.now().plus(20 * 24 * HOUR)
    };
    world.terms.lock().unwrap().refresh_ends = Some(ends);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
    let mut stage = Stage::over(world, store, 1).await;
    let mut told = vec![];
    for day in 0..19 {
        let before = stage.told(VaultEventKind::ReauthSoon);
        stage.pass_by(24 * HOUR, 10 * MINUTE).await;
        for _ in before..stage.told(VaultEventKind::ReauthSoon) {
            told.push(day);
        }
    }
    assert_eq!(told.len(), 2, "{told:?}");
    assert!((5..=6).contains(&told[0]) && (16..=17).contains(&told[1]), "{told:?}");
}

#[tokio::test]
async fn a_provider_that_never_says_how_a_grant_is_is_told_of_once() {
    let mut stage = Stage::new(OneTime, 20).await;
    stage.world.mood_of("0", Mood::Silent { carried_out: true });
    let _ = stage.vault.refresh(&super::world::key(0)).await;
    stage.world.probe_works(false);
    stage.pass_by(30 * MINUTE, Duration::from_secs(5)).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::Ambiguous);
    assert_eq!(stage.told(VaultEventKind::Degraded), 1);
    assert_eq!(stage.world.requests_of("0"), 1, "a token that may be used up is not presented");
    let asked = stage.world.probes();
    assert!(asked < 20, "{asked}");
    stage.world.probe_works(true);
    stage.pass_by(20 * MINUTE, Duration::from_secs(5)).await;
    assert_eq!(stage.record(0).await.status.state.name(), GrantStateName::NeedsReauth);
    assert_eq!(stage.told(VaultEventKind::NeedsReauth), 1);
}
