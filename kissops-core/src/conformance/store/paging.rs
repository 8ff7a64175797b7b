//! Rules of [`EventStore::events`](crate::store::EventStore::events): which events a query finds.

use super::{T0, at, event, name, numbered, reasons};
use crate::{
    id::RecordId,
    store::{EventQuery, EventRecord, Store},
};

fn limit(limit: u32) -> EventQuery {
    EventQuery { limit, ..EventQuery::default() }
}

async fn find(store: &dyn Store, query: EventQuery) -> Vec<EventRecord> {
    store.events(query).await.unwrap()
}

/// The latest so many, still oldest first.
pub async fn events_without_after_are_the_latest(store: &dyn Store) {
    numbered(store, "web", 10).await;
    assert_eq!(reasons(&find(store, limit(3)).await), ["7", "8", "9"]);
}

/// The first so many behind that id.
pub async fn events_after_an_id_are_the_next(store: &dyn Store) {
    let ids = numbered(store, "web", 10).await;
    let query = EventQuery { after: ids.get(1).copied(), ..limit(3) };
    assert_eq!(reasons(&find(store, query).await), ["2", "3", "4"]);
}

/// None behind the last; all behind an id below the first.
pub async fn events_after_the_ends_are_none_and_all(store: &dyn Store) {
    let ids = numbered(store, "web", 4).await;
    let after_last = EventQuery { after: ids.last().copied(), ..limit(9) };
    assert_eq!(find(store, after_last).await, []);
    let after_none = EventQuery { after: Some(RecordId(0)), ..limit(9) };
    assert_eq!(reasons(&find(store, after_none).await), ["0", "1", "2", "3"]);
}

/// Page after page finds each event once, in order, although more are appended meanwhile.
pub async fn pages_have_no_gaps_and_no_repetition(store: &dyn Store) {
    numbered(store, "web", 25).await;
    let (mut seen, mut after, mut pages) = (Vec::new(), RecordId(0), 0);
    loop {
        let page = find(store, EventQuery { after: Some(after), ..limit(10) }).await;
        let Some(last) = page.last() else { break };
        after = last.id;
        seen.extend(page);
        pages += 1;
        if pages == 2 {
            numbered(store, "web", 5).await;
        }
    }
    let expected: Vec<String> = (0..25).chain(0..5).map(|i: u32| i.to_string()).collect();
    assert_eq!(reasons(&seen), expected);
}

/// No event, not all.
pub async fn a_limit_of_zero_finds_no_event(store: &dyn Store) {
    numbered(store, "web", 3).await;
    assert_eq!(find(store, limit(0)).await, []);
    assert_eq!(find(store, EventQuery { after: Some(RecordId(0)), ..limit(0) }).await, []);
}

/// The greatest limit works.
pub async fn a_limit_may_exceed_what_is_there(store: &dyn Store) {
    numbered(store, "web", 3).await;
    assert_eq!(find(store, limit(u32::MAX)).await.len(), 3);
}

/// The time itself is included, a microsecond less is not.
pub async fn since_includes_its_time(store: &dyn Store) {
    numbered(store, "web", 4).await;
    let query = EventQuery { since: Some(at(2)), ..limit(9) };
    assert_eq!(reasons(&find(store, query).await), ["2", "3"]);
    let later = crate::Timestamp(at(2).0 + 1);
    assert_eq!(reasons(&find(store, EventQuery { since: Some(later), ..limit(9) }).await), ["3"]);
}

/// The time itself is excluded, a microsecond more is not.
pub async fn until_excludes_its_time(store: &dyn Store) {
    numbered(store, "web", 4).await;
    let query = EventQuery { until: Some(at(2)), ..limit(9) };
    assert_eq!(reasons(&find(store, query).await), ["0", "1"]);
    let later = crate::Timestamp(at(2).0 + 1);
    let query = EventQuery { until: Some(later), ..limit(9) };
    assert_eq!(reasons(&find(store, query).await), ["0", "1", "2"]);
}

/// Adjoining spans share no event and miss none; a span that ends before it begins has none.
pub async fn since_and_until_make_a_span(store: &dyn Store) {
    numbered(store, "web", 9).await;
    let span = |from, to| EventQuery { since: Some(at(from)), until: Some(at(to)), ..limit(9) };
    assert_eq!(reasons(&find(store, span(2, 5)).await), ["2", "3", "4"]);
    assert_eq!(reasons(&find(store, span(5, 7)).await), ["5", "6"]);
    assert_eq!(find(store, span(5, 5)).await, []);
    assert_eq!(find(store, span(5, 2)).await, []);
}

/// Of a span the latest remain.
pub async fn a_limited_span_keeps_its_latest(store: &dyn Store) {
    numbered(store, "web", 9).await;
    let query = EventQuery { since: Some(at(1)), until: Some(at(6)), ..limit(2) };
    assert_eq!(reasons(&find(store, query).await), ["4", "5"]);
}

/// Events are in the order in which they were appended, whatever their times.
pub async fn events_are_in_the_order_of_their_ids(store: &dyn Store) {
    for second in [5, 1, 3] {
        store.append_events(vec![event(None, at(second), &second.to_string())]).await.unwrap();
    }
    assert_eq!(reasons(&find(store, limit(9)).await), ["5", "1", "3"]);
    let query = EventQuery { since: Some(T0), ..limit(2) };
    assert_eq!(reasons(&find(store, query).await), ["1", "3"]);
}

async fn mixed(store: &dyn Store) -> Vec<RecordId> {
    let of = [Some("a"), None, Some("b"), Some("a"), Some("c"), Some("b"), Some("a-2")];
    let events = (0..).zip(of).map(|(i, of)| event(of, at(i), &i.to_string())).collect();
    store.append_events(events).await.unwrap()
}

/// Neither those of other instances, nor those of none.
pub async fn events_of_one_instance_are_its_own(store: &dyn Store) {
    mixed(store).await;
    let query = EventQuery { instances: vec![name("a")], ..limit(9) };
    assert_eq!(reasons(&find(store, query).await), ["0", "3"]);
}

/// In one order; a name that is asked for twice counts once.
pub async fn events_of_several_instances_are_merged(store: &dyn Store) {
    mixed(store).await;
    let instances = vec![name("b"), name("a"), name("b"), name("nobody")];
    let query = EventQuery { instances, ..limit(9) };
    assert_eq!(reasons(&find(store, query).await), ["0", "2", "3", "5"]);
}

/// An empty list, not an error.
pub async fn events_of_an_unknown_instance_are_none(store: &dyn Store) {
    mixed(store).await;
    let query = EventQuery { instances: vec![name("nobody")], ..limit(9) };
    assert_eq!(find(store, query).await, []);
}

/// A query may name every instance of a large fleet.
pub async fn a_query_may_name_thousands_of_instances(store: &dyn Store) {
    mixed(store).await;
    let mut instances: Vec<_> = (0..5_000).map(|i| name(&format!("bot-{i}"))).collect();
    instances.push(name("c"));
    assert_eq!(reasons(&find(store, EventQuery { instances, ..limit(9) }).await), ["4"]);
}

/// An event is found if it meets all of them.
pub async fn conditions_of_a_query_add_up(store: &dyn Store) {
    let ids = mixed(store).await;
    let query = EventQuery {
        instances: vec![name("a"), name("b")],
        since: Some(at(1)),
        until: Some(at(5)),
        after: ids.get(2).copied(),
        limit: 9,
    };
    assert_eq!(reasons(&find(store, query).await), ["3"]);
}
