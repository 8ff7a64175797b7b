//! Rules of [`AlertStore`](crate::store::AlertStore): which alerts are found, and for how long.

use super::{
    alerts::{content, find, keys, limit, new_alert, opened, outbox, outgoing, resolved},
    at,
};
use crate::store::{
    AlertContent, AlertId, AlertQuery, NewAlert, NotificationKind, Severity, Store,
};

/// By number; those that are over are left out.
pub async fn open_alerts_come_oldest_first(store: &dyn Store) {
    let mut all = Vec::new();
    for key in ["c", "a", "b"] {
        all.push(opened(store, key, vec![]).await);
    }
    resolved(store, &all[1], 5, vec![]).await;
    assert_eq!(keys(&store.open_alerts().await.unwrap()), ["c", "b"]);
}

/// Numbers grow from call to call.
pub async fn alert_ids_grow(store: &dyn Store) {
    let mut last = AlertId(0);
    for key in 0..10 {
        let alert = opened(store, &key.to_string(), vec![]).await;
        assert!(last < alert.id, "{last:?} {alert:?}");
        last = alert.id;
    }
}

/// Newest first, at most so many; a limit of zero gives none.
pub async fn alerts_come_newest_first(store: &dyn Store) {
    for key in ["a", "b", "c"] {
        opened(store, key, vec![]).await;
    }
    assert_eq!(keys(&find(store, limit(2)).await), ["c", "b"]);
    assert_eq!(find(store, limit(0)).await, []);
    assert_eq!(find(store, limit(u32::MAX)).await.len(), 3);
}

/// Page after page finds each alert once, although more are opened meanwhile.
pub async fn pages_of_alerts_have_no_gaps(store: &dyn Store) {
    for key in 0..7 {
        opened(store, &key.to_string(), vec![]).await;
    }
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = find(store, AlertQuery { before, ..limit(3) }).await;
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen.extend(page.iter().map(|alert| alert.key.0.clone()));
        opened(store, &format!("new {}", seen.len()), vec![]).await;
    }
    assert_eq!(seen, ["6", "5", "4", "3", "2", "1", "0"]);
}

/// By key, severity and start, together.
pub async fn alerts_are_found_by_what_they_are(store: &dyn Store) {
    for (second, severity) in (0..).zip([Severity::Info, Severity::Warning, Severity::Critical]) {
        let content = AlertContent { severity, ..content("x") };
        let alert = NewAlert { content, ..new_alert(severity.as_str(), second) };
        store.open_alert(alert, vec![]).await.unwrap();
    }
    let key = AlertQuery { key: Some("info".into()), ..limit(9) };
    assert_eq!(keys(&find(store, key).await), ["info"]);
    let severe = vec![Severity::Critical, Severity::Warning];
    let severe = AlertQuery { severities: severe, ..limit(9) };
    assert_eq!(keys(&find(store, severe.clone()).await), ["critical", "warning"]);
    let first = AlertQuery { until: Some(at(2)), ..severe };
    assert_eq!(keys(&find(store, first).await), ["warning"]);
    let late = AlertQuery { since: Some(at(1)), until: Some(at(2)), ..limit(9) };
    assert_eq!(keys(&find(store, late).await), ["warning"]);
}

/// One that ended at the very time stays, and so does one that is open.
pub async fn alerts_are_pruned_by_the_time_of_their_end(store: &dyn Store) {
    for (key, end) in [("a", Some(2)), ("b", Some(3)), ("c", None), ("d", Some(1))] {
        let alert = opened(store, key, vec![]).await;
        if let Some(end) = end {
            resolved(store, &alert, end, vec![]).await;
        }
    }
    assert_eq!(store.prune_alerts(at(3), 9).await.unwrap(), 2);
    assert_eq!(keys(&find(store, limit(9)).await), ["c", "b"]);
}

/// At most so many at once, those first that ended first.
pub async fn alerts_are_pruned_in_small_batches(store: &dyn Store) {
    for (key, end) in [("a", 3), ("b", 1), ("c", 2), ("d", 4)] {
        let alert = opened(store, key, vec![]).await;
        resolved(store, &alert, end, vec![]).await;
    }
    assert_eq!(store.prune_alerts(at(99), 0).await.unwrap(), 0);
    assert_eq!(store.prune_alerts(at(99), 2).await.unwrap(), 2);
    assert_eq!(keys(&find(store, limit(9)).await), ["d", "a"]);
    assert_eq!(store.prune_alerts(at(99), u32::MAX).await.unwrap(), 2);
    assert_eq!(store.prune_alerts(at(99), 2).await.unwrap(), 0);
}

/// An alert with a notification that is still to be sent stays, and the notification with it.
pub async fn an_alert_is_not_pruned_before_it_was_told(store: &dyn Store) {
    let alert = opened(store, "a", vec![outgoing("ops", NotificationKind::Fire, 0)]).await;
    resolved(store, &alert, 1, vec![]).await;
    assert_eq!(store.prune_alerts(at(99), 9).await.unwrap(), 0);
    assert_eq!(outbox(store).await.len(), 1);
}

/// Numbers are not given again although the rows that had them are gone.
pub async fn alert_ids_grow_after_everything_was_pruned(store: &dyn Store) {
    let first = opened(store, "a", vec![]).await;
    resolved(store, &first, 1, vec![]).await;
    assert_eq!(store.prune_alerts(at(99), 9).await.unwrap(), 1);
    assert!(first.id < opened(store, "a", vec![]).await.id);
}
