//! From the configuration to running parts: which store, which spawner, where output goes. The one place that names
//! implementations.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, PermissionsExt as _},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use kissops_core::{
    Error, clock,
    config::{Config, Environment},
    control::{Api, ControlSocket, serve_unix},
    fleet::{Fleet, ReloadError},
    id::stable_hash,
    logs::{CaptureOptions, CaptureProblem},
    redact::Redactor,
    store::{self, Store, StoreUrl},
    supervisor::{
        CgroupRoot, KeeperClient, KeeperOptions, Leave, Supervisor, limits::OpenFiles, trim_heap,
    },
    vault::{
        Assembly, Reauth, Tenant, TokenVault as _, VaultEventKind, VaultState,
        admin::VaultAdmin,
        deliver::{Delivery, DeliveryOptions},
    },
};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{log::Log, tenure::Tenure};

/// The names under which the keeper keeps the capture's spool for a successor.
const SPOOL: [&str; 4] = ["spool.0", "spool.1", "spool.2", "spool.3"];

/// Everything that runs.
pub(crate) struct Daemon {
    pub(crate) fleet: Fleet,
    vault: Assembly,
    admin: VaultAdmin,
    delivery: Delivery,
    keeper: Arc<KeeperClient>,
    tasks: TaskTracker,
    ending: CancellationToken,
}

/// The folders of the daemon, each for its user alone.
pub(crate) fn prepare_folders(config: &Config) -> anyhow::Result<()> {
    for dir in [&config.daemon.state_dir, &config.daemon.runtime_dir, &config.daemon.log_dir] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Error::io(format!("make the folder {}", dir.display())))?;
    }
    for dir in [&config.daemon.state_dir, &config.daemon.runtime_dir] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(Error::io(format!("set the rights of {}", dir.display())))?;
    }
    Ok(())
}

/// Changes to the account that the configuration names, with the folders given to it.
pub(crate) fn become_user(config: &Config) -> anyhow::Result<()> {
    let daemon = &config.daemon;
    if daemon.user.is_none() && daemon.group.is_none() {
        return Ok(());
    }
    let folders = [&*daemon.state_dir, &*daemon.runtime_dir, &*daemon.log_dir];
    Ok(kissops_core::supervisor::drop_privileges(
        daemon.user.as_deref(),
        daemon.group.as_deref(),
        &folders,
    )?)
}

impl Daemon {
    /// Starts all parts, takes over what an earlier daemon left, and brings the fleet up.
    pub(crate) async fn start(
        config: Config,
        environment: Environment,
        nofile: OpenFiles,
    ) -> anyhow::Result<(Self, Log)> {
        let redactor = Arc::new(Redactor::new());
        redactor.learn(config.secrets.iter().cloned())?;
        let log = Log::start(&config.daemon.log, &redactor)?;
        let daemon = &config.daemon;
        let socket = ControlSocket::bind(&daemon.runtime_dir)?;
        let store = store::open(&config.store.url, config.store.options()).await?;
        // A file has its folder's lock.
        let tenure = if matches!(config.store.url, StoreUrl::Sqlite(_)) {
            None
        } else {
            let tenure = Tenure::take(Arc::clone(&store), &daemon.state_dir).await?;
            Some((tenure, Arc::clone(&store)))
        };
        // A switch for tests and for debugging: trees are then found as on a host without cgroups.
        let wanted = std::env::var_os("KISSOPS_NO_CGROUP").is_none();
        // Before the keeper is there: only one that is alone in its cgroup can hand controllers down.
        let root = wanted.then(|| CgroupRoot::detect(&fleet_id(&daemon.state_dir))).flatten();
        let keeper = Arc::new(
            KeeperClient::connect_or_start(keeper_options(&daemon.state_dir, nofile)?).await?,
        );
        tracing::info!(keeper = keeper.pid(), version = keeper.version(), "keeper");

        let vault = Assembly::open(
            &config,
            Arc::clone(&store),
            Arc::clone(&redactor),
            Tenant::Daemon(program("KISSOPS_EXCHANGER", "kissops-exchanger")?),
        )
        .await?;
        let reauth = Reauth::new(Arc::clone(&store) as _);
        let delivery = Delivery::new(DeliveryOptions {
            runtime_dir: daemon.runtime_dir.clone(),
            fleet: fleet_id(&daemon.state_dir),
            redactor: Arc::clone(&redactor),
            vault: Some(Arc::new(vault.vault.clone())),
            reauth: Some(reauth.clone()),
        })?;

        let (problems, told) = mpsc::unbounded_channel();
        let capture = CaptureOptions {
            log_dir: daemon.log_dir.clone(),
            redactor: Arc::clone(&redactor),
            spool: kept_spool(&keeper).await,
            problems: Box::new(move |problem| {
                // Nobody listens any more: the daemon ends.
                let _ = problems.send(problem);
            }),
            clock: Box::new(clock::now),
        };
        let mut builder = Supervisor::builder(store)
            .spawn(Arc::clone(&keeper) as _)
            .redactor(Arc::clone(&redactor))
            .secrets(Arc::new(vault.clone()))
            .equip(Arc::new(delivery.clone()))
            .capture(capture)
            .runtime_dir(&daemon.runtime_dir)
            .fleet(fleet_id(&daemon.state_dir))
            .start_concurrency(daemon.start_concurrency as usize)
            .start_jitter(daemon.start_jitter);
        if let Some(root) = root {
            tracing::info!(path = %root.path().display(), controllers = ?root.controllers(), "cgroups in use");
            builder = builder.cgroups(root);
        } else {
            tracing::info!(
                "no cgroup of our own: process trees are found by session, parent and mark"
            );
        }
        let supervisor = builder.build()?;
        delivery.attach(&supervisor);
        for (name, fd) in SPOOL.iter().zip(supervisor.spool()?) {
            keeper.put_fd(name, fd).await?;
        }
        let fleet = match Fleet::begin(supervisor, config, environment, redactor).await {
            Ok(fleet) => fleet,
            Err(ReloadError::Invalid(errors)) => {
                eprint!("{}", errors.render());
                return Err(Error::invalid(
                    "the configuration",
                    "does not fit the members that were added at run time",
                )
                .into());
            }
            Err(ReloadError::Other(error)) => return Err(error.into()),
        };
        // What the configuration took while it was read and checked.
        trim_heap();
        // Bots that ran on find their sockets again.
        delivery.rebind().await;
        let daemon = Self {
            fleet,
            admin: vault.admin(),
            vault,
            delivery,
            keeper,
            tasks: TaskTracker::new(),
            ending: CancellationToken::new(),
        };
        daemon.serve(socket, told);
        daemon.serve_tokens(reauth);
        if let Some((tenure, store)) = tenure {
            daemon.hold(tenure);
            daemon.mind_the_pool(store);
        }
        Ok((daemon, log))
    }

    fn serve(&self, socket: ControlSocket, mut told: mpsc::UnboundedReceiver<CaptureProblem>) {
        let api = Api::with_vault(self.fleet.clone(), self.admin.clone());
        let ending = self.ending.clone();
        self.tasks.spawn(async move {
            serve_unix(socket, api, ending.cancelled_owned()).await;
        });
        let supervisor = self.fleet.supervisor().clone();
        self.tasks.spawn(self.until_the_end(async move {
            while let Some(problem) = told.recv().await {
                let kind = if matches!(problem, CaptureProblem::Over { .. }) {
                    "logs.recovered"
                } else {
                    "logs.dropping"
                };
                tracing::error!("{problem}");
                supervisor.note(kind, &problem.to_string());
            }
        }));
        let (keeper, supervisor) = (Arc::clone(&self.keeper), self.fleet.supervisor().clone());
        self.tasks.spawn(self.until_the_end(async move { mourn(keeper, supervisor).await }));
    }

    /// Keeps tokens fresh, holds the instances whose grants need their owner, and records what happens to grants.
    fn serve_tokens(&self, reauth: Reauth) {
        let vault = &self.vault.vault;
        let supervisor = self.fleet.supervisor().clone();
        let (mut events, admin) = (vault.events(), self.admin.clone());
        vault.start();
        if let VaultState::Sealed { why } = vault.state()
            && self.fleet.vault().0.configured
        {
            supervisor.note(VaultEventKind::Sealed.as_str(), &why);
        }
        let watched =
            reauth.watch(supervisor.clone(), Arc::new(vault.clone()), self.ending.clone());
        self.tasks.spawn(watched);
        self.tasks.spawn(self.until_the_end(async move {
            loop {
                let event = match events.recv().await {
                    // By the thousand, and of no interest afterwards.
                    Ok(event) if event.kind == VaultEventKind::Refreshed => continue,
                    Ok(event) => admin.with_link(event).await,
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "events of the vault were missed; kissops token list shows how the grants are");
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                };
                let of = match &event.account {
                    Some(account) => format!("{}/{account}", event.provider),
                    None => event.provider,
                };
                supervisor.note(event.kind.as_str(), &format!("{of}: {}", event.message));
            }
        }));
        let (vault, fleet) = (self.vault.clone(), self.fleet.clone());
        self.tasks.spawn(self.until_the_end(async move {
            let mut reloads = fleet.reloads();
            while reloads.changed().await.is_ok() {
                let (config, environment) = fleet.vault();
                vault.configure(&config, &environment).await;
            }
        }));
    }

    /// Tells when calls have waited in vain for a connection to the store (STO-4).
    fn mind_the_pool(&self, store: Arc<dyn Store>) {
        let supervisor = self.fleet.supervisor().clone();
        self.tasks.spawn(self.until_the_end(async move {
            let mut told = 0;
            loop {
                tokio::time::sleep(std::time::Duration::from_secs(10)).await;
                let Some(pool) = store.pool() else { return };
                if pool.exhausted > told {
                    let (more, limit) = (pool.exhausted - told, pool.limit);
                    supervisor.note("store.exhausted", &format!("{more} calls got none of the {limit} connections: raise store.connections"));
                    told = pool.exhausted;
                }
            }
        }));
    }

    /// Ends the daemon, with its bots, once another host runs them.
    fn hold(&self, mut tenure: Tenure) {
        let (fleet, ending) = (self.fleet.clone(), self.ending.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = tenure.lost() => {
                    tracing::error!("another daemon has taken over this store, so the bots are stopped here");
                    fleet.request_stop(Leave::Stopped);
                }
                () = ending.cancelled() => {}
            }
            tenure.end().await;
        });
    }

    fn until_the_end(
        &self,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let ending = self.ending.clone();
        async move {
            tokio::select! {
                () = work => {}
                () = ending.cancelled() => {}
            }
        }
    }

    /// Ends everything. The keeper goes with the last bot, or stays with those that are left.
    pub(crate) async fn stop(self, leave: Leave) {
        self.fleet.supervisor().note(
            "daemon.stopping",
            if leave == Leave::Running { "the bots run on" } else { "the bots are stopped" },
        );
        self.fleet.supervisor().shutdown(leave).await;
        self.delivery.close().await;
        self.admin.close().await;
        // Before those end who record what it says.
        self.vault.vault.close().await;
        self.ending.cancel();
        if leave == Leave::Stopped
            && let Err(error) = self.keeper.end().await
        {
            tracing::debug!(error = %error.chain(), "the keeper was not told to end");
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A keeper that was killed is replaced at once; the bots that it had started live on and are adopted by the new one.
async fn mourn(keeper: Arc<KeeperClient>, supervisor: Supervisor) {
    loop {
        keeper.lost().await;
        tracing::error!(keeper = keeper.pid(), "the keeper is gone; starting another");
        supervisor.note(
            "keeper.lost",
            "the keeper process has died; its bots live on and are taken over by a new one",
        );
        let again = async || -> kissops_core::Result<()> {
            keeper.reconnect().await?;
            for (name, fd) in SPOOL.iter().zip(supervisor.spool()?) {
                keeper.put_fd(name, fd).await?;
            }
            Ok(())
        };
        while let Err(error) = again().await {
            tracing::error!(error = %error.chain(), "no new keeper");
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
}

fn keeper_options(state_dir: &Path, nofile: OpenFiles) -> anyhow::Result<KeeperOptions> {
    let program = program("KISSOPS_KEEPER", "kissops-keeper")?;
    Ok(KeeperOptions { socket: state_dir.join("keeper.sock"), program, nofile: Some(nofile) })
}

/// A program of ours: the one that a variable names, or the one beside this.
fn program(variable: &str, name: &str) -> anyhow::Result<PathBuf> {
    match std::env::var_os(variable) {
        Some(program) => Ok(PathBuf::from(program)),
        None => Ok(std::env::current_exe().context("find this program")?.with_file_name(name)),
    }
}

/// What an earlier daemon had put there, as far as it is all there.
async fn kept_spool(keeper: &KeeperClient) -> Vec<OwnedFd> {
    let mut kept = Vec::new();
    for name in SPOOL {
        match keeper.get_fd(name).await {
            Ok(fd) => kept.push(fd),
            Err(_) => break,
        }
    }
    kept
}

/// Tells daemons on one machine apart, and is the same after a restart.
fn fleet_id(state_dir: &Path) -> String {
    let real = fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    format!("{:016x}", stable_hash([real.as_os_str().as_bytes()]))
}
