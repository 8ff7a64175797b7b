//! Rules of [`GrantStore`](crate::store::GrantStore): what a store that was restored needs.

use super::{
    at,
    fixtures::{GRANT, add_grant, lease, pair},
    grants::{add, in_state, set},
};
use crate::store::{GrantId, GrantState, GrantStateName, Store};

/// None before the first; the latest of all, not of the last that was changed.
pub async fn the_newest_commit_is_known(store: &dyn Store) {
    add_grant(store).await;
    assert_eq!(store.newest_commit().await.unwrap(), None);
    let held = lease(store, "vault/1", 1).await;
    store.commit_generation(pair(0, &held)).await.unwrap();
    assert_eq!(store.newest_commit().await.unwrap(), Some(at(1)));
    store.commit_generation(pair(1, &held)).await.unwrap();
    add(store, [8]).await;
    assert_eq!(store.newest_commit().await.unwrap(), Some(at(2)));
    let status = in_state(GrantState::Revoked { since: at(5), reason: "by hand".into() });
    store.shred_grant(GRANT, status, at(5)).await.unwrap();
    assert_eq!(store.newest_commit().await.unwrap(), Some(at(2)), "its record stays");
}

/// Those in use are fenced, with nothing due; the others keep what they have.
pub async fn grants_in_use_are_fenced_together(store: &dyn Store) {
    let (since, reason) = (at(1), "once".to_owned());
    let states = [
        GrantState::Pending { since },
        GrantState::Active { since },
        GrantState::Degraded { since },
        GrantState::Ambiguous { since, settles_at: at(31) },
        GrantState::Suspect { since, reason: reason.clone() },
        GrantState::Fenced { since, reason: reason.clone() },
        GrantState::NeedsReauth { since, reason: reason.clone(), keep_until: at(99) },
        GrantState::Revoked { since, reason },
    ];
    add(store, 1..=8).await;
    for (id, state) in (1..).zip(states.clone()) {
        let mut wanted = in_state(state);
        wanted.next_refresh_at = Some(at(60));
        wanted.next_validate_at = Some(at(61));
        set(store, id, wanted).await;
    }
    assert_eq!(store.fence_grants("restored", at(20)).await.unwrap(), 4);
    for (id, before) in (1..).zip(states) {
        let found = store.grant_by_id(GrantId(id)).await.unwrap().unwrap();
        if (2..=5).contains(&id) {
            let fenced = GrantState::Fenced { since: at(20), reason: "restored".into() };
            assert_eq!(found.status.state, fenced);
            let due = (found.status.next_refresh_at, found.status.next_validate_at);
            assert_eq!((due, found.updated_at), ((None, None), at(20)));
        } else {
            assert_eq!((found.status.state, found.updated_at), (before, at(9)));
        }
    }
    assert_eq!(store.fence_grants("restored", at(21)).await.unwrap(), 0);
}

/// Whoever had read a grant before it was fenced does not unfence it unawares.
pub async fn a_status_from_before_a_fencing_is_refused(store: &dyn Store) {
    add(store, [1]).await;
    set(store, 1, in_state(GrantState::Active { since: at(1) })).await;
    let before = store.grant_by_id(GrantId(1)).await.unwrap().unwrap();
    store.fence_grants("restored", at(20)).await.unwrap();
    let status = in_state(GrantState::Active { since: at(21) });
    let late = store.set_grant_status(GrantId(1), before.version, status, at(21)).await;
    super::conflicts(late);
    let found = store.grant_by_id(GrantId(1)).await.unwrap().unwrap();
    assert_eq!(found.status.state.name(), GrantStateName::Fenced);
}
