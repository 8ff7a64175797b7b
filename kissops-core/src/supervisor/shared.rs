//! What all tasks of one supervisor share.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    CgroupRoot, Equip, SecretLookup, Spawn, Trees, Variables, cell::Cell, journal::Journal,
};
use crate::{
    clock,
    id::{IdMaker, InstanceName, RunId},
    logs::{Capture, LogReader},
    redact::Redactor,
    store::FleetStore,
};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn FleetStore>,
    pub(super) spawn: Arc<dyn Spawn>,
    pub(super) capture: Capture,
    pub(super) logs: LogReader,
    pub(super) trees: Trees,
    pub(super) redactor: Arc<Redactor>,
    pub(super) journal: Arc<Journal>,
    /// Every task of ours, so that a shutdown can wait for the last.
    pub(super) tasks: TaskTracker,
    /// The journal's, which ends after all that have something to write.
    pub(super) writer: TaskTracker,
    /// Places for instances that start with the fleet.
    pub(super) turns: Arc<Semaphore>,
    pub(super) start_jitter: Duration,
    /// Where notify sockets are bound.
    pub(super) notify_dir: PathBuf,
    pub(super) cgroups: Option<CgroupRoot>,
    pub(super) equip: Option<Arc<dyn Equip>>,
    /// What its processes bear in their environment.
    pub(super) fleet: Option<String>,
    /// Who knows the secrets that definitions name.
    pub(super) secrets: Option<Arc<dyn SecretLookup>>,
    /// Cancelled when the slow beat is to end.
    pub(super) watching: CancellationToken,
    variables: RwLock<Arc<Variables>>,
    cells: RwLock<BTreeMap<InstanceName, Arc<Cell>>>,
    ids: Mutex<IdMaker>,
}

pub(super) struct Parts {
    pub(super) store: Arc<dyn FleetStore>,
    pub(super) spawn: Arc<dyn Spawn>,
    pub(super) capture: Capture,
    pub(super) logs: LogReader,
    pub(super) trees: Trees,
    pub(super) redactor: Arc<Redactor>,
    pub(super) start_concurrency: usize,
    pub(super) start_jitter: Duration,
    pub(super) notify_dir: PathBuf,
    pub(super) cgroups: Option<CgroupRoot>,
    pub(super) equip: Option<Arc<dyn Equip>>,
    pub(super) fleet: Option<String>,
    pub(super) secrets: Option<Arc<dyn SecretLookup>>,
    pub(super) variables: Variables,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            journal: Arc::new(Journal::new(Arc::clone(&parts.store), Arc::clone(&parts.redactor))),
            store: parts.store,
            spawn: parts.spawn,
            capture: parts.capture,
            logs: parts.logs,
            trees: parts.trees,
            redactor: parts.redactor,
            tasks: TaskTracker::new(),
            writer: TaskTracker::new(),
            turns: Arc::new(Semaphore::new(parts.start_concurrency.max(1))),
            start_jitter: parts.start_jitter,
            notify_dir: parts.notify_dir,
            cgroups: parts.cgroups,
            equip: parts.equip,
            fleet: parts.fleet,
            secrets: parts.secrets,
            watching: CancellationToken::new(),
            variables: RwLock::new(Arc::new(parts.variables)),
            cells: RwLock::default(),
            ids: Mutex::new(IdMaker::new(random_bits())),
        }
    }

    pub(super) fn next_run(&self) -> RunId {
        RunId(self.ids.lock().unwrap_or_else(PoisonError::into_inner).next(clock::now()))
    }

    pub(super) fn variables(&self) -> Arc<Variables> {
        Arc::clone(&self.variables.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_variables(&self, variables: Variables) {
        *self.variables.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(variables);
    }

    pub(super) fn cell(&self, name: &InstanceName) -> Option<Arc<Cell>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All instances, by name.
    pub(super) fn cells(&self) -> Vec<Arc<Cell>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn insert(&self, cell: Arc<Cell>) {
        self.cells.write().unwrap_or_else(PoisonError::into_inner).insert(cell.name.clone(), cell);
    }

    /// Tells every instance who requires it.
    pub(super) fn link(&self) {
        let cells = self.cells();
        let mut dependents: BTreeMap<InstanceName, Vec<InstanceName>> = BTreeMap::new();
        for cell in &cells {
            for required in &cell.definition().requires {
                dependents.entry(required.clone()).or_default().push(cell.name.clone());
            }
        }
        for cell in cells {
            cell.set_dependents(dependents.remove(&cell.name).unwrap_or_default());
        }
    }

    /// Ends the slow beat.
    pub(super) fn stop_watching(&self) {
        self.watching.cancel();
    }

    pub(super) fn remove(&self, name: &InstanceName) {
        self.cells.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// Bits that differ from process to process and from call to call; not for secrets.
pub(super) fn random_bits() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A number from 0 to 1.
pub(super) fn random() -> f64 {
    f64::from(u32::try_from(random_bits() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
