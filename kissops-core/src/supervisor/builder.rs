//! Putting a [`Supervisor`] together.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    CgroupRoot, DirectSpawn, Equip, SecretLookup, Spawn, Supervisor, Trees, Variables,
    shared::{Parts, Shared, random_bits},
};
use crate::{
    Error, Result,
    config::Environment,
    logs::{Capture, CaptureOptions, LogReader},
    redact::Redactor,
    store::FleetStore,
};

/// Most instances that start at once, unless told otherwise.
const START_CONCURRENCY: usize = 20;

/// Puts a [`Supervisor`] together; from [`Supervisor::builder`]. Only [`build`](Self::build) can fail.
#[derive(Debug)]
#[must_use]
pub struct SupervisorBuilder {
    store: Arc<dyn FleetStore>,
    spawn: Option<Arc<dyn Spawn>>,
    redactor: Arc<Redactor>,
    capture: Option<CaptureOptions>,
    runtime_dir: Option<PathBuf>,
    cgroups: Option<CgroupRoot>,
    equip: Option<Arc<dyn Equip>>,
    start_concurrency: usize,
    start_jitter: Duration,
    variables: Option<Variables>,
    fleet: Option<String>,
    secrets: Option<Arc<dyn SecretLookup>>,
}

impl SupervisorBuilder {
    pub(super) fn new(store: Arc<dyn FleetStore>) -> Self {
        Self {
            store,
            spawn: None,
            redactor: Arc::default(),
            capture: None,
            runtime_dir: None,
            cgroups: None,
            equip: None,
            start_concurrency: START_CONCURRENCY,
            start_jitter: Duration::ZERO,
            variables: None,
            fleet: None,
            secrets: None,
        }
    }

    /// Who starts processes. Without it they are children of this process, and end with it.
    pub fn spawn(mut self, spawn: Arc<dyn Spawn>) -> Self {
        self.spawn = Some(spawn);
        self
    }

    /// How output is captured. Without it: into `logs` in the working directory.
    pub fn capture(mut self, options: CaptureOptions) -> Self {
        self.capture = Some(options);
        self
    }

    /// Where the output of each instance gets a folder.
    pub fn log_dir(self, dir: impl Into<PathBuf>) -> Self {
        let options = CaptureOptions::new(dir, Arc::clone(&self.redactor));
        self.capture(options)
    }

    /// The secrets to keep out of events, reports and logs. Give the same one to the capture's options.
    pub fn redactor(mut self, redactor: Arc<Redactor>) -> Self {
        self.redactor = redactor;
        self
    }

    /// Where notify sockets are made. Without it: a fresh folder among the temporary ones.
    pub fn runtime_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.runtime_dir = Some(dir.into());
        self
    }

    /// Gives each instance a cgroup. Without it process trees are found by session, parent and mark.
    pub fn cgroups(mut self, root: CgroupRoot) -> Self {
        self.cgroups = Some(root);
        self
    }

    /// Who gives instances more than their definitions say, such as sockets for tokens. Without it: nobody.
    pub fn equip(mut self, equip: Arc<dyn Equip>) -> Self {
        self.equip = Some(equip);
        self
    }

    /// Most instances that start with the fleet at once: from launch to readiness. At least one.
    pub fn start_concurrency(mut self, most: usize) -> Self {
        self.start_concurrency = most;
        self
    }

    /// Delays each start with the fleet by a random time up to this, so that 1,000 bots do not log in within a second.
    pub fn start_jitter(mut self, most: Duration) -> Self {
        self.start_jitter = most;
        self
    }

    /// What instances inherit, and where their secrets are. Without it: this process' environment.
    pub fn variables(mut self, variables: Variables) -> Self {
        self.variables = Some(variables);
        self
    }

    /// Who knows the secrets that definitions name as [`SecretRef::Secret`](super::SecretRef::Secret), such as a vault.
    /// Without it, instances that need one do not start.
    pub fn secrets(mut self, secrets: Arc<dyn SecretLookup>) -> Self {
        self.secrets = Some(secrets);
        self
    }

    /// A name that tells this fleet from every other on the machine and is the same after a restart: its processes bear it
    /// in their environment, so that even those of which every record is lost are found. Needed where the spawner
    /// outlives us.
    pub fn fleet(mut self, id: impl Into<String>) -> Self {
        self.fleet = Some(id.into());
        self
    }

    /// Starts an empty fleet's supervisor on the current tokio runtime. Fill it with [`Supervisor::begin`].
    ///
    /// # Errors
    /// [`Io`](Error::Io) if a folder or the capture's thread cannot be made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn build(self) -> Result<Supervisor> {
        let notify_dir = match self.runtime_dir {
            Some(dir) => dir.join("n"),
            None => std::env::temp_dir().join(format!("kissops-{:016x}", random_bits())),
        };
        make_private(&notify_dir)?;
        let capture =
            self.capture.unwrap_or_else(|| CaptureOptions::new("logs", Arc::clone(&self.redactor)));
        let logs = LogReader::new(capture.log_dir.clone());
        let capture = Capture::start(capture)?;
        let spawn = match self.spawn {
            Some(spawn) => spawn,
            None => Arc::new(DirectSpawn::new()?),
        };
        let trees = Trees::new(spawn.reaper())?;
        let inherit = || Variables::inherited(Environment::of_process(), &[]);
        let shared = Arc::new(Shared::new(Parts {
            store: self.store,
            spawn,
            capture,
            logs,
            trees,
            redactor: self.redactor,
            start_concurrency: self.start_concurrency,
            start_jitter: self.start_jitter,
            notify_dir,
            cgroups: self.cgroups,
            equip: self.equip,
            fleet: self.fleet,
            secrets: self.secrets,
            variables: self.variables.unwrap_or_else(inherit),
        }));
        shared.writer.spawn(Arc::clone(&shared.journal).write());
        shared.tasks.spawn(super::watch::watch(Arc::clone(&shared)));
        Ok(Supervisor { shared })
    }
}

/// A folder that only we can enter, made if it is not there.
pub(crate) fn make_private(dir: &Path) -> Result<()> {
    let what = || format!("make the folder {}", dir.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io(what()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(Error::io(what()))
}
