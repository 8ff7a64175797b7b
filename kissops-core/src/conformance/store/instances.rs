//! Rules of [`InstanceStore`](crate::store::InstanceStore).

use super::{T0, UNICODE, at, dropped_halfway, name, together};
use crate::{
    Timestamp,
    store::{Desired, InstanceRecord, Store},
};

fn record(text: &str) -> InstanceRecord {
    InstanceRecord {
        name: name(text),
        desired: Desired::Running,
        restarts: 0,
        failed: None,
        updated_at: T0,
    }
}

async fn names(store: &dyn Store) -> Vec<String> {
    store.instances().await.unwrap().into_iter().map(|record| record.name.to_string()).collect()
}

/// An empty list, not an error.
pub async fn a_new_store_has_no_instances(store: &dyn Store) {
    assert_eq!(store.instances().await.unwrap(), []);
}

/// Every field of an instance is kept.
pub async fn an_instance_comes_back_as_put(store: &dyn Store) {
    let put = InstanceRecord {
        name: name("web"),
        desired: Desired::Stopped,
        restarts: 17,
        failed: Some("5 starts within 5m".into()),
        updated_at: at(3),
    };
    store.put_instance(put.clone()).await.unwrap();
    assert_eq!(store.instances().await.unwrap(), [put]);
}

/// The order is that of the names' bytes, whatever the language of the database.
pub async fn instances_are_sorted_by_name(store: &dyn Store) {
    let sorted = ["B", "Z.9", "a", "a-b", "a.b", "a1", "a@b", "a_b", "aa", "b"];
    for text in ["aa", "b", "a_b", "a", "B", "a@b", "a1", "Z.9", "a.b", "a-b"] {
        store.put_instance(record(text)).await.unwrap();
    }
    assert_eq!(names(store).await, sorted);
}

/// No field of the older record is left.
pub async fn putting_an_instance_again_replaces_it_whole(store: &dyn Store) {
    let failed = Some("gave up".into());
    let first = InstanceRecord { restarts: 9, failed, desired: Desired::Stopped, ..record("web") };
    store.put_instance(first).await.unwrap();
    let second = InstanceRecord { updated_at: at(1), ..record("web") };
    store.put_instance(second.clone()).await.unwrap();
    assert_eq!(store.instances().await.unwrap(), [second]);
}

/// The record's time is the caller's: an older one may be put in place of a newer.
pub async fn the_last_put_wins_whatever_its_time(store: &dyn Store) {
    store.put_instance(InstanceRecord { updated_at: at(100), ..record("web") }).await.unwrap();
    let second = InstanceRecord { restarts: 1, updated_at: at(1), ..record("web") };
    store.put_instance(second.clone()).await.unwrap();
    assert_eq!(store.instances().await.unwrap(), [second]);
}

/// It is gone, and the others are not.
pub async fn a_removed_instance_is_gone_alone(store: &dyn Store) {
    for text in ["a", "b", "c"] {
        store.put_instance(record(text)).await.unwrap();
    }
    store.remove_instance(&name("b")).await.unwrap();
    assert_eq!(names(store).await, ["a", "c"]);
}

/// Nothing happens.
pub async fn removing_an_unknown_instance_is_no_error(store: &dyn Store) {
    store.put_instance(record("a")).await.unwrap();
    store.remove_instance(&name("b")).await.unwrap();
    assert_eq!(names(store).await, ["a"]);
}

/// A removed instance leaves nothing behind that a new one of its name would find.
pub async fn a_removed_instance_can_be_put_again(store: &dyn Store) {
    let failed = Some("gave up".into());
    store.put_instance(InstanceRecord { failed, ..record("a") }).await.unwrap();
    store.remove_instance(&name("a")).await.unwrap();
    store.put_instance(record("a")).await.unwrap();
    assert_eq!(store.instances().await.unwrap(), [record("a")]);
}

/// `Web` and `web` are two.
pub async fn instance_names_are_case_sensitive(store: &dyn Store) {
    store.put_instance(record("Web")).await.unwrap();
    store.put_instance(record("web")).await.unwrap();
    store.remove_instance(&name("WEB")).await.unwrap();
    assert_eq!(names(store).await, ["Web", "web"]);
}

/// Names of the greatest length work.
pub async fn the_longest_instance_name_is_kept(store: &dyn Store) {
    let longest = format!("{}@{}", "x".repeat(64), "y".repeat(64));
    store.put_instance(record(&longest)).await.unwrap();
    assert_eq!(names(store).await, [longest]);
}

/// All of Unicode comes back, byte for byte.
pub async fn instance_text_is_unicode(store: &dyn Store) {
    let put = InstanceRecord { failed: Some(UNICODE.into()), ..record("web") };
    store.put_instance(put.clone()).await.unwrap();
    assert_eq!(store.instances().await.unwrap(), [put]);
}

/// An empty text is not the same as none.
pub async fn an_empty_reason_is_not_none(store: &dyn Store) {
    let put = InstanceRecord { failed: Some(String::new()), ..record("web") };
    store.put_instance(put.clone()).await.unwrap();
    assert_eq!(store.instances().await.unwrap(), [put]);
}

/// Counters keep all of their 64 bits.
pub async fn restart_counters_keep_64_bits(store: &dyn Store) {
    for restarts in [1 << 32, (1 << 53) + 1, i64::MAX as u64, u64::MAX] {
        let put = InstanceRecord { restarts, ..record("web") };
        store.put_instance(put.clone()).await.unwrap();
        assert_eq!(store.instances().await.unwrap(), [put]);
    }
}

/// To the microsecond, before 1970 and far in the future too.
pub async fn instance_times_keep_microseconds(store: &dyn Store) {
    let far: Timestamp = "9999-12-31T23:59:59.999999Z".parse().unwrap();
    let early: Timestamp = "0001-01-01T00:00:00.000001Z".parse().unwrap();
    for updated_at in [Timestamp(-1), Timestamp(0), Timestamp(1), far, early] {
        let put = InstanceRecord { updated_at, ..record("web") };
        store.put_instance(put.clone()).await.unwrap();
        assert_eq!(store.instances().await.unwrap(), [put]);
    }
}

/// Of concurrent writes one wins with all of its fields.
pub async fn concurrent_puts_leave_one_whole_record(store: &dyn Store) {
    let candidate = |i: u32| InstanceRecord {
        restarts: i.into(),
        failed: Some(i.to_string()),
        updated_at: Timestamp(i.into()),
        ..record("web")
    };
    let calls = (0..100).map(|i| store.put_instance(candidate(i)));
    for result in together(calls).await {
        result.unwrap();
    }
    let found = store.instances().await.unwrap();
    assert!(matches!(&*found, [one] if (0..100).any(|i| *one == candidate(i))), "{found:?}");
}

/// Concurrent writes of different instances are all kept.
pub async fn concurrent_puts_of_many_names_are_all_there(store: &dyn Store) {
    let calls = (0..100).map(|i| store.put_instance(record(&format!("bot-{i:03}"))));
    for result in together(calls).await {
        result.unwrap();
    }
    let expected: Vec<String> = (0..100).map(|i| format!("bot-{i:03}")).collect();
    assert_eq!(names(store).await, expected);
}

/// What was written last is read next.
pub async fn a_read_sees_every_acknowledged_put(store: &dyn Store) {
    for restarts in 0..50 {
        store.put_instance(InstanceRecord { restarts, ..record("web") }).await.unwrap();
        let found = store.instances().await.unwrap();
        assert!(matches!(&*found, [one] if one.restarts == restarts), "{restarts}: {found:?}");
    }
}

/// A dropped call takes effect whole or not at all, and the store goes on.
pub async fn a_dropped_put_is_whole_or_nothing(store: &dyn Store) {
    store.put_instance(record("web")).await.unwrap();
    let late = InstanceRecord { restarts: 5, failed: Some("late".into()), ..record("web") };
    dropped_halfway(store.put_instance(late.clone())).await;
    store.put_instance(record("other")).await.unwrap();
    let found = store.instances().await.unwrap();
    let web = found.iter().find(|one| one.name == name("web"));
    assert!(web == Some(&late) || web == Some(&record("web")), "{found:?}");
}
