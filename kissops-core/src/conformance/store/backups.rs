//! Rules of [`BackupStore`](crate::store::BackupStore).

use std::{collections::BTreeMap, time::Duration};

use super::{
    UNICODE, at, conflicts, eventually,
    fixtures::INSANE_TERMS,
    is_invalid, is_not_found,
    outbox::{claimant, hasty},
    together,
};
use crate::{
    Error, Timestamp,
    store::{
        Archive, BackupCopy, BackupCopyState, BackupEnd, BackupId, BackupKind, BackupQuery,
        BackupRecord, BackupState, Claimant, NewBackup, Store,
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

pub(super) fn archive(second: u64) -> Archive {
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

pub(super) fn stored(sink: &str, second: u64) -> BackupCopy {
    let location = format!("/backups/{sink}");
    BackupCopy {
        sink: sink.into(),
        state: BackupCopyState::Stored { at: at(second), bytes: 300, location },
    }
}

pub(super) async fn begin(store: &dyn Store, backup: NewBackup) -> Result<BackupId, Error> {
    store.begin_backup(backup, &claimant("host")).await
}

/// Makes a whole backup.
pub(super) async fn made(store: &dyn Store, backup: NewBackup) -> BackupId {
    ended(store, backup, BackupEnd::Ok(archive(50))).await
}

pub(super) async fn ended(store: &dyn Store, backup: NewBackup, end: BackupEnd) -> BackupId {
    let id = begin(store, backup).await.unwrap();
    store.end_backup(id, end, None, vec![]).await.unwrap();
    id
}

/// Makes a backup that is based on another.
pub(super) fn query(limit: u32) -> BackupQuery {
    BackupQuery { limit, ..BackupQuery::default() }
}

pub(super) fn ids(backups: &[BackupRecord]) -> Vec<BackupId> {
    backups.iter().map(|one| one.id).collect()
}

pub(super) async fn all(store: &dyn Store) -> Vec<BackupRecord> {
    store.backups(query(u32::MAX)).await.unwrap()
}

pub(super) fn failed(second: u64) -> BackupEnd {
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
        copy("d", BackupCopyState::Pending),
        copy("b", BackupCopyState::Failed { at: at(2), why: UNICODE.into() }),
        copy("c", BackupCopyState::Removed { at: at(3) }),
        BackupCopy {
            sink: UNICODE.into(),
            state: BackupCopyState::Stored { at: at(1), bytes: u64::MAX, location: UNICODE.into() },
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
    let pending = |sink: &str| BackupCopy { sink: sink.into(), state: BackupCopyState::Pending };
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

/// A claim lasts from 1 µs to 366 days, as a lease does.
pub async fn a_claim_of_a_backup_has_a_sane_term(store: &dyn Store) {
    let id = begin(store, new_backup("a", 1)).await.unwrap();
    for ttl in INSANE_TERMS {
        let by = Claimant { name: "host".into(), ttl };
        is_invalid(store.begin_backup(new_backup("b", 1), &by).await);
        is_invalid(store.renew_backup(id, ttl).await);
    }
}
