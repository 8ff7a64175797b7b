//! Putting a [`Vault`] together.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use tokio::sync::{Notify, broadcast};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    super::{
        Exchanger, Http, HttpExchanger, Keyring, Keys, Providers, SystemTime, VaultEventKind,
        VaultTime,
        estate::Estate,
        metrics::Tallies,
        refresh::{
            CheckpointHook,
            engine::Engine,
            flight::Flights,
            refresher::Refresher,
            session::{self, Session},
            upkeep::{Pages, set_status},
            upstream::{Configured, Upstreams},
            watch::{Opened, Watchers},
        },
        witness::{Judgement, Witness},
    },
    Inner, Vault,
    lookup::Lookups,
    recall,
};
use crate::{
    Error, Result,
    id::IdMaker,
    redact::Redactor,
    store::{GrantState, GrantStateName, GrantStatus, Store},
};

/// So many events are kept for whoever listens slowly.
const EVENTS: usize = 4096;

/// How often the file of a dead life is tried to be had.
const ESTATE_TRIES: usize = 50;
const ESTATE_PAUSE: Duration = Duration::from_millis(20);

/// Puts a [`Vault`] together; see [`Vault::builder`].
pub struct VaultBuilder {
    store: Arc<dyn Store>,
    keys: Result<Keys>,
    providers: Arc<Providers>,
    http: Option<Http>,
    exchanger: Option<Arc<dyn Exchanger>>,
    redactor: Arc<Redactor>,
    time: Arc<dyn VaultTime>,
    #[cfg(test)]
    upstreams: Option<Arc<dyn Upstreams>>,
    witness: Option<PathBuf>,
    session: Duration,
    hook: Option<CheckpointHook>,
}

impl fmt::Debug for VaultBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultBuilder").field("store", &self.store).finish_non_exhaustive()
    }
}

impl VaultBuilder {
    pub(super) fn new(
        store: Arc<dyn Store>,
        keys: Result<Keys>,
        providers: Arc<Providers>,
    ) -> Self {
        Self {
            store,
            keys,
            providers,
            http: None,
            exchanger: None,
            redactor: Arc::default(),
            time: Arc::new(SystemTime),
            #[cfg(test)]
            upstreams: None,
            witness: None,
            session: session::LASTS,
            hook: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn upstreams_for_tests(self, upstreams: Arc<dyn Upstreams>) -> Self {
        Self { upstreams: Some(upstreams), ..self }
    }

    /// The client for providers; without this, one of its own.
    #[must_use]
    pub fn http(self, http: Http) -> Self {
        Self { http: Some(http), ..self }
    }

    /// Who sends token requests; without this, the client itself.
    #[must_use]
    pub fn exchanger(self, exchanger: Arc<dyn Exchanger>) -> Self {
        Self { exchanger: Some(exchanger), ..self }
    }

    /// Who learns each token before it is used or handed out.
    #[must_use]
    pub fn redactor(self, redactor: Arc<Redactor>) -> Self {
        Self { redactor, ..self }
    }

    /// The clocks.
    #[must_use]
    pub fn time(self, time: Arc<dyn VaultTime>) -> Self {
        Self { time, ..self }
    }

    /// A file outside of the store that tells a restored or copied store from one that went on. Without it, nothing does.
    /// A file beside it lets the next life of this program go on at once with what a killed one left.
    #[must_use]
    pub fn witness(self, path: impl Into<PathBuf>) -> Self {
        Self { witness: Some(path.into()), ..self }
    }

    /// After so long without a sign of life others take over what this process began; 60 s unless it is said. A provider's
    /// [`exchange_limit`](super::super::Profile::exchange_limit) has to be below two thirds of it.
    #[must_use]
    pub fn session(self, lasts: Duration) -> Self {
        Self { session: lasts, ..self }
    }

    /// Calls `hook` at each point of a refresh, for tests of crash safety: it may kill the process there.
    #[must_use]
    pub fn checkpoints(self, hook: CheckpointHook) -> Self {
        Self { hook: Some(hook), ..self }
    }

    /// Opens the vault. One whose key is missing or wrong is there as well, sealed: its methods say so.
    ///
    /// # Errors
    /// Those of the store, and of the witness file; [`Unavailable`](Error::Unavailable) if TLS cannot be set up.
    pub async fn build(self) -> Result<Vault> {
        let (events, _) = broadcast::channel(EVENTS);
        let http = match self.http {
            Some(http) => http,
            None => Http::new()?,
        };
        let exchanger =
            self.exchanger.unwrap_or_else(|| Arc::new(HttpExchanger::new(http.clone())));
        let configured = Configured { providers: self.providers, http };
        let upstreams: Arc<dyn Upstreams> = Arc::new(configured);
        #[cfg(test)]
        let upstreams = self.upstreams.unwrap_or(upstreams);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let opened = match self.keys {
            Ok(keys) => {
                match Keyring::open_at(Arc::clone(&self.store), keys, Arc::clone(&self.time)).await
                {
                    Ok(keyring) => Ok(keyring),
                    Err(Error::WrongState { help, .. }) => Err(help),
                    Err(err) => return Err(err),
                }
            }
            Err(err) => Err(err.chain()),
        };
        let door = match opened {
            Err(why) => {
                // Whoever needs it is told so; a fleet without tokens need not hear of it.
                tracing::debug!("the vault is sealed: {why}");
                Err(why)
            }
            Ok(keyring) => {
                let (witness, judgement, estate) = match &self.witness {
                    None => (None, Judgement::Same, None),
                    Some(path) => {
                        let (witness, judgement) = Witness::open(path, &*self.store).await?;
                        let estate = take_estate(&path.with_extension("session")).await?;
                        if judgement == Judgement::Same {
                            inherit(&*self.store, estate.as_ref()).await?;
                        }
                        (Some(Arc::new(witness)), judgement, estate)
                    }
                };
                let random = RandomState::new().hash_one(std::process::id());
                let session = Session::new(
                    Arc::clone(&self.store),
                    Arc::clone(&self.time),
                    self.session,
                    estate,
                    IdMaker::new(random),
                );
                let engine = Arc::new(Engine {
                    store: self.store,
                    keyring,
                    upstreams,
                    exchanger,
                    time: self.time,
                    redactor: self.redactor,
                    session,
                    witness_file: witness,
                    hook: self.hook,
                    flights: Flights::default(),
                    watchers: Watchers::default(),
                    opened: Opened::default(),
                    events: events.clone(),
                    stop: stop.clone(),
                    wake: Notify::new(),
                    inbox: Mutex::default(),
                    desks: Mutex::default(),
                    tallies: Tallies::default(),
                    checked: Mutex::default(),
                    seen_to: Mutex::default(),
                    busy: AtomicUsize::default(),
                    ids: Mutex::new(IdMaker::new(random.rotate_left(32))),
                    #[cfg(test)]
                    rests: crate::vault::refresh::tests::Rests::default(),
                });
                if let Judgement::Restored(why) = judgement {
                    fence_all(&engine, &why).await?;
                }
                if let Some(rest) = recall::begin(&engine).await? {
                    tasks.spawn(recall::finish(Arc::clone(&engine), rest));
                }
                engine.write_witness().await?;
                tasks.spawn(Refresher::new(Arc::clone(&engine)).run());
                Ok(engine)
            }
        };
        Ok(Vault {
            inner: Arc::new(Inner {
                door,
                events,
                tasks,
                is_started: AtomicBool::new(false),
                lookups: Lookups::default(),
                _stop_when_dropped: stop.clone().drop_guard(),
                stop,
            }),
        })
    }
}

/// Takes the file of the life before this one. A child that this was just starting may hold it for a moment longer.
async fn take_estate(path: &Path) -> Result<Option<Estate>> {
    for _ in 0..ESTATE_TRIES {
        if let Some(estate) = Estate::take(path)? {
            return Ok(Some(estate));
        }
        tokio::time::sleep(ESTATE_PAUSE).await;
    }
    Ok(None)
}

/// Ends the session of the life before this one, which is dead: what it left is seen to at once.
async fn inherit(store: &dyn Store, estate: Option<&Estate>) -> Result<()> {
    match estate.and_then(Estate::left) {
        Some(session) => store.release_lease(&session).await,
        None => Ok(()),
    }
}

/// Fences what is in use. Those whose token may be presented twice are probed later, and used again if they are good; if
/// the process ends before they are marked for that, they wait to be adopted like the others.
pub(super) async fn fence_all(engine: &Engine, reason: &str) -> Result<u64> {
    let at = engine.now();
    let fenced = engine.store.fence_grants(reason, at).await?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut pages = Pages::of(None, Some(GrantStateName::Fenced));
    while let Some(page) = pages.next(engine).await? {
        for record in page {
            // Others were fenced for reasons of their own, which no probe does away with.
            let is_new = matches!(&record.status.state,
                GrantState::Fenced { since, reason: known } if *since == at && known == reason);
            if !is_new {
                continue;
            }
            *counts.entry(record.grant.key.provider.clone()).or_default() += 1;
            if engine.may_present_twice(&record) {
                let next = Some(at);
                let status = GrantStatus { next_refresh_at: next, ..record.status.clone() };
                set_status(engine, &record, status).await?;
            }
        }
    }
    // One event for each provider: whoever restores a store of thousands reads one line.
    for (provider, count) in counts {
        let said = format!("{count} grants are not used: {reason}");
        engine.announce(&provider, None, VaultEventKind::Fenced, said);
    }
    Ok(fenced)
}
