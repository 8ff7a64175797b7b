//! [`Memory`]: a store that forgets, and fails when told to. It answers at once, so a paused clock stays where it is.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use kissops_core::{
    Error, Result, Timestamp,
    id::{InstanceName, RecordId, RunId},
    store::{
        CrashQuery, CrashRecord, CrashReport, CrashStore, EventQuery, EventRecord, EventStore,
        InstanceRecord, InstanceStore, MemberRecord, MemberStore, NewEvent, RunEnd, RunRecord,
        RunStore,
    },
};

/// The reason of an event that is never taken, nor what comes with it.
pub(super) const UNFIT: &str = "unfit";

#[derive(Debug, Default)]
pub(super) struct Memory {
    failing: AtomicBool,
    uncertain: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    instances: BTreeMap<InstanceName, InstanceRecord>,
    runs: BTreeMap<RunId, RunRecord>,
    events: Vec<EventRecord>,
    crashes: Vec<CrashRecord>,
}

impl Memory {
    /// From now on nothing is taken, or everything is again.
    pub(super) fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// The same, but it says that it does not know whether it has taken it.
    pub(super) fn lose_answers(&self, losing: bool) {
        self.uncertain.store(losing, Ordering::Relaxed);
    }

    pub(super) fn instance(&self, name: &str) -> Option<InstanceRecord> {
        self.lock().instances.get(&name.parse::<InstanceName>().unwrap()).cloned()
    }

    pub(super) fn all_events(&self) -> Vec<NewEvent> {
        self.lock().events.iter().map(|record| record.event.clone()).collect()
    }

    pub(super) fn all_crashes(&self) -> Vec<CrashReport> {
        self.lock().crashes.iter().map(|record| record.report.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(Error::unavailable("the store")("the test says so"));
        }
        if self.uncertain.load(Ordering::Relaxed) {
            let source = "the test says so".into();
            return Err(Error::Uncertain { what: "the store".into(), source });
        }
        Ok(self.lock())
    }
}

fn id(len: usize) -> RecordId {
    RecordId(i64::try_from(len).unwrap() + 1)
}

#[async_trait]
impl InstanceStore for Memory {
    async fn instances(&self) -> Result<Vec<InstanceRecord>> {
        Ok(self.open()?.instances.values().cloned().collect())
    }
    async fn put_instance(&self, record: InstanceRecord) -> Result<()> {
        self.open()?.instances.insert(record.name.clone(), record);
        Ok(())
    }
    async fn remove_instance(&self, name: &InstanceName) -> Result<()> {
        self.open()?.instances.remove(name);
        Ok(())
    }
}

#[async_trait]
impl MemberStore for Memory {
    async fn members(&self) -> Result<Vec<MemberRecord>> {
        Ok(Vec::new())
    }
    async fn add_member(&self, _member: MemberRecord) -> Result<()> {
        self.open().map(drop)
    }
    async fn remove_member(&self, _name: &InstanceName) -> Result<()> {
        self.open().map(drop)
    }
}

#[async_trait]
impl RunStore for Memory {
    async fn begin_run(&self, run: RunRecord) -> Result<()> {
        self.open()?.runs.entry(run.id).or_insert(run);
        Ok(())
    }
    async fn end_run(&self, run: RunId, end: RunEnd) -> Result<()> {
        if let Some(run) = self.open()?.runs.get_mut(&run) {
            run.end.get_or_insert(end);
        }
        Ok(())
    }
    async fn open_runs(&self) -> Result<Vec<RunRecord>> {
        Ok(self.open()?.runs.values().filter(|run| run.end.is_none()).cloned().collect())
    }
    async fn runs(&self, instance: &InstanceName, limit: u32) -> Result<Vec<RunRecord>> {
        let inner = self.open()?;
        let of = inner.runs.values().rev().filter(|run| run.instance == *instance);
        Ok(of.take(limit as usize).cloned().collect())
    }
    async fn prune_runs(&self, _before: Timestamp, _limit: u32) -> Result<u64> {
        Ok(0)
    }
}

#[async_trait]
impl EventStore for Memory {
    async fn append_events(&self, events: Vec<NewEvent>) -> Result<Vec<RecordId>> {
        let mut inner = self.open()?;
        if events.iter().any(|event| event.reason == UNFIT) {
            return Err(Error::invalid("an event", "is refused"));
        }
        let mut ids = Vec::new();
        for event in events {
            ids.push(id(inner.events.len()));
            let id = id(inner.events.len());
            inner.events.push(EventRecord { id, event });
        }
        Ok(ids)
    }
    async fn events(&self, query: EventQuery) -> Result<Vec<EventRecord>> {
        Ok(self.open()?.events.iter().rev().take(query.limit as usize).rev().cloned().collect())
    }
    async fn prune_events(&self, _before: Timestamp, _limit: u32) -> Result<u64> {
        Ok(0)
    }
}

#[async_trait]
impl CrashStore for Memory {
    async fn add_crash(&self, report: CrashReport) -> Result<RecordId> {
        let mut inner = self.open()?;
        let id = id(inner.crashes.len());
        inner.crashes.push(CrashRecord { id, report });
        Ok(id)
    }
    async fn crashes(&self, query: CrashQuery) -> Result<Vec<CrashRecord>> {
        Ok(self.open()?.crashes.iter().rev().take(query.limit as usize).cloned().collect())
    }
    async fn prune_crashes(&self, _before: Timestamp, _limit: u32) -> Result<u64> {
        Ok(0)
    }
}
