//! Rules of [`OutboxStore`](crate::store::OutboxStore).

use std::time::Duration;

use super::{
    UNICODE,
    alerts::{opened, outgoing},
    at, conflicts, eventually,
    fixtures::INSANE_TERMS,
    is_invalid, is_not_found, together,
};
use crate::{
    Timestamp,
    store::{
        AlertChange, AlertId, ChannelName, Claimant, Delivery, DeliveryOutcome, NotificationClaim,
        NotificationId, NotificationKind, NotificationQuery, NotificationRecord, Outgoing, Store,
    },
};

use NotificationKind::{Fire, Update};

/// Long enough not to run out in a test.
pub(super) fn claimant(name: &str) -> Claimant {
    Claimant { name: name.into(), ttl: Duration::from_mins(10) }
}

/// Runs out while a test waits.
pub(super) fn hasty(name: &str) -> Claimant {
    Claimant { name: name.into(), ttl: Duration::from_millis(60) }
}

pub(super) fn ops() -> ChannelName {
    "ops".into()
}

pub(super) async fn claim(store: &dyn Store, second: u64, limit: u32) -> Vec<NotificationRecord> {
    store.claim_notifications(&ops(), &claimant("w"), at(second), limit).await.unwrap()
}

pub(super) async fn claim_one(store: &dyn Store, second: u64) -> NotificationRecord {
    let mut claimed = claim(store, second, 9).await;
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    claimed.pop().unwrap()
}

pub(super) async fn answer(store: &dyn Store, claim: NotificationClaim, outcome: DeliveryOutcome) {
    store.answer_notification(claim, outcome, vec![]).await.unwrap();
}

pub(super) fn delivered(second: u64) -> DeliveryOutcome {
    DeliveryOutcome::Delivered { at: at(second), remote: Some(format!("r{second}")) }
}

pub(super) fn retry(second: u64) -> DeliveryOutcome {
    DeliveryOutcome::RetryAt { at: at(second), why: "503".into() }
}

pub(super) fn dead(second: u64) -> DeliveryOutcome {
    DeliveryOutcome::Dead { at: at(second), why: "404".into() }
}

pub(super) async fn all(store: &dyn Store) -> Vec<NotificationRecord> {
    let query = NotificationQuery { limit: u32::MAX, ..NotificationQuery::default() };
    let mut found = store.notifications(query).await.unwrap();
    found.reverse();
    found
}

pub(super) async fn one(store: &dyn Store, id: NotificationId) -> NotificationRecord {
    all(store).await.into_iter().find(|record| record.id == id).unwrap()
}

pub(super) fn bodies(records: &[NotificationRecord]) -> Vec<&str> {
    records.iter().map(|record| record.outgoing.body.as_str()).collect()
}

/// Queues a notification without an alert.
pub(super) async fn queue(store: &dyn Store, body: &str, second: u64) -> NotificationId {
    let out = Outgoing { body: body.into(), ..outgoing("ops", Update, second) };
    store.enqueue(None, vec![out]).await.unwrap()[0]
}

/// Empty lists, not errors.
pub async fn a_new_outbox_is_empty(store: &dyn Store) {
    assert_eq!(all(store).await, []);
    assert_eq!(store.backlog().await.unwrap(), []);
    assert_eq!(claim(store, 0, 9).await, []);
    assert_eq!(store.next_notification_at(&ops()).await.unwrap(), None);
    assert_eq!(store.enqueue(None, vec![]).await.unwrap(), []);
}

/// Every field is kept.
pub async fn a_notification_comes_back_as_queued(store: &dyn Store) {
    let out = Outgoing {
        channel: UNICODE.into(),
        kind: Fire,
        body: UNICODE.into(),
        at: Timestamp(1_790_000_000_123_457),
        not_before: Timestamp(1_790_000_000_123_458),
        deadline: Some(Timestamp(1_790_000_000_123_459)),
        fallback: vec!["mail".into(), UNICODE.into(), "".into()],
    };
    let ids = store.enqueue(None, vec![out.clone()]).await.unwrap();
    let expected = NotificationRecord {
        id: ids[0],
        alert: None,
        revision: 0,
        outgoing: out,
        attempts: 0,
        last_error: None,
        delivery: Delivery::Pending,
    };
    assert_eq!(all(store).await, [expected]);
}

/// Each of them.
pub async fn every_kind_of_notification_comes_back(store: &dyn Store) {
    let out = NotificationKind::ALL.iter().map(|kind| outgoing("ops", *kind, 0)).collect();
    store.enqueue(None, out).await.unwrap();
    let found: Vec<_> = all(store).await.iter().map(|record| record.outgoing.kind).collect();
    assert_eq!(found, NotificationKind::ALL);
}

/// Numbers grow in the order given, and from call to call.
pub async fn notification_ids_grow(store: &dyn Store) {
    let mut ids = Vec::new();
    for second in 0..4 {
        let out = vec![outgoing("ops", Fire, second), outgoing("mail", Fire, second)];
        ids.extend(store.enqueue(None, out).await.unwrap());
    }
    assert_eq!(ids.len(), 8);
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
}

/// Not found, and nothing is queued.
pub async fn a_notification_of_an_unknown_alert_is_refused(store: &dyn Store) {
    is_not_found(store.enqueue(Some(AlertId(5)), vec![outgoing("ops", Fire, 0)]).await);
    assert_eq!(all(store).await, []);
}

/// It tells of the alert as it is when it is queued.
pub async fn a_reminder_carries_the_revision_of_its_alert(store: &dyn Store) {
    let alert = opened(store, "a", vec![]).await;
    let change = AlertChange::Update(super::alerts::content("worse"));
    store.change_alert(alert.id, 1, change, vec![]).await.unwrap();
    store.enqueue(Some(alert.id), vec![outgoing("ops", Update, 9)]).await.unwrap();
    let found = all(store).await.pop().unwrap();
    assert_eq!((found.alert, found.revision), (Some(alert.id), 2));
}

/// It says whose it is and until when, and that it was tried.
pub async fn a_claim_shows_who_holds_it(store: &dyn Store) {
    let id = queue(store, "x", 0).await;
    let claimed = claim_one(store, 0).await;
    assert_eq!((claimed.id, claimed.attempts), (id, 1));
    assert!(matches!(&claimed.delivery, Delivery::Claimed { by, .. } if by == "w"), "{claimed:?}");
    assert_eq!(one(store, id).await, claimed);
}

/// Those that are due at the very time, and none later.
pub async fn only_what_is_due_is_claimed(store: &dyn Store) {
    for second in [5, 3, 9] {
        queue(store, &second.to_string(), second).await;
    }
    let early = Timestamp(at(3).0 - 1);
    let none = store.claim_notifications(&ops(), &claimant("w"), early, 9).await.unwrap();
    assert_eq!(none, []);
    assert_eq!(bodies(&claim(store, 3, 9).await), ["3"]);
    assert_eq!(bodies(&claim(store, 8, 9).await), ["5"]);
}

/// By number, at most so many.
pub async fn notifications_are_claimed_oldest_first(store: &dyn Store) {
    for body in ["a", "b", "c", "d"] {
        queue(store, body, 0).await;
    }
    assert_eq!(claim(store, 0, 0).await, []);
    assert_eq!(bodies(&claim(store, 0, 3).await), ["a", "b", "c"]);
    assert_eq!(bodies(&claim(store, 0, 3).await), ["d"]);
}

/// Other channels' are left alone.
pub async fn a_claim_takes_from_one_channel(store: &dyn Store) {
    store.enqueue(None, vec![outgoing("mail", Fire, 0), outgoing("ops", Fire, 1)]).await.unwrap();
    let claimed = claim_one(store, 9).await;
    assert_eq!(claimed.outgoing.channel, ops());
    assert_eq!(all(store).await[0].delivery, Delivery::Pending);
}

/// However many workers ask at once, each notification goes to one of them.
pub async fn two_workers_never_claim_one_notification(store: &dyn Store) {
    for i in 0..60 {
        queue(store, &i.to_string(), 0).await;
    }
    let workers: Vec<_> = (0..8).map(|i| claimant(&i.to_string())).collect();
    let channel = ops();
    let calls = workers.iter().map(|by| async {
        let mut mine = Vec::new();
        loop {
            let claimed = store.claim_notifications(&channel, by, at(0), 5).await.unwrap();
            if claimed.is_empty() {
                return mine;
            }
            mine.extend(claimed.into_iter().map(|record| record.id));
            assert!(mine.len() <= 60, "{mine:?}");
        }
    });
    let mut ids: Vec<_> = together(calls).await.into_iter().flatten().collect();
    ids.sort_unstable();
    let mut unique = ids.clone();
    unique.dedup();
    assert_eq!(ids, unique, "claimed twice");
    // A worker may have found nothing while others held their rows: what is left is left for the next to come.
    ids.extend(claim(store, 0, 99).await.into_iter().map(|record| record.id));
    assert_eq!(ids.len(), 60);
}

/// It is not free before its time is over.
pub async fn a_claimed_notification_is_not_claimed_again(store: &dyn Store) {
    queue(store, "x", 0).await;
    claim_one(store, 0).await;
    assert_eq!(claim(store, 900, 9).await, []);
}

/// Another worker gets it, under a new number of attempts.
pub async fn a_claim_that_ran_out_is_taken_by_another(store: &dyn Store) {
    let id = queue(store, "x", 0).await;
    store.claim_notifications(&ops(), &hasty("first"), at(0), 9).await.unwrap();
    let second = eventually(async || claim(store, 0, 9).await.pop()).await;
    assert_eq!((second.id, second.attempts), (id, 2));
    assert!(matches!(&second.delivery, Delivery::Claimed { by, .. } if by == "w"), "{second:?}");
}

/// What the first worker says then is refused, and changes nothing.
pub async fn the_answer_of_an_overtaken_worker_is_refused(store: &dyn Store) {
    queue(store, "x", 0).await;
    let first = store.claim_notifications(&ops(), &hasty("first"), at(0), 9).await.unwrap();
    let second = eventually(async || claim(store, 0, 9).await.pop()).await;
    for outcome in [delivered(1), retry(1), dead(1)] {
        let out = vec![outgoing("mail", Fire, 1)];
        let answered = store.answer_notification(first[0].claim(), outcome, out).await;
        conflicts(answered);
    }
    assert_eq!(all(store).await, std::slice::from_ref(&second));
    answer(store, second.claim(), delivered(2)).await;
}

/// Nobody else sent it meanwhile, so what is said of it is true.
pub async fn a_late_answer_counts_while_nobody_took_over(store: &dyn Store) {
    let id = queue(store, "x", 0).await;
    let first = store.claim_notifications(&ops(), &hasty("w"), at(0), 9).await.unwrap();
    let Delivery::Claimed { until, .. } = first[0].delivery else { panic!("{first:?}") };
    eventually(async || (crate::clock::now() > until).then_some(())).await;
    answer(store, first[0].claim(), delivered(1)).await;
    assert!(matches!(one(store, id).await.delivery, Delivery::Delivered { .. }));
}

/// With its time and what the channel calls it.
pub async fn a_delivery_comes_back(store: &dyn Store) {
    for (body, remote) in [("a", Some(UNICODE)), ("b", None), ("c", Some(""))] {
        let id = queue(store, body, 0).await;
        let claimed = claim_one(store, 0).await;
        let remote = remote.map(str::to_owned);
        let outcome = DeliveryOutcome::Delivered { at: at(7), remote: remote.clone() };
        answer(store, claimed.claim(), outcome).await;
        assert_eq!(one(store, id).await.delivery, Delivery::Delivered { at: at(7), remote });
    }
}

/// It is claimed at its time, not before; why it failed stays with it.
pub async fn a_retry_waits_for_its_time(store: &dyn Store) {
    let id = queue(store, "x", 0).await;
    answer(store, claim_one(store, 0).await.claim(), retry(5)).await;
    let waiting = one(store, id).await;
    assert_eq!(waiting.delivery, Delivery::Pending);
    assert_eq!(waiting.last_error.as_deref(), Some("503"));
    assert_eq!(waiting.outgoing.not_before, at(5));
    assert_eq!(claim(store, 4, 9).await, []);
    assert_eq!(claim_one(store, 5).await.attempts, 2);
}

/// A delivery clears what went wrong before it.
pub async fn a_delivered_notification_has_no_error(store: &dyn Store) {
    let id = queue(store, "x", 0).await;
    answer(store, claim_one(store, 0).await.claim(), retry(1)).await;
    answer(store, claim_one(store, 1).await.claim(), delivered(2)).await;
    assert_eq!(one(store, id).await.last_error, None);
}

/// It is not claimed any more, and says why.
pub async fn a_dead_notification_rests(store: &dyn Store) {
    let id = queue(store, "x", 0).await;
    answer(store, claim_one(store, 0).await.claim(), dead(5)).await;
    let found = one(store, id).await;
    assert_eq!(found.delivery, Delivery::Dead { at: at(5), why: "404".into() });
    assert_eq!(claim(store, 900, 9).await, []);
}

/// Whatever the first answer was.
pub async fn a_claim_is_answered_once(store: &dyn Store) {
    for outcome in [delivered(1), retry(900), dead(1)] {
        queue(store, "x", 0).await;
        let claimed = claim_one(store, 0).await.claim();
        answer(store, claimed, outcome).await;
        conflicts(store.answer_notification(claimed, delivered(2), vec![]).await);
    }
}

/// Nor one that was never claimed, or is not there.
pub async fn an_answer_without_a_claim_is_refused(store: &dyn Store) {
    let id = queue(store, "x", 0).await;
    for claim in [(id, 0), (id, 1), (NotificationId(id.0 + 99), 1)] {
        let claim = NotificationClaim { id: claim.0, attempt: claim.1 };
        conflicts(store.answer_notification(claim, delivered(1), vec![]).await);
    }
    assert_eq!(one(store, id).await.delivery, Delivery::Pending);
}

/// For the same alert, with the same revision, in the same transaction.
pub async fn a_failure_queues_the_fallback(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    let claimed = claim_one(store, 0).await;
    let out = vec![outgoing("mail", Fire, 1)];
    store.answer_notification(claimed.claim(), dead(1), out.clone()).await.unwrap();
    let last = all(store).await.pop().unwrap();
    assert_eq!((last.alert, last.revision, &last.outgoing), (Some(alert.id), 1, &out[0]));
}

/// What has no alert falls back to what has none.
pub async fn a_fallback_may_be_without_an_alert(store: &dyn Store) {
    queue(store, "x", 0).await;
    let claimed = claim_one(store, 0).await;
    let out = vec![outgoing("mail", Fire, 1)];
    store.answer_notification(claimed.claim(), dead(1), out).await.unwrap();
    let last = all(store).await.pop().unwrap();
    assert_eq!((last.alert, last.delivery), (None, Delivery::Pending));
}

/// A claim lasts from 1 µs to 366 days, as a lease does.
pub async fn a_claim_of_notifications_has_a_sane_term(store: &dyn Store) {
    for ttl in INSANE_TERMS {
        let by = Claimant { name: "w".into(), ttl };
        is_invalid(store.claim_notifications(&ops(), &by, at(1), 9).await);
    }
}
