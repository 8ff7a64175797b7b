//! Access tokens for bots in any language: HTTP on a unix socket of each instance (VLT-11).
//!
//! A bot finds the path in `KISSOPS_SOCKET`. Who connects must be a process of that instance's present run; it gets the
//! access tokens that the definition names, and nothing else. What it may say there beside that: that it is ready, alive,
//! stopping, what it does, what it measures, and that it wants to be restarted.
//!
//! | route | does |
//! |---|---|
//! | `GET /v1/tokens` | which tokens it may read, and how they are |
//! | `GET /v1/token/{provider}/{account}` | `{"access_token","expires_at","generation"}`; with `?after=GENERATION&wait=30s` the next one, or 204 |
//! | `GET /v1/tokens/stream` | a line of JSON for each of its tokens and each that follows; `{"heartbeat":true}` every 15 seconds |
//! | `POST /v1/token/{provider}/{account}/invalid` | `{"generation"}`: an API has refused it; gives the one to go on with |
//! | `POST /v1/ready`, `/v1/status`, `/v1/stopping` | `{"status"}`: as `READY=1`, `STATUS=`, `STOPPING=1` of `sd_notify(3)` |
//! | `POST /v1/heartbeat` | it is alive; `{"ok":false}`: it is stuck |
//! | `POST /v1/metrics` | `OpenMetrics` text |
//! | `POST /v1/restart` | `{"reason"}`: it asks for a new process |
//! | `POST /v1/limit/{provider}/{key}` | `{"cost","priority","wait"}`: `{"waited_seconds"}` when it may be sent, or 429 if not within `wait` |
//! | `POST /v1/limit/{provider}/{key}/answered` | `{"status","headers"}`: what the provider's API has answered |
//! | `POST /v1/cooldown` | `{"user","command","length"}`: `{"allowed":true}`, or `{"allowed":false,"wait_seconds"}` |
//!
//! A limit's key is whatever the provider counts by: a user, a client, a token's account. All bots of the fleet share it, and
//! believe each other what was answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use tokio::{sync::Semaphore, time::MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod answer;
mod limit;
mod metrics;
mod route;
mod serve;
mod socket;
mod stream;

pub use metrics::{BotMetrics, MetricFamily, Series};

use socket::{Address, BotSocket};

use super::{Reauth, TokenVault};
use crate::{
    Error, Result, clock,
    id::InstanceName,
    limit::{Cooldowns, Limiter},
    metrics::Exposition,
    redact::Redactor,
    store::GrantKey,
    supervisor::{Definition, Equip, Supervisor, WeakSupervisor, make_private, uid_of},
};

/// Where a bot finds its socket.
pub const SOCKET_VARIABLE: &str = "KISSOPS_SOCKET";
/// The folder of the sockets, in the runtime folder.
const FOLDER: &str = "b";
/// Most connections of one instance at once, to which one for each of its tokens comes …
const CONNECTIONS: usize = 16;
/// … up to so many.
const MOST_CONNECTIONS: usize = 256;
/// Most connections at once of which nothing is wanted but to say no.
const REFUSALS: usize = 32;
/// How often we look whether each instance has its socket, and no other.
const LOOK: Duration = Duration::from_secs(5);
/// How often tokens that are past their time are forgotten by the redactor.
const FORGET: Duration = Duration::from_mins(10);

/// What a [`Delivery`] works with.
#[derive(Clone, Debug)]
pub struct DeliveryOptions {
    /// The sockets are made in its folder `b`, of mode 700. As root, those for instances that run as other users are in
    /// folders of these in it; `b` and this folder get mode 711 then.
    pub runtime_dir: PathBuf,
    /// Tells this fleet from every other on the machine, and is the same after a restart.
    pub fleet: String,
    /// Learns tokens that are put into environments; forgets those that are past their time.
    pub redactor: Arc<Redactor>,
    /// Where tokens come from; without it there are none, and the other routes work.
    pub vault: Option<Arc<dyn TokenVault>>,
    /// Which instances have to wait for a new authorization.
    pub reauth: Option<Reauth>,
    /// The rate limits that all bots share, with whoever else in this program uses the same providers.
    pub limiter: Arc<Limiter>,
}

/// Sockets for the instances of one supervisor. Clones are handles on the same.
///
/// Give it to [`SupervisorBuilder::equip`](crate::supervisor::SupervisorBuilder::equip), then
/// [`attach`](Self::attach) the supervisor; [`close`](Self::close) it after the supervisor's shutdown.
#[derive(Clone)]
pub struct Delivery {
    inner: Arc<Inner>,
}

struct Inner {
    options: DeliveryOptions,
    dir: PathBuf,
    supervisor: OnceLock<WeakSupervisor>,
    sockets: Mutex<BTreeMap<InstanceName, Bound>>,
    refusals: Arc<Semaphore>,
    tasks: TaskTracker,
    ending: CancellationToken,
    cooldowns: Cooldowns,
    counts: Counts,
}

/// A socket and who serves it.
struct Bound {
    address: Address,
    socket: Arc<BotSocket>,
    bot: Arc<Bot>,
    /// Cancelled when nobody is to be served there any more.
    ended: CancellationToken,
}

/// What is known of one instance here.
struct Bot {
    name: InstanceName,
    /// Besides root and ourselves, who may connect.
    user: Option<u32>,
    /// Of [`MOST_CONNECTIONS`]; how many of them are its own depends on its definition.
    places: Arc<Semaphore>,
    metrics: Mutex<Option<BotMetrics>>,
    /// When a stranger was last told of, in microseconds since the epoch.
    told_at: AtomicU64,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    refused: AtomicU64,
    busy: AtomicU64,
    tokens: AtomicU64,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    /// Requests of bots.
    pub requests: u64,
    /// Connections of processes that are none of the instance's.
    pub refused: u64,
    /// Connections beyond what one instance may have at once.
    pub busy: u64,
    /// Tokens that were handed out.
    pub tokens: u64,
}

impl Delivery {
    /// Makes the folder. No socket yet: an instance gets one when it starts, at the latest.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if the folder cannot be made.
    pub fn new(options: DeliveryOptions) -> Result<Self> {
        let dir = options.runtime_dir.join(FOLDER);
        make_private(&dir)?;
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                dir,
                supervisor: OnceLock::new(),
                sockets: Mutex::default(),
                refusals: Arc::new(Semaphore::new(REFUSALS)),
                tasks: TaskTracker::new(),
                ending: CancellationToken::new(),
                cooldowns: Cooldowns::new(),
                counts: Counts::default(),
            }),
        })
    }

    /// Says whose instances they are; once, before they start. From then on sockets are kept as the fleet changes.
    pub fn attach(&self, supervisor: &Supervisor) {
        if self.inner.supervisor.set(supervisor.downgrade()).is_ok() {
            self.inner.tasks.spawn(Arc::clone(&self.inner).mind());
        }
    }

    /// Makes the sockets of all instances now: those that run on from an earlier life of this program find theirs again.
    pub async fn rebind(&self) {
        self.inner.look().await;
    }

    /// What an instance has last reported of itself.
    #[must_use]
    pub fn metrics(&self, name: &InstanceName) -> Option<BotMetrics> {
        let bot = Arc::clone(&self.inner.sockets().get(name)?.bot);
        bot.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> DeliveryCounts {
        let Counts { requests, refused, busy, tokens } = &self.inner.counts;
        DeliveryCounts {
            requests: requests.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
            busy: busy.load(Ordering::Relaxed),
            tokens: tokens.load(Ordering::Relaxed),
        }
    }

    #[cfg_attr(not(feature = "control"), allow(dead_code, reason = "told by the control API"))]
    pub(crate) fn write_metrics(&self, to: &mut Exposition) {
        super::metrics::write_delivery(self, to);
        super::metrics::write_limiter(&self.inner.options.limiter, to);
    }

    /// Closes every socket, and returns when the last connection is closed: within two seconds.
    pub async fn close(&self) {
        self.inner.ending.cancel();
        self.inner.sockets().clear();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        socket::tidy(&self.inner.dir);
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("dir", &self.inner.dir)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Equip for Delivery {
    async fn obstacle(&self, definition: &Definition) -> Option<String> {
        match self.inner.options.reauth.as_ref()?.obstacle(definition).await {
            Ok(why) => why,
            // No reason to keep a bot down.
            Err(error) => {
                tracing::warn!(instance = %definition.name, error = %error.chain(), "cannot look at the grants of an instance");
                None
            }
        }
    }

    async fn equip(
        &self,
        definition: &Definition,
        user: Option<u32>,
    ) -> Result<BTreeMap<OsString, OsString>> {
        let address = self.inner.bind(&definition.name, user)?;
        let mut variables = BTreeMap::from([(SOCKET_VARIABLE.into(), address.variable())]);
        for (name, key) in &definition.token_env {
            let vault = self.inner.options.vault.as_ref().ok_or_else(|| Error::WrongState {
                what: format!("the token {key}, wanted in ${name},"),
                state: "not to be had: there is no vault".into(),
                help: "add [vault] to the configuration, or take token_env out".into(),
            })?;
            let token = vault.token(key).await?;
            self.inner.options.redactor.learn([token.token.clone()])?;
            variables.insert(name.into(), token.token.expose_secret().into());
        }
        Ok(variables)
    }
}

impl Inner {
    fn sockets(&self) -> MutexGuard<'_, BTreeMap<InstanceName, Bound>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn supervisor(&self) -> Option<Supervisor> {
        self.supervisor.get()?.upgrade()
    }

    /// The tokens that an instance may read.
    fn tokens_of(&self, bot: &Bot) -> Vec<GrantKey> {
        let definition = self.supervisor().and_then(|all| all.definition(&bot.name).ok());
        definition.map(|definition| definition.tokens.clone()).unwrap_or_default()
    }

    /// The socket of an instance, bound and served.
    fn bind(self: &Arc<Self>, name: &InstanceName, user: Option<u32>) -> Result<Address> {
        let address = Address::of(&self.dir, &self.options.fleet, name, user)?;
        let mut sockets = self.sockets();
        if self.ending.is_cancelled() {
            return Err(Error::Closed { what: "the delivery of tokens" });
        }
        let known = sockets.get(name);
        if known.is_some_and(|bound| bound.address == address && bound.socket.is_there()) {
            return Ok(address);
        }
        address.make_folders(&self.dir)?;
        let socket = BotSocket::bind(&self.dir, &address)?;
        let bot = match known {
            Some(bound) if bound.bot.user == user => Arc::clone(&bound.bot),
            _ => Arc::new(Bot {
                name: name.clone(),
                user,
                places: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
                metrics: Mutex::default(),
                told_at: AtomicU64::new(0),
            }),
        };
        let (socket, ended) = (Arc::new(socket), self.ending.child_token());
        let bound =
            Bound { address: address.clone(), socket, bot: Arc::clone(&bot), ended: ended.clone() };
        let listening = serve::listen(Arc::clone(self), bot, Arc::clone(&bound.socket), ended);
        self.tasks.spawn(listening);
        sockets.insert(name.clone(), bound);
        Ok(address)
    }

    /// Keeps the sockets what the fleet needs, and the redactor from remembering for ever.
    async fn mind(self: Arc<Self>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forget = tokio::time::interval(FORGET);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.ending.cancelled() => return,
                _ = look.tick() => self.look().await,
                _ = forget.tick() => self.options.redactor.forget(clock::now()),
            }
        }
    }

    async fn look(self: &Arc<Self>) {
        let Some(supervisor) = self.supervisor() else { return };
        let names: BTreeSet<InstanceName> = supervisor.names().into_iter().collect();
        self.sockets().retain(|name, _| names.contains(name));
        for name in names {
            let there = self.sockets().get(&name).is_some_and(|bound| bound.socket.is_there());
            if there {
                continue;
            }
            let Ok(definition) = supervisor.definition(&name) else { continue };
            if let Err(error) = self.bind_for(&definition).await {
                tracing::warn!(instance = %name, error = %error.chain(), "an instance has no socket");
            }
        }
    }

    async fn bind_for(self: &Arc<Self>, definition: &Arc<Definition>) -> Result<()> {
        let user = if definition.user.is_some() || definition.group.is_some() {
            let definition = Arc::clone(definition);
            // A directory of users may be slow.
            let found = tokio::task::spawn_blocking(move || {
                uid_of(definition.user.as_deref(), definition.group.as_deref())
            });
            found.await.map_err(|_| Error::Closed { what: "the runtime" })??
        } else {
            None
        };
        self.bind(&definition.name, user).map(drop)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}
