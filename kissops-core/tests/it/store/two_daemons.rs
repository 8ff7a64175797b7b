//! Two daemons on one database, each with a store of its own: what only one may do is done by one.

use std::{any::Any, collections::HashSet, path::Path, sync::Arc, time::Duration};

use kissops_core::{
    Error, Timestamp,
    store::{
        self, AlertContent, BackupKind, Claimant, JobCause, JobDue, NewAlert, NewBackup,
        NotificationKind, NotificationQuery, Opening, Outgoing, Overlap, Severity, Store,
        StoreOptions, StoreUrl,
    },
};

use crate::postgres::scratch_database;

struct Daemons {
    stores: [Arc<dyn Store>; 2],
    _kept: Box<dyn Any>,
}

async fn daemons(url: &StoreUrl, kept: impl Any) -> Daemons {
    let open = || store::open(url, StoreOptions::default());
    let stores = [open().await.unwrap(), open().await.unwrap()];
    Daemons { stores, _kept: Box::new(kept) }
}

async fn on_a_file() -> Option<Daemons> {
    let folder = tempfile::tempdir().unwrap();
    let url = StoreUrl::Sqlite(folder.path().join("kissops.db"));
    Some(daemons(&url, folder).await)
}

async fn on_a_server() -> Option<Daemons> {
    let database = scratch_database().await?;
    let url = StoreUrl::parse(database.url(), Path::new("/")).unwrap();
    Some(daemons(&url, database).await)
}

macro_rules! on_both {
    ($($rule:ident)*) => {
        mod file { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                if let Some(daemons) = super::on_a_file().await { super::$rule(&daemons).await; }
            }
        )* }
        mod server { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                if let Some(daemons) = super::on_a_server().await { super::$rule(&daemons).await; }
            }
        )* }
    };
}

on_both! {
    each_notification_goes_to_one_worker
    each_due_time_runs_once
    each_alert_opens_once
    each_plan_makes_one_backup
}

/// Runs `work` at the same time `workers` times on each daemon, and gives what all of them gave.
async fn at_once<T, F>(
    daemons: &Daemons,
    workers: usize,
    work: impl Fn(Arc<dyn Store>, String) -> F,
) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = Vec<T>> + Send + 'static,
{
    let mut tasks = tokio::task::JoinSet::new();
    for (at, store) in daemons.stores.iter().enumerate() {
        for worker in 0..workers {
            tasks.spawn(work(Arc::clone(store), format!("{at}.{worker}")));
        }
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

fn claimant(name: &str) -> Claimant {
    Claimant { name: name.into(), ttl: Duration::from_mins(10) }
}

fn fire(at: i64) -> Outgoing {
    Outgoing {
        channel: "ops".into(),
        kind: NotificationKind::Fire,
        body: "x".into(),
        at: Timestamp(at),
        not_before: Timestamp(at),
        deadline: None,
        fallback: Vec::new(),
    }
}

async fn each_notification_goes_to_one_worker(daemons: &Daemons) {
    let queued = daemons.stores[0].enqueue(None, (0..200).map(fire).collect()).await.unwrap();
    let mut claimed = at_once(daemons, 3, |store, name| async move {
        let (by, mut mine) = (claimant(&name), Vec::new());
        loop {
            let found =
                store.claim_notifications(&"ops".into(), &by, Timestamp(999), 7).await.unwrap();
            mine.extend(found.iter().map(|one| one.id));
            if found.is_empty() || mine.len() > 200 {
                return mine;
            }
        }
    })
    .await;
    claimed.sort_unstable();
    assert_eq!(claimed, queued);
}

async fn each_due_time_runs_once(daemons: &Daemons) {
    let runs = at_once(daemons, 2, |store, name| async move {
        let (by, mut mine) = (claimant(&name), Vec::new());
        for due in (0..50).map(Timestamp) {
            let run = JobDue { job: "a".into(), due, cause: JobCause::Schedule };
            match store.claim_job(run, Overlap::Allow, &by, due).await {
                Ok(run) => mine.push(run.due.due),
                Err(err) => assert!(matches!(err, Error::Conflict { .. }), "{err:?}"),
            }
        }
        mine
    })
    .await;
    let unique: HashSet<_> = runs.iter().collect();
    assert_eq!((runs.len(), unique.len()), (50, 50));
}

async fn each_alert_opens_once(daemons: &Daemons) {
    let new = at_once(daemons, 2, |store, _| async move {
        let mut mine = Vec::new();
        for at in 0..30 {
            let content = AlertContent {
                severity: Severity::Critical,
                source: "test".into(),
                summary: "x".into(),
                details: String::new(),
                labels: [].into(),
                runbook: None,
            };
            let key = format!("alert {at}").as_str().into();
            let alert = NewAlert { key, at: Timestamp(at), content };
            let opening = store.open_alert(alert, vec![fire(at)]).await.unwrap();
            if let Opening::New(record) = opening {
                mine.push(record.id);
            }
        }
        mine
    })
    .await;
    assert_eq!(new.len(), 30);
    let open = daemons.stores[1].open_alerts().await.unwrap();
    assert!(open.iter().all(|alert| alert.occurrences == 4), "{open:?}");
    let query = NotificationQuery { limit: 999, ..NotificationQuery::default() };
    assert_eq!(daemons.stores[1].notifications(query).await.unwrap().len(), 30);
}

async fn each_plan_makes_one_backup(daemons: &Daemons) {
    let begun = at_once(daemons, 2, |store, name| async move {
        let (by, mut mine) = (claimant(&name), Vec::new());
        for plan in 0..25 {
            let backup = NewBackup {
                name: format!("{plan} by {name}").as_str().into(),
                plan: plan.to_string().as_str().into(),
                kind: BackupKind::Full,
                parent: None,
                host: name.clone(),
                program: "test".into(),
                started_at: Timestamp(1),
            };
            match store.begin_backup(backup, &by).await {
                Ok(_) => mine.push(plan),
                Err(err) => assert!(matches!(err, Error::Conflict { .. }), "{err:?}"),
            }
        }
        mine
    })
    .await;
    let unique: HashSet<_> = begun.iter().collect();
    assert_eq!((begun.len(), unique.len()), (25, 25));
}
