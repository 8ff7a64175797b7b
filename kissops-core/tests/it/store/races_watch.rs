//! What happens on Postgres when a notification is queued or revived while its alert, or itself, is removed.

use std::{sync::Arc, time::Duration};

use super::races::Pair;
use kissops_core::{
    Error, Timestamp,
    store::{
        AlertChange, AlertContent, AlertId, AlertStore as _, Claimant, DeliveryOutcome, NewAlert,
        NotificationId, NotificationKind, NotificationQuery, Opening, OutboxStore as _, Outgoing,
        Severity, postgres::PostgresStore,
    },
};

const AT: Timestamp = Timestamp(1_790_000_000_000_000);
const LATER: Timestamp = Timestamp(1_790_000_009_000_000);

fn fire() -> Outgoing {
    Outgoing {
        channel: "ops".into(),
        kind: NotificationKind::Fire,
        body: "x".into(),
        at: AT,
        not_before: AT,
        deadline: None,
        fallback: Vec::new(),
    }
}

/// An alert that is over, with a notification that could not be sent.
async fn unheard(store: &PostgresStore) -> (AlertId, NotificationId) {
    let content = AlertContent {
        severity: Severity::Critical,
        source: "test".into(),
        summary: "x".into(),
        details: String::new(),
        labels: [].into(),
        runbook: None,
    };
    let new = NewAlert { key: "a".into(), content, at: AT };
    let opening = store.open_alert(new, vec![fire()]).await.unwrap();
    let Opening::New(alert) = opening else { panic!("{opening:?}") };
    let resolve = AlertChange::Resolve { at: AT, why: "over".into() };
    store.change_alert(alert.id, alert.revision, resolve, vec![]).await.unwrap();
    let by = Claimant { name: "w".into(), ttl: Duration::from_mins(10) };
    let claimed = store.claim_notifications(&"ops".into(), &by, AT, 1).await.unwrap();
    let dead = DeliveryOutcome::Dead { at: AT, why: "404".into() };
    store.answer_notification(claimed[0].claim(), dead, vec![]).await.unwrap();
    (alert.id, claimed[0].id)
}

async fn unsent(store: &PostgresStore) -> usize {
    let query = NotificationQuery { limit: 9, ..NotificationQuery::default() };
    let all = store.notifications(query).await.unwrap();
    all.iter().filter(|one| one.delivery == kissops_core::store::Delivery::Pending).count()
}

#[tokio::test]
async fn a_notification_that_is_revived_meanwhile_is_not_pruned() {
    let Some(mut pair) = Pair::new().await else { return };
    unheard(&pair.store).await;
    let revive = "UPDATE notifications SET state = 'pending', ended_at = NULL";
    let prune = async |store: Arc<PostgresStore>| store.prune_notifications(LATER, 9).await;
    assert_eq!(pair.race(revive, prune).await.unwrap(), 0);
    assert_eq!(unsent(&pair.store).await, 1);
}

#[tokio::test]
async fn an_alert_is_not_pruned_under_what_is_queued_meanwhile() {
    let Some(mut pair) = Pair::new().await else { return };
    let (alert, _) = unheard(&pair.store).await;
    // As `enqueue` does it.
    let queue = format!(
        "INSERT INTO notifications (id, alert, revision, channel, kind, body, created_at, not_before, fallback, state, attempts)
         SELECT 99, a.id, a.revision, 'ops', 'update', '', 1, 1, '[]', 'pending', 0 FROM alerts a WHERE a.id = {alert} FOR SHARE"
    );
    let prune = async |store: Arc<PostgresStore>| store.prune_alerts(LATER, 9).await;
    assert_eq!(pair.race(&queue, prune).await.unwrap(), 0);
    assert_eq!(unsent(&pair.store).await, 1);
}

#[tokio::test]
async fn an_alert_is_not_pruned_under_what_is_revived_meanwhile() {
    let Some(mut pair) = Pair::new().await else { return };
    unheard(&pair.store).await;
    // As `revive_notification` does it.
    let revive = "SELECT 1 FROM alerts FOR SHARE;
        UPDATE notifications SET state = 'pending', ended_at = NULL";
    let prune = async |store: Arc<PostgresStore>| store.prune_alerts(LATER, 9).await;
    assert_eq!(pair.race(revive, prune).await.unwrap(), 0);
    assert_eq!(unsent(&pair.store).await, 1);
}

#[tokio::test]
async fn what_is_queued_for_an_alert_that_is_pruned_meanwhile_is_refused() {
    let Some(mut pair) = Pair::new().await else { return };
    let (alert, _) = unheard(&pair.store).await;
    let queue = async move |store: Arc<PostgresStore>| {
        store.enqueue(Some(alert), vec![fire()]).await.map(drop)
    };
    let answer = pair.race("DELETE FROM alerts", queue).await;
    assert!(matches!(answer, Err(Error::NotFound { .. })), "{answer:?}");
}

#[tokio::test]
async fn what_is_revived_of_an_alert_that_is_pruned_meanwhile_is_not_found() {
    let Some(mut pair) = Pair::new().await else { return };
    let (_, id) = unheard(&pair.store).await;
    let revive = async move |store: Arc<PostgresStore>| store.revive_notification(id, LATER).await;
    // The alert is locked before anything else is done about it.
    let prune = "SELECT 1 FROM alerts FOR UPDATE; DELETE FROM alerts";
    let answer = pair.race(prune, revive).await;
    assert!(matches!(answer, Err(Error::NotFound { .. })), "{answer:?}");
}
