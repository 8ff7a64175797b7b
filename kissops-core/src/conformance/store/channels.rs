//! Rules of [`ChannelStore`](crate::store::ChannelStore).

use super::{UNICODE, at, together};
use crate::store::{ChannelFailure, ChannelHealth, ChannelName, ChannelRecord, RateBucket, Store};

fn ops() -> ChannelName {
    "ops".into()
}

fn failure(second: u64, why: &str) -> ChannelFailure {
    ChannelFailure { at: at(second), why: why.into() }
}

async fn only(store: &dyn Store) -> ChannelRecord {
    let mut all = store.channels().await.unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.pop().unwrap()
}

fn bucket(remaining: u32, second: u64) -> RateBucket {
    RateBucket { name: "webhook".into(), capacity: 5, remaining, resets_at: at(second) }
}

/// Empty lists, not errors.
pub async fn a_new_store_knows_no_channel(store: &dyn Store) {
    assert_eq!(store.channels().await.unwrap(), []);
    assert_eq!(store.rate_buckets(&ops()).await.unwrap(), []);
    store.forget_channel(&ops()).await.unwrap();
}

/// By name, whatever their names are.
pub async fn channels_are_sorted_by_name(store: &dyn Store) {
    for name in ["b", "a", UNICODE, "B"] {
        store.channel_delivered(&name.into(), at(1)).await.unwrap();
    }
    let names: Vec<_> = store.channels().await.unwrap().into_iter().map(|one| one.name.0).collect();
    assert_eq!(names, ["B", "a", "b", UNICODE]);
}

/// It works, and when it last did is kept; an earlier time changes nothing.
pub async fn a_delivery_shows_that_a_channel_works(store: &dyn Store) {
    for second in [2, 5, 3] {
        store.channel_delivered(&ops(), at(second)).await.unwrap();
    }
    let expected = ChannelRecord {
        name: ops(),
        health: ChannelHealth::Working,
        delivered_at: Some(at(5)),
        failure: None,
    };
    assert_eq!(only(store).await, expected);
}

/// The last one is kept, by its time; the channel still works.
pub async fn a_failure_does_not_disable_a_channel(store: &dyn Store) {
    for (second, why) in [(2, "503"), (5, UNICODE), (3, "late news")] {
        store.channel_failed(&ops(), failure(second, why)).await.unwrap();
    }
    let found = only(store).await;
    assert_eq!(found.health, ChannelHealth::Working);
    assert_eq!((found.failure, found.delivered_at), (Some(failure(5, UNICODE)), None));
}

/// With what the server said and when to ask again; it is a failure, too.
pub async fn a_disabled_channel_says_why(store: &dyn Store) {
    store.disable_channel(&ops(), failure(3, UNICODE), at(90)).await.unwrap();
    let found = only(store).await;
    let health = ChannelHealth::Disabled { since: at(3), why: UNICODE.into(), retest_at: at(90) };
    assert_eq!((found.health, found.failure), (health, Some(failure(3, UNICODE))));
}

/// Since when stays; why and the next test are the latest.
pub async fn disabling_again_keeps_since_when(store: &dyn Store) {
    store.disable_channel(&ops(), failure(3, "404"), at(90)).await.unwrap();
    store.disable_channel(&ops(), failure(91, "403"), at(200)).await.unwrap();
    let health = ChannelHealth::Disabled { since: at(3), why: "403".into(), retest_at: at(200) };
    assert_eq!(only(store).await.health, health);
}

/// Its last failure stays for people to read.
pub async fn a_delivery_enables_a_channel(store: &dyn Store) {
    store.disable_channel(&ops(), failure(3, "404"), at(90)).await.unwrap();
    store.channel_delivered(&ops(), at(91)).await.unwrap();
    let found = only(store).await;
    assert_eq!(found.health, ChannelHealth::Working);
    assert_eq!((found.failure, found.delivered_at), (Some(failure(3, "404")), Some(at(91))));
}

/// And a failure of another kind does not change that it is.
pub async fn a_failure_does_not_enable_a_channel(store: &dyn Store) {
    store.disable_channel(&ops(), failure(3, "404"), at(90)).await.unwrap();
    store.channel_failed(&ops(), failure(91, "503")).await.unwrap();
    assert!(matches!(only(store).await.health, ChannelHealth::Disabled { .. }));
}

/// With its limits; others stay.
pub async fn a_forgotten_channel_is_gone_alone(store: &dyn Store) {
    for name in ["ops", "mail"] {
        store.channel_delivered(&name.into(), at(1)).await.unwrap();
        store.note_rate_bucket(&name.into(), bucket(1, 1)).await.unwrap();
    }
    store.forget_channel(&ops()).await.unwrap();
    assert_eq!(only(store).await.name.as_str(), "mail");
    assert_eq!(store.rate_buckets(&ops()).await.unwrap(), []);
    assert_eq!(store.rate_buckets(&"mail".into()).await.unwrap(), [bucket(1, 1)]);
}

/// By name, of one channel.
pub async fn rate_buckets_come_back(store: &dyn Store) {
    let named = |name: &str| RateBucket {
        name: name.into(),
        capacity: u32::MAX,
        remaining: u32::MAX,
        resets_at: at(3),
    };
    for name in ["b", UNICODE, ""] {
        store.note_rate_bucket(&ops(), named(name)).await.unwrap();
    }
    store.note_rate_bucket(&"mail".into(), named("x")).await.unwrap();
    let expected = [named(""), named("b"), named(UNICODE)];
    assert_eq!(store.rate_buckets(&ops()).await.unwrap(), expected);
}

/// Out of order or at once, the least of the latest period counts.
pub async fn rate_buckets_never_allow_too_much(store: &dyn Store) {
    let words = [(4, 10), (2, 10), (3, 10), (0, 5), (5, 20), (1, 10), (3, 20), (4, 20)];
    let channel = ops();
    let calls = words.map(|(left, second)| store.note_rate_bucket(&channel, bucket(left, second)));
    for noted in together(calls).await {
        noted.unwrap();
    }
    assert_eq!(store.rate_buckets(&ops()).await.unwrap(), [bucket(3, 20)]);
}
