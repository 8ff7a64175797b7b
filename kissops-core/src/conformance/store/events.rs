//! Rules of [`EventStore`](crate::store::EventStore): what is written. Those of queries are in `paging.rs`.

use super::{T0, UNICODE, at, dropped_halfway, event, grow, name, numbered, reasons, together};
use crate::{
    Timestamp,
    store::{EventKind, EventQuery, EventRecord, NewEvent, Store},
    supervisor::StateName,
};

const STATES: [StateName; 7] = [
    StateName::Stopped,
    StateName::Starting,
    StateName::Running,
    StateName::Backoff,
    StateName::Stopping,
    StateName::Failed,
    StateName::NeedsReauth,
];

async fn all(store: &dyn Store) -> Vec<EventRecord> {
    store.events(EventQuery { limit: u32::MAX, ..EventQuery::default() }).await.unwrap()
}

/// An empty list, not an error.
pub async fn a_new_store_has_no_events(store: &dyn Store) {
    assert_eq!(all(store).await, []);
}

/// It gives no ids and makes no event.
pub async fn appending_nothing_is_no_error(store: &dyn Store) {
    assert_eq!(store.append_events(Vec::new()).await.unwrap(), []);
    assert_eq!(all(store).await, []);
}

/// Every field of an event is kept, under the id that was given.
pub async fn an_event_comes_back_as_appended(store: &dyn Store) {
    let kind = EventKind::Transition { from: StateName::Backoff, to: StateName::Starting };
    let instance = Some(name("web"));
    let event = NewEvent { at: at(5), instance, kind, reason: "attempt 3".into() };
    let ids = store.append_events(vec![event.clone()]).await.unwrap();
    let expected: Vec<_> =
        ids.into_iter().map(|id| EventRecord { id, event: event.clone() }).collect();
    assert_eq!(all(store).await, expected);
    assert_eq!(expected.len(), 1);
}

/// From each state to each.
pub async fn every_transition_comes_back(store: &dyn Store) {
    let pairs = STATES.iter().flat_map(|from| STATES.iter().map(|to| (*from, *to)));
    let events: Vec<_> = pairs
        .map(|(from, to)| NewEvent {
            kind: EventKind::Transition { from, to },
            ..event(Some("web"), T0, "")
        })
        .collect();
    store.append_events(events.clone()).await.unwrap();
    let found: Vec<_> = all(store).await.into_iter().map(|record| record.event).collect();
    assert_eq!(found, events);
}

/// Other kinds are free words, those that look like a transition included.
pub async fn other_kinds_come_back_as_their_word(store: &dyn Store) {
    let words = ["daemon.started", "instance.transition", "transition", "", UNICODE];
    let events: Vec<_> = words
        .iter()
        .map(|word| NewEvent {
            kind: EventKind::Other((*word).into()),
            ..event(Some("web"), T0, "")
        })
        .collect();
    store.append_events(events.clone()).await.unwrap();
    let found: Vec<_> = all(store).await.into_iter().map(|record| record.event).collect();
    assert_eq!(found, events);
}

/// An event may belong to no instance.
pub async fn an_event_may_be_of_the_fleet(store: &dyn Store) {
    store.append_events(vec![event(None, T0, "reloaded")]).await.unwrap();
    let found = all(store).await;
    assert!(matches!(&*found, [one] if one.event.instance.is_none()), "{found:?}");
}

/// Reasons keep all of Unicode, the empty text, and a megabyte.
pub async fn event_reasons_are_any_text(store: &dyn Store) {
    let long = "ü".repeat(1 << 19);
    let written = ["", UNICODE, &long];
    store.append_events(written.iter().map(|text| event(None, T0, text)).collect()).await.unwrap();
    assert!(reasons(&all(store).await) == written);
}

/// To the microsecond, before 1970 too.
pub async fn event_times_keep_microseconds(store: &dyn Store) {
    let times = [Timestamp(1_790_000_000_123_457), Timestamp(-1), Timestamp(0)];
    store.append_events(times.iter().map(|at| event(None, *at, "")).collect()).await.unwrap();
    let found: Vec<_> = all(store).await.into_iter().map(|record| record.event.at).collect();
    assert_eq!(found, times);
}

/// Within one call.
pub async fn event_ids_grow_in_the_order_given(store: &dyn Store) {
    let ids = numbered(store, "web", 500).await;
    assert_eq!(ids.len(), 500);
    assert!(grow(&ids), "{ids:?}");
}

/// From call to call.
pub async fn event_ids_grow_from_call_to_call(store: &dyn Store) {
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.extend(numbered(store, "web", 2).await);
    }
    assert!(grow(&ids), "{ids:?}");
}

/// The events' own times, which the caller may set as it likes, do not matter.
pub async fn event_ids_grow_although_times_fall(store: &dyn Store) {
    let mut ids = Vec::new();
    for second in (0..20).rev() {
        ids.extend(store.append_events(vec![event(None, at(second), "")]).await.unwrap());
    }
    assert!(grow(&ids), "{ids:?}");
}

/// The rows that held the largest ids are gone, the ids are not given again.
pub async fn event_ids_grow_after_everything_was_pruned(store: &dyn Store) {
    let before = numbered(store, "web", 10).await;
    assert_eq!(store.prune_events(at(1_000), 1_000).await.unwrap(), 10);
    let after = numbered(store, "web", 10).await;
    assert!(before.last() < after.first(), "{before:?} {after:?}");
}

/// Events and crash reports share one line of ids.
pub async fn event_ids_are_not_those_of_crashes(store: &dyn Store) {
    let first = numbered(store, "web", 1).await;
    let crash = store.add_crash(super::crashes::report("web", T0)).await.unwrap();
    let second = numbered(store, "web", 1).await;
    assert!(!first.contains(&crash) && !second.contains(&crash), "{first:?} {crash:?} {second:?}");
}

/// A hundred writers at once: every event is there once, ids are unique, and grow within each call.
pub async fn concurrent_appends_are_all_there_once(store: &dyn Store) {
    let calls = (0..100).map(|task| async move {
        let events = (0..5).map(|i| event(Some("web"), at(i), &format!("{task}.{i}"))).collect();
        store.append_events(events).await.unwrap()
    });
    let given = together(calls).await;
    assert!(given.iter().all(|ids| ids.len() == 5 && grow(ids)));
    let found = all(store).await;
    assert!(grow(&found.iter().map(|record| record.id).collect::<Vec<_>>()));
    let mut texts = reasons(&found);
    texts.sort_unstable();
    texts.dedup();
    assert_eq!((found.len(), texts.len()), (500, 500));
    for (task, ids) in given.iter().enumerate() {
        for (i, id) in ids.iter().enumerate() {
            let at = found.binary_search_by_key(id, |record| record.id).unwrap();
            let record = found.get(at).unwrap();
            assert_eq!(record.event.reason, format!("{task}.{i}"), "the id names its event");
        }
    }
}

/// What one caller was told comes before what another does next.
pub async fn a_later_append_has_larger_ids_than_concurrent_earlier_ones(store: &dyn Store) {
    let first = together((0..40).map(|_| numbered(store, "web", 1))).await;
    let second = together((0..40).map(|_| numbered(store, "web", 1))).await;
    let largest = first.iter().flatten().max();
    let smallest = second.iter().flatten().min();
    assert!(largest < smallest, "{largest:?} {smallest:?}");
}

/// A dropped call appends all of its events or none.
pub async fn a_dropped_append_is_whole_or_nothing(store: &dyn Store) {
    for _ in 0..20 {
        let events = (0..3).map(|_| event(None, T0, "dropped")).collect();
        dropped_halfway(store.append_events(events)).await;
    }
    numbered(store, "web", 1).await;
    let found = all(store).await;
    let kept = reasons(&found).iter().filter(|text| **text == "dropped").count();
    assert!(kept % 3 == 0 && kept <= 60, "{kept}");
}

/// Those that are older, not the one of that very time.
pub async fn events_are_pruned_by_their_time(store: &dyn Store) {
    numbered(store, "web", 5).await;
    assert_eq!(store.prune_events(at(2), 100).await.unwrap(), 2);
    assert_eq!(reasons(&all(store).await), ["2", "3", "4"]);
}

/// The oldest by time go first, even if they were appended last.
pub async fn the_oldest_events_are_pruned_first(store: &dyn Store) {
    let events = [3, 1, 2].map(|second| event(None, at(second), &second.to_string()));
    store.append_events(events.into()).await.unwrap();
    assert_eq!(store.prune_events(at(100), 2).await.unwrap(), 2);
    assert_eq!(reasons(&all(store).await), ["3"]);
}

/// At most so many at once, until there are none.
pub async fn events_are_pruned_in_small_batches(store: &dyn Store) {
    numbered(store, "web", 10).await;
    let mut removed = Vec::new();
    for _ in 0..5 {
        removed.push(store.prune_events(at(9), 4).await.unwrap());
    }
    assert_eq!(removed, [4, 4, 1, 0, 0]);
    assert_eq!(store.prune_events(at(100), 0).await.unwrap(), 0);
    assert_eq!(reasons(&all(store).await), ["9"]);
}
