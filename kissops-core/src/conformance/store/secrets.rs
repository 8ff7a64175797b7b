//! Rules of [`SecretStore`](crate::store::SecretStore).

use std::time::Duration;

use super::{
    T0, UNICODE, at,
    fixtures::{KEY, add_key, sealed},
    together,
};
use crate::{
    Error, Timestamp,
    store::{
        DataKeyId, Fingerprint, NewSecret, Sealed, SealedBy, SecretId, SecretRecord, SecretSource,
        SecretValue, Store,
    },
};

fn value(text: &str, at: Timestamp) -> SecretValue {
    SecretValue {
        sealed: sealed(text),
        fingerprint: Fingerprint(text.as_bytes().to_vec()),
        source: SecretSource::Given,
        at,
    }
}

fn new_secret(id: i64, name: &str) -> NewSecret {
    NewSecret {
        id: SecretId(id),
        name: name.into(),
        kind: "bot_token".into(),
        value: value("first", T0),
        max_age: None,
    }
}

async fn added(store: &dyn Store, id: i64, name: &str) -> SecretRecord {
    if store.data_keys().await.unwrap().is_empty() {
        add_key(store, KEY).await;
    }
    store.add_secret(new_secret(id, name)).await.unwrap();
    found(store, name).await
}

async fn found(store: &dyn Store, name: &str) -> SecretRecord {
    store.secret(name).await.unwrap().unwrap()
}

fn names(records: &[SecretRecord]) -> Vec<&str> {
    records.iter().map(|record| record.secret.name.as_str()).collect()
}

/// None of any kind.
pub async fn a_new_store_has_no_secrets(store: &dyn Store) {
    assert_eq!(store.secret("token").await.unwrap(), None);
    assert_eq!(store.secrets(None, 9).await.unwrap(), []);
    assert_eq!(store.due_secrets(Timestamp(i64::MAX), 9).await.unwrap(), []);
    assert_eq!(store.secrets_alike(&Fingerprint(vec![])).await.unwrap(), [""; 0]);
}

/// Every field of a secret is kept, and all bytes.
pub async fn a_secret_comes_back_as_added(store: &dyn Store) {
    add_key(store, KEY).await;
    let value = SecretValue {
        sealed: SealedBy { key: KEY, sealed: Sealed((0..=255).collect()) },
        fingerprint: Fingerprint((0..=255).rev().collect()),
        source: SecretSource::Generated,
        at: Timestamp(1_790_000_000_123_457),
    };
    let max_age = Some(Duration::from_micros(1));
    let secret =
        NewSecret { kind: UNICODE.into(), value, max_age, ..new_secret(i64::MAX, UNICODE) };
    store.add_secret(secret.clone()).await.unwrap();
    let created_at = secret.value.at;
    assert_eq!(found(store, UNICODE).await, SecretRecord { secret, version: 1, created_at });
}

/// [`Error::Conflict`] that names it; the first stays as it is.
pub async fn a_second_secret_of_a_name_conflicts(store: &dyn Store) {
    let first = added(store, 1, "token").await;
    for (id, name) in [(2, "token"), (1, "other")] {
        let err = store.add_secret(new_secret(id, name)).await.unwrap_err();
        assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
        assert!(err.to_string().contains(name), "{err}");
    }
    assert_eq!(store.secrets(None, 9).await.unwrap(), [first]);
}

/// [`Error::NotFound`] names the key; nothing is kept.
pub async fn a_secret_under_an_unknown_key_is_refused(store: &dyn Store) {
    let err = store.add_secret(new_secret(1, "token")).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
    assert_eq!(store.secret("token").await.unwrap(), None);
}

/// Pages of any size make up the whole, by the bytes of names.
pub async fn secret_pages_have_no_gaps_and_no_repetition(store: &dyn Store) {
    for (id, name) in (1..).zip(["b", "a", "B", "é", ""]) {
        added(store, id, name).await;
    }
    let mut all: Vec<String> = Vec::new();
    loop {
        let page = store.secrets(all.last().map(String::as_str), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        all.extend(names(&page).into_iter().map(str::to_owned));
    }
    assert_eq!(all, ["", "B", "a", "b", "é"]);
}

/// The next version, with its time and source; what was before is gone.
pub async fn a_rotated_secret_has_the_next_version(store: &dyn Store) {
    let first = added(store, 1, "token").await;
    let second = SecretValue { source: SecretSource::Generated, ..value("second", at(5)) };
    store.rotate_secret(SecretId(1), 1, second.clone()).await.unwrap();
    let secret = NewSecret { value: second, ..first.secret };
    assert_eq!(found(store, "token").await, SecretRecord { secret, version: 2, ..first });
    assert_eq!(store.secrets_alike(&Fingerprint(b"first".to_vec())).await.unwrap(), [""; 0]);
}

/// Of two rotations at once, one is in time.
pub async fn concurrent_rotations_of_a_secret_admit_one(store: &dyn Store) {
    added(store, 1, "token").await;
    let calls = (0..20).map(|i| async move {
        let text = i.to_string();
        store.rotate_secret(SecretId(1), 1, value(&text, at(1))).await.map(|()| text)
    });
    let answers = together(calls).await;
    let winners: Vec<&String> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    let now = found(store, "token").await;
    assert_eq!((now.version, now.secret.value), (2, value(winners[0], at(1))));
}

/// Neither an older version nor a secret that is gone.
pub async fn a_rotation_of_an_old_version_is_refused(store: &dyn Store) {
    added(store, 1, "token").await;
    store.rotate_secret(SecretId(1), 1, value("second", at(1))).await.unwrap();
    for (id, from) in [(1, 1), (1, 3), (2, 1)] {
        let late = store.rotate_secret(SecretId(id), from, value("late", at(2))).await;
        assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    }
    assert_eq!(found(store, "token").await.secret.value, value("second", at(1)));
}

/// The age may be set later, changed, and lifted.
pub async fn the_age_of_a_secret_can_be_changed(store: &dyn Store) {
    added(store, 1, "token").await;
    for max_age in [Some(Duration::from_hours(24 * 90)), Some(Duration::ZERO), None] {
        store.set_secret_age("token", max_age).await.unwrap();
        let record = found(store, "token").await;
        assert_eq!(record.secret.max_age, max_age);
        assert_eq!(record.due_at(), max_age.map(|age| T0.plus(age)));
    }
    let err = store.set_secret_age("Token", None).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
}

/// [`Error::InvalidConfig`]: a sum of times must still be one.
pub async fn the_age_of_a_secret_has_an_end(store: &dyn Store) {
    added(store, 1, "token").await;
    let err = store.set_secret_age("token", Some(Duration::MAX)).await.unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
    let old = NewSecret { max_age: Some(Duration::MAX), ..new_secret(2, "other") };
    let err = store.add_secret(old).await.unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
}

/// The most urgent first; those without an age never; a rotation starts the time anew.
pub async fn due_secrets_come_in_the_order_of_their_times(store: &dyn Store) {
    for (id, name, age) in
        [(1, "c", Some(30)), (2, "b", Some(10)), (3, "a", Some(10)), (4, "d", None)]
    {
        added(store, id, name).await;
        store.set_secret_age(name, age.map(Duration::from_secs)).await.unwrap();
    }
    let due = |by| store.due_secrets(by, 9);
    assert_eq!(names(&due(at(30)).await.unwrap()), ["a", "b", "c"]);
    assert_eq!(names(&due(at(10)).await.unwrap()), ["a", "b"]);
    assert_eq!(names(&due(Timestamp(at(10).0 - 1)).await.unwrap()), [""; 0]);
    assert_eq!(names(&store.due_secrets(at(30), 1).await.unwrap()), ["a"]);
    store.rotate_secret(SecretId(3), 1, value("new", at(25))).await.unwrap();
    assert_eq!(names(&due(at(30)).await.unwrap()), ["b", "c"]);
}

/// By name; one alone is no reuse.
pub async fn reuse_of_a_secret_is_found(store: &dyn Store) {
    for (id, name) in [(1, "b"), (2, "a"), (3, "c")] {
        added(store, id, name).await;
    }
    store.rotate_secret(SecretId(3), 1, value("other", at(1))).await.unwrap();
    let alike = |text: &str| Fingerprint(text.as_bytes().to_vec());
    assert_eq!(store.secrets_alike(&alike("first")).await.unwrap(), ["a", "b"]);
    assert_eq!(store.secrets_alike(&alike("other")).await.unwrap(), ["c"]);
    assert_eq!(store.secrets_alike(&alike("firs")).await.unwrap(), [""; 0]);
}

/// By key, in pages; each is replaced once, and only in the version that was read.
pub async fn secrets_are_resealed_under_another_key(store: &dyn Store) {
    let other = DataKeyId(2);
    for id in [2, 1, 3] {
        added(store, id, &id.to_string()).await;
    }
    add_key(store, other).await;
    let again = SealedBy { key: other, ..sealed("again") };
    let mut after = None;
    while let Some(record) = store.secrets_sealed_by(KEY, after, 1).await.unwrap().pop() {
        let id = record.secret.id;
        assert!(after < Some(id));
        store.reseal_secret(id, record.version, KEY, again.clone()).await.unwrap();
        let late = store.reseal_secret(id, record.version, KEY, again.clone()).await;
        assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
        after = Some(id);
    }
    assert_eq!(after, Some(SecretId(3)));
    let resealed = store.secrets_sealed_by(other, None, 9).await.unwrap();
    assert_eq!(resealed.len(), 3);
    assert!(
        resealed.iter().all(|record| record.secret.value.sealed == again && record.version == 1)
    );
    store.rotate_secret(SecretId(1), 1, value("new", at(1))).await.unwrap();
    let late = store.reseal_secret(SecretId(1), 1, KEY, again).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
}

/// It is gone alone, and once; one of its name is another.
pub async fn a_removed_secret_is_gone_alone(store: &dyn Store) {
    added(store, 1, "a").await;
    let other = added(store, 2, "b").await;
    store.remove_secret("a").await.unwrap();
    assert_eq!(store.secrets(None, 9).await.unwrap(), [other]);
    let err = store.remove_secret("a").await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
    added(store, 3, "a").await;
    let late = store.rotate_secret(SecretId(1), 1, value("late", at(1))).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
}

/// Neither the value nor its fingerprint.
pub async fn a_secret_is_not_shown(store: &dyn Store) {
    let shown = format!("{:?}", added(store, 1, "token").await);
    assert!(shown.contains("***") && shown.contains("5 bytes"), "{shown}");
    assert!(!shown.contains("102, 105"), "{shown}");
}
