//! Rules of [`UserStore`](crate::store::UserStore).

use super::{T0, UNICODE, at, together};
use crate::{
    Error, Timestamp,
    store::{NewUser, PasswordHash, Role, Store, UserChange, UserId, UserRecord},
};

fn new_user(id: i64, name: &str) -> NewUser {
    NewUser {
        id: UserId(id),
        name: name.into(),
        role: Role::Operator,
        password: Some(hash("first")),
        created_at: T0,
    }
}

fn hash(text: &str) -> PasswordHash {
    PasswordHash(text.into())
}

async fn added(store: &dyn Store, id: i64, name: &str) -> UserRecord {
    store.add_user(new_user(id, name)).await.unwrap();
    found(store, name).await
}

async fn found(store: &dyn Store, name: &str) -> UserRecord {
    store.user(name).await.unwrap().unwrap()
}

/// An empty list, and nobody of any name.
pub async fn a_new_store_has_no_users(store: &dyn Store) {
    assert_eq!(store.users().await.unwrap(), []);
    assert_eq!(store.user("ada").await.unwrap(), None);
}

/// Every field of a user is kept.
pub async fn a_user_comes_back_as_added(store: &dyn Store) {
    let user = NewUser { name: UNICODE.into(), ..new_user(i64::MAX, "") };
    store.add_user(user.clone()).await.unwrap();
    let expected = UserRecord {
        user,
        disabled_at: None,
        session_epoch: 0,
        updated_at: T0,
        last_login_at: None,
    };
    assert_eq!(found(store, UNICODE).await, expected);
    assert_eq!(store.users().await.unwrap(), [expected]);
}

/// Each role, and a user without a password.
pub async fn every_role_comes_back(store: &dyn Store) {
    for (id, role) in (1..).zip([Role::Admin, Role::Operator, Role::Viewer]) {
        let user = NewUser { role, password: None, ..new_user(id, &id.to_string()) };
        store.add_user(user.clone()).await.unwrap();
        assert_eq!(found(store, &id.to_string()).await.user, user);
    }
}

/// The order is that of the names' bytes.
pub async fn users_are_sorted_by_name(store: &dyn Store) {
    for (id, name) in (1..).zip(["b", "a", "B", "é", "ab"]) {
        added(store, id, name).await;
    }
    let users = store.users().await.unwrap();
    let names: Vec<&str> = users.iter().map(|record| record.user.name.as_str()).collect();
    assert_eq!(names, ["B", "a", "ab", "b", "é"]);
}

/// [`Error::Conflict`] that names it, and the first stays as it is.
pub async fn a_second_user_of_a_name_conflicts(store: &dyn Store) {
    let first = added(store, 1, "ada").await;
    let err = store.add_user(new_user(2, "ada")).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
    assert!(err.to_string().contains("ada"), "{err}");
    assert_eq!(store.users().await.unwrap(), [first]);
}

/// Numbers are not given twice either.
pub async fn a_second_user_of_a_number_conflicts(store: &dyn Store) {
    added(store, 1, "ada").await;
    let err = store.add_user(new_user(1, "bob")).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
}

/// One succeeds, whoever it is.
pub async fn concurrent_users_of_one_name_admit_one(store: &dyn Store) {
    let calls = (0..20).map(|id| async move { store.add_user(new_user(id, "ada")).await.is_ok() });
    assert_eq!(together(calls).await.into_iter().filter(|added| *added).count(), 1);
    assert_eq!(store.users().await.unwrap().len(), 1);
}

/// The role, and nothing else of what it is.
pub async fn a_user_gets_another_role(store: &dyn Store) {
    added(store, 1, "ada").await;
    let changed = store.change_user("ada", UserChange::Role(Role::Admin), at(1)).await.unwrap();
    assert_eq!(changed.user, NewUser { role: Role::Admin, ..new_user(1, "ada") });
    assert_eq!(changed.updated_at, at(1));
    assert_eq!(changed, found(store, "ada").await);
}

/// A password is replaced, and may be taken away.
pub async fn a_user_gets_another_password(store: &dyn Store) {
    added(store, 1, "ada").await;
    for password in [Some(hash("second")), None, Some(hash(""))] {
        let change = UserChange::Password(password.clone());
        let changed = store.change_user("ada", change, at(1)).await.unwrap();
        assert_eq!(changed.user.password, password);
    }
}

/// The first time of being disabled stays; enabling takes it away.
pub async fn a_disabled_user_can_be_enabled_again(store: &dyn Store) {
    added(store, 1, "ada").await;
    store.change_user("ada", UserChange::Disable, at(1)).await.unwrap();
    let again = store.change_user("ada", UserChange::Disable, at(2)).await.unwrap();
    assert_eq!(again.disabled_at, Some(at(1)));
    let enabled = store.change_user("ada", UserChange::Enable, at(3)).await.unwrap();
    assert_eq!(enabled.disabled_at, None);
}

/// Whoever holds a session must come again after any of them.
pub async fn every_change_of_a_user_ends_their_sessions(store: &dyn Store) {
    let mut last = added(store, 1, "ada").await.session_epoch;
    for change in [
        UserChange::Role(Role::Viewer),
        UserChange::Password(None),
        UserChange::Disable,
        UserChange::Enable,
        UserChange::EndSessions,
    ] {
        let changed = store.change_user("ada", change.clone(), at(1)).await.unwrap();
        assert!(changed.session_epoch > last, "{change:?}");
        last = changed.session_epoch;
    }
}

/// None of them is lost: each counts.
pub async fn concurrent_changes_of_a_user_all_count(store: &dyn Store) {
    added(store, 1, "ada").await;
    let calls = (0..20).map(|_| store.change_user("ada", UserChange::EndSessions, at(1)));
    let mut epochs: Vec<u64> =
        together(calls).await.into_iter().map(|user| user.unwrap().session_epoch).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=20).collect::<Vec<u64>>());
}

/// Two changes of different things at once leave both.
pub async fn concurrent_changes_of_role_and_password_are_both_there(store: &dyn Store) {
    added(store, 1, "ada").await;
    let changes = [UserChange::Role(Role::Admin), UserChange::Password(Some(hash("second")))];
    let calls = changes.into_iter().map(|change| store.change_user("ada", change, at(1)));
    assert!(together(calls).await.iter().all(Result::is_ok));
    let user = found(store, "ada").await.user;
    assert_eq!((user.role, user.password), (Role::Admin, Some(hash("second"))));
}

/// [`Error::NotFound`], which names them.
pub async fn changing_an_unknown_user_is_not_found(store: &dyn Store) {
    added(store, 1, "ada").await;
    let err = store.change_user("Ada", UserChange::Disable, at(1)).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
    assert!(err.to_string().contains("Ada"), "{err}");
    assert_eq!(found(store, "ada").await.disabled_at, None);
}

/// The same password, hashed better: nobody has to log in again.
pub async fn a_better_hash_ends_no_session(store: &dyn Store) {
    let before = added(store, 1, "ada").await;
    store.rehash_password(UserId(1), &hash("first"), hash("better"), at(1)).await.unwrap();
    let after = found(store, "ada").await;
    assert_eq!(after.user.password, Some(hash("better")));
    assert_eq!(after.session_epoch, before.session_epoch);
}

/// A password that was changed meanwhile stays.
pub async fn a_better_hash_of_a_former_password_is_refused(store: &dyn Store) {
    added(store, 1, "ada").await;
    let change = UserChange::Password(Some(hash("second")));
    store.change_user("ada", change, at(1)).await.unwrap();
    let late = store.rehash_password(UserId(1), &hash("first"), hash("better"), at(2)).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    assert_eq!(found(store, "ada").await.user.password, Some(hash("second")));
}

/// Logins of two hosts may be noted in any order.
pub async fn the_latest_login_stays(store: &dyn Store) {
    let before = added(store, 1, "ada").await;
    for seconds in [5, 9, 7] {
        store.note_login(UserId(1), at(seconds)).await.unwrap();
    }
    let expected = UserRecord { last_login_at: Some(at(9)), ..before };
    assert_eq!(found(store, "ada").await, expected);
    store.note_login(UserId(2), at(1)).await.unwrap();
}

/// They are gone alone, and once.
pub async fn a_removed_user_is_gone_alone(store: &dyn Store) {
    let ada = added(store, 1, "ada").await;
    added(store, 2, "bob").await;
    store.remove_user("bob").await.unwrap();
    assert_eq!(store.users().await.unwrap(), [ada]);
    let err = store.remove_user("bob").await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
}

/// What was meant for the former one of that name does not reach the new one.
pub async fn a_user_of_a_former_users_name_is_somebody_else(store: &dyn Store) {
    added(store, 1, "ada").await;
    store.change_user("ada", UserChange::EndSessions, at(1)).await.unwrap();
    store.remove_user("ada").await.unwrap();
    let new = added(store, 2, "ada").await;
    store.note_login(UserId(1), at(9)).await.unwrap();
    let late = store.rehash_password(UserId(1), &hash("first"), hash("x"), at(9)).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    assert_eq!(found(store, "ada").await, new);
}

/// To the microsecond, also before 1970.
pub async fn user_times_keep_microseconds(store: &dyn Store) {
    let user = NewUser { created_at: Timestamp(-1), ..new_user(1, "ada") };
    store.add_user(user.clone()).await.unwrap();
    let late = Timestamp(1_790_000_000_123_457);
    let changed = store.change_user("ada", UserChange::Disable, late).await.unwrap();
    assert_eq!((changed.user.created_at, changed.disabled_at), (Timestamp(-1), Some(late)));
}

/// No log shows it, in whatever way it was printed.
pub async fn a_password_hash_is_not_shown(store: &dyn Store) {
    added(store, 1, "ada").await;
    let shown = format!("{:?}", found(store, "ada").await);
    assert!(shown.contains("***") && !shown.contains("first"), "{shown}");
}
