//! Rules of [`ApiKeyStore`](crate::store::ApiKeyStore).

use std::time::Duration;

use super::{T0, UNICODE, at, name, together};
use crate::{
    Error, Timestamp,
    store::{
        API_KEY_USE_RESOLUTION, Access, ApiKeyId, ApiKeyRecord, KeyHash, NewApiKey, Role, Store,
    },
};

fn new_key(id: i64, name: &str) -> NewApiKey {
    NewApiKey {
        id: ApiKeyId(id),
        name: name.into(),
        prefix: format!("prefix-{id}"),
        hash: KeyHash(vec![0, 1, 255]),
        access: Access::Role(Role::Viewer),
        created_by: "ada".into(),
        created_at: T0,
        expires_at: None,
    }
}

async fn added(store: &dyn Store, id: i64, name: &str) -> ApiKeyRecord {
    let key = new_key(id, name);
    store.add_api_key(key.clone()).await.unwrap();
    found(store, &key.prefix).await
}

async fn found(store: &dyn Store, prefix: &str) -> ApiKeyRecord {
    store.api_key(prefix).await.unwrap().unwrap()
}

/// An empty list, and none of any prefix.
pub async fn a_new_store_has_no_api_keys(store: &dyn Store) {
    assert_eq!(store.api_keys().await.unwrap(), []);
    assert_eq!(store.api_key("").await.unwrap(), None);
}

/// Every field of a key is kept, and all bytes of its hash.
pub async fn an_api_key_comes_back_as_added(store: &dyn Store) {
    let key = NewApiKey {
        name: UNICODE.into(),
        hash: KeyHash((0..=255).collect()),
        expires_at: Some(Timestamp(i64::MAX)),
        ..new_key(i64::MAX, "")
    };
    store.add_api_key(key.clone()).await.unwrap();
    let expected = ApiKeyRecord { key, last_used_at: None, revoked_at: None };
    assert_eq!(store.api_keys().await.unwrap(), std::slice::from_ref(&expected));
    assert_eq!(found(store, &expected.key.prefix).await, expected);
}

/// Of people's roles each, and a bot's with its instance.
pub async fn every_access_of_a_key_comes_back(store: &dyn Store) {
    let accesses = [
        Access::Role(Role::Admin),
        Access::Role(Role::Operator),
        Access::Role(Role::Viewer),
        Access::Bot(name("twitch@one")),
    ];
    for (id, access) in (1..).zip(accesses) {
        let key = NewApiKey { access, ..new_key(id, &id.to_string()) };
        store.add_api_key(key.clone()).await.unwrap();
        assert_eq!(found(store, &key.prefix).await.key, key);
    }
}

/// By name, and keys of one name by their age.
pub async fn api_keys_are_sorted_by_name(store: &dyn Store) {
    added(store, 3, "a").await;
    store.revoke_api_key("a", at(1)).await.unwrap();
    for (id, name) in [(1, "b"), (4, "a"), (2, "B")] {
        added(store, id, name).await;
    }
    let keys = store.api_keys().await.unwrap();
    let ids: Vec<i64> = keys.iter().map(|record| record.key.id.0).collect();
    assert_eq!(ids, [2, 3, 4, 1]);
}

/// [`Error::Conflict`] that names it; nothing changes.
pub async fn a_second_api_key_of_a_name_conflicts(store: &dyn Store) {
    let first = added(store, 1, "ci").await;
    let err = store.add_api_key(new_key(2, "ci")).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
    assert!(err.to_string().contains("ci"), "{err}");
    assert_eq!(store.api_keys().await.unwrap(), [first]);
}

/// Keys are found by their prefix, so there is one of each, revoked ones included.
pub async fn a_second_api_key_of_a_prefix_conflicts(store: &dyn Store) {
    added(store, 1, "ci").await;
    store.revoke_api_key("ci", at(1)).await.unwrap();
    let same = NewApiKey { prefix: "prefix-1".into(), ..new_key(2, "other") };
    let err = store.add_api_key(same).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
}

/// Two people make the key of a name at once: one of them gets it.
pub async fn concurrent_api_keys_of_one_name_admit_one(store: &dyn Store) {
    let calls = (0..20).map(|id| async move { store.add_api_key(new_key(id, "ci")).await.is_ok() });
    assert_eq!(together(calls).await.into_iter().filter(|added| *added).count(), 1);
}

/// Revoked at the time that was given, and not valid at any.
pub async fn a_revoked_api_key_is_not_valid(store: &dyn Store) {
    assert!(added(store, 1, "ci").await.is_valid(T0));
    store.revoke_api_key("ci", at(1)).await.unwrap();
    let revoked = found(store, "prefix-1").await;
    assert_eq!(revoked.revoked_at, Some(at(1)));
    assert!(!revoked.is_valid(T0));
}

/// From the very microsecond on.
pub async fn an_expired_api_key_is_not_valid(store: &dyn Store) {
    let key = NewApiKey { expires_at: Some(at(5)), ..new_key(1, "ci") };
    store.add_api_key(key).await.unwrap();
    let record = found(store, "prefix-1").await;
    assert!(record.is_valid(Timestamp(at(5).0 - 1)));
    assert!(!record.is_valid(at(5)));
}

/// A key is replaced by revoking it and making another of its name; only that one can be revoked then.
pub async fn the_name_of_a_revoked_api_key_is_free(store: &dyn Store) {
    added(store, 1, "ci").await;
    store.revoke_api_key("ci", at(1)).await.unwrap();
    added(store, 2, "ci").await;
    store.revoke_api_key("ci", at(2)).await.unwrap();
    assert_eq!(found(store, "prefix-1").await.revoked_at, Some(at(1)));
    assert_eq!(found(store, "prefix-2").await.revoked_at, Some(at(2)));
}

/// Neither one that never was nor one that is revoked already.
pub async fn revoking_an_unknown_api_key_is_not_found(store: &dyn Store) {
    added(store, 1, "ci").await;
    store.revoke_api_key("ci", at(1)).await.unwrap();
    for name in ["ci", "CI", ""] {
        let err = store.revoke_api_key(name, at(2)).await.unwrap_err();
        assert!(matches!(err, Error::NotFound { .. }), "{name}: {err:?}");
    }
    assert_eq!(found(store, "prefix-1").await.revoked_at, Some(at(1)));
}

/// The first use is kept; one within the resolution is not; a later one is.
pub async fn uses_of_an_api_key_are_noted_coarsely(store: &dyn Store) {
    added(store, 1, "ci").await;
    let used = async |at: Timestamp| {
        store.note_api_key_use(ApiKeyId(1), at).await.unwrap();
        found(store, "prefix-1").await.last_used_at
    };
    let first = at(10);
    assert_eq!(used(first).await, Some(first));
    assert_eq!(used(first.plus(Duration::from_secs(1))).await, Some(first));
    assert_eq!(used(first.minus(Duration::from_hours(1))).await, Some(first));
    let next = first.plus(API_KEY_USE_RESOLUTION);
    assert_eq!(used(next).await, Some(next));
    store.note_api_key_use(ApiKeyId(2), next).await.unwrap();
}

/// Those that are of no use any more, for long enough; oldest first, not more than asked for.
pub async fn useless_api_keys_are_pruned(store: &dyn Store) {
    for id in 1..=4 {
        let expires_at = (id % 2 == 0).then(|| at(u64::try_from(id).unwrap()));
        let key = NewApiKey { expires_at, ..new_key(id, &id.to_string()) };
        store.add_api_key(key).await.unwrap();
    }
    store.revoke_api_key("1", at(3)).await.unwrap();
    assert_eq!(store.prune_api_keys(at(4), 1).await.unwrap(), 1);
    assert_eq!(store.prune_api_keys(at(4), 9).await.unwrap(), 1);
    assert_eq!(store.prune_api_keys(at(4), 9).await.unwrap(), 0);
    let keys = store.api_keys().await.unwrap();
    let ids: Vec<i64> = keys.iter().map(|record| record.key.id.0).collect();
    assert_eq!(ids, [3, 4]);
}

/// No log shows it.
pub async fn the_hash_of_an_api_key_is_not_shown(store: &dyn Store) {
    let shown = format!("{:?}", added(store, 1, "ci").await);
    assert!(shown.contains("***") && !shown.contains("255"), "{shown}");
}
