//! [`Fleet`]: a supervisor together with the file that defines its instances and the members added at run time.
//!
//! It is what the control API and the daemon work on.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

#[cfg(feature = "vault")]
use crate::config::VaultConfig;
use crate::{
    Error, Result, Timestamp, clock,
    config::{self, Config, ConfigErrors, DaemonConfig, Environment, StoreConfig},
    id::InstanceName,
    redact::Redactor,
    store::{EventRecord, FleetStore, MemberRecord},
    supervisor::{
        Definition, Goal, InstanceStatus, Leave, Plan, ProcessDetail, Rolling, Signal, SignalTo,
        Supervisor, Variables,
    },
};

/// A handle on a running fleet. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Fleet {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    supervisor: Supervisor,
    redactor: Arc<Redactor>,
    started_at: Timestamp,
    environment: Environment,
    base: Mutex<Arc<Base>>,
    /// One change of the fleet's definition at a time.
    changing: tokio::sync::Mutex<()>,
    stop: watch::Sender<Option<Leave>>,
    reloads: watch::Sender<u64>,
}

/// What is kept of the configuration that is in force. The rest is in the supervisor, in another form: a configuration of
/// a thousand instances takes megabytes, and is read again in milliseconds.
#[derive(Debug)]
struct Base {
    path: PathBuf,
    text: String,
    daemon: DaemonConfig,
    store: StoreConfig,
    #[cfg(feature = "vault")]
    vault: VaultConfig,
    /// With the `.env` file as it was then.
    environment: Environment,
}

impl Base {
    fn of(config: &Config) -> Self {
        Self {
            path: config.path.clone(),
            text: config.text().to_owned(),
            daemon: config.daemon.clone(),
            store: config.store.clone(),
            #[cfg(feature = "vault")]
            vault: config.vault.clone(),
            environment: config.environment.clone(),
        }
    }

    /// The configuration once more, as it was read: what the file says meanwhile takes a reload.
    fn again(&self) -> Result<Config, ConfigErrors> {
        config::parse(&self.path, &self.text, &self.environment)
    }
}

/// Whether a reload is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadMode {
    /// Only says what it would do.
    DryRun,
    /// Does it.
    Apply,
}

/// What a reload does, and what is odd about the file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct Reload {
    /// What changes.
    #[serde(flatten)]
    pub plan: Plan,
    /// What is accepted and has no effect.
    pub warnings: Vec<String>,
}

/// Why a reload was refused. The fleet is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file has errors.
    #[error("the configuration has errors")]
    Invalid(ConfigErrors),
    /// Something else failed.
    #[error(transparent)]
    Other(#[from] Error),
}

impl Fleet {
    /// Brings the fleet of `config` up under `supervisor`, which is empty: takes over what runs, starts what is wanted.
    ///
    /// `environment` is the process' own; the `.env` file beside the configuration is read afresh at each reload.
    ///
    /// # Errors
    /// [`ReloadError::Invalid`] if members that were added at run time do not fit the file any more; otherwise those of
    /// [`Supervisor::begin`].
    pub async fn begin(
        supervisor: Supervisor,
        config: Config,
        environment: Environment,
        redactor: Arc<Redactor>,
    ) -> Result<Self, ReloadError> {
        let members = supervisor.store().members().await?;
        let definitions = config.definitions(&members).map_err(ReloadError::Invalid)?;
        let fleet = Self {
            inner: Arc::new(Inner {
                supervisor,
                redactor,
                started_at: clock::now(),
                environment,
                base: Mutex::new(Arc::new(Base::of(&config))),
                changing: tokio::sync::Mutex::new(()),
                stop: watch::Sender::new(None),
                reloads: watch::Sender::new(0),
            }),
        };
        fleet.learn(&config, &definitions)?;
        // Its memory is free for the fleet that comes now.
        drop(config);
        fleet.inner.supervisor.begin(definitions).await?;
        Ok(fleet)
    }

    /// Secrets first: from here on they are masked wherever they show up.
    fn learn(&self, config: &Config, definitions: &[Definition]) -> Result<()> {
        self.inner.redactor.learn(config.secrets.iter().cloned())?;
        let variables = Variables::inherited(config.environment.clone(), definitions);
        #[cfg(feature = "vault")]
        let variables = variables.without(config.vault.secret_variables());
        self.inner.supervisor.set_variables(variables);
        Ok(())
    }

    fn base(&self) -> Arc<Base> {
        Arc::clone(&self.inner.base.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `[daemon]` of the configuration that is in force.
    #[must_use]
    pub fn daemon(&self) -> DaemonConfig {
        self.base().daemon.clone()
    }

    /// `[vault]` of the configuration that is in force, and where it looks things up.
    #[cfg(feature = "vault")]
    #[must_use]
    pub fn vault(&self) -> (VaultConfig, Environment) {
        let base = self.base();
        (base.vault.clone(), base.environment.clone())
    }

    /// Counts the reloads; changes after each.
    #[must_use]
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.inner.reloads.subscribe()
    }

    /// The fleet's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.base().daemon.name.clone()
    }

    /// The configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.base().path.clone()
    }

    /// When this daemon began.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        self.inner.started_at
    }

    /// The supervisor.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.inner.supervisor
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn FleetStore> {
        self.inner.supervisor.store()
    }

    /// Where the output of the instances lies.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.base().daemon.log_dir.clone()
    }

    /// All instances at this moment, by name.
    #[must_use]
    pub fn status(&self) -> Vec<InstanceStatus> {
        self.inner.supervisor.status()
    }

    /// See [`Supervisor::definition`].
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub fn definition(&self, name: &InstanceName) -> Result<Arc<Definition>> {
        self.inner.supervisor.definition(name)
    }

    /// See [`Supervisor::subscribe`].
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<EventRecord>> {
        self.inner.supervisor.subscribe()
    }

    /// See [`Supervisor::start`].
    ///
    /// # Errors
    /// Those of [`Supervisor::start`].
    pub async fn start(&self, name: &InstanceName) -> Result<()> {
        self.inner.supervisor.start(name).await
    }

    /// See [`Supervisor::stop`].
    ///
    /// # Errors
    /// Those of [`Supervisor::stop`].
    pub async fn stop(&self, name: &InstanceName) -> Result<()> {
        self.inner.supervisor.stop(name).await
    }

    /// See [`Supervisor::restart`].
    ///
    /// # Errors
    /// Those of [`Supervisor::restart`].
    pub async fn restart(&self, name: &InstanceName) -> Result<()> {
        self.inner.supervisor.restart(name).await
    }

    /// See [`Supervisor::reset`].
    ///
    /// # Errors
    /// Those of [`Supervisor::reset`].
    pub async fn reset(&self, name: &InstanceName) -> Result<()> {
        self.inner.supervisor.reset(name).await
    }

    /// Sends a signal to an instance's main process.
    ///
    /// # Errors
    /// Those of [`Supervisor::signal`].
    pub async fn signal(&self, name: &InstanceName, signal: Signal) -> Result<()> {
        self.inner.supervisor.signal(name, signal, SignalTo::Main).await
    }

    /// See [`Supervisor::reload_signal`].
    ///
    /// # Errors
    /// Those of [`Supervisor::reload_signal`].
    pub async fn reload_signal(&self, name: &InstanceName) -> Result<()> {
        self.inner.supervisor.reload_signal(name).await
    }

    /// See [`Supervisor::settled`].
    ///
    /// # Errors
    /// Those of [`Supervisor::settled`].
    pub async fn settled(&self, name: &InstanceName, goal: Goal) -> Result<InstanceStatus> {
        self.inner.supervisor.settled(name, goal).await
    }

    /// See [`Supervisor::rolling_restart`].
    pub async fn rolling_restart(
        &self,
        names: &[InstanceName],
        rolling: Rolling,
    ) -> Vec<(InstanceName, Result<()>)> {
        self.inner.supervisor.rolling_restart(names, rolling).await
    }

    /// See [`Supervisor::processes`].
    ///
    /// # Errors
    /// Those of [`Supervisor::processes`].
    pub async fn processes(&self, name: &InstanceName) -> Result<Vec<ProcessDetail>> {
        self.inner.supervisor.processes(name).await
    }

    /// Reads the configuration file again and makes the fleet what it says (SUP-15). A file with errors is refused
    /// whole.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub async fn reload_config(&self, mode: ReloadMode) -> Result<Reload, ReloadError> {
        let _alone = self.inner.changing.lock().await;
        let (path, environment) = (self.base().path.clone(), self.inner.environment.clone());
        let read = tokio::task::spawn_blocking(move || config::load(&path, &environment)).await;
        let fresh = read
            .map_err(|_| Error::Closed { what: "the runtime" })?
            .map_err(ReloadError::Invalid)?;
        let members = self.store().members().await?;
        let definitions = fresh.definitions(&members).map_err(ReloadError::Invalid)?;
        let mut warnings: Vec<String> = fresh.warnings.iter().map(ToString::to_string).collect();
        warnings.extend(self.fixed(&fresh));
        if mode == ReloadMode::DryRun {
            return Ok(Reload { plan: self.inner.supervisor.plan(&definitions), warnings });
        }
        self.learn(&fresh, &definitions)?;
        let base = Arc::new(Base::of(&fresh));
        drop(fresh);
        let plan = self.inner.supervisor.apply(definitions).await?;
        *self.inner.base.lock().unwrap_or_else(PoisonError::into_inner) = base;
        self.inner.reloads.send_modify(|count| *count += 1);
        let Plan { added, removed, changed, unchanged } = &plan;
        let counts = format!(
            "{} added, {} removed, {} changed, {} unchanged",
            added.len(),
            removed.len(),
            changed.len(),
            unchanged.len()
        );
        self.inner.supervisor.note("config.reloaded", &counts);
        Ok(Reload { plan, warnings })
    }

    /// Keys of `[daemon]` and `[store]` that differ and need a restart of the daemon.
    fn fixed(&self, fresh: &Config) -> Option<String> {
        let old = self.base();
        let same = old.daemon == fresh.daemon && old.store == fresh.store;
        (!same).then(|| "[daemon] or [store] differ from what this daemon runs with; they take effect when it is restarted".to_owned())
    }

    /// Adds a member to a template, for good, and starts it (SUP-2).
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) without such a template, [`Conflict`](Error::Conflict) if it exists,
    /// [`InvalidConfig`](Error::InvalidConfig) if the template does not fit it. Nothing was added then.
    pub async fn add_member(
        &self,
        name: &InstanceName,
        vars: BTreeMap<String, String>,
    ) -> Result<()> {
        let _alone = self.inner.changing.lock().await;
        let config = self.base().again().map_err(|errors| refused(name, &errors))?;
        let template = name.template().and_then(|template| config.template(template));
        if template.is_none() {
            let known: Vec<&str> =
                config.templates.iter().map(|template| template.name.as_str()).collect();
            let known = if known.is_empty() {
                "the file has none".to_owned()
            } else {
                format!("the file has: {}", known.join(", "))
            };
            return Err(Error::NotFound {
                what: format!("template for `{name}` ({known}); members are named template@member"),
            });
        }
        if self.inner.supervisor.definition(name).is_ok() {
            return Err(Error::Conflict {
                what: format!("the name `{name}`"),
                holder: "an instance of the fleet".into(),
            });
        }
        let member = MemberRecord { name: name.clone(), vars, added_at: clock::now() };
        let mut members = self.store().members().await?;
        members.push(member.clone());
        let definitions = config.definitions(&members).map_err(|errors| refused(name, &errors))?;
        self.store().add_member(member).await?;
        self.inner.supervisor.apply(definitions).await?;
        Ok(())
    }

    /// Stops a member that was added at run time, and forgets it.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) if none of that name was added; those in the file are removed there.
    pub async fn remove_member(&self, name: &InstanceName) -> Result<()> {
        let _alone = self.inner.changing.lock().await;
        let members = self.store().members().await?;
        if !members.iter().any(|member| member.name == *name) {
            if self.inner.supervisor.definition(name).is_ok() {
                let help =
                    "take it out of the configuration file, then `kissops reload`".to_owned();
                return Err(Error::WrongState {
                    what: format!("instance `{name}`"),
                    state: "defined in the file".into(),
                    help,
                });
            }
            return Err(Error::NotFound { what: format!("member `{name}`") });
        }
        let rest: Vec<MemberRecord> =
            members.into_iter().filter(|member| member.name != *name).collect();
        let definitions = self
            .base()
            .again()
            .and_then(|config| config.definitions(&rest))
            .map_err(|errors| refused(name, &errors))?;
        self.store().remove_member(name).await?;
        self.inner.supervisor.apply(definitions).await?;
        Ok(())
    }

    /// Asks whoever runs the fleet to end it.
    pub fn request_stop(&self, leave: Leave) {
        self.inner.stop.send_replace(Some(leave));
    }

    /// Resolves when somebody has asked for the end.
    pub async fn stop_requested(&self) -> Leave {
        let mut asked = self.inner.stop.subscribe();
        let found = asked.wait_for(Option::is_some).await.map(|leave| *leave);
        match found {
            Ok(Some(leave)) => leave,
            // The sender lives in ourselves: it cannot be gone while we wait.
            _ => std::future::pending().await,
        }
    }
}

/// The errors of a fleet with a member that does not fit, as one.
fn refused(name: &InstanceName, errors: &ConfigErrors) -> Error {
    let first = errors.errors().first().map_or_else(String::new, |error| error.message.clone());
    Error::invalid(format!("instance.{name}"), first)
}
