//! Rules of [`BackupStore`](crate::store::BackupStore): which backups are found, what builds on what, and what goes.

use std::pin::Pin;

use super::{
    UNICODE, at,
    backups::{all, archive, begin, ended, failed, ids, made, new_backup, query, stored},
    conflicts, eventually, is_not_found,
    outbox::hasty,
    together,
};
use crate::{
    Error,
    store::{
        BackupEnd, BackupId, BackupKind, BackupQuery, BackupState, BackupStateName, NewBackup,
        PlanName, Store,
    },
};

type Call<'a> = Pin<Box<dyn Future<Output = bool> + 'a>>;

async fn child(store: &dyn Store, second: u64, parent: BackupId) -> BackupId {
    let kind = BackupKind::Incremental;
    made(store, NewBackup { kind, parent: Some(parent), ..new_backup("p", second) }).await
}

/// Newest first, by plan and state, page by page, each with its own copies.
pub async fn backups_come_newest_first(store: &dyn Store) {
    let mut made_ids = Vec::new();
    for second in 0..6 {
        let plan = if second % 2 == 0 { "p" } else { "q" };
        let id = begin(store, new_backup(plan, second)).await.unwrap();
        let end = if second < 4 { BackupEnd::Ok(archive(9)) } else { failed(9) };
        let copies = vec![stored("a", second), stored("b", second)];
        store.end_backup(id, end, None, copies).await.unwrap();
        made_ids.push(id);
    }
    assert!(made_ids.is_sorted_by(|one, next| one < next), "{made_ids:?}");
    made_ids.reverse();
    let first = store.backups(query(4)).await.unwrap();
    assert_eq!(ids(&first), made_ids[..4]);
    assert!(
        first
            .iter()
            .zip([5, 4, 3, 2])
            .all(|(one, second)| { one.copies == [stored("a", second), stored("b", second)] })
    );
    let next = BackupQuery { before: Some((at(2), made_ids[3])), ..query(4) };
    assert_eq!(ids(&store.backups(next).await.unwrap()), made_ids[4..]);
    let states = vec![BackupStateName::Ok, BackupStateName::Suspect];
    let good = BackupQuery { plan: Some("p".into()), states, ..query(9) };
    assert_eq!(ids(&store.backups(good).await.unwrap()), [made_ids[3], made_ids[5]]);
    assert_eq!(store.backups(query(0)).await.unwrap(), []);
}

/// They have failed, with their copies as they are; one that is still being made goes on.
pub async fn backups_whose_makers_vanished_are_ended(store: &dyn Store) {
    let gone = store.begin_backup(new_backup("p", 0), &hasty("x")).await.unwrap();
    store.put_backup_copy(gone, stored("a", 1)).await.unwrap();
    let held = begin(store, new_backup("q", 0)).await.unwrap();
    let lost = eventually(async || store.end_lost_backups(at(9), 9).await.unwrap().pop()).await;
    assert_eq!(lost, store.backup(gone).await.unwrap());
    assert_eq!(lost.copies, [stored("a", 1)]);
    let BackupState::Ended(BackupEnd::Failed { at: ended, .. }) = lost.state else {
        panic!("{lost:?}")
    };
    assert_eq!(ended, at(9));
    conflicts(store.end_backup(gone, failed(9), None, vec![]).await);
    assert_eq!(store.end_lost_backups(at(9), 9).await.unwrap(), []);
    store.end_backup(held, BackupEnd::Ok(archive(9)), None, vec![]).await.unwrap();
}

/// It is found late, and as old as it is.
pub async fn an_imported_older_backup_is_not_the_newest(store: &dyn Store) {
    let made = made(store, new_backup("p", 5)).await;
    let import = async |second| {
        let end = BackupEnd::Ok(archive(second));
        let new = new_backup("p", second);
        store.import_backup(new, end, None, vec![stored("a", second)]).await.unwrap()
    };
    let (older, newer) = (import(3).await, import(7).await);
    let last = store.last_good_backup(&"p".into()).await.unwrap().unwrap();
    assert_eq!(last.id, newer);
    let twin = NewBackup { name: "twin".into(), ..new_backup("p", 5) };
    let twin = store.import_backup(twin, BackupEnd::Ok(archive(5)), None, vec![]).await.unwrap();
    let mut found = Vec::new();
    let mut before = None;
    for _ in 0..4 {
        let page = store.backups(BackupQuery { before, ..query(1) }).await.unwrap();
        before = page.last().map(|one| (one.backup.started_at, one.id));
        found.extend(ids(&page));
    }
    assert_eq!(found, [newer, twin, made, older]);
    assert_eq!(store.backups(BackupQuery { before, ..query(1) }).await.unwrap(), []);
}

/// In all sinks or in some, but nothing odd, failed or half made; of that plan.
pub async fn the_last_good_backup_can_be_relied_on(store: &dyn Store) {
    let plan = PlanName::from("p");
    let last = async || store.last_good_backup(&plan).await.unwrap().map(|one| one.id);
    let first = made(store, new_backup("p", 0)).await;
    assert_eq!(last().await, Some(first));
    let why = || "x".to_owned();
    let partial = BackupEnd::Partial { archive: archive(9), why: why() };
    let partial = ended(store, new_backup("p", 1), partial).await;
    assert_eq!(last().await, Some(partial));
    ended(store, new_backup("p", 2), BackupEnd::Suspect { archive: archive(9), why: why() }).await;
    ended(store, new_backup("p", 3), failed(9)).await;
    begin(store, new_backup("p", 4)).await.unwrap();
    made(store, new_backup("q", 5)).await;
    assert_eq!(last().await, Some(partial));
}

/// The base first, itself last.
pub async fn a_chain_leads_from_the_base_to_the_backup(store: &dyn Store) {
    let base = made(store, new_backup("p", 0)).await;
    let first = child(store, 1, base).await;
    let second = child(store, 2, first).await;
    child(store, 3, first).await;
    assert_eq!(store.backup_chain(second).await.unwrap(), [base, first, second]);
    assert_eq!(store.backup_chain(base).await.unwrap(), [base]);
    is_not_found(store.backup_chain(BackupId(0)).await);
}

/// Children and theirs, oldest first.
pub async fn dependants_are_all_that_build_on_a_backup(store: &dyn Store) {
    let base = made(store, new_backup("p", 0)).await;
    let first = child(store, 1, base).await;
    let second = child(store, 2, first).await;
    let third = child(store, 3, base).await;
    made(store, new_backup("p", 4)).await;
    assert_eq!(store.backup_dependants(base).await.unwrap(), [first, second, third]);
    assert_eq!(store.backup_dependants(first).await.unwrap(), [second]);
    assert_eq!(store.backup_dependants(third).await.unwrap(), []);
}

/// Neither on one that failed, nor on one that is being made or is not there.
pub async fn a_backup_builds_on_what_is_there(store: &dyn Store) {
    let gone = ended(store, new_backup("p", 0), failed(1)).await;
    let running = begin(store, new_backup("q", 0)).await.unwrap();
    for parent in [gone, running, BackupId(0)] {
        let new = NewBackup { parent: Some(parent), ..new_backup("p", 9) };
        is_not_found(begin(store, new).await);
    }
    assert_eq!(all(store).await.len(), 2);
}

/// With its copies and its manifest; the others stay.
pub async fn a_removed_backup_is_gone_alone(store: &dyn Store) {
    let first = made(store, new_backup("p", 0)).await;
    let second = made(store, new_backup("p", 1)).await;
    for id in [first, second] {
        store.put_backup_copy(id, stored("a", 9)).await.unwrap();
    }
    store.remove_backup(first).await.unwrap();
    is_not_found(store.backup(first).await);
    is_not_found(store.remove_backup(first).await);
    assert_eq!(store.backup(second).await.unwrap().copies, [stored("a", 9)]);
}

/// It stays, with its copies, until the last that needs it is gone.
pub async fn a_backup_with_dependants_is_kept(store: &dyn Store) {
    let base = made(store, new_backup("p", 0)).await;
    store.put_backup_copy(base, stored("a", 9)).await.unwrap();
    let first = child(store, 1, base).await;
    let second = child(store, 2, first).await;
    for id in [base, first] {
        let before = store.backup(id).await.unwrap();
        conflicts(store.remove_backup(id).await);
        assert_eq!(store.backup(id).await.unwrap(), before);
    }
    for id in [second, first, base] {
        store.remove_backup(id).await.unwrap();
    }
    assert_eq!(all(store).await, []);
}

/// It is still being written.
pub async fn a_running_backup_is_not_removed(store: &dyn Store) {
    let id = begin(store, new_backup("p", 0)).await.unwrap();
    conflicts(store.remove_backup(id).await);
    store.end_backup(id, failed(1), None, vec![]).await.unwrap();
    store.remove_backup(id).await.unwrap();
}

/// At once, either the parent goes or the child comes: never a child without a parent.
pub async fn a_backup_is_not_removed_under_a_new_child(store: &dyn Store) {
    for second in 0..12 {
        let base = made(store, new_backup("p", second)).await;
        let plan = format!("q{second}");
        let new = NewBackup { parent: Some(base), ..new_backup(&plan, second) };
        let add: Call<'_> = Box::pin(async {
            let begun = begin(store, new.clone()).await;
            assert!(begun.is_ok() || matches!(begun, Err(Error::NotFound { .. })), "{begun:?}");
            begun.is_ok()
        });
        let remove: Call<'_> = Box::pin(async {
            let removed = store.remove_backup(base).await;
            let refused = matches!(removed, Err(Error::Conflict { .. }));
            assert!(removed.is_ok() || refused, "{removed:?}");
            removed.is_ok()
        });
        let calls = if second % 2 == 0 { [add, remove] } else { [remove, add] };
        let won = together(calls).await;
        assert_ne!(won[0], won[1], "round {second}");
    }
}

/// The latest time counts; what is not there cannot be verified.
pub async fn a_verified_backup_says_when(store: &dyn Store) {
    let id = made(store, new_backup("p", 0)).await;
    for second in [5, 9, 7] {
        store.backup_verified(id, at(second)).await.unwrap();
    }
    assert_eq!(store.backup(id).await.unwrap().verified_at, Some(at(9)));
    let gone = ended(store, new_backup("p", 1), failed(1)).await;
    let running = begin(store, new_backup("p", 2)).await.unwrap();
    for id in [gone, running, BackupId(0)] {
        is_not_found(store.backup_verified(id, at(9)).await);
    }
}

/// Whatever it was; what it holds stays known.
pub async fn a_backup_may_become_suspect(store: &dyn Store) {
    let id = made(store, new_backup("p", 0)).await;
    for why in ["half the rows are gone", UNICODE] {
        store.suspect_backup(id, why).await.unwrap();
        let end = BackupEnd::Suspect { archive: archive(50), why: why.into() };
        assert_eq!(store.backup(id).await.unwrap().state, BackupState::Ended(end));
    }
    assert_eq!(store.last_good_backup(&"p".into()).await.unwrap(), None);
    let gone = ended(store, new_backup("p", 1), failed(1)).await;
    for id in [gone, BackupId(0)] {
        is_not_found(store.suspect_backup(id, "x").await);
    }
}

/// Although the row that had the largest is gone.
pub async fn backup_ids_grow_after_removal(store: &dyn Store) {
    let first = made(store, new_backup("p", 0)).await;
    store.remove_backup(first).await.unwrap();
    assert!(first < made(store, new_backup("p", 1)).await);
}
