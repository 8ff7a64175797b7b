//! Rules of [`BackupStore`](crate::store::BackupStore).

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use super::{
    UNICODE, at, conflicts, eventually, is_not_found,
    outbox::{claimant, hasty},
    together,
};
use crate::{
    Error, Timestamp,
    store::{
        Archive, BackupCopy, BackupEnd, BackupId, BackupKind, BackupQuery, BackupRecord,
        BackupState, BackupStateName, CopyState, NewBackup, PlanName, Store,
    },
};

pub(super) fn new_backup(plan: &str, second: u64) -> NewBackup {
    NewBackup {
        name: format!("{plan}-{second}").as_str().into(),
        plan: plan.into(),
        kind: BackupKind::Full,
        parent: None,
        host: "a".into(),
        program: "kissops 0.1.0".into(),
        started_at: at(second),
    }
}

fn archive(second: u64) -> Archive {
    Archive {
        ended_at: at(second),
        plain_bytes: 1_000,
        stored_bytes: 300,
        hash: "blake3:00ff".into(),
        key_id: Some("k1".into()),
        counts: BTreeMap::from([("users".into(), 12)]),
        rpo: Some(Duration::from_hours(24)),
    }
}

fn stored(sink: &str, second: u64) -> BackupCopy {
    let location = format!("/backups/{sink}");
    BackupCopy {
        sink: sink.into(),
        state: CopyState::Stored { at: at(second), bytes: 300, location },
    }
}

async fn begin(store: &dyn Store, backup: NewBackup) -> Result<BackupId, Error> {
    store.begin_backup(backup, &claimant("host")).await
}

/// Makes a whole backup.
pub(super) async fn made(store: &dyn Store, backup: NewBackup) -> BackupId {
    ended(store, backup, BackupEnd::Ok(archive(50))).await
}

async fn ended(store: &dyn Store, backup: NewBackup, end: BackupEnd) -> BackupId {
    let id = begin(store, backup).await.unwrap();
    store.end_backup(id, end, None, vec![]).await.unwrap();
    id
}

/// Makes a backup that is based on another.
async fn child(store: &dyn Store, second: u64, parent: BackupId) -> BackupId {
    let kind = BackupKind::Incremental;
    made(store, NewBackup { kind, parent: Some(parent), ..new_backup("p", second) }).await
}

fn query(limit: u32) -> BackupQuery {
    BackupQuery { limit, ..BackupQuery::default() }
}

fn ids(backups: &[BackupRecord]) -> Vec<BackupId> {
    backups.iter().map(|one| one.id).collect()
}

async fn all(store: &dyn Store) -> Vec<BackupRecord> {
    store.backups(query(u32::MAX)).await.unwrap()
}

fn failed(second: u64) -> BackupEnd {
    BackupEnd::Failed { at: at(second), why: "disk full".into() }
}

/// Empty lists, not errors.
pub async fn a_new_store_has_no_backups(store: &dyn Store) {
    assert_eq!(all(store).await, []);
    assert_eq!(store.last_good_backup(&"p".into()).await.unwrap(), None);
    assert_eq!(store.backup_named(&"x".into()).await.unwrap(), None);
    assert_eq!(store.backup_dependants(BackupId(1)).await.unwrap(), []);
}

/// Every field is kept, however it is asked for.
pub async fn a_backup_comes_back_as_begun(store: &dyn Store) {
    let new = NewBackup {
        name: UNICODE.into(),
        plan: UNICODE.into(),
        kind: BackupKind::PreRestore,
        parent: None,
        host: UNICODE.into(),
        program: UNICODE.into(),
        started_at: Timestamp(1_790_000_000_123_457),
    };
    let id = begin(store, new.clone()).await.unwrap();
    let found = store.backup(id).await.unwrap();
    assert!(matches!(found.state, BackupState::Running { .. }), "{found:?}");
    assert_eq!((found.id, &found.backup), (id, &new));
    assert_eq!((&found.copies, found.verified_at, found.drilled_at), (&vec![], None, None));
    assert_eq!(store.backup_named(&UNICODE.into()).await.unwrap(), Some(found.clone()));
    assert_eq!(all(store).await, [found]);
}

/// Each of them.
pub async fn every_kind_of_backup_comes_back(store: &dyn Store) {
    for (second, kind) in (0..).zip(BackupKind::ALL) {
        made(store, NewBackup { kind: *kind, ..new_backup("p", second) }).await;
    }
    let mut found: Vec<_> = all(store).await.iter().map(|one| one.backup.kind).collect();
    found.reverse();
    assert_eq!(found, BackupKind::ALL);
}

/// Each of them, with all it says; sizes and counts keep 64 bits.
pub async fn every_end_of_a_backup_comes_back(store: &dyn Store) {
    let large = Archive {
        ended_at: Timestamp(1_790_000_000_123_457),
        plain_bytes: u64::MAX,
        stored_bytes: 1 << 63,
        hash: UNICODE.into(),
        key_id: None,
        counts: BTreeMap::from([(UNICODE.into(), u64::MAX), (String::new(), 0)]),
        rpo: None,
    };
    let why = || UNICODE.to_owned();
    let ends = [
        BackupEnd::Ok(large.clone()),
        BackupEnd::Partial { archive: archive(9), why: why() },
        BackupEnd::Suspect { archive: large, why: String::new() },
        BackupEnd::Failed { at: at(9), why: why() },
    ];
    for (second, end) in (0..).zip(ends) {
        let id = ended(store, new_backup("p", second), end.clone()).await;
        assert_eq!(store.backup(id).await.unwrap().state, BackupState::Ended(end));
    }
}

/// It is kept word by word, apart from the lists; it may be missing.
pub async fn a_manifest_comes_back(store: &dyn Store) {
    let long = format!("{{\"files\": \"{}\"}}", UNICODE.repeat(5_000));
    for (second, manifest) in (0..).zip([Some(long), Some(String::new()), None]) {
        let id = begin(store, new_backup("p", second)).await.unwrap();
        let end = BackupEnd::Ok(archive(9));
        store.end_backup(id, end, manifest.clone(), vec![]).await.unwrap();
        assert_eq!(store.backup_manifest(id).await.unwrap(), manifest);
    }
    is_not_found(store.backup_manifest(BackupId(0)).await);
}

/// By sink, each in its state.
pub async fn copies_of_a_backup_come_back(store: &dyn Store) {
    let copy = |sink: &str, state| BackupCopy { sink: sink.into(), state };
    let copies = vec![
        copy("d", CopyState::Pending),
        copy("b", CopyState::Failed { at: at(2), why: UNICODE.into() }),
        copy("c", CopyState::Removed { at: at(3) }),
        BackupCopy {
            sink: UNICODE.into(),
            state: CopyState::Stored { at: at(1), bytes: u64::MAX, location: UNICODE.into() },
        },
        stored("a", 1),
    ];
    let id = begin(store, new_backup("p", 0)).await.unwrap();
    store.end_backup(id, BackupEnd::Ok(archive(9)), None, copies.clone()).await.unwrap();
    let mut sorted = copies;
    sorted.sort_by(|a, b| a.sink.cmp(&b.sink));
    assert_eq!(store.backup(id).await.unwrap().copies, sorted);
    assert_eq!(all(store).await[0].copies, sorted);
}

/// One sink's state is replaced, the others stay.
pub async fn a_copy_of_a_backup_is_replaced_alone(store: &dyn Store) {
    let id = begin(store, new_backup("p", 0)).await.unwrap();
    let pending = |sink: &str| BackupCopy { sink: sink.into(), state: CopyState::Pending };
    let copies = vec![pending("a"), pending("b")];
    store.end_backup(id, BackupEnd::Ok(archive(9)), None, copies).await.unwrap();
    store.put_backup_copy(id, stored("b", 20)).await.unwrap();
    store.put_backup_copy(id, pending("c")).await.unwrap();
    let expected = [pending("a"), stored("b", 20), pending("c")];
    assert_eq!(store.backup(id).await.unwrap().copies, expected);
    is_not_found(store.put_backup_copy(BackupId(0), pending("a")).await);
}

/// While one is being made, no other of that plan is begun, on whatever host.
pub async fn one_backup_of_a_plan_is_made_at_a_time(store: &dyn Store) {
    let calls = (0..10).map(|second| begin(store, new_backup("p", second)));
    let (won, lost): (Vec<_>, Vec<_>) = together(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 9));
    lost.into_iter().for_each(conflicts);
    assert_eq!(all(store).await.len(), 1);
}

/// Nor any more once it has ended, well or not.
pub async fn other_plans_are_not_held_up(store: &dyn Store) {
    begin(store, new_backup("p", 0)).await.unwrap();
    ended(store, new_backup("q", 0), failed(1)).await;
    made(store, new_backup("q", 2)).await;
    begin(store, new_backup("q", 3)).await.unwrap();
}

/// Its name is that of one archive in all sinks.
pub async fn a_backup_name_is_taken_once(store: &dyn Store) {
    let id = made(store, new_backup("p", 0)).await;
    conflicts(begin(store, new_backup("p", 0)).await);
    let other = NewBackup { plan: "q".into(), ..new_backup("p", 0) };
    conflicts(begin(store, other).await);
    assert_eq!(ids(&all(store).await), [id]);
}

/// It has failed, and the plan is free.
pub async fn a_backup_whose_maker_vanished_has_failed(store: &dyn Store) {
    let first = store.begin_backup(new_backup("p", 0), &hasty("x")).await.unwrap();
    let second = eventually(async || begin(store, new_backup("p", 7)).await.ok()).await;
    assert!(first < second);
    let found = store.backup(first).await.unwrap();
    let BackupState::Ended(BackupEnd::Failed { at: failed_at, .. }) = found.state else {
        panic!("{found:?}")
    };
    assert_eq!(failed_at, at(7));
}

/// What it says then is refused.
pub async fn a_maker_that_was_given_up_is_refused(store: &dyn Store) {
    let first = store.begin_backup(new_backup("p", 0), &hasty("x")).await.unwrap();
    eventually(async || begin(store, new_backup("p", 7)).await.ok()).await;
    let before = store.backup(first).await.unwrap();
    let copies = vec![stored("a", 9)];
    conflicts(store.end_backup(first, BackupEnd::Ok(archive(9)), Some("m".into()), copies).await);
    conflicts(store.renew_backup(first, Duration::from_secs(9)).await);
    assert_eq!(store.backup(first).await.unwrap(), before);
    assert_eq!(store.backup_manifest(first).await.unwrap(), None);
}

/// It can be late without being given up.
pub async fn a_renewed_backup_is_not_given_up(store: &dyn Store) {
    let first = store.begin_backup(new_backup("p", 0), &hasty("x")).await.unwrap();
    store.renew_backup(first, Duration::from_mins(10)).await.unwrap();
    store.begin_backup(new_backup("q", 0), &hasty("x")).await.unwrap();
    // When the other's claim has run out, the first one's would have, too.
    eventually(async || begin(store, new_backup("q", 1)).await.ok()).await;
    conflicts(begin(store, new_backup("p", 1)).await);
    store.end_backup(first, BackupEnd::Ok(archive(9)), None, vec![]).await.unwrap();
}

/// The first end stays, and so do its copies.
pub async fn a_backup_ends_once(store: &dyn Store) {
    let id = made(store, new_backup("p", 0)).await;
    conflicts(store.end_backup(id, failed(9), None, vec![stored("a", 1)]).await);
    let found = store.backup(id).await.unwrap();
    assert_eq!(found.state, BackupState::Ended(BackupEnd::Ok(archive(50))));
    assert_eq!(found.copies, []);
}

/// A lost catalog is filled from the sinks, parents first.
pub async fn a_found_backup_is_taken_in(store: &dyn Store) {
    let mut parent = None;
    for second in 0..3 {
        let new = NewBackup { parent, ..new_backup("p", second) };
        let end = BackupEnd::Ok(archive(second));
        let copies = vec![stored("a", second), stored("b", second)];
        let manifest = Some(format!("manifest {second}"));
        let id = store
            .import_backup(new.clone(), end.clone(), manifest.clone(), copies.clone())
            .await
            .unwrap();
        let expected = BackupRecord {
            id,
            backup: new,
            state: BackupState::Ended(end),
            copies,
            verified_at: None,
            drilled_at: None,
        };
        assert_eq!(store.backup(id).await.unwrap(), expected);
        assert_eq!(store.backup_manifest(id).await.unwrap(), manifest);
        parent = Some(id);
    }
}

/// Looking twice finds nothing new; a parent comes before its children.
pub async fn a_found_backup_is_taken_in_once(store: &dyn Store) {
    made(store, new_backup("p", 0)).await;
    let end = || BackupEnd::Ok(archive(1));
    let copies = vec![stored("a", 1)];
    conflicts(store.import_backup(new_backup("p", 0), end(), None, copies).await);
    let orphan = NewBackup { parent: Some(BackupId(0)), ..new_backup("p", 1) };
    is_not_found(store.import_backup(orphan, end(), None, vec![]).await);
    let found = all(store).await;
    assert_eq!((found.len(), &found[0].copies), (1, &vec![]));
}

/// A found one holds up no backup that is being made.
pub async fn a_backup_is_taken_in_beside_a_running_one(store: &dyn Store) {
    begin(store, new_backup("p", 0)).await.unwrap();
    let end = BackupEnd::Ok(archive(1));
    store.import_backup(new_backup("p", 1), end, None, vec![]).await.unwrap();
    assert_eq!(all(store).await.len(), 2);
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
    let next = BackupQuery { before: Some(made_ids[3]), ..query(4) };
    assert_eq!(ids(&store.backups(next).await.unwrap()), made_ids[4..]);
    let states = vec![BackupStateName::Ok, BackupStateName::Suspect];
    let good = BackupQuery { plan: Some("p".into()), states, ..query(9) };
    assert_eq!(ids(&store.backups(good).await.unwrap()), [made_ids[3], made_ids[5]]);
    assert_eq!(store.backups(query(0)).await.unwrap(), []);
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

type Call<'a> = Pin<Box<dyn Future<Output = bool> + 'a>>;

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
