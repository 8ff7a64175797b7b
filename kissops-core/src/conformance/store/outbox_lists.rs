//! Rules of [`OutboxStore`](crate::store::OutboxStore): what waits, what is dead, what is gone.

use super::{
    alerts::{opened, outgoing, resolved},
    at, conflicts, is_not_found,
    outbox::{all, answer, bodies, claim, claim_one, claimant, dead, delivered, ops, queue, retry},
};
use crate::store::{
    AlertId, Backlog, ChannelName, Delivery, DeliveryState, NotificationId,
    NotificationKind::{Fire, Resolve, Update},
    NotificationQuery, Outgoing, Store,
};

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
    is_not_found(store.revive_notification(NotificationId(id.0 + 9), at(1)).await);
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
