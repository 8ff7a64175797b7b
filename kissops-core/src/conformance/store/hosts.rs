//! Rules of [`HostStore`](crate::store::HostStore).

use std::time::Duration;

use super::{
    T0, UNICODE, at,
    fixtures::{LONG, until},
    together,
};
use crate::{
    Error,
    store::{HostId, HostLease, HostRecord, HostSession, HostState, NewHost, Store},
};

/// Over at once.
const INSTANT: Duration = Duration::from_micros(1);

fn host(id: i64) -> NewHost {
    NewHost {
        id: HostId(id),
        name: format!("host-{id}"),
        capacity: 20,
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        program: "kissops 0.1.0".into(),
        joined_at: T0,
    }
}

async fn register(store: &dyn Store, session: i64, ttl: Duration) -> Result<HostLease, Error> {
    store.register_host(host(1), HostSession(session), None, ttl).await
}

async fn only(store: &dyn Store) -> HostRecord {
    let mut hosts = store.hosts().await.unwrap();
    assert_eq!(hosts.len(), 1);
    hosts.remove(0)
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Error>) {
    let answer = answer.map(drop);
    assert!(matches!(answer, Err(Error::Conflict { .. })), "{answer:?}");
}

/// Fences as soon as the host's time is over by the database's clock.
async fn fence(store: &dyn Store, lease: HostLease) {
    until("fencing", async || store.fence_host(lease.host, lease.epoch, lease.seq).await.ok())
        .await;
}

/// An empty list.
pub async fn a_new_store_has_no_hosts(store: &dyn Store) {
    assert_eq!(store.hosts().await.unwrap(), []);
}

/// Every field of a host is kept; it begins as joining.
pub async fn a_host_comes_back_as_registered(store: &dyn Store) {
    let new = NewHost {
        name: UNICODE.into(),
        capacity: u32::MAX,
        labels: [(UNICODE.to_owned(), String::new())].into(),
        program: UNICODE.into(),
        joined_at: at(3),
        ..host(i64::MAX)
    };
    let lease = store.register_host(new.clone(), HostSession(i64::MIN), None, LONG).await.unwrap();
    let found = only(store).await;
    assert_eq!((found.host, found.session), (new, Some(HostSession(i64::MIN))));
    assert_eq!((found.state, found.epoch, found.seq), (HostState::Joining, lease.epoch, lease.seq));
}

/// By the bytes of their names.
pub async fn hosts_are_sorted_by_name(store: &dyn Store) {
    for id in [3, 1, 2] {
        store.register_host(host(id), HostSession(id), None, LONG).await.unwrap();
    }
    let hosts = store.hosts().await.unwrap();
    assert!(hosts.iter().map(|record| record.host.id.0).eq(1..=3), "{hosts:?}");
}

/// A second program with the same state folder, or a copy of the machine.
pub async fn a_host_with_a_session_is_not_registered_again(store: &dyn Store) {
    let first = register(store, 1, LONG).await.unwrap();
    refused(register(store, 2, LONG).await);
    assert_eq!(only(store).await.session, Some(HostSession(1)));
    store.renew_host(first, 1, LONG).await.unwrap();
}

/// Who can prove that the former session is over need not wait for its end.
pub async fn a_restarted_host_takes_its_row_back(store: &dyn Store) {
    let first = register(store, 1, LONG).await.unwrap();
    let former = Some(HostSession(1));
    let second = store.register_host(host(1), HostSession(2), former, LONG).await.unwrap();
    assert!(second.epoch > first.epoch);
    refused(store.renew_host(first, 1, LONG).await);
    refused(store.register_host(host(1), HostSession(3), former, LONG).await);
}

/// After its time, anybody who knows the host's number is it.
pub async fn a_host_whose_time_is_over_can_be_registered_again(store: &dyn Store) {
    let first = register(store, 1, INSTANT).await.unwrap();
    let second = until("the host's time", async || register(store, 2, LONG).await.ok()).await;
    assert!(second.epoch > first.epoch);
    refused(store.renew_host(first, 1, LONG).await);
}

/// One session gets the row.
pub async fn concurrent_registrations_of_one_host_admit_one(store: &dyn Store) {
    let calls = (0..20).map(|session| register(store, session, LONG));
    let leases: Vec<_> = together(calls).await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(leases.len(), 1, "{leases:?}");
    assert_eq!(only(store).await.session, Some(leases[0].session));
}

/// People speak of hosts by name.
pub async fn two_hosts_have_two_names(store: &dyn Store) {
    register(store, 1, LONG).await.unwrap();
    let same = NewHost { name: host(1).name, ..host(2) };
    refused(store.register_host(same, HostSession(2), None, LONG).await);
    assert_eq!(only(store).await.host.id, HostId(1));
}

/// Each counts, and moves the end.
pub async fn a_renewal_counts_and_moves_the_end(store: &dyn Store) {
    let mut lease = register(store, 1, Duration::from_secs(1)).await.unwrap();
    let mut last = only(store).await;
    for nonce in 1..4 {
        lease = store.renew_host(lease, nonce, LONG * u32::try_from(nonce).unwrap()).await.unwrap();
        let found = only(store).await;
        assert_eq!((found.seq, lease.seq), (last.seq + 1, last.seq + 1));
        assert!(found.expires_at > last.expires_at);
        last = found;
    }
}

/// The same nonce again: it was carried out, and its answer was lost.
pub async fn a_renewal_whose_answer_was_lost_is_recognized(store: &dyn Store) {
    let lease = register(store, 1, LONG).await.unwrap();
    let renewed = store.renew_host(lease, 77, LONG).await.unwrap();
    assert_eq!(store.renew_host(lease, 77, LONG).await.unwrap(), renewed);
    assert_eq!(only(store).await.seq, renewed.seq);
    store.renew_host(renewed, 78, LONG).await.unwrap();
}

/// A machine that was copied while it ran: one of the two goes on.
pub async fn a_copied_host_loses_the_race(store: &dyn Store) {
    let lease = register(store, 1, LONG).await.unwrap();
    let calls = (1..=20).map(|nonce| store.renew_host(lease, nonce, LONG));
    assert_eq!(together(calls).await.into_iter().flatten().count(), 1);
    refused(store.renew_host(lease, 99, LONG).await);
}

/// Late is not lost, as long as nobody has fenced it.
pub async fn a_host_whose_time_is_over_can_renew(store: &dyn Store) {
    let lease = register(store, 1, INSTANT).await.unwrap();
    let lease = store.renew_host(lease, 1, LONG).await.unwrap();
    refused(store.fence_host(HostId(1), lease.epoch, lease.seq).await);
}

/// From joining to drained, and back; by its own session alone.
pub async fn every_state_of_a_host_comes_back(store: &dyn Store) {
    let lease = register(store, 1, LONG).await.unwrap();
    for state in [HostState::Ready, HostState::Draining, HostState::Drained, HostState::Joining] {
        store.set_host_state(lease, state).await.unwrap();
        assert_eq!(only(store).await.state, state);
    }
    let other = HostLease { session: HostSession(2), ..lease };
    refused(store.set_host_state(other, HostState::Ready).await);
    let err = store.set_host_state(lease, HostState::Fenced).await.unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
}

/// It finds out at its next renewal, and has to register again.
pub async fn a_fenced_host_is_out(store: &dyn Store) {
    let lease = register(store, 1, INSTANT).await.unwrap();
    fence(store, lease).await;
    let found = only(store).await;
    assert_eq!((found.state, found.session), (HostState::Fenced, None));
    assert!(found.epoch > lease.epoch);
    refused(store.renew_host(lease, 1, LONG).await);
    refused(store.set_host_state(lease, HostState::Ready).await);
    let back = register(store, 2, LONG).await.unwrap();
    assert!(back.epoch > found.epoch);
}

/// Not while its time lasts, whatever the observer has seen.
pub async fn a_host_is_not_fenced_before_its_time(store: &dyn Store) {
    let lease = register(store, 1, LONG).await.unwrap();
    refused(store.fence_host(HostId(1), lease.epoch, lease.seq).await);
    assert_eq!(only(store).await.session, Some(HostSession(1)));
}

/// What the observer saw is no longer so.
pub async fn a_host_that_has_moved_is_not_fenced(store: &dyn Store) {
    let seen = register(store, 1, INSTANT).await.unwrap();
    let moved = store.renew_host(seen, 1, INSTANT).await.unwrap();
    until("the host's time", async || {
        let refused = store.fence_host(HostId(1), seen.epoch, seen.seq).await.is_err();
        assert!(refused, "an old observation was enough");
        store.fence_host(HostId(1), moved.epoch, moved.seq).await.ok()
    })
    .await;
}

/// Of those who saw it dead, one fences it.
pub async fn concurrent_fencings_admit_one(store: &dyn Store) {
    let lease = register(store, 1, INSTANT).await.unwrap();
    // Whether its time is over is not to be seen without fencing it; another host's is, in the same instant.
    let other = store.register_host(host(2), HostSession(2), None, INSTANT).await.unwrap();
    fence(store, other).await;
    let calls = (0..20).map(|_| store.fence_host(HostId(1), lease.epoch, lease.seq));
    assert_eq!(together(calls).await.into_iter().flatten().count(), 1);
}

/// Either it renews, or it is fenced.
pub async fn a_renewal_and_a_fencing_exclude_each_other(store: &dyn Store) {
    for id in 1..=10 {
        let lease = store.register_host(host(id), HostSession(id), None, INSTANT).await.unwrap();
        let other = until("the other host's time", async || {
            store.register_host(host(99), HostSession(id), None, INSTANT).await.ok()
        });
        let other = other.await;
        fence(store, other).await;
        let calls = (0..2).map(|i| async move {
            match i {
                0 => store.renew_host(lease, 1, LONG).await.is_ok(),
                _ => store.fence_host(lease.host, lease.epoch, lease.seq).await.is_ok(),
            }
        });
        let answers = together(calls).await;
        assert_ne!(answers[0], answers[1], "{answers:?}");
    }
}
