//! Rules of [`AlertStore`](crate::store::AlertStore).

use std::collections::BTreeMap;

use super::{UNICODE, at, conflicts, is_not_found, together};
use crate::{
    Error, Timestamp,
    store::{
        Acknowledgement, AlertChange, AlertContent, AlertId, AlertKey, AlertQuery, AlertRecord,
        AlertState, NewAlert, NotificationKind, NotificationQuery, NotificationRecord, Opening,
        Outgoing, Severity, Store,
    },
};

pub(super) fn content(summary: &str) -> AlertContent {
    AlertContent {
        severity: Severity::Warning,
        source: "probe.disk".into(),
        summary: summary.into(),
        details: "92 % of /var".into(),
        labels: BTreeMap::from([("host".into(), "a".into()), ("path".into(), "/var".into())]),
        runbook: Some("https://example.org/disk".into()),
    }
}

pub(super) fn new_alert(key: &str, second: u64) -> NewAlert {
    NewAlert { key: key.into(), at: at(second), content: content("disk is full") }
}

pub(super) fn outgoing(channel: &str, kind: NotificationKind, second: u64) -> Outgoing {
    Outgoing {
        channel: channel.into(),
        kind,
        body: format!("{kind} at {second}"),
        at: at(second),
        not_before: at(second),
        deadline: None,
        fallback: Vec::new(),
    }
}

/// Opens an alert that was not open.
pub(super) async fn opened(store: &dyn Store, key: &str, outgoing: Vec<Outgoing>) -> AlertRecord {
    match store.open_alert(new_alert(key, 0), outgoing).await.unwrap() {
        Opening::New(record) => record,
        Opening::Again(record) => panic!("{record:?} was open"),
    }
}

pub(super) async fn resolved(
    store: &dyn Store,
    alert: &AlertRecord,
    second: u64,
    outgoing: Vec<Outgoing>,
) -> AlertRecord {
    let change = AlertChange::Resolve { at: at(second), why: "below 80 %".into() };
    store.change_alert(alert.id, alert.revision, change, outgoing).await.unwrap()
}

pub(super) async fn outbox(store: &dyn Store) -> Vec<NotificationRecord> {
    let query = NotificationQuery { limit: u32::MAX, ..NotificationQuery::default() };
    store.notifications(query).await.unwrap()
}

fn acknowledgement(by: &str) -> Acknowledgement {
    Acknowledgement { at: at(9), by: by.into(), note: "on it".into() }
}

pub(super) fn limit(limit: u32) -> AlertQuery {
    AlertQuery { limit, ..AlertQuery::default() }
}

pub(super) fn keys(alerts: &[AlertRecord]) -> Vec<&str> {
    alerts.iter().map(|alert| alert.key.as_str()).collect()
}

pub(super) async fn find(store: &dyn Store, query: AlertQuery) -> Vec<AlertRecord> {
    store.alerts(query).await.unwrap()
}

/// Empty lists, not errors.
pub async fn a_new_store_has_no_alerts(store: &dyn Store) {
    assert_eq!(store.open_alerts().await.unwrap(), []);
    assert_eq!(find(store, limit(9)).await, []);
    assert_eq!(store.unheard_alerts(9).await.unwrap(), []);
}

/// Every field is kept, in the answer and in each list.
pub async fn an_alert_comes_back_as_opened(store: &dyn Store) {
    let alert = opened(store, "disk/var", vec![]).await;
    let expected = AlertRecord {
        id: alert.id,
        key: AlertKey::from("disk/var"),
        revision: 1,
        content: content("disk is full"),
        started_at: at(0),
        last_at: at(0),
        occurrences: 1,
        state: AlertState::Firing,
    };
    assert_eq!(alert, expected);
    assert_eq!(store.alert(alert.id).await.unwrap(), expected);
    assert_eq!(store.open_alerts().await.unwrap(), std::slice::from_ref(&expected));
    assert_eq!(find(store, limit(9)).await, [expected]);
}

/// In each of its parts.
pub async fn alert_text_is_unicode(store: &dyn Store) {
    let content = AlertContent {
        severity: Severity::Critical,
        source: UNICODE.into(),
        summary: UNICODE.into(),
        details: UNICODE.into(),
        labels: BTreeMap::from([(UNICODE.into(), UNICODE.into()), (String::new(), String::new())]),
        runbook: Some(UNICODE.into()),
    };
    let alert = NewAlert { key: UNICODE.into(), at: at(0), content: content.clone() };
    store.open_alert(alert, vec![]).await.unwrap();
    let found = store.open_alerts().await.unwrap().pop().unwrap();
    assert_eq!((found.key.as_str(), found.content), (UNICODE, content));
}

/// No runbook is not an empty one.
pub async fn an_alert_may_lack_runbook_and_labels(store: &dyn Store) {
    for (key, runbook) in [("a", None), ("b", Some(String::new()))] {
        let bare = AlertContent { labels: BTreeMap::new(), runbook, ..content("x") };
        let alert = NewAlert { content: bare.clone(), ..new_alert(key, 0) };
        let Opening::New(record) = store.open_alert(alert, vec![]).await.unwrap() else {
            panic!("{key} was open")
        };
        assert_eq!(store.alert(record.id).await.unwrap().content, bare);
    }
}

/// Each of them.
pub async fn every_severity_comes_back(store: &dyn Store) {
    for severity in Severity::ALL {
        let content = AlertContent { severity: *severity, ..content("x") };
        let alert = NewAlert { content, ..new_alert(severity.as_str(), 0) };
        store.open_alert(alert, vec![]).await.unwrap();
    }
    let found: Vec<_> =
        store.open_alerts().await.unwrap().iter().map(|alert| alert.content.severity).collect();
    assert_eq!(found, Severity::ALL);
}

/// To the microsecond: start, last firing, acknowledgement and end.
pub async fn alert_times_keep_microseconds(store: &dyn Store) {
    let time = |us: i64| Timestamp(1_790_000_000_123_450 + us);
    let alert = |at| NewAlert { at, ..new_alert("a", 0) };
    store.open_alert(alert(time(1)), vec![]).await.unwrap();
    store.open_alert(alert(time(2)), vec![]).await.unwrap();
    let open = store.open_alerts().await.unwrap().pop().unwrap();
    assert_eq!((open.started_at, open.last_at), (time(1), time(2)));
    let acknowledged = Acknowledgement { at: time(3), ..acknowledgement("ann") };
    let change = AlertChange::Acknowledge(acknowledged.clone());
    store.change_alert(open.id, 1, change, vec![]).await.unwrap();
    let change = AlertChange::Resolve { at: time(4), why: String::new() };
    let end = store.change_alert(open.id, 2, change, vec![]).await.unwrap();
    let state =
        AlertState::Resolved { at: time(4), why: String::new(), acknowledged: Some(acknowledged) };
    assert_eq!(end.state, state);
}

/// It is counted, nothing else: neither its start nor what it says changes.
pub async fn an_open_alert_that_fires_again_is_counted(store: &dyn Store) {
    let first = opened(store, "a", vec![]).await;
    let again = NewAlert { content: content("other words"), ..new_alert("a", 5) };
    let expected = AlertRecord { occurrences: 2, last_at: at(5), ..first };
    assert_eq!(store.open_alert(again, vec![]).await.unwrap(), Opening::Again(expected.clone()));
    assert_eq!(store.open_alerts().await.unwrap(), [expected]);
}

/// Whatever the order in which firings arrive.
pub async fn the_last_firing_never_moves_back(store: &dyn Store) {
    for second in [5, 9, 2] {
        store.open_alert(new_alert("a", second), vec![]).await.unwrap();
    }
    let found = store.open_alerts().await.unwrap().pop().unwrap();
    assert_eq!((found.started_at, found.last_at, found.occurrences), (at(5), at(9), 3));
}

/// One incident, however many notice at once, and its notifications once.
pub async fn an_alert_that_fires_at_many_places_at_once_opens_one_incident(store: &dyn Store) {
    let calls = (0..20).map(|i| {
        store.open_alert(new_alert("a", i), vec![outgoing("ops", NotificationKind::Fire, i)])
    });
    let openings: Vec<_> = together(calls).await.into_iter().map(Result::unwrap).collect();
    let new = openings.iter().filter(|opening| matches!(opening, Opening::New(_))).count();
    assert_eq!(new, 1);
    let open = store.open_alerts().await.unwrap();
    assert_eq!((open.len(), open[0].occurrences), (1, 20));
    assert_eq!(outbox(store).await.len(), 1);
}

/// Keys are compared exactly.
pub async fn alerts_of_other_keys_are_other_incidents(store: &dyn Store) {
    for key in ["a", "A", "a ", "", "b"] {
        opened(store, key, vec![]).await;
    }
    assert_eq!(keys(&store.open_alerts().await.unwrap()), ["a", "A", "a ", "", "b"]);
}

/// With a larger number and a revision of its own.
pub async fn a_resolved_alert_that_fires_again_is_a_new_incident(store: &dyn Store) {
    let first = opened(store, "a", vec![]).await;
    let first = resolved(store, &first, 3, vec![]).await;
    let second = opened(store, "a", vec![]).await;
    assert!(first.id < second.id);
    assert_eq!((second.revision, second.occurrences), (1, 1));
    assert_eq!(find(store, limit(9)).await, [second, first]);
}

/// What it says changes, not since when; the revision grows.
pub async fn an_update_changes_what_an_alert_says(store: &dyn Store) {
    let alert = opened(store, "a", vec![]).await;
    let worse = AlertContent {
        severity: Severity::Critical,
        labels: BTreeMap::new(),
        runbook: None,
        ..content("worse")
    };
    let change = AlertChange::Update(worse.clone());
    let changed = store.change_alert(alert.id, 1, change, vec![]).await.unwrap();
    assert_eq!(changed, AlertRecord { revision: 2, content: worse, ..alert.clone() });
    assert_eq!(store.alert(alert.id).await.unwrap(), changed);
}

/// With who, when and what they said; a later one takes its place.
pub async fn an_acknowledgement_comes_back(store: &dyn Store) {
    let mut alert = opened(store, "a", vec![]).await;
    for by in ["ann", UNICODE] {
        let change = AlertChange::Acknowledge(acknowledgement(by));
        alert = store.change_alert(alert.id, alert.revision, change, vec![]).await.unwrap();
        assert_eq!(alert.state, AlertState::Acknowledged(acknowledgement(by)));
    }
    assert_eq!(store.open_alerts().await.unwrap(), [alert]);
}

/// It is over, but its history says who took care of it.
pub async fn a_resolved_alert_keeps_its_acknowledgement(store: &dyn Store) {
    let alert = opened(store, "a", vec![]).await;
    let change = AlertChange::Acknowledge(acknowledgement("ann"));
    let alert = store.change_alert(alert.id, 1, change, vec![]).await.unwrap();
    let alert = resolved(store, &alert, 20, vec![]).await;
    let state = AlertState::Resolved {
        at: at(20),
        why: "below 80 %".into(),
        acknowledged: Some(acknowledgement("ann")),
    };
    assert_eq!((alert.revision, &alert.state), (3, &state));
    assert_eq!(store.open_alerts().await.unwrap(), []);
    assert_eq!(store.alert(alert.id).await.unwrap(), alert);
}

/// Not found, and no notification of it.
pub async fn an_unknown_alert_cannot_be_changed(store: &dyn Store) {
    let change = AlertChange::Resolve { at: at(1), why: String::new() };
    let out = vec![outgoing("ops", NotificationKind::Resolve, 1)];
    is_not_found(store.change_alert(AlertId(77), 1, change, out).await);
    is_not_found(store.alert(AlertId(77)).await);
    assert_eq!(outbox(store).await, []);
}

/// Neither once more, nor in any other way.
pub async fn a_resolved_alert_cannot_be_changed(store: &dyn Store) {
    let alert = opened(store, "a", vec![]).await;
    let alert = resolved(store, &alert, 3, vec![]).await;
    for change in [
        AlertChange::Resolve { at: at(4), why: "again".into() },
        AlertChange::Acknowledge(acknowledgement("ann")),
        AlertChange::Update(content("later")),
    ] {
        conflicts(store.change_alert(alert.id, alert.revision, change, vec![]).await);
    }
    assert_eq!(store.alert(alert.id).await.unwrap(), alert);
}

/// A decision on what was there before is refused.
pub async fn a_change_of_an_old_revision_conflicts(store: &dyn Store) {
    let alert = opened(store, "a", vec![]).await;
    let change = || AlertChange::Acknowledge(acknowledgement("ann"));
    store.change_alert(alert.id, 1, change(), vec![]).await.unwrap();
    for revision in [0, 1, 3, u32::MAX] {
        conflicts(store.change_alert(alert.id, revision, change(), vec![]).await);
    }
    assert_eq!(store.alert(alert.id).await.unwrap().revision, 2);
}

/// Firing again is no decision that would make another one stale.
pub async fn firing_again_does_not_disturb_a_change(store: &dyn Store) {
    let alert = opened(store, "a", vec![]).await;
    store.open_alert(new_alert("a", 4), vec![]).await.unwrap();
    let alert = resolved(store, &alert, 5, vec![]).await;
    assert_eq!((alert.revision, alert.occurrences), (2, 2));
}

/// Of changes made at once on one revision the first wins, the others are told.
pub async fn concurrent_changes_of_one_revision_admit_one(store: &dyn Store) {
    let alert = opened(store, "a", vec![]).await;
    let calls = (0..12).map(|i| {
        let change = if i % 2 == 0 {
            AlertChange::Acknowledge(acknowledgement(&i.to_string()))
        } else {
            AlertChange::Update(content(&i.to_string()))
        };
        let out = vec![outgoing("ops", NotificationKind::Update, i)];
        store.change_alert(alert.id, 1, change, out)
    });
    let (won, lost): (Vec<_>, Vec<_>) = together(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 11));
    assert!(lost.iter().all(|one| matches!(one, Err(Error::Conflict { .. }))), "{lost:?}");
    assert_eq!(store.alert(alert.id).await.unwrap().revision, 2);
    assert_eq!(outbox(store).await.len(), 1);
}

/// Retried on what is there then, each change is made: none is lost.
pub async fn concurrent_changes_that_read_again_are_all_made(store: &dyn Store) {
    let id = opened(store, "a", vec![]).await.id;
    let calls = (0..8).map(|i: u32| async move {
        loop {
            let revision = store.alert(id).await.unwrap().revision;
            let change = AlertChange::Update(content(&i.to_string()));
            match store.change_alert(id, revision, change, vec![]).await {
                Ok(_) => return,
                Err(err) => assert!(matches!(err, Error::Conflict { .. }), "{err:?}"),
            }
        }
    });
    together(calls).await;
    assert_eq!(store.alert(id).await.unwrap().revision, 9);
}

/// They tell which alert and which revision of it.
pub async fn opening_an_alert_queues_its_notifications(store: &dyn Store) {
    let out: Vec<_> =
        ["ops", "pager"].map(|channel| outgoing(channel, NotificationKind::Fire, 0)).into();
    let alert = opened(store, "a", out.clone()).await;
    let mut found = outbox(store).await;
    found.reverse();
    for (record, expected) in found.iter().zip(&out) {
        assert_eq!((record.alert, record.revision), (Some(alert.id), 1));
        assert_eq!(record.outgoing, *expected);
    }
    assert_eq!(found.len(), 2);
}

/// They were queued when it opened.
pub async fn firing_again_queues_nothing(store: &dyn Store) {
    let out = || vec![outgoing("ops", NotificationKind::Fire, 0)];
    opened(store, "a", out()).await;
    store.open_alert(new_alert("a", 1), out()).await.unwrap();
    assert_eq!(outbox(store).await.len(), 1);
}

/// With the revision that the change made.
pub async fn a_change_queues_its_notifications(store: &dyn Store) {
    let alert = opened(store, "a", vec![]).await;
    let out = vec![outgoing("ops", NotificationKind::Resolve, 3)];
    resolved(store, &alert, 3, out.clone()).await;
    let found = outbox(store).await;
    let found: Vec<_> = found.iter().map(|one| (one.alert, one.revision, &one.outgoing)).collect();
    assert_eq!(found, [(Some(alert.id), 2, &out[0])]);
}

/// A change that is refused tells nobody.
pub async fn a_refused_change_queues_nothing(store: &dyn Store) {
    let alert = opened(store, "a", vec![]).await;
    let change = AlertChange::Resolve { at: at(1), why: String::new() };
    let out = vec![outgoing("ops", NotificationKind::Resolve, 1)];
    store.change_alert(alert.id, 9, change, out).await.unwrap_err();
    assert_eq!(outbox(store).await, []);
    assert_eq!(store.alert(alert.id).await.unwrap(), alert);
}
