//! Rules of [`GrantStore`](crate::store::GrantStore).

use super::{
    T0, UNICODE, at,
    fixtures::{GRANT, KEY, active, add_grant, grant, lease, new_grant, pair},
    name, together,
};
use crate::{
    Error, Timestamp,
    store::{
        Due, DueQuery, FailureClass, Generation, GrantExpiry, GrantFailure, GrantFlow, GrantId,
        GrantKey, GrantQuery, GrantRecord, GrantState, GrantStateName, GrantStatus, GrantVersion,
        NewGrant, NewRefresh, Store,
    },
};

fn states() -> [GrantState; 8] {
    let (since, reason) = (at(1), UNICODE.to_owned());
    [
        GrantState::Pending { since },
        GrantState::Active { since },
        GrantState::Degraded { since },
        GrantState::Ambiguous { since, settles_at: at(31) },
        GrantState::Suspect { since, reason: reason.clone() },
        GrantState::Fenced { since, reason: reason.clone() },
        GrantState::NeedsReauth { since, reason: reason.clone(), keep_until: at(99) },
        GrantState::Revoked { since, reason },
    ]
}

pub(super) fn in_state(state: GrantState) -> GrantStatus {
    GrantStatus { state, failure: None, next_refresh_at: None, next_validate_at: None }
}

async fn ids(store: &dyn Store, query: GrantQuery) -> Vec<i64> {
    store.grants(query).await.unwrap().iter().map(|record| record.grant.id.0).collect()
}

fn query(limit: u32) -> GrantQuery {
    GrantQuery { limit, ..GrantQuery::default() }
}

/// Adds grants of these numbers, each of an account of its own.
pub(super) async fn add(store: &dyn Store, ids: impl IntoIterator<Item = i64>) {
    for id in ids {
        store.add_grant(new_grant(id, &id.to_string())).await.unwrap();
    }
}

pub(super) async fn set(store: &dyn Store, id: i64, status: GrantStatus) {
    let record = store.grant(&new_grant(id, &id.to_string()).key).await.unwrap().unwrap();
    store.set_grant_status(GrantId(id), record.version, status, at(9)).await.unwrap();
}

/// None of any kind.
pub async fn a_new_store_has_no_grants(store: &dyn Store) {
    assert_eq!(store.grants(query(9)).await.unwrap(), []);
    assert_eq!(store.grant(&new_grant(1, "ada").key).await.unwrap(), None);
    assert_eq!(store.sealed_tokens(GRANT).await.unwrap(), []);
    assert_eq!(store.count_grants().await.unwrap(), []);
}

/// Every field of a grant is kept; it begins as pending, without tokens.
pub async fn a_grant_comes_back_as_added(store: &dyn Store) {
    let new = NewGrant {
        key: GrantKey { provider: UNICODE.into(), account: UNICODE.into() },
        client: UNICODE.into(),
        scopes: [UNICODE.to_owned(), String::new()].into(),
        instances: ["b", "a", "twitch@one"].map(name).into(),
        ..new_grant(i64::MAX, "")
    };
    store.add_grant(new.clone()).await.unwrap();
    let expected = GrantRecord {
        grant: new.clone(),
        version: GrantVersion(0),
        generation: Generation(0),
        status: in_state(GrantState::Pending { since: T0 }),
        expiry: GrantExpiry::default(),
        updated_at: T0,
        refreshed_at: None,
    };
    assert_eq!(store.grant(&new.key).await.unwrap(), Some(expected.clone()));
    assert_eq!(store.grant_by_id(GrantId(i64::MAX)).await.unwrap(), Some(expected.clone()));
    assert_eq!(store.grant_by_id(GrantId(1)).await.unwrap(), None);
    assert_eq!(store.grants(query(9)).await.unwrap(), [expected]);
}

/// Each way of obtaining one.
pub async fn every_flow_of_a_grant_comes_back(store: &dyn Store) {
    let flows = [
        GrantFlow::AuthorizationCode,
        GrantFlow::DeviceCode,
        GrantFlow::ClientCredentials,
        GrantFlow::Imported,
    ];
    for (id, flow) in (1..).zip(flows) {
        store.add_grant(NewGrant { flow, ..new_grant(id, &id.to_string()) }).await.unwrap();
    }
    let found = store.grants(query(9)).await.unwrap();
    assert!(found.iter().map(|record| record.grant.flow).eq(flows), "{found:?}");
}

/// [`Error::Conflict`] that names it; the first stays as it is, its instances too.
pub async fn a_second_grant_of_an_account_conflicts(store: &dyn Store) {
    let first = add_grant(store).await;
    let instances = [name("web")].into();
    let second = NewGrant { instances, ..new_grant(8, "ada") };
    let err = store.add_grant(second).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
    assert!(err.to_string().contains("twitch/ada"), "{err}");
    assert_eq!(store.grants(query(9)).await.unwrap(), [first]);
}

/// Numbers are bound into ciphertext.
pub async fn a_second_grant_of_a_number_conflicts(store: &dyn Store) {
    add_grant(store).await;
    let err = store.add_grant(new_grant(GRANT.0, "bob")).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
}

/// The same account at another provider is another grant.
pub async fn an_account_may_have_grants_of_two_providers(store: &dyn Store) {
    add_grant(store).await;
    let key = GrantKey { provider: "discord".into(), account: "ada".into() };
    store.add_grant(NewGrant { key, ..new_grant(8, "") }).await.unwrap();
    assert_eq!(ids(store, query(9)).await, [7, 8]);
}

/// One of them is admitted.
pub async fn concurrent_grants_of_one_account_admit_one(store: &dyn Store) {
    let calls =
        (0..20).map(|id| async move { store.add_grant(new_grant(id, "ada")).await.is_ok() });
    assert_eq!(together(calls).await.into_iter().filter(|added| *added).count(), 1);
}

/// With all its data.
pub async fn every_state_of_a_grant_comes_back(store: &dyn Store) {
    let mut version = add_grant(store).await.version;
    for state in states() {
        let status = in_state(state);
        version = store.set_grant_status(GRANT, version, status.clone(), at(2)).await.unwrap();
        let found = grant(store).await;
        assert_eq!((found.status, found.version), (status, version));
        assert_eq!(found.updated_at, at(2));
    }
}

/// Every class, with large counts and odd times.
pub async fn every_failure_of_a_grant_comes_back(store: &dyn Store) {
    let mut version = add_grant(store).await.version;
    for class in [
        FailureClass::Retryable,
        FailureClass::Ambiguous,
        FailureClass::Terminal,
        FailureClass::Misconfigured,
    ] {
        let failure = GrantFailure { class, count: u32::MAX, votes: 2, at: Timestamp(-1) };
        let status = GrantStatus {
            failure: Some(failure),
            next_refresh_at: Some(Timestamp(1)),
            next_validate_at: Some(Timestamp(i64::MAX)),
            ..active()
        };
        version = store.set_grant_status(GRANT, version, status.clone(), at(2)).await.unwrap();
        assert_eq!(grant(store).await.status, status);
    }
    store.set_grant_status(GRANT, version, active(), at(3)).await.unwrap();
    assert_eq!(grant(store).await.status, active());
}

/// Who has read an older version is told so, and changes nothing.
pub async fn a_status_of_an_older_version_is_refused(store: &dyn Store) {
    let read = add_grant(store).await.version;
    let next = store.set_grant_status(GRANT, read, active(), at(1)).await.unwrap();
    assert!(next > read);
    let late = in_state(GrantState::Revoked { since: at(2), reason: "late".into() });
    let err = store.set_grant_status(GRANT, read, late, at(2)).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
    assert_eq!(grant(store).await.status, active());
}

/// Each change is made on the one before: of those who have read the same, one wins.
pub async fn concurrent_statuses_of_one_version_admit_one(store: &dyn Store) {
    let read = add_grant(store).await.version;
    let calls = (0..20).map(|_| store.set_grant_status(GRANT, read, active(), at(1)));
    assert_eq!(together(calls).await.into_iter().flatten().count(), 1);
}

/// [`Error::Conflict`]: it may have been removed since it was read.
pub async fn the_status_of_an_unknown_grant_is_refused(store: &dyn Store) {
    let err = store.set_grant_status(GRANT, GrantVersion(0), active(), at(1)).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
}

/// Pages of any size make up the whole, in the order of numbers; instances do not count as grants.
pub async fn grant_pages_have_no_gaps_and_no_repetition(store: &dyn Store) {
    add(store, [5, 3, 9, 1, 7]).await;
    store.bind_grant(GrantId(3), ["a", "b", "c"].map(name).into(), at(1)).await.unwrap();
    let mut found = Vec::new();
    loop {
        let after = found.last().map(|id| GrantId(*id));
        let page = ids(store, GrantQuery { after, ..query(2) }).await;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        found.extend(page);
    }
    assert_eq!(found, [1, 3, 5, 7, 9]);
    assert_eq!(ids(store, query(0)).await, [0_i64; 0]);
}

/// By provider, state and instance; conditions add up.
pub async fn grants_are_found_by_each_of_their_conditions(store: &dyn Store) {
    add(store, 1..=3).await;
    let key = GrantKey { provider: "discord".into(), account: "x".into() };
    store.add_grant(NewGrant { key, ..new_grant(4, "") }).await.unwrap();
    set(store, 2, active()).await;
    for id in [2, 3] {
        store.bind_grant(GrantId(id), [name("web")].into(), at(1)).await.unwrap();
    }
    let twitch = GrantQuery { provider: Some("twitch".into()), ..query(9) };
    assert_eq!(ids(store, twitch.clone()).await, [1, 2, 3]);
    let web = GrantQuery { instance: Some(name("web")), ..twitch };
    assert_eq!(ids(store, web.clone()).await, [2, 3]);
    let pending = GrantQuery { state: Some(GrantStateName::Pending), ..web };
    assert_eq!(ids(store, pending.clone()).await, [3]);
    assert_eq!(ids(store, GrantQuery { after: Some(GrantId(3)), ..pending }).await, [0_i64; 0]);
}

/// By provider and state, in order; only what there is.
pub async fn grants_are_counted_by_provider_and_state(store: &dyn Store) {
    add(store, 1..=3).await;
    let key = GrantKey { provider: "discord".into(), account: "x".into() };
    store.add_grant(NewGrant { key, ..new_grant(4, "") }).await.unwrap();
    set(store, 2, active()).await;
    let expected = [
        ("discord".to_owned(), GrantStateName::Pending, 1),
        ("twitch".to_owned(), GrantStateName::Pending, 2),
        ("twitch".to_owned(), GrantStateName::Active, 1),
    ];
    assert_eq!(store.count_grants().await.unwrap(), expected);
}

/// The set is replaced as a whole; the record counts as changed.
pub async fn binding_a_grant_replaces_its_instances(store: &dyn Store) {
    let before = add_grant(store).await;
    for instances in [["a", "b"].map(name).into(), [name("c")].into(), [].into()] {
        store
            .bind_grant(GRANT, std::collections::BTreeSet::clone(&instances), at(4))
            .await
            .unwrap();
        let found = grant(store).await;
        assert_eq!(found.grant.instances, instances);
        assert!(found.version > before.version);
    }
    let err = store.bind_grant(GrantId(404), [].into(), at(1)).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
}

/// One of the sets, not a mixture.
pub async fn concurrent_bindings_leave_one_whole_set(store: &dyn Store) {
    add_grant(store).await;
    let calls = (0..10).map(|i| {
        let set = ["a", "b", "c"].map(|part| name(&format!("{part}{i}")));
        store.bind_grant(GRANT, set.into(), at(1))
    });
    for answer in together(calls).await {
        answer.unwrap();
    }
    let instances = grant(store).await.grant.instances;
    let ends: std::collections::BTreeSet<_> =
        instances.iter().map(|name| name.as_str().chars().last()).collect();
    assert_eq!((instances.len(), ends.len()), (3, 1), "{instances:?}");
}

/// The most urgent first, in small pages, up to the very time.
pub async fn due_grants_come_in_the_order_of_their_times(store: &dyn Store) {
    add(store, 1..=5).await;
    for (id, due) in [(1, 30), (2, 10), (3, 20), (4, 20)] {
        let status = GrantStatus { next_refresh_at: Some(at(due)), ..active() };
        set(store, id, status).await;
    }
    set(store, 5, in_state(GrantState::Active { since: T0 })).await;
    store.bind_grant(GrantId(3), ["a", "b"].map(name).into(), at(1)).await.unwrap();
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let query = DueQuery { what: Due::Refresh, by: at(20), after, limit: 2 };
        let page = store.due_grants(query).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.status.next_refresh_at.unwrap(), last.grant.id));
        found.extend(page.iter().map(|record| record.grant.id.0));
    }
    assert_eq!(found, [2, 3, 4]);
}

/// What is due to be validated is another list.
pub async fn validations_are_due_on_their_own(store: &dyn Store) {
    add(store, 1..=2).await;
    let none = in_state(GrantState::Active { since: T0 });
    set(store, 1, GrantStatus { next_refresh_at: Some(at(1)), ..none.clone() }).await;
    set(store, 2, GrantStatus { next_validate_at: Some(at(1)), ..none }).await;
    for (what, expected) in [(Due::Refresh, 1), (Due::Validate, 2)] {
        let query = DueQuery { what, by: at(1), after: None, limit: 9 };
        let found = store.due_grants(query).await.unwrap();
        assert!(found.iter().map(|record| record.grant.id.0).eq([expected]), "{found:?}");
        let early = DueQuery { what, by: Timestamp(at(1).0 - 1), after: None, limit: 9 };
        assert_eq!(store.due_grants(early).await.unwrap(), []);
    }
}

/// With its tokens, instances and refreshes; another of the same account begins from nothing.
pub async fn a_removed_grant_leaves_nothing_behind(store: &dyn Store) {
    add_grant(store).await;
    store.bind_grant(GRANT, [name("web")].into(), at(1)).await.unwrap();
    let held = lease(store, "grant/7", 1).await;
    store.commit_generation(pair(0, &held)).await.unwrap();
    let (generation, fence) = (Generation(1), held.fence());
    let refresh = NewRefresh { grant: GRANT, generation, fence, at: at(2) };
    store.begin_refresh(refresh).await.unwrap();
    store.remove_grant(GRANT).await.unwrap();
    assert_eq!(store.open_refreshes(None, 9).await.unwrap(), []);
    assert_eq!(store.tokens_sealed_by(KEY, None, 9).await.unwrap(), []);
    store.add_grant(new_grant(8, "ada")).await.unwrap();
    assert_eq!(grant(store).await.grant, new_grant(8, "ada"));
    let err = store.remove_grant(GRANT).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
}
