//! STO-10 for what watches and keeps the fleet: something in every table goes to a server and back, and is the same.

use std::{path::Path, time::Duration};

use kissops_core::{
    Timestamp,
    store::{
        self, Acknowledgement, AlertChange, AlertContent, AlertQuery, Archive, BackupCopy,
        BackupCopyState, BackupEnd, BackupId, BackupKind, BackupQuery, ChannelFailure, Claimant,
        DeliveryOutcome, DrillEnd, DrillOutcome, DrillQuery, HistoryQuery, JobCause, JobDue,
        JobEnd, JobOutcome, JobRunQuery, MatchKind, Matcher, NewAlert, NewBackup, NewDrill,
        NewSilence, NotificationKind, NotificationQuery, Opening, Outgoing, Overlap, ProbeResult,
        ProbeStatus, RateBucket, RollUpSpan, Severity, Store, StoreOptions, StoreUrl,
    },
};

use crate::postgres::scratch_database;

const ODD: &str = "naïve 🦀 \t\n\\N \\. \"'`\u{feff} end";
const AT: Timestamp = Timestamp(1_790_000_000_000_001);

fn claimant() -> Claimant {
    Claimant { name: ODD.into(), ttl: Duration::from_mins(10) }
}

fn outgoing(kind: NotificationKind) -> Outgoing {
    Outgoing {
        channel: ODD.into(),
        kind,
        body: ODD.into(),
        at: AT,
        not_before: AT,
        deadline: Some(AT),
        fallback: vec![ODD.into()],
    }
}

/// Notifications in every state, and the alerts, channels and silences around them.
async fn fill_alerts(store: &dyn Store) {
    let content = |severity| AlertContent {
        severity,
        source: ODD.into(),
        summary: ODD.into(),
        details: String::new(),
        labels: [(ODD.into(), String::new())].into(),
        runbook: None,
    };
    let alert = NewAlert { key: ODD.into(), at: AT, content: content(Severity::Critical) };
    let fires = vec![outgoing(NotificationKind::Fire), outgoing(NotificationKind::Update)];
    let Opening::New(alert) = store.open_alert(alert, fires).await.unwrap() else {
        panic!("it was open")
    };
    let told = store.claim_notifications(&ODD.into(), &claimant(), AT, 1).await.unwrap();
    let outcome = DeliveryOutcome::Delivered { at: AT, remote: Some(ODD.into()) };
    let next = vec![outgoing(NotificationKind::Digest), outgoing(NotificationKind::Resolve)];
    store.answer_notification(told[0].claim(), outcome, next).await.unwrap();
    let ack = Acknowledgement { at: AT, by: ODD.into(), note: String::new() };
    store.change_alert(alert.id, 1, AlertChange::Acknowledge(ack), vec![]).await.unwrap();
    let end = AlertChange::Resolve { at: AT, why: ODD.into() };
    store.change_alert(alert.id, 2, end, vec![]).await.unwrap();
    store.enqueue(None, vec![outgoing(NotificationKind::Fire)]).await.unwrap();
    let told = store.claim_notifications(&ODD.into(), &claimant(), AT, 1).await.unwrap();
    let outcome = DeliveryOutcome::Dead { at: AT, why: ODD.into() };
    store.answer_notification(told[0].claim(), outcome, vec![]).await.unwrap();

    let failure = ChannelFailure { at: AT, why: ODD.into() };
    store.disable_channel(&ODD.into(), failure, AT).await.unwrap();
    let bucket = RateBucket { name: ODD.into(), capacity: u32::MAX, remaining: 0, resets_at: AT };
    store.note_rate_bucket(&ODD.into(), bucket).await.unwrap();
    let silence = NewSilence {
        matchers: vec![Matcher { label: ODD.into(), kind: MatchKind::Matches, value: ODD.into() }],
        author: ODD.into(),
        reason: ODD.into(),
        at: AT,
        starts_at: AT,
        ends_at: Timestamp(i64::MAX),
    };
    store.add_silence(silence).await.unwrap();
}

/// A base that was changed after its child came: where a server keeps it behind the child.
async fn fill_backups(store: &dyn Store) {
    let mut parent: Option<BackupId> = None;
    for name in ["base", "child", "grandchild"] {
        let backup = NewBackup {
            name: name.into(),
            plan: ODD.into(),
            kind: BackupKind::Incremental,
            parent,
            host: ODD.into(),
            program: ODD.into(),
            started_at: AT,
        };
        let id = store.begin_backup(backup, &claimant()).await.unwrap();
        let archive = Archive {
            ended_at: AT,
            plain_bytes: u64::MAX,
            stored_bytes: 1 << 63,
            hash: ODD.into(),
            key_id: None,
            counts: [(ODD.to_owned(), u64::MAX)].into(),
            rpo: Some(Duration::from_micros(1)),
        };
        let state = BackupCopyState::Stored { at: AT, bytes: u64::MAX, location: ODD.into() };
        let copies = vec![BackupCopy { sink: ODD.into(), state }];
        store.end_backup(id, BackupEnd::Ok(archive), Some(ODD.into()), copies).await.unwrap();
        if let Some(parent) = parent {
            store.suspect_backup(parent, ODD).await.unwrap();
        }
        parent = Some(id);
    }
    let drill = NewDrill { plan: ODD.into(), backup: parent.unwrap(), started_at: AT };
    let drill = store.begin_drill(drill, &claimant()).await.unwrap();
    let outcome = DrillOutcome::Failed { why: ODD.into() };
    let end = DrillEnd { at: AT, outcome, rpo: None, rto: Some(Duration::ZERO), checks: vec![] };
    store.end_drill(drill, end).await.unwrap();
}

async fn fill_the_rest(store: &dyn Store) {
    store.put_job(&ODD.into(), u64::MAX, AT).await.unwrap();
    for (at, outcome) in
        [JobOutcome::Lost, JobOutcome::Failed { why: ODD.into() }].into_iter().enumerate()
    {
        let due = Timestamp(AT.0 + i64::try_from(at).unwrap());
        let due = JobDue { job: ODD.into(), due, cause: JobCause::Schedule };
        let run = store.claim_job(due, Overlap::Allow, &claimant(), AT).await.unwrap();
        let end = JobEnd { at: AT, outcome, output: ODD.into() };
        store.end_job(run.claim(), end).await.unwrap();
    }
    let values = [Some(0.1), Some(5e-324), Some(-1.797e308), Some(3.0), None];
    let results = (0..).zip(values).map(|(at, value)| ProbeResult {
        probe: "p".into(),
        at: Timestamp(AT.0 + at),
        status: ProbeStatus::Warn,
        value,
        unit: ODD.into(),
        message: ODD.into(),
        details: [(ODD.to_owned(), String::new())].into(),
        took: Duration::from_micros(7),
    });
    store.record_results(results.collect()).await.unwrap();
    store.roll_up(AT, Timestamp(AT.0 + 9)).await.unwrap();
}

/// All that the traits show.
async fn contents(store: &dyn Store) -> String {
    let alerts = AlertQuery { limit: 99, ..AlertQuery::default() };
    let notifications = NotificationQuery { limit: 99, ..NotificationQuery::default() };
    let backups = BackupQuery { limit: 99, ..BackupQuery::default() };
    let backups = store.backups(backups).await.unwrap();
    let manifest = store.backup_manifest(backups[0].id).await.unwrap();
    let history = || HistoryQuery {
        probe: "p".into(),
        since: Timestamp(0),
        until: Timestamp(i64::MAX),
        limit: 99,
    };
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {backups:?} {manifest:?} {:?} {:?} {:?} {:?} {:?}",
        store.alerts(alerts).await.unwrap(),
        store.notifications(notifications).await.unwrap(),
        store.channels().await.unwrap(),
        store.rate_buckets(&ODD.into()).await.unwrap(),
        store.silences(None, 99).await.unwrap(),
        store.jobs().await.unwrap(),
        store.job_runs(JobRunQuery { limit: 99, ..JobRunQuery::default() }).await.unwrap(),
        store.drills(DrillQuery { limit: 99, ..DrillQuery::default() }).await.unwrap(),
        store.latest_results().await.unwrap(),
        store.samples(history()).await.unwrap(),
        store.roll_ups(RollUpSpan::Minute, history()).await.unwrap(),
        store.roll_ups(RollUpSpan::Hour, history()).await.unwrap(),
    )
}

#[tokio::test]
async fn what_watches_the_fleet_goes_to_a_server_and_back() {
    let Some(database) = scratch_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| StoreUrl::Sqlite(folder.path().join(name));
    let (first, last) = (file("a.db"), file("b.db"));
    let middle = StoreUrl::parse(database.url(), Path::new("/")).unwrap();
    let open = async |url: &StoreUrl| store::open(url, StoreOptions::default()).await.unwrap();
    let before = {
        let store = open(&first).await;
        fill_alerts(&*store).await;
        fill_backups(&*store).await;
        fill_the_rest(&*store).await;
        contents(&*store).await
    };
    let there = store::copy(&first, &middle, |_| {}).await.unwrap();
    {
        let store = open(&middle).await;
        assert_eq!(contents(&*store).await, before);
        // The server writes a changed row behind the others: the base comes after its children then.
        let base = store.backup_named(&"base".into()).await.unwrap().unwrap();
        store.suspect_backup(base.id, "changed").await.unwrap();
        store.suspect_backup(base.id, ODD).await.unwrap();
    }
    let back = store::copy(&middle, &last, |_| {}).await.unwrap();
    assert_eq!(contents(&*open(&last).await).await, before);
    assert_eq!(back.tables, there.tables);
    for name in [
        "alerts",
        "notifications",
        "channels",
        "channel_buckets",
        "silences",
        "jobs",
        "job_runs",
        "backups",
        "backup_copies",
        "drills",
        "probe_latest",
        "probe_samples",
        "probe_roll_ups",
    ] {
        let table = there.tables.iter().find(|table| table.name == name).unwrap();
        assert!(table.rows > 0, "{name} was not filled");
    }
}
