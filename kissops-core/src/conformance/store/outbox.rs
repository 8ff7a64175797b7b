//! Rules of [`OutboxStore`](crate::store::OutboxStore).

use std::time::Duration;

use super::{
    UNICODE,
    alerts::{opened, outgoing, resolved},
    at, conflicts, eventually, together,
};
use crate::{
    Error, Timestamp,
    store::{
        AlertChange, AlertId, Backlog, ChannelName, Claimant, Delivery, DeliveryOutcome,
        DeliveryState, NotificationClaim, NotificationId, NotificationKind, NotificationQuery,
        NotificationRecord, Outgoing, Store,
    },
};

use NotificationKind::{Digest, Fire, Passed, Resolve, Update};

/// Long enough not to run out in a test.
pub(super) fn claimant(name: &str) -> Claimant {
    Claimant { name: name.into(), ttl: Duration::from_mins(10) }
}

/// Runs out while a test waits.
pub(super) fn hasty(name: &str) -> Claimant {
    Claimant { name: name.into(), ttl: Duration::from_millis(60) }
}

fn ops() -> ChannelName {
    "ops".into()
}

async fn claim(store: &dyn Store, second: u64, limit: u32) -> Vec<NotificationRecord> {
    store.claim_notifications(&ops(), &claimant("w"), at(second), limit).await.unwrap()
}

async fn claim_one(store: &dyn Store, second: u64) -> NotificationRecord {
    let mut claimed = claim(store, second, 9).await;
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    claimed.pop().unwrap()
}

async fn answer(store: &dyn Store, claim: NotificationClaim, outcome: DeliveryOutcome) {
    store.answer_notification(claim, outcome, vec![]).await.unwrap();
}

fn delivered(second: u64) -> DeliveryOutcome {
    DeliveryOutcome::Delivered { at: at(second), remote: Some(format!("r{second}")) }
}

fn retry(second: u64) -> DeliveryOutcome {
    DeliveryOutcome::RetryAt { at: at(second), why: "503".into() }
}

fn dead(second: u64) -> DeliveryOutcome {
    DeliveryOutcome::Dead { at: at(second), why: "404".into() }
}

async fn all(store: &dyn Store) -> Vec<NotificationRecord> {
    let query = NotificationQuery { limit: u32::MAX, ..NotificationQuery::default() };
    let mut found = store.notifications(query).await.unwrap();
    found.reverse();
    found
}

async fn one(store: &dyn Store, id: NotificationId) -> NotificationRecord {
    all(store).await.into_iter().find(|record| record.id == id).unwrap()
}

fn bodies(records: &[NotificationRecord]) -> Vec<&str> {
    records.iter().map(|record| record.outgoing.body.as_str()).collect()
}

/// Queues a notification without an alert.
async fn queue(store: &dyn Store, body: &str, second: u64) -> NotificationId {
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
    let err = store.enqueue(Some(AlertId(5)), vec![outgoing("ops", Fire, 0)]).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
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

/// While the first is being sent, the second waits, even if it is due.
pub async fn the_order_of_an_alert_is_kept_on_each_channel(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    let fire = claim_one(store, 0).await;
    resolved(store, &alert, 1, vec![outgoing("ops", Resolve, 1)]).await;
    assert_eq!(claim(store, 9, 9).await, []);
    answer(store, fire.claim(), delivered(9)).await;
    assert_eq!(claim_one(store, 9).await.outgoing.kind, Resolve);
}

/// Neither another alert's, nor another channel's.
pub async fn an_alert_holds_up_no_other(store: &dyn Store) {
    let out = vec![outgoing("ops", Fire, 0), outgoing("mail", Fire, 0)];
    let alert = opened(store, "a", out).await;
    claim_one(store, 0).await;
    resolved(store, &alert, 1, vec![outgoing("ops", Resolve, 1)]).await;
    opened(store, "b", vec![outgoing("ops", Fire, 2)]).await;
    let other = claim_one(store, 9).await;
    assert_ne!(other.alert, Some(alert.id));
    let mail = ChannelName::from("mail");
    let mail = store.claim_notifications(&mail, &claimant("w"), at(9), 9).await.unwrap();
    assert_eq!(mail.len(), 1);
}

/// One note: it was down, and is not any more.
pub async fn an_unsent_fire_and_its_resolve_become_one(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    resolved(store, &alert, 180, vec![outgoing("ops", Resolve, 180)]).await;
    let told = claim_one(store, 180).await;
    assert_eq!((told.outgoing.kind, told.revision), (Passed, 2));
    assert_eq!(told.outgoing.body, "resolve at 180");
    let found = all(store).await;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].delivery, Delivery::Merged { at: at(180), into: told.id });
}

/// It fires, in the latest words.
pub async fn an_unsent_fire_and_its_update_become_a_fire(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    store.enqueue(Some(alert.id), vec![outgoing("ops", Update, 5)]).await.unwrap();
    let told = claim_one(store, 5).await;
    assert_eq!((told.outgoing.kind, told.outgoing.body.as_str()), (Fire, "update at 5"));
}

/// From the first to the last, in one note.
pub async fn a_whole_unsent_incident_becomes_one(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    for second in 1..5 {
        store.enqueue(Some(alert.id), vec![outgoing("ops", Update, second)]).await.unwrap();
    }
    resolved(store, &alert, 9, vec![outgoing("ops", Resolve, 9)]).await;
    assert_eq!(claim_one(store, 9).await.outgoing.kind, Passed);
    let merged = all(store).await;
    let merged = merged.iter().filter(|one| matches!(one.delivery, Delivery::Merged { .. }));
    assert_eq!(merged.count(), 5);
}

/// Somebody knows that it fires, so they are told that it is over.
pub async fn a_resolve_after_a_delivered_fire_stays_a_resolve(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    answer(store, claim_one(store, 0).await.claim(), delivered(0)).await;
    store.enqueue(Some(alert.id), vec![outgoing("ops", Update, 1)]).await.unwrap();
    resolved(store, &alert, 2, vec![outgoing("ops", Resolve, 2)]).await;
    assert_eq!(claim_one(store, 2).await.outgoing.kind, Resolve);
}

/// A fire that is to be tried again is unsent, too.
pub async fn a_fire_that_failed_and_its_resolve_become_one(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    let fire = claim_one(store, 0).await;
    resolved(store, &alert, 1, vec![outgoing("ops", Resolve, 1)]).await;
    answer(store, fire.claim(), retry(3)).await;
    assert_eq!(claim_one(store, 3).await.outgoing.kind, Passed);
}

/// The server said when to come back: that holds for what takes the place of what it refused.
pub async fn what_was_merged_keeps_to_the_strictest_times(store: &dyn Store) {
    let fire = Outgoing { deadline: Some(at(60)), ..outgoing("ops", Fire, 0) };
    let alert = opened(store, "a", vec![fire]).await;
    let fire = claim_one(store, 0).await;
    let resolve = Outgoing { deadline: Some(at(90)), ..outgoing("ops", Resolve, 1) };
    resolved(store, &alert, 1, vec![resolve]).await;
    answer(store, fire.claim(), retry(45)).await;
    assert_eq!(claim(store, 44, 9).await, []);
    let told = claim_one(store, 45).await;
    assert_eq!((told.outgoing.not_before, told.outgoing.deadline), (at(45), Some(at(60))));
}

/// What is told of two alerts, or by two channels, is told twice.
pub async fn only_one_alert_and_channel_is_merged(store: &dyn Store) {
    for key in ["a", "b"] {
        let out = vec![outgoing("ops", Fire, 0), outgoing("mail", Fire, 0)];
        opened(store, key, out).await;
    }
    queue(store, "x", 0).await;
    queue(store, "y", 0).await;
    assert_eq!(claim(store, 0, 9).await.len(), 4);
    let mail = ChannelName::from("mail");
    let mail = store.claim_notifications(&mail, &claimant("w"), at(0), 9).await.unwrap();
    assert_eq!(mail.len(), 2);
}

/// All of them, as one that is claimed by itself.
pub async fn a_digest_takes_the_place_of_what_it_holds(store: &dyn Store) {
    for key in ["a", "b", "c"] {
        opened(store, key, vec![outgoing("ops", Fire, 0)]).await;
    }
    let claims: Vec<_> = claim(store, 0, 9).await.iter().map(NotificationRecord::claim).collect();
    let digest = outgoing("ops", Digest, 2);
    let id = store.digest_notifications(claims, digest.clone()).await.unwrap();
    let found = all(store).await;
    for merged in &found[..3] {
        assert_eq!(merged.delivery, Delivery::Merged { at: at(2), into: id });
    }
    let told = claim_one(store, 2).await;
    assert_eq!((told.id, told.alert, told.outgoing), (id, None, digest));
}

/// All or nothing.
pub async fn a_digest_of_a_lost_claim_is_refused(store: &dyn Store) {
    for body in ["a", "b"] {
        queue(store, body, 0).await;
    }
    let mut claims: Vec<_> =
        claim(store, 0, 9).await.iter().map(NotificationRecord::claim).collect();
    claims[1].attempt += 1;
    conflicts(store.digest_notifications(claims, outgoing("ops", Digest, 1)).await);
    let found = all(store).await;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|one| matches!(one.delivery, Delivery::Claimed { .. })), "{found:?}");
}

/// The end of an incident is not told before a digest that tells of its beginning.
pub async fn a_digest_keeps_the_order_of_its_alerts(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    let fire = claim_one(store, 0).await;
    let digest = Outgoing { not_before: at(30), ..outgoing("ops", Digest, 1) };
    store.digest_notifications(vec![fire.claim()], digest).await.unwrap();
    resolved(store, &alert, 2, vec![outgoing("ops", Resolve, 2)]).await;
    assert_eq!(claim(store, 29, 9).await, []);
    let digest = claim_one(store, 30).await;
    assert_eq!(claim(store, 31, 9).await, []);
    answer(store, digest.claim(), delivered(31)).await;
    assert_eq!(claim_one(store, 31).await.outgoing.kind, Resolve);
}

/// The alerts that a smaller one told of are told by the larger one.
pub async fn a_digest_may_be_part_of_another(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    let fire = claim_one(store, 0).await;
    store.digest_notifications(vec![fire.claim()], outgoing("ops", Digest, 1)).await.unwrap();
    let small = claim_one(store, 1).await;
    let id =
        store.digest_notifications(vec![small.claim()], outgoing("ops", Digest, 2)).await.unwrap();
    let merged = Delivery::Merged { at: at(1), into: id };
    assert_eq!(one(store, fire.id).await.delivery, merged);
    resolved(store, &alert, 3, vec![outgoing("ops", Resolve, 3)]).await;
    assert_eq!(claim_one(store, 3).await.id, id);
}

/// The earliest of all that could be claimed.
pub async fn the_next_time_is_when_something_is_due(store: &dyn Store) {
    for second in [7, 4, 9] {
        queue(store, "x", second).await;
    }
    assert_eq!(store.next_notification_at(&ops()).await.unwrap(), Some(at(4)));
    assert_eq!(store.next_notification_at(&"mail".into()).await.unwrap(), None);
}

/// There is no point in asking for what waits for another.
pub async fn the_next_time_passes_over_what_is_held_up(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    let fire = claim_one(store, 0).await;
    resolved(store, &alert, 1, vec![outgoing("ops", Resolve, 1)]).await;
    let Delivery::Claimed { until, .. } = fire.delivery else { panic!("{fire:?}") };
    assert_eq!(store.next_notification_at(&ops()).await.unwrap(), Some(until));
}

/// Of that alert and that channel, and only what was delivered.
pub async fn the_last_delivered_can_be_edited(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    assert_eq!(store.last_delivered(alert.id, &ops()).await.unwrap(), None);
    for second in 1..3 {
        answer(store, claim_one(store, second).await.claim(), delivered(second)).await;
        store.enqueue(Some(alert.id), vec![outgoing("ops", Update, second)]).await.unwrap();
    }
    let last = store.last_delivered(alert.id, &ops()).await.unwrap().unwrap();
    assert_eq!(last.delivery, Delivery::Delivered { at: at(2), remote: Some("r2".into()) });
    assert_eq!(store.last_delivered(alert.id, &"mail".into()).await.unwrap(), None);
    assert_eq!(store.last_delivered(AlertId(alert.id.0 + 1), &ops()).await.unwrap(), None);
}

/// By channel, with the age of the oldest; what is done does not count.
pub async fn the_backlog_counts_what_waits(store: &dyn Store) {
    for second in [5, 3, 4] {
        queue(store, "x", second).await;
    }
    let claimed = claim(store, 9, 2).await;
    answer(store, claimed[0].claim(), dead(9)).await;
    let out = vec![outgoing("mail", Fire, 1), outgoing("gone", Fire, 1)];
    store.enqueue(None, out).await.unwrap();
    let gone = ChannelName::from("gone");
    let told = store.claim_notifications(&gone, &claimant("w"), at(9), 1).await.unwrap();
    answer(store, told[0].claim(), delivered(9)).await;
    let of = |channel: &str, unsent, oldest, dead| Backlog {
        channel: channel.into(),
        unsent,
        oldest: Some(at(oldest)),
        dead,
    };
    assert_eq!(store.backlog().await.unwrap(), [of("mail", 1, 1, 0), of("ops", 2, 3, 1)]);
}

/// A channel of which everything is dead has no oldest.
pub async fn the_backlog_knows_a_dead_channel(store: &dyn Store) {
    queue(store, "x", 0).await;
    answer(store, claim_one(store, 0).await.claim(), dead(1)).await;
    let expected = Backlog { channel: ops(), unsent: 0, oldest: None, dead: 1 };
    assert_eq!(store.backlog().await.unwrap(), [expected]);
}

/// From the time given on, and without the deadline that is over.
pub async fn a_dead_notification_can_be_revived(store: &dyn Store) {
    let out = Outgoing { deadline: Some(at(1)), ..outgoing("ops", Fire, 0) };
    let id = store.enqueue(None, vec![out]).await.unwrap()[0];
    answer(store, claim_one(store, 0).await.claim(), dead(1)).await;
    store.revive_notification(id, at(50)).await.unwrap();
    assert_eq!(claim(store, 49, 9).await, []);
    let told = claim_one(store, 50).await;
    assert_eq!((told.id, told.attempts, told.outgoing.deadline), (id, 2, None));
}

/// What is not dead stays as it is; what is not there is not found.
pub async fn only_a_dead_notification_is_revived(store: &dyn Store) {
    let id = queue(store, "x", 0).await;
    conflicts(store.revive_notification(id, at(1)).await);
    answer(store, claim_one(store, 0).await.claim(), delivered(1)).await;
    conflicts(store.revive_notification(id, at(1)).await);
    let err = store.revive_notification(NotificationId(id.0 + 9), at(1)).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
}

/// Open, every way to tell of it tried, and nobody told.
pub async fn an_alert_that_nobody_could_be_told_of_is_known(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    opened(store, "silent", vec![]).await;
    assert_eq!(store.unheard_alerts(9).await.unwrap(), []);
    answer(store, claim_one(store, 0).await.claim(), dead(1)).await;
    assert_eq!(store.unheard_alerts(9).await.unwrap(), std::slice::from_ref(&alert));
    assert_eq!(store.unheard_alerts(0).await.unwrap(), []);
    store.enqueue(Some(alert.id), vec![outgoing("mail", Fire, 2)]).await.unwrap();
    assert_eq!(store.unheard_alerts(9).await.unwrap(), []);
}

/// A digest tells of its alerts, as long as it is not dead itself.
pub async fn an_alert_in_a_digest_is_heard_with_it(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    let fire = claim_one(store, 0).await;
    store.digest_notifications(vec![fire.claim()], outgoing("ops", Digest, 1)).await.unwrap();
    assert_eq!(store.unheard_alerts(9).await.unwrap(), []);
    answer(store, claim_one(store, 1).await.claim(), dead(2)).await;
    assert_eq!(store.unheard_alerts(9).await.unwrap(), [alert]);
}

/// By alert, channel and state, newest first, page by page.
pub async fn notifications_are_found_by_what_they_are(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0), outgoing("mail", Fire, 0)]).await;
    for body in ["x", "y", "z"] {
        queue(store, body, 5).await;
    }
    answer(store, claim_one(store, 0).await.claim(), dead(1)).await;
    let query = NotificationQuery { limit: 9, ..NotificationQuery::default() };
    let of_alert = NotificationQuery { alert: Some(alert.id), ..query.clone() };
    let of_alert = store.notifications(of_alert).await.unwrap();
    assert_eq!(bodies(&of_alert), ["fire at 0", "fire at 0"]);
    let pending = NotificationQuery {
        channel: Some(ops()),
        states: vec![DeliveryState::Pending, DeliveryState::Claimed],
        limit: 2,
        ..query.clone()
    };
    let first = store.notifications(pending.clone()).await.unwrap();
    assert_eq!(bodies(&first), ["z", "y"]);
    let next = NotificationQuery { before: Some(first[1].id), ..pending };
    assert_eq!(bodies(&store.notifications(next).await.unwrap()), ["x"]);
    let dead = NotificationQuery { states: vec![DeliveryState::Dead], ..query };
    assert_eq!(store.notifications(dead).await.unwrap().len(), 1);
}

/// What is done, by the time at which it was, in small batches; never what waits.
pub async fn notifications_are_pruned_when_they_are_done(store: &dyn Store) {
    for (body, end) in [("a", delivered(3)), ("b", dead(1)), ("c", delivered(2)), ("d", retry(0))] {
        queue(store, body, 0).await;
        let last = claim(store, 0, 9).await.pop().unwrap();
        answer(store, last.claim(), end).await;
    }
    assert_eq!(store.prune_notifications(at(2), 9).await.unwrap(), 1);
    assert_eq!(bodies(&all(store).await), ["a", "c", "d"]);
    assert_eq!(store.prune_notifications(at(99), 1).await.unwrap(), 1);
    assert_eq!(bodies(&all(store).await), ["a", "d"]);
    assert_eq!(store.prune_notifications(at(99), u32::MAX).await.unwrap(), 1);
    assert_eq!(bodies(&all(store).await), ["d"]);
}

/// They go with their alert.
pub async fn pruning_an_alert_takes_its_notifications(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    answer(store, claim_one(store, 0).await.claim(), delivered(1)).await;
    resolved(store, &alert, 2, vec![]).await;
    queue(store, "other", 0).await;
    assert_eq!(store.prune_alerts(at(99), 9).await.unwrap(), 1);
    assert_eq!(bodies(&all(store).await), ["other"]);
}

/// Each of many alerts that fire and resolve while workers send is told in order, its end exactly once.
pub async fn concurrent_incidents_are_told_in_order(store: &dyn Store) {
    let raise = async {
        for i in 0..15 {
            let alert = opened(store, &i.to_string(), vec![outgoing("ops", Fire, 0)]).await;
            resolved(store, &alert, 1, vec![outgoing("ops", Resolve, 1)]).await;
        }
    };
    let raising = std::sync::atomic::AtomicBool::new(true);
    let raise = async {
        raise.await;
        raising.store(false, std::sync::atomic::Ordering::SeqCst);
    };
    let (told, channel) = (std::sync::Mutex::new(Vec::new()), ops());
    let send = async || {
        loop {
            let last = !raising.load(std::sync::atomic::Ordering::SeqCst);
            let found =
                store.claim_notifications(&channel, &claimant("w"), at(9), 4).await.unwrap();
            if found.is_empty() && last {
                return;
            }
            for one in found {
                told.lock().unwrap().push((one.alert.unwrap(), one.outgoing.kind));
                answer(store, one.claim(), delivered(9)).await;
            }
        }
    };
    let all: [std::pin::Pin<Box<dyn Future<Output = ()>>>; 3] =
        [Box::pin(raise), Box::pin(send()), Box::pin(send())];
    together(all).await;
    let leftover = claim(store, 9, 99).await;
    assert!(leftover.len() <= 1, "{leftover:?}");
    let mut told = told.into_inner().unwrap();
    told.extend(leftover.iter().map(|one| (one.alert.unwrap(), one.outgoing.kind)));
    told.sort_by_key(|(alert, _)| *alert);
    for incident in told.chunk_by(|a, b| a.0 == b.0) {
        let kinds: Vec<_> = incident.iter().map(|(_, kind)| *kind).collect();
        assert!(kinds == [Fire, Resolve] || kinds == [Passed], "{kinds:?}");
    }
    assert_eq!(told.chunk_by(|a, b| a.0 == b.0).count(), 15);
}
