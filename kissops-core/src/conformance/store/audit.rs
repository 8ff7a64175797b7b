//! Rules of [`AuditStore`](crate::store::AuditStore).

use super::{T0, UNICODE, at, name, together};
use crate::{
    Timestamp,
    store::{
        Actor, AuditEnds, AuditHash, AuditLink, AuditOutcome, AuditQuery, AuditRecord, AuditSeq,
        AuditVerdict, NewAudit, Store, verify_audit,
    },
};

fn entry(text: &str, at: Timestamp) -> NewAudit {
    NewAudit {
        at,
        actor: Actor::User("ada".into()),
        action: "test.acted".into(),
        target: text.into(),
        origin: "control.sock".into(),
        outcome: AuditOutcome::Done,
    }
}

/// Appends entries `0` and so on, one for each second.
async fn appended(store: &dyn Store, count: u64) -> Vec<AuditSeq> {
    let entries = (0..count).map(|i| entry(&i.to_string(), at(i))).collect();
    store.append_audit(entries).await.unwrap()
}

async fn all(store: &dyn Store) -> Vec<AuditRecord> {
    store.audit(AuditQuery { limit: u32::MAX, ..AuditQuery::default() }).await.unwrap()
}

async fn targets(store: &dyn Store, query: AuditQuery) -> Vec<String> {
    let records = store.audit(query).await.unwrap();
    records.into_iter().map(|record| record.entry.target).collect()
}

fn query(limit: u32) -> AuditQuery {
    AuditQuery { limit, ..AuditQuery::default() }
}

async fn intact(store: &dyn Store) -> u64 {
    match verify_audit(store, None).await.unwrap() {
        AuditVerdict::Intact { entries, .. } => entries,
        broken @ AuditVerdict::Broken { .. } => panic!("{broken:?}"),
    }
}

/// No entries, two ends at 0, and a chain that holds.
pub async fn a_new_store_has_an_empty_audit(store: &dyn Store) {
    assert_eq!(all(store).await, []);
    assert_eq!(store.audit_ends().await.unwrap(), AuditEnds::default());
    assert_eq!(intact(store).await, 0);
}

/// It answers with no numbers, and changes nothing.
pub async fn auditing_nothing_is_no_error(store: &dyn Store) {
    assert_eq!(store.append_audit(vec![]).await.unwrap(), []);
    assert_eq!(store.audit_ends().await.unwrap(), AuditEnds::default());
}

/// Every field of an entry is kept.
pub async fn an_audit_entry_comes_back_as_appended(store: &dyn Store) {
    let new = NewAudit { origin: UNICODE.into(), ..entry(UNICODE, Timestamp(-1)) };
    assert_eq!(store.append_audit(vec![new.clone()]).await.unwrap(), [AuditSeq(1)]);
    let records = all(store).await;
    assert_eq!(records[0].entry, new);
    assert_eq!(records[0].link.seq, AuditSeq(1));
}

/// People, keys, processes, bots, the program itself.
pub async fn every_actor_comes_back(store: &dyn Store) {
    let actors = [
        Actor::System("scheduler".into()),
        Actor::User(UNICODE.into()),
        Actor::ApiKey("ci".into()),
        Actor::Uid(0),
        Actor::Uid(u32::MAX),
        Actor::Instance(name("twitch@one")),
    ];
    let entries = actors.iter().map(|actor| NewAudit { actor: actor.clone(), ..entry("", T0) });
    store.append_audit(entries.collect()).await.unwrap();
    let found: Vec<Actor> = all(store).await.into_iter().map(|record| record.entry.actor).collect();
    assert_eq!(found, actors);
    assert_eq!(intact(store).await, 6);
}

/// Done, refused, failed, with their reasons, empty ones included.
pub async fn every_outcome_comes_back(store: &dyn Store) {
    let outcomes = [
        AuditOutcome::Done,
        AuditOutcome::Refused("viewers may not".into()),
        AuditOutcome::Failed(UNICODE.into()),
        AuditOutcome::Failed(String::new()),
    ];
    let entries = outcomes.iter().map(|o| NewAudit { outcome: o.clone(), ..entry("", T0) });
    store.append_audit(entries.collect()).await.unwrap();
    let found: Vec<_> = all(store).await.into_iter().map(|record| record.entry.outcome).collect();
    assert_eq!(found, outcomes);
    assert_eq!(intact(store).await, 4);
}

/// From 1, without gaps, in the order given and from call to call.
pub async fn audit_entries_are_counted_without_gaps(store: &dyn Store) {
    assert_eq!(appended(store, 3).await, [1, 2, 3].map(AuditSeq));
    assert_eq!(appended(store, 2).await, [4, 5].map(AuditSeq));
    let found = all(store).await;
    assert!(found.iter().map(|record| record.link.seq.0).eq(1..=5), "{found:?}");
}

/// As documented, so that others can check it too.
pub async fn each_audit_hash_covers_the_one_before(store: &dyn Store) {
    appended(store, 5).await;
    let mut last = AuditHash::default();
    for record in all(store).await {
        assert_eq!(record.link.hash, last.next(&record.entry.digest()), "{record:?}");
        last = record.link.hash;
    }
    assert_eq!(store.audit_ends().await.unwrap().newest.hash, last);
}

/// Equal entries have different hashes: each has its place.
pub async fn equal_audit_entries_have_different_hashes(store: &dyn Store) {
    store.append_audit(vec![entry("x", T0), entry("x", T0)]).await.unwrap();
    let found = all(store).await;
    assert_ne!(found[0].link.hash, found[1].link.hash);
}

/// A text with NUL verifies as it was kept.
pub async fn an_audit_entry_with_nul_verifies(store: &dyn Store) {
    store.append_audit(vec![entry("a\0b", T0)]).await.unwrap();
    assert_eq!(all(store).await[0].entry.target, "a\u{fffd}b");
    assert_eq!(intact(store).await, 1);
}

/// Each is there once, and the chain holds.
pub async fn concurrent_audit_entries_make_one_chain(store: &dyn Store) {
    let calls = (0..50).map(|i| async move {
        let pair = vec![entry(&format!("{i}a"), T0), entry(&format!("{i}b"), T0)];
        store.append_audit(pair).await.unwrap()
    });
    let answers = together(calls).await;
    // Entries of one call stand side by side.
    assert!(answers.iter().all(|seqs| seqs[1].0 == seqs[0].0 + 1), "{answers:?}");
    let mut seqs: Vec<u64> = answers.concat().into_iter().map(|seq| seq.0).collect();
    seqs.sort_unstable();
    assert!(seqs.into_iter().eq(1..=100));
    assert_eq!(intact(store).await, 100);
}

/// The latest, still oldest first.
pub async fn audit_without_after_is_the_latest(store: &dyn Store) {
    appended(store, 5).await;
    assert_eq!(targets(store, query(2)).await, ["3", "4"]);
    assert_eq!(targets(store, query(0)).await, [""; 0]);
}

/// Pages of any size make up the whole.
pub async fn audit_pages_have_no_gaps_and_no_repetition(store: &dyn Store) {
    appended(store, 7).await;
    let mut found = Vec::new();
    let mut after = AuditSeq(0);
    loop {
        let page = store.audit(AuditQuery { after: Some(after), ..query(3) }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.link.seq;
        found.extend(page);
    }
    assert_eq!(found, all(store).await);
}

/// By who, what, on what and when; conditions add up.
pub async fn audit_is_found_by_each_of_its_conditions(store: &dyn Store) {
    let uid = NewAudit { actor: Actor::Uid(0), ..entry("1", at(1)) };
    let other = NewAudit { action: "test.other".into(), ..entry("2", at(2)) };
    store.append_audit(vec![entry("0", at(0)), uid, other, entry("0", at(3))]).await.unwrap();
    let ada = AuditQuery { actor: Some(Actor::User("ada".into())), ..query(9) };
    assert_eq!(targets(store, ada.clone()).await, ["0", "2", "0"]);
    let acted = AuditQuery { action: Some("test.acted".into()), ..ada };
    assert_eq!(targets(store, acted.clone()).await, ["0", "0"]);
    assert_eq!(targets(store, AuditQuery { since: Some(at(3)), ..acted }).await, ["0"]);
    let on = AuditQuery { target: Some("0".into()), ..query(9) };
    assert_eq!(targets(store, AuditQuery { until: Some(at(3)), ..on }).await, ["0"]);
    // The kind of an actor counts, not its name alone.
    let key = AuditQuery { actor: Some(Actor::ApiKey("ada".into())), ..query(9) };
    assert_eq!(targets(store, key).await, [""; 0]);
}

/// From the oldest end, those that are older, in small batches.
pub async fn the_audit_is_pruned_from_its_oldest_end(store: &dyn Store) {
    appended(store, 10).await;
    assert_eq!(store.prune_audit(at(5), 2).await.unwrap(), 2);
    assert_eq!(targets(store, query(99)).await.first().unwrap(), "2");
    assert_eq!(store.prune_audit(at(5), 99).await.unwrap(), 3);
    assert_eq!(store.prune_audit(at(5), 99).await.unwrap(), 0);
    assert_eq!(targets(store, query(99)).await, ["5", "6", "7", "8", "9"]);
}

/// An old time behind a new one does not make a hole.
pub async fn pruning_the_audit_stops_at_the_first_entry_that_is_not_old(store: &dyn Store) {
    let entries = [1, 2, 9, 3].map(|seconds| entry(&seconds.to_string(), at(seconds)));
    store.append_audit(entries.into()).await.unwrap();
    assert_eq!(store.prune_audit(at(5), 99).await.unwrap(), 2);
    assert_eq!(targets(store, query(99)).await, ["9", "3"]);
    assert_eq!(intact(store).await, 2);
}

/// The last of those that went is what the rest hangs on.
pub async fn pruning_keeps_the_anchor_of_the_audit(store: &dyn Store) {
    appended(store, 6).await;
    let third = all(store).await[2].link.clone();
    store.prune_audit(at(3), 99).await.unwrap();
    let ends = store.audit_ends().await.unwrap();
    assert_eq!(ends.pruned, third);
    assert_eq!(intact(store).await, 3);
    // Nothing to prune moves nothing.
    store.prune_audit(at(3), 99).await.unwrap();
    assert_eq!(store.audit_ends().await.unwrap(), ends);
}

/// Numbers and hashes go on from where they were.
pub async fn an_audit_that_was_pruned_to_nothing_goes_on(store: &dyn Store) {
    appended(store, 3).await;
    let newest = store.audit_ends().await.unwrap().newest;
    assert_eq!(store.prune_audit(at(99), 99).await.unwrap(), 3);
    let ends = store.audit_ends().await.unwrap();
    assert_eq!(ends, AuditEnds { newest: newest.clone(), pruned: newest.clone() });
    assert_eq!(appended(store, 1).await, [AuditSeq(4)]);
    let record = all(store).await.remove(0);
    assert_eq!(record.link.hash, newest.hash.next(&record.entry.digest()));
    assert_eq!(intact(store).await, 1);
}

/// Whatever comes first, nothing that is young goes and the chain holds.
pub async fn pruning_and_appending_at_once_leave_a_chain(store: &dyn Store) {
    appended(store, 40).await;
    let calls = (0..40).map(|i| async move {
        if i % 2 == 0 {
            store.prune_audit(at(30), 3).await.map(|pruned| (pruned, 0))
        } else {
            store.append_audit(vec![entry("new", at(99))]).await.map(|seqs| (0, seqs.len()))
        }
    });
    let done: Vec<(u64, usize)> = together(calls).await.into_iter().map(Result::unwrap).collect();
    let (pruned, new) = done.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!((pruned, new), (30, 20));
    assert_eq!(intact(store).await, 30);
}

/// What was known of an earlier check is still so.
pub async fn the_audit_verifies_from_a_known_link_on(store: &dyn Store) {
    appended(store, 3).await;
    let known = store.audit_ends().await.unwrap().newest;
    appended(store, 2).await;
    let verdict = verify_audit(store, Some(&known)).await.unwrap();
    let last = store.audit_ends().await.unwrap().newest;
    assert_eq!(verdict, AuditVerdict::Intact { entries: 2, last: last.clone() });
    let verdict = verify_audit(store, Some(&last)).await.unwrap();
    assert_eq!(verdict, AuditVerdict::Intact { entries: 0, last });
}

/// Even when it was pruned meanwhile: then from the anchor on.
pub async fn the_audit_verifies_from_a_pruned_link_on(store: &dyn Store) {
    appended(store, 3).await;
    let known = all(store).await[0].link.clone();
    store.prune_audit(at(2), 99).await.unwrap();
    let verdict = verify_audit(store, Some(&known)).await.unwrap();
    assert!(matches!(verdict, AuditVerdict::Intact { entries: 1, .. }), "{verdict:?}");
}

/// A chain that was made anew, as a whole, is not the one that was known.
pub async fn another_audit_than_the_known_one_is_found_out(store: &dyn Store) {
    appended(store, 3).await;
    for (seq, hash) in [(2, "another"), (3, "another"), (9, "x")] {
        let known = AuditLink { seq: AuditSeq(seq), hash: AuditHash(hash.into()) };
        let verdict = verify_audit(store, Some(&known)).await.unwrap();
        assert!(
            matches!(verdict, AuditVerdict::Broken { at, .. } if at == known.seq),
            "{verdict:?}"
        );
    }
}

/// More than are read at once.
pub async fn a_long_audit_verifies(store: &dyn Store) {
    for _ in 0..11 {
        appended(store, 100).await;
    }
    assert_eq!(intact(store).await, 1_100);
}
