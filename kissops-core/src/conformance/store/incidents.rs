//! Rules of [`OutboxStore`](crate::store::OutboxStore): the order of an incident, and what becomes one.

use std::{
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use super::{
    alerts::{opened, outgoing, resolved},
    at, conflicts,
    outbox::{all, answer, claim, claim_one, claimant, dead, delivered, one, ops, queue, retry},
    together,
};
use crate::store::{
    ChannelName, Delivery,
    NotificationKind::{Digest, Fire, Passed, Resolve, Update},
    NotificationRecord, Outgoing, Store,
};

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

/// Each goes out at its own time.
pub async fn a_reminder_dated_later_holds_up_no_fire(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    store.enqueue(Some(alert.id), vec![outgoing("ops", Update, 14_400)]).await.unwrap();
    assert_eq!(store.next_notification_at(&ops()).await.unwrap(), Some(at(0)));
    let fire = claim_one(store, 0).await;
    assert_eq!((fire.outgoing.kind, fire.outgoing.not_before), (Fire, at(0)));
    answer(store, fire.claim(), delivered(0)).await;
    assert_eq!(claim(store, 14_399, 9).await, []);
    assert_eq!(store.next_notification_at(&ops()).await.unwrap(), Some(at(14_400)));
    assert_eq!(claim_one(store, 14_400).await.outgoing.kind, Update);
}

/// Nobody is to be reminded any more, so it goes with what is due.
pub async fn a_reminder_dated_later_holds_up_no_resolve(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    answer(store, claim_one(store, 0).await.claim(), delivered(0)).await;
    store.enqueue(Some(alert.id), vec![outgoing("ops", Update, 14_400)]).await.unwrap();
    resolved(store, &alert, 5, vec![outgoing("ops", Resolve, 5)]).await;
    assert_eq!(store.next_notification_at(&ops()).await.unwrap(), Some(at(5)));
    let told = claim_one(store, 5).await;
    assert_eq!((told.outgoing.kind, told.outgoing.not_before), (Resolve, at(5)));
    answer(store, told.claim(), delivered(5)).await;
    assert_eq!(claim(store, 14_400, 9).await, []);
}

/// However often something else takes its place.
pub async fn what_was_put_off_stays_so_through_every_merge(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", Fire, 0)]).await;
    answer(store, claim_one(store, 0).await.claim(), retry(45)).await;
    store.enqueue(Some(alert.id), vec![outgoing("ops", Update, 1)]).await.unwrap();
    assert_eq!(store.next_notification_at(&ops()).await.unwrap(), Some(at(45)));
    assert_eq!(claim(store, 2, 9).await, []);
    resolved(store, &alert, 3, vec![outgoing("ops", Resolve, 3)]).await;
    assert_eq!(store.next_notification_at(&ops()).await.unwrap(), Some(at(45)));
    assert_eq!(claim(store, 44, 9).await, []);
    assert_eq!(claim_one(store, 45).await.outgoing.kind, Passed);
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

/// Each of many alerts that fire and resolve while workers send is told in order, its end exactly once.
pub async fn concurrent_incidents_are_told_in_order(store: &dyn Store) {
    let raise = async {
        for i in 0..15 {
            let alert = opened(store, &i.to_string(), vec![outgoing("ops", Fire, 0)]).await;
            resolved(store, &alert, 1, vec![outgoing("ops", Resolve, 1)]).await;
        }
    };
    let raising = AtomicBool::new(true);
    let raise = async {
        raise.await;
        raising.store(false, SeqCst);
    };
    let (told, channel) = (Mutex::new(Vec::new()), ops());
    let send = async || {
        loop {
            let last = !raising.load(SeqCst);
            let found =
                store.claim_notifications(&channel, &claimant("w"), at(9), 4).await.unwrap();
            if found.is_empty() && last {
                return;
            }
            for one in found {
                told.lock().unwrap().push((one.alert.unwrap(), one.outgoing.kind));
                assert!(told.lock().unwrap().len() <= 30);
                answer(store, one.claim(), delivered(9)).await;
            }
        }
    };
    let all: [Pin<Box<dyn Future<Output = ()>>>; 3] =
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
