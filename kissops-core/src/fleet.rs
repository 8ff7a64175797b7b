//! A whole fleet of instances: what the control API and the command line work on.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

use crate::{
    Error, Result, Timestamp, clock,
    id::InstanceName,
    store::{Desired, EventKind, EventRecord, MemberRecord, NewEvent, Store},
    supervisor::{Definition, InstanceStatus, Signal, StateName},
};

/// What to wait for after an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Running and ready, or ended for good.
    Up,
    /// Stopped.
    Down,
    /// Up, in a run that began after the call.
    Restarted,
}

/// How a set is restarted piece by piece.
#[derive(Clone, Copy, Debug)]
pub struct Rolling {
    /// So many at once.
    pub batch: usize,
    /// The next batch waits until this one is ready.
    pub wait_ready: bool,
}

/// Whether a reload is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadMode {
    /// Only says what it would do.
    DryRun,
    /// Does it.
    Apply,
}

/// What a reload changes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// New instances.
    pub added: Vec<InstanceName>,
    /// Instances that are stopped and forgotten.
    pub removed: Vec<InstanceName>,
    /// Instances that are restarted with a new definition.
    pub changed: Vec<InstanceName>,
    /// Instances that nothing happens to.
    pub unchanged: Vec<InstanceName>,
    /// What is odd about the file.
    pub warnings: Vec<String>,
}

/// Why a reload was refused.
#[derive(Debug)]
pub enum ReloadError {
    /// The file has errors, as `kissops check` lists them.
    Invalid(serde_json::Value),
    /// Something else failed.
    Other(Error),
}

/// One process of an instance's tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its pid.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Its command, redacted.
    pub command: String,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// A handle on the fleet; clones are cheap and mean the same fleet.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started_at: Timestamp,
    definitions: BTreeMap<InstanceName, Arc<Definition>>,
    states: Mutex<BTreeMap<InstanceName, InstanceStatus>>,
    store: Arc<dyn Store>,
    log_dir: PathBuf,
    events: broadcast::Sender<Arc<EventRecord>>,
    stop: watch::Sender<Option<bool>>,
}

#[allow(clippy::pedantic, missing_docs)]
impl Fleet {
    pub fn fake(definitions: Vec<Definition>, store: Arc<dyn Store>, log_dir: &Path) -> Self {
        let states = definitions.iter().map(|d| (d.name.clone(), stopped(d))).collect();
        Self(Arc::new(Inner {
            started_at: clock::now(),
            definitions: definitions.into_iter().map(|d| (d.name.clone(), Arc::new(d))).collect(),
            states: Mutex::new(states),
            store,
            log_dir: log_dir.to_owned(),
            events: broadcast::channel(4).0,
            stop: watch::channel(None).0,
        }))
    }
    pub fn stop_requested(&self) -> watch::Receiver<Option<bool>> {
        self.0.stop.subscribe()
    }
    #[must_use]
    pub fn name(&self) -> &str {
        "fake"
    }
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        self.0.started_at
    }
    #[must_use]
    pub fn status(&self) -> Vec<InstanceStatus> {
        self.0.states.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
    pub fn definition(&self, name: &InstanceName) -> Result<Arc<Definition>> {
        self.0
            .definitions
            .get(name)
            .cloned()
            .ok_or_else(|| Error::NotFound { what: format!("instance `{name}`") })
    }
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }
    #[must_use]
    pub fn log_dir(&self) -> &Path {
        &self.0.log_dir
    }
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<EventRecord>> {
        self.0.events.subscribe()
    }
    async fn set(&self, name: &InstanceName, to: StateName, desired: Desired) -> Result<()> {
        self.definition(name)?;
        let from = {
            let mut states = self.0.states.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(state) = states.get_mut(name) else { return Ok(()) };
            let from = std::mem::replace(&mut state.state, to);
            state.desired = desired;
            state.ready = to == StateName::Running;
            state.pid = state.ready.then_some(4711);
            from
        };
        if from == to {
            return Ok(());
        }
        let event = NewEvent {
            at: clock::now(),
            instance: Some(name.clone()),
            kind: EventKind::Transition { from, to },
            reason: "asked to".to_owned(),
        };
        for id in self.0.store.append_events(vec![event.clone()]).await? {
            let _ = self.0.events.send(Arc::new(EventRecord { id, event: event.clone() }));
        }
        Ok(())
    }
    pub async fn start(&self, n: &InstanceName) -> Result<()> {
        self.set(n, StateName::Running, Desired::Running).await
    }
    pub async fn stop(&self, n: &InstanceName) -> Result<()> {
        self.set(n, StateName::Stopped, Desired::Stopped).await
    }
    pub async fn restart(&self, n: &InstanceName) -> Result<()> {
        self.set(n, StateName::Stopped, Desired::Running).await?;
        self.start(n).await
    }
    pub async fn reset(&self, n: &InstanceName) -> Result<()> {
        self.start(n).await
    }
    pub async fn signal(&self, n: &InstanceName, _: Signal) -> Result<()> {
        self.reload_signal(n).await
    }
    pub async fn reload_signal(&self, n: &InstanceName) -> Result<()> {
        self.definition(n)?;
        if self.status().iter().any(|s| s.name == *n && s.pid.is_some()) {
            return Ok(());
        }
        Err(Error::WrongState {
            what: format!("instance `{n}`"),
            state: "stopped".to_owned(),
            help: format!("start it first: kissops start {n}"),
        })
    }
    pub async fn settled(&self, n: &InstanceName, goal: Goal) -> Result<InstanceStatus> {
        loop {
            let found = self.status().into_iter().find(|s| s.name == *n);
            let status =
                found.ok_or_else(|| Error::NotFound { what: format!("instance `{n}`") })?;
            if status.ready == (goal != Goal::Down) {
                return Ok(status);
            }
            tokio::task::yield_now().await;
        }
    }
    pub async fn rolling_restart(
        &self,
        names: &[InstanceName],
        _: Rolling,
    ) -> Vec<(InstanceName, Result<()>)> {
        let mut results = Vec::new();
        for name in names {
            results.push((name.clone(), self.restart(name).await));
        }
        results
    }
    pub async fn reload_config(&self, _: ReloadMode) -> Result<Plan, ReloadError> {
        Ok(Plan { unchanged: self.0.definitions.keys().cloned().collect(), ..Plan::default() })
    }
    pub async fn add_member(&self, n: &InstanceName, vars: BTreeMap<String, String>) -> Result<()> {
        let added_at = clock::now();
        self.0.store.add_member(MemberRecord { name: n.clone(), vars, added_at }).await
    }
    pub async fn remove_member(&self, n: &InstanceName) -> Result<()> {
        self.0.store.remove_member(n).await
    }
    pub async fn processes(&self, n: &InstanceName) -> Result<Vec<ProcessInfo>> {
        self.definition(n)?;
        Ok(Vec::new())
    }
    pub fn request_stop(&self, leave_running: bool) {
        self.0.stop.send_replace(Some(leave_running));
    }
}

fn stopped(definition: &Definition) -> InstanceStatus {
    InstanceStatus {
        name: definition.name.clone(),
        state: StateName::Stopped,
        ready: false,
        desired: Desired::Stopped,
        since: clock::now(),
        reason: "not started yet".to_owned(),
        pid: None,
        uptime_seconds: None,
        restarts: 0,
        next_start_at: None,
        rss_bytes: None,
        cpu_percent: None,
        threads: None,
        processes: None,
        memory_max_bytes: None,
        status_text: None,
        last_exit: None,
        description: String::new(),
        tags: definition.tags.clone(),
    }
}
