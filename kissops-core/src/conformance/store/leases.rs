//! Rules of [`LeaseStore`](crate::store::LeaseStore).

use std::time::Duration;

use super::{
    UNICODE,
    fixtures::{LONG, SHORT, lease, until},
    together,
};
use crate::{
    Error,
    store::{FencingToken, HolderId, Lease, LeaseName, Store},
};

fn lease_name() -> LeaseName {
    LeaseName::new("job/backup")
}

async fn acquire(store: &dyn Store, holder: i64, ttl: Duration) -> Result<Lease, Error> {
    store.acquire_lease(&lease_name(), HolderId(holder), ttl).await
}

/// Acquires as soon as the lease before has run out.
async fn acquire_after(store: &dyn Store, holder: i64, ttl: Duration) -> Lease {
    until("the lease running out", async || acquire(store, holder, ttl).await.ok()).await
}

fn is_conflict<T: std::fmt::Debug>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Conflict { .. }))
}

/// Nothing of any name.
pub async fn a_new_store_has_no_leases(store: &dyn Store) {
    assert_eq!(store.lease(&lease_name()).await.unwrap(), None);
    assert_eq!(store.prune_leases(Duration::ZERO, 9).await.unwrap(), 0);
}

/// Name, holder and token; and it lasts for the time that was asked for, by the database's clock.
pub async fn a_lease_comes_back_as_granted(store: &dyn Store) {
    let name = LeaseName::new(UNICODE);
    let granted = store.acquire_lease(&name, HolderId(i64::MIN), LONG).await.unwrap();
    assert_eq!((&granted.name, granted.holder), (&name, HolderId(i64::MIN)));
    let found = store.lease(&name).await.unwrap().unwrap();
    assert_eq!((found.token, found.holder), (granted.token, Some(HolderId(i64::MIN))));
    assert_eq!(found.until, granted.until);
    assert!(found.remaining <= LONG && found.remaining > LONG / 2, "{found:?}");
}

/// [`Error::Conflict`] names it; the holder keeps it.
pub async fn a_held_lease_is_not_granted_to_another(store: &dyn Store) {
    let first = acquire(store, 1, LONG).await.unwrap();
    let second = acquire(store, 2, LONG).await;
    assert!(is_conflict(&second), "{second:?}");
    assert!(second.unwrap_err().to_string().contains("job/backup"));
    let found = store.lease(&lease_name()).await.unwrap().unwrap();
    assert_eq!(
        (found.holder, found.token, found.until),
        (Some(HolderId(1)), first.token, first.until)
    );
}

/// It may be another task of the same program.
pub async fn a_held_lease_is_not_granted_to_its_holder_again(store: &dyn Store) {
    acquire(store, 1, LONG).await.unwrap();
    assert!(is_conflict(&acquire(store, 1, LONG).await));
}

/// Each name is a lease of its own.
pub async fn leases_of_different_names_do_not_meet(store: &dyn Store) {
    for (holder, name) in (1..).zip(["a", "A", "a ", "grant/1", "grant/10"]) {
        assert_eq!(lease(store, name, holder).await.holder, HolderId(holder));
    }
}

/// Whoever asks next gets it at once.
pub async fn a_released_lease_is_free(store: &dyn Store) {
    let first = acquire(store, 1, LONG).await.unwrap();
    store.release_lease(&first).await.unwrap();
    let found = store.lease(&lease_name()).await.unwrap().unwrap();
    assert_eq!((found.holder, found.remaining), (None, Duration::ZERO));
    assert_eq!(acquire(store, 2, LONG).await.unwrap().holder, HolderId(2));
}

/// Without anybody's doing.
pub async fn a_lease_runs_out(store: &dyn Store) {
    acquire(store, 1, SHORT).await.unwrap();
    let second = acquire_after(store, 2, LONG).await;
    let found = store.lease(&lease_name()).await.unwrap().unwrap();
    assert_eq!((found.holder, found.token), (Some(HolderId(2)), second.token));
}

/// Not before its time.
pub async fn a_lease_lasts_as_long_as_granted(store: &dyn Store) {
    let term = Duration::from_millis(200);
    let asked = std::time::Instant::now();
    acquire(store, 1, term).await.unwrap();
    acquire_after(store, 2, LONG).await;
    // The database's clock may count in milliseconds.
    assert!(asked.elapsed() + Duration::from_millis(2) >= term, "{:?}", asked.elapsed());
}

/// The record says so by the database's clock.
pub async fn a_lease_that_ran_out_has_nothing_remaining(store: &dyn Store) {
    let granted = acquire(store, 1, SHORT).await.unwrap();
    let found = until("the lease running out", async || {
        let found = store.lease(&lease_name()).await.unwrap().unwrap();
        found.remaining.is_zero().then_some(found)
    });
    let found = found.await;
    assert_eq!((found.holder, found.token), (Some(HolderId(1)), granted.token));
}

/// After a release.
pub async fn a_token_grows_after_a_release(store: &dyn Store) {
    let mut last = FencingToken(i64::MIN);
    for holder in [1, 2, 1, 1] {
        let granted = acquire(store, holder, LONG).await.unwrap();
        assert!(granted.token > last, "{granted:?}");
        last = granted.token;
        store.release_lease(&granted).await.unwrap();
    }
}

/// After the time has run out.
pub async fn a_token_grows_after_a_lease_ran_out(store: &dyn Store) {
    let mut last = acquire(store, 1, SHORT).await.unwrap().token;
    for holder in [1, 2] {
        let granted = acquire_after(store, holder, SHORT).await;
        assert!(granted.token > last, "{granted:?}");
        last = granted.token;
    }
}

/// A lease that is removed does not begin anew.
pub async fn a_token_grows_after_a_lease_was_removed(store: &dyn Store) {
    let other = lease(store, "other", 1).await;
    store.release_lease(&other).await.unwrap();
    let mut last = FencingToken(i64::MIN);
    for _ in 0..3 {
        let granted = acquire(store, 1, LONG).await.unwrap();
        assert!(granted.token > last, "{granted:?}");
        last = granted.token;
        store.release_lease(&granted).await.unwrap();
        until("pruning", async || {
            store.prune_leases(Duration::ZERO, 9).await.unwrap();
            store.lease(&lease_name()).await.unwrap().is_none().then_some(())
        })
        .await;
    }
}

/// Taking, giving back and removing, all at once and by many: no token comes twice.
pub async fn no_token_is_granted_twice_while_leases_are_removed(store: &dyn Store) {
    let calls = (0..60).map(|i| async move {
        if i % 3 == 0 {
            store.prune_leases(Duration::ZERO, 9).await.unwrap();
            return None;
        }
        let granted = acquire(store, i, LONG).await.ok()?;
        store.release_lease(&granted).await.unwrap();
        Some(granted.token)
    });
    let granted: Vec<_> = together(calls).await.into_iter().flatten().collect();
    let mut tokens = granted.clone();
    tokens.sort_unstable();
    tokens.dedup();
    assert!(!tokens.is_empty());
    assert_eq!(tokens.len(), granted.len(), "{granted:?}");
}

/// One gets it.
pub async fn concurrent_acquirers_of_a_new_lease_admit_one(store: &dyn Store) {
    let calls = (0..30).map(|holder| acquire(store, holder, LONG));
    let granted: Vec<Lease> = together(calls).await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(granted.len(), 1, "{granted:?}");
    let found = store.lease(&lease_name()).await.unwrap().unwrap();
    assert_eq!((found.holder, found.token), (Some(granted[0].holder), granted[0].token));
}

/// Again one.
pub async fn concurrent_acquirers_of_a_lease_that_ran_out_admit_one(store: &dyn Store) {
    acquire(store, 0, Duration::from_micros(1)).await.unwrap();
    until("the lease running out", async || {
        let found = store.lease(&lease_name()).await.unwrap().unwrap();
        found.remaining.is_zero().then_some(())
    })
    .await;
    let calls = (1..31).map(|holder| acquire(store, holder, LONG));
    assert_eq!(together(calls).await.into_iter().flatten().count(), 1);
}

/// The token stays, the end moves.
pub async fn renewing_keeps_the_token(store: &dyn Store) {
    let first = acquire(store, 1, Duration::from_secs(10)).await.unwrap();
    let renewed = store.renew_lease(&first, LONG).await.unwrap();
    assert_eq!((renewed.token, renewed.holder), (first.token, first.holder));
    assert!(renewed.until > first.until);
    assert_eq!(store.lease(&lease_name()).await.unwrap().unwrap().until, renewed.until);
    // What counts is the token: an older copy of the same lease is as good.
    store.renew_lease(&first, LONG).await.unwrap();
}

/// As long as nobody else has got it, nothing is lost.
pub async fn a_lease_that_ran_out_can_be_renewed(store: &dyn Store) {
    let first = acquire(store, 1, Duration::from_micros(1)).await.unwrap();
    until("the lease running out", async || {
        let found = store.lease(&lease_name()).await.unwrap().unwrap();
        found.remaining.is_zero().then_some(())
    })
    .await;
    store.renew_lease(&first, LONG).await.unwrap();
    assert!(is_conflict(&acquire(store, 2, LONG).await));
}

/// Its holder has to stop.
pub async fn a_lease_that_was_granted_again_cannot_be_renewed(store: &dyn Store) {
    let first = acquire(store, 1, SHORT).await.unwrap();
    let second = acquire_after(store, 2, LONG).await;
    assert!(is_conflict(&store.renew_lease(&first, LONG).await));
    let found = store.lease(&lease_name()).await.unwrap().unwrap();
    assert_eq!((found.holder, found.until), (Some(HolderId(2)), second.until));
}

/// Also when it was granted to the same holder: the token tells.
pub async fn an_earlier_lease_of_the_same_holder_cannot_be_renewed(store: &dyn Store) {
    let first = acquire(store, 1, LONG).await.unwrap();
    store.release_lease(&first).await.unwrap();
    acquire(store, 1, LONG).await.unwrap();
    assert!(is_conflict(&store.renew_lease(&first, LONG).await));
}

/// What was given back is given back.
pub async fn a_released_lease_cannot_be_renewed(store: &dyn Store) {
    let first = acquire(store, 1, LONG).await.unwrap();
    store.release_lease(&first).await.unwrap();
    assert!(is_conflict(&store.renew_lease(&first, LONG).await));
}

/// The new holder keeps it; releasing twice is no error.
pub async fn releasing_anothers_lease_does_nothing(store: &dyn Store) {
    let first = acquire(store, 1, LONG).await.unwrap();
    store.release_lease(&first).await.unwrap();
    let second = acquire(store, 2, LONG).await.unwrap();
    store.release_lease(&first).await.unwrap();
    let found = store.lease(&lease_name()).await.unwrap().unwrap();
    assert_eq!((found.holder, found.token), (Some(HolderId(2)), second.token));
}

/// Either the renewal or the next holder: never both.
pub async fn a_renewal_and_a_new_holder_exclude_each_other(store: &dyn Store) {
    for round in 0..10 {
        let name = LeaseName::new(format!("round/{round}"));
        let instant = Duration::from_micros(1);
        let first = store.acquire_lease(&name, HolderId(0), instant).await.unwrap();
        until("the lease running out", async || {
            let found = store.lease(&name).await.unwrap().unwrap();
            found.remaining.is_zero().then_some(())
        })
        .await;
        let calls = (0..8).map(|i| {
            let (name, first) = (&name, &first);
            async move {
                match i {
                    4 => store.renew_lease(first, LONG).await.is_ok(),
                    _ => store.acquire_lease(name, HolderId(i), LONG).await.is_ok(),
                }
            }
        });
        let held = together(calls).await;
        assert_eq!(held.iter().filter(|held| **held).count(), 1, "{held:?}");
    }
}

/// Held ones and young ones stay; not more than asked for go.
pub async fn only_idle_leases_are_pruned(store: &dyn Store) {
    for name in ["a", "b", "c"] {
        let granted = lease(store, name, 1).await;
        store.release_lease(&granted).await.unwrap();
    }
    lease(store, "held", 1).await;
    assert_eq!(store.prune_leases(LONG, 9).await.unwrap(), 0);
    assert_eq!(store.prune_leases(Duration::ZERO, 2).await.unwrap(), 2);
    assert_eq!(store.prune_leases(Duration::ZERO, 9).await.unwrap(), 1);
    assert!(store.lease(&LeaseName::new("held")).await.unwrap().is_some());
}

/// Neither nothing nor forever: the message names what may be given.
pub async fn a_lease_has_a_sane_term(store: &dyn Store) {
    for term in [Duration::ZERO, Duration::from_nanos(999), Duration::MAX] {
        let err = acquire(store, 1, term).await.unwrap_err();
        assert!(matches!(err, Error::InvalidConfig { .. }), "{term:?}: {err:?}");
    }
    let granted = acquire(store, 1, LONG).await.unwrap();
    let err = store.renew_lease(&granted, Duration::ZERO).await.unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
}
