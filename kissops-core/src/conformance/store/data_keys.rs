//! Rules of [`DataKeyStore`](crate::store::DataKeyStore).

use super::{
    T0, UNICODE, at,
    fixtures::{GRANT, KEY, add_grant, add_key, lease, pair, sealed},
    together,
};
use crate::{
    Error,
    store::{
        DataKeyId, DataKeyRecord, Fingerprint, KekId, NewDataKey, NewSecret, Sealed, SealedBy,
        SecretId, SecretSource, SecretValue, Store,
    },
};

fn kek(text: &str) -> KekId {
    KekId(text.into())
}

async fn only(store: &dyn Store) -> DataKeyRecord {
    let mut keys = store.data_keys().await.unwrap();
    assert_eq!(keys.len(), 1);
    keys.remove(0)
}

/// An empty list.
pub async fn a_new_store_has_no_data_keys(store: &dyn Store) {
    assert_eq!(store.data_keys().await.unwrap(), []);
}

/// Every field of a key is kept, and all bytes.
pub async fn a_data_key_comes_back_as_added(store: &dyn Store) {
    let key = NewDataKey {
        id: DataKeyId(i64::MAX),
        kek: kek(UNICODE),
        wrapped: Sealed((0..=255).collect()),
        created_at: at(3),
    };
    store.add_data_key(key.clone()).await.unwrap();
    assert_eq!(only(store).await, DataKeyRecord { key, seals: 0, retired_at: None });
}

/// By their numbers, which grow with time.
pub async fn data_keys_come_oldest_first(store: &dyn Store) {
    for id in [3, 1, 2] {
        add_key(store, DataKeyId(id)).await;
    }
    let keys = store.data_keys().await.unwrap();
    assert!(keys.iter().map(|record| record.key.id.0).eq(1..=3), "{keys:?}");
}

/// [`Error::Conflict`]; the first stays as it is.
pub async fn a_second_data_key_of_a_number_conflicts(store: &dyn Store) {
    add_key(store, KEY).await;
    let before = only(store).await;
    let second = NewDataKey { wrapped: Sealed(vec![]), ..before.key.clone() };
    let err = store.add_data_key(second).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
    assert_eq!(only(store).await, before);
}

/// The same key under another key.
pub async fn a_data_key_is_rewrapped(store: &dyn Store) {
    add_key(store, KEY).await;
    store.rewrap_data_key(KEY, &kek("kek-1"), kek("kek-2"), Sealed(vec![5])).await.unwrap();
    let key = only(store).await.key;
    assert_eq!((key.kek, key.wrapped), (kek("kek-2"), Sealed(vec![5])));
}

/// Two rotations at once: one does it, the other is told.
pub async fn concurrent_rewraps_admit_one(store: &dyn Store) {
    add_key(store, KEY).await;
    let calls = (0..20).map(|i| async move {
        let wrapped = Sealed(vec![i]);
        store.rewrap_data_key(KEY, &kek("kek-1"), kek("kek-2"), wrapped).await.map(|()| i)
    });
    let answers = together(calls).await;
    let winners: Vec<u8> =
        answers.iter().filter_map(|answer| answer.as_ref().ok()).copied().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(only(store).await.key.wrapped, Sealed(winners));
    let lost = |answer: &&Result<u8, Error>| matches!(answer, Err(Error::Conflict { .. }));
    assert_eq!(answers.iter().filter(lost).count(), 19, "{answers:?}");
}

/// [`Error::NotFound`] from each method.
pub async fn an_unknown_data_key_is_not_found(store: &dyn Store) {
    add_key(store, KEY).await;
    let unknown = DataKeyId(404);
    let answers = [
        store.rewrap_data_key(unknown, &kek("kek-1"), kek("x"), Sealed(vec![])).await,
        store.reserve_seals(unknown, 1).await.map(drop),
        store.retire_data_key(unknown, at(1)).await,
        store.remove_data_key(unknown).await,
    ];
    for answer in answers {
        let err = answer.unwrap_err();
        assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
        assert!(err.to_string().contains("404"), "{err}");
    }
}

/// None is counted twice, none is forgotten.
pub async fn concurrent_reservations_of_seals_add_up(store: &dyn Store) {
    add_key(store, KEY).await;
    let calls = (0..20).map(|_| store.reserve_seals(KEY, u32::MAX));
    let mut totals: Vec<u64> = together(calls).await.into_iter().map(Result::unwrap).collect();
    totals.sort_unstable();
    let expected: Vec<u64> = (1..=20).map(|n| n * u64::from(u32::MAX)).collect();
    assert_eq!(totals, expected);
    assert_eq!(only(store).await.seals, 20 * u64::from(u32::MAX));
}

/// [`Error::WrongState`]; the first time stays.
pub async fn a_retired_data_key_seals_nothing_more(store: &dyn Store) {
    add_key(store, KEY).await;
    store.retire_data_key(KEY, at(1)).await.unwrap();
    store.retire_data_key(KEY, at(2)).await.unwrap();
    let err = store.reserve_seals(KEY, 1).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    let record = only(store).await;
    assert_eq!((record.retired_at, record.seals), (Some(at(1)), 0));
}

/// First it is retired.
pub async fn a_data_key_in_force_cannot_be_removed(store: &dyn Store) {
    add_key(store, KEY).await;
    let err = store.remove_data_key(KEY).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    store.retire_data_key(KEY, at(1)).await.unwrap();
    store.remove_data_key(KEY).await.unwrap();
    assert_eq!(store.data_keys().await.unwrap(), []);
}

/// Not before everything that it sealed was sealed by another.
pub async fn a_data_key_that_sealed_a_token_stays(store: &dyn Store) {
    add_grant(store).await;
    let held = lease(store, "grant/7", 1).await;
    store.commit_generation(pair(0, &held)).await.unwrap();
    store.retire_data_key(KEY, at(1)).await.unwrap();
    let err = store.remove_data_key(KEY).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    let other = DataKeyId(2);
    add_key(store, other).await;
    for token in store.sealed_tokens(GRANT).await.unwrap() {
        let again = SealedBy { key: other, ..token.sealed };
        store.reseal_token(token.id, KEY, again).await.unwrap();
    }
    store.remove_data_key(KEY).await.unwrap();
    assert_eq!(only(store).await.key.id, other);
}

/// Likewise.
pub async fn a_data_key_that_sealed_a_secret_stays(store: &dyn Store) {
    add_key(store, KEY).await;
    let value = SecretValue {
        sealed: sealed("x"),
        fingerprint: Fingerprint(vec![1]),
        source: SecretSource::Given,
        at: T0,
    };
    let (id, name, kind) = (SecretId(1), "token".to_owned(), "bot_token".to_owned());
    store.add_secret(NewSecret { id, name, kind, value, max_age: None }).await.unwrap();
    store.retire_data_key(KEY, at(1)).await.unwrap();
    let err = store.remove_data_key(KEY).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    store.remove_secret("token").await.unwrap();
    store.remove_data_key(KEY).await.unwrap();
}

/// The length at most.
pub async fn sealed_bytes_are_not_shown(store: &dyn Store) {
    add_key(store, KEY).await;
    let shown = format!("{:?}", only(store).await);
    assert!(shown.contains("40 bytes") && !shown.contains("9, 9"), "{shown}");
}
