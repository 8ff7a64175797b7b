//! Rules of [`MemberStore`](crate::store::MemberStore).

use super::{T0, UNICODE, at, name, together};
use crate::{
    Error, Timestamp,
    store::{MemberRecord, Store},
};

fn member(text: &str) -> MemberRecord {
    MemberRecord { name: name(text), vars: [].into(), added_at: T0 }
}

async fn names(store: &dyn Store) -> Vec<String> {
    store.members().await.unwrap().into_iter().map(|record| record.name.to_string()).collect()
}

/// An empty list, not an error.
pub async fn a_new_store_has_no_members(store: &dyn Store) {
    assert_eq!(store.members().await.unwrap(), []);
}

/// Every field of a member is kept.
pub async fn a_member_comes_back_as_added(store: &dyn Store) {
    let vars = [("lang".to_owned(), "de".to_owned()), ("port".to_owned(), "8001".to_owned())];
    let added = MemberRecord { vars: vars.into(), added_at: at(2), ..member("twitch@one") };
    store.add_member(added.clone()).await.unwrap();
    assert_eq!(store.members().await.unwrap(), [added]);
}

/// The order is that of the names' bytes.
pub async fn members_are_sorted_by_name(store: &dyn Store) {
    for text in ["t@b", "t@a-1", "t@B", "s@z", "t@a_1", "t@a"] {
        store.add_member(member(text)).await.unwrap();
    }
    assert_eq!(names(store).await, ["s@z", "t@B", "t@a", "t@a-1", "t@a_1", "t@b"]);
}

/// [`Error::Conflict`], and the first stays as it is.
pub async fn a_second_member_of_a_name_conflicts(store: &dyn Store) {
    store.add_member(member("t@a")).await.unwrap();
    let vars = [("x".to_owned(), "y".to_owned())];
    let second = MemberRecord { vars: vars.into(), added_at: at(9), ..member("t@a") };
    let err = store.add_member(second).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
    assert!(err.to_string().contains("t@a"), "the message names it: {err}");
    assert_eq!(store.members().await.unwrap(), [member("t@a")]);
}

/// A refused call leaves the store usable.
pub async fn members_can_be_added_after_a_conflict(store: &dyn Store) {
    store.add_member(member("t@a")).await.unwrap();
    store.add_member(member("t@a")).await.unwrap_err();
    store.add_member(member("t@b")).await.unwrap();
    assert_eq!(names(store).await, ["t@a", "t@b"]);
}

/// It is gone, and the others are not.
pub async fn a_removed_member_is_gone_alone(store: &dyn Store) {
    for text in ["t@a", "t@b", "t@c"] {
        store.add_member(member(text)).await.unwrap();
    }
    store.remove_member(&name("t@b")).await.unwrap();
    assert_eq!(names(store).await, ["t@a", "t@c"]);
}

/// [`Error::NotFound`], which names it.
pub async fn removing_an_unknown_member_is_not_found(store: &dyn Store) {
    store.add_member(member("t@a")).await.unwrap();
    let err = store.remove_member(&name("t@b")).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
    assert!(err.to_string().contains("t@b"), "{err}");
    assert_eq!(names(store).await, ["t@a"]);
}

/// The second removal finds nothing.
pub async fn a_member_is_removed_once(store: &dyn Store) {
    store.add_member(member("t@a")).await.unwrap();
    let calls = (0..10).map(|_| async { store.remove_member(&name("t@a")).await.is_ok() });
    assert_eq!(together(calls).await.into_iter().filter(|removed| *removed).count(), 1);
}

/// A removed member leaves nothing behind that a new one of its name would find.
pub async fn a_removed_member_can_be_added_again(store: &dyn Store) {
    let vars = [("x".to_owned(), "y".to_owned())];
    store.add_member(MemberRecord { vars: vars.into(), ..member("t@a") }).await.unwrap();
    store.remove_member(&name("t@a")).await.unwrap();
    store.add_member(member("t@a")).await.unwrap();
    assert_eq!(store.members().await.unwrap(), [member("t@a")]);
}

/// Keys and values keep all of Unicode; empty ones are kept as well.
pub async fn member_vars_are_unicode(store: &dyn Store) {
    let vars = [
        (UNICODE.to_owned(), UNICODE.to_owned()),
        (String::new(), "empty key".to_owned()),
        ("empty value".to_owned(), String::new()),
    ];
    let added = MemberRecord { vars: vars.into(), ..member("t@a") };
    store.add_member(added.clone()).await.unwrap();
    assert_eq!(store.members().await.unwrap(), [added]);
}

/// To the microsecond.
pub async fn member_times_keep_microseconds(store: &dyn Store) {
    let added = MemberRecord { added_at: Timestamp(1_790_000_000_123_457), ..member("t@a") };
    store.add_member(added.clone()).await.unwrap();
    assert_eq!(store.members().await.unwrap(), [added]);
}

/// Of concurrent additions of one name one succeeds, and it is the one that stays.
pub async fn concurrent_adds_of_one_name_admit_one(store: &dyn Store) {
    let candidate = |i: i64| MemberRecord {
        vars: [("i".to_owned(), i.to_string())].into(),
        added_at: Timestamp(i),
        ..member("t@a")
    };
    let results = together((0..50).map(|i| store.add_member(candidate(i)))).await;
    let winners: Vec<i64> =
        (0..).zip(&results).filter(|(_, result)| result.is_ok()).map(|(i, _)| i).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    let expected: Vec<_> = winners.into_iter().map(candidate).collect();
    assert_eq!(store.members().await.unwrap(), expected);
}

/// A failing call fails no call beside it.
pub async fn a_conflict_leaves_concurrent_adds_alone(store: &dyn Store) {
    store.add_member(member("t@taken")).await.unwrap();
    let calls = (0..60).map(|i| async move {
        let text = if i % 3 == 0 { "t@taken".to_owned() } else { format!("t@{i:02}") };
        (i, store.add_member(member(&text)).await.is_ok())
    });
    for (i, added) in together(calls).await {
        assert_eq!(added, i % 3 != 0, "{i}");
    }
    assert_eq!(names(store).await.len(), 41);
}

/// Members and instances of one name have nothing to do with each other.
pub async fn members_are_no_instances(store: &dyn Store) {
    store.add_member(member("t@a")).await.unwrap();
    assert_eq!(store.instances().await.unwrap(), []);
    store.remove_instance(&name("t@a")).await.unwrap();
    assert_eq!(names(store).await, ["t@a"]);
}
