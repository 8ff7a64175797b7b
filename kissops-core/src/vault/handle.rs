//! [`Vault`]: the token vault over a store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    AccessToken, Keyring, Keys, NewTokens, ProviderTally, Providers, Revocation, Secrets,
    TokenVault, VaultEvent, VaultEventKind,
    refresh::{
        engine::Engine,
        flight::{Refusal, Want},
        upkeep,
        visit::closed,
    },
    sealed,
};
use crate::{
    Error, Result,
    id::InstanceName,
    store::{
        Generation, GrantId, GrantKey, GrantQuery, GrantRecord, GrantState, GrantStatus, Store,
    },
};

mod build;
mod keep;
mod lookup;
mod recall;

pub use build::VaultBuilder;

/// How often somebody who waits for a new pair looks whether another process has committed one.
const POLL: Duration = Duration::from_secs(2);
/// The longest that a refresh under way is waited for before its grant is given up.
const QUIET: Duration = Duration::from_secs(45);
const QUIET_POLL: Duration = Duration::from_millis(100);
/// How often something is tried anew that others have changed meanwhile.
const TRIES: usize = 16;

/// Whether a vault can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultState {
    /// It is open.
    Open,
    /// Its key is missing or wrong. Nothing was changed.
    Sealed {
        /// What is to be done, for people.
        why: String,
    },
}

/// The token vault over a store. Cheap to clone; what it does goes on until [`close`](Self::close), or until the last clone
/// is dropped.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

struct Inner {
    door: Result<Arc<Engine>, String>,
    events: broadcast::Sender<VaultEvent>,
    tasks: TaskTracker,
    stop: CancellationToken,
    is_started: AtomicBool,
    lookups: lookup::Lookups,
    _stop_when_dropped: DropGuard,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Vault {
    /// A vault over `store`, opened by `keys`. An error in the place of the keys makes a sealed one.
    #[must_use]
    pub fn builder(
        store: Arc<dyn Store>,
        keys: Result<Keys>,
        providers: Arc<Providers>,
    ) -> VaultBuilder {
        VaultBuilder::new(store, keys, providers)
    }

    /// Begins to refresh what comes due. Without this, grants are refreshed when somebody asks for them.
    pub fn start(&self) {
        let Ok(engine) = &self.inner.door else { return };
        if !self.inner.is_started.swap(true, Ordering::Relaxed) {
            self.inner.tasks.spawn(upkeep::keep_session(Arc::clone(engine)));
            self.inner.tasks.spawn(upkeep::keep_up(Arc::clone(engine)));
        }
    }

    /// Begins nothing more, waits up to 10 s for what is under way, and gives the session back.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        let Ok(engine) = &self.inner.door else { return };
        if let Err(err) = engine.session.end().await {
            tracing::warn!(error = %err.chain(), "the vault's session cannot be given back: it runs out within a minute");
        }
        if let Err(err) = engine.write_witness().await {
            tracing::warn!(error = %err.chain(), "the vault's witness file cannot be written");
        }
    }

    /// Whether it can be used.
    #[must_use]
    pub fn state(&self) -> VaultState {
        match &self.inner.door {
            Ok(_) => VaultState::Open,
            Err(why) => VaultState::Sealed { why: why.clone() },
        }
    }

    /// The keys that seal what is kept.
    ///
    /// # Errors
    /// [`WrongState`](Error::WrongState) while the vault is sealed.
    pub fn keyring(&self) -> Result<&Keyring> {
        Ok(&self.engine()?.keyring)
    }

    /// What this process has counted of each provider, and what is the matter with it now.
    #[must_use]
    pub fn tallies(&self) -> BTreeMap<Arc<str>, ProviderTally> {
        self.inner.door.as_ref().map(|engine| engine.tallied()).unwrap_or_default()
    }

    /// The other secrets that it keeps.
    ///
    /// # Errors
    /// [`WrongState`](Error::WrongState) while the vault is sealed.
    pub fn secrets(&self) -> Result<Secrets> {
        Secrets::new(self.keyring()?.clone())
    }

    /// Uses a fenced grant again. Only for who knows that no other copy of this vault is in use: two that refresh the
    /// same grant may both lose it.
    ///
    /// # Errors
    /// - [`NotFound`](Error::NotFound), and [`WrongState`](Error::WrongState) while the vault is sealed.
    /// - [`Conflict`](Error::Conflict) if the grant is changed at the same time.
    pub async fn adopt(&self, key: &GrantKey) -> Result<()> {
        let engine = self.engine()?;
        let record = self.record(key).await?;
        if !matches!(record.status.state, GrantState::Fenced { .. }) {
            return Ok(());
        }
        let now = engine.now();
        let status = GrantStatus {
            state: GrantState::Active { since: now },
            failure: None,
            next_refresh_at: Some(now),
            next_validate_at: None,
        };
        engine.store.set_grant_status(record.grant.id, record.version, status, now).await?;
        engine.tell(key, VaultEventKind::Adopted, "it is used again".into());
        engine.plan(&record, Duration::ZERO);
        Ok(())
    }

    /// Fences every grant that is in use: nothing is sent for it before it was probed or adopted. Says how many.
    ///
    /// # Errors
    /// Those of the store; what is fenced by then stays so, and the rest is when it is called again.
    pub async fn fence_all(&self, reason: &str) -> Result<u64> {
        build::fence_all(self.engine()?, reason).await
    }

    #[cfg(test)]
    pub(super) fn engine_for_tests(&self) -> Arc<Engine> {
        Arc::clone(self.engine().unwrap())
    }

    fn engine(&self) -> Result<&Arc<Engine>> {
        self.inner.door.as_ref().map_err(|why| sealed(why))
    }

    async fn record(&self, key: &GrantKey) -> Result<GrantRecord> {
        let found = self.inner.lookups.find(&*self.engine()?.store, key).await?;
        found.ok_or_else(|| Error::NotFound { what: format!("grant `{key}`") })
    }

    async fn ask(&self, record: &GrantRecord, want: Want) -> Result<AccessToken> {
        let key = &record.grant.key;
        Ok(self.engine()?.ask(record.grant.id, &key.provider, want).await?)
    }

    /// Waits until nothing is under way for a grant that is fenced, so that nothing new can begin.
    async fn quiet(&self, id: GrantId) -> Result<()> {
        let engine = self.engine()?;
        let until = engine.time.elapsed() + QUIET;
        while let Some(intent) = engine.store.refresh(id).await? {
            let owner = engine.session.owner(&intent.refresh.fence).await?;
            let at_work = match owner {
                super::refresh::session::Owner::Nobody => false,
                super::refresh::session::Owner::Own => engine.is_seen_to(id),
                super::refresh::session::Owner::Other(_) => true,
            };
            if !at_work || engine.time.elapsed() >= until {
                break;
            }
            engine.time.sleep_until(engine.time.elapsed() + QUIET_POLL).await;
        }
        Ok(())
    }

    /// Lets nothing new begin for a grant, and waits for what is under way.
    async fn still(&self, key: &GrantKey, why: &str) -> Result<GrantRecord> {
        let engine = self.engine()?;
        for _ in 0..TRIES {
            let record = self.record(key).await?;
            let now = engine.now();
            let status = GrantStatus {
                state: GrantState::Fenced { since: now, reason: why.to_owned() },
                next_refresh_at: None,
                next_validate_at: None,
                ..record.status.clone()
            };
            let open = matches!(
                record.status.state,
                GrantState::Revoked { .. } | GrantState::Fenced { .. }
            );
            let fenced = if open {
                Ok(record.version)
            } else {
                engine.store.set_grant_status(record.grant.id, record.version, status, now).await
            };
            match fenced {
                Ok(_) => {
                    self.quiet(record.grant.id).await?;
                    return self.record(key).await;
                }
                Err(Error::Conflict { .. }) => {}
                Err(err) => return Err(err),
            }
        }
        Err(Error::Conflict {
            what: format!("grant `{key}`"),
            holder: "others, who change it again and again".into(),
        })
    }
}

#[async_trait]
impl TokenVault for Vault {
    async fn put(&self, tokens: NewTokens) -> Result<GrantId> {
        keep::put(self.engine()?, tokens).await
    }

    async fn token(&self, key: &GrantKey) -> Result<AccessToken> {
        let engine = self.engine()?;
        let record = self.record(key).await?;
        let expired = record.expiry.access.is_some_and(|end| end <= engine.now());
        if !expired {
            return Ok(engine.open(&record).await?);
        }
        match record.status.state {
            GrantState::Active { .. }
            | GrantState::Degraded { .. }
            | GrantState::Ambiguous { .. }
            | GrantState::Suspect { .. } => self.ask(&record, Want::After(record.generation)).await,
            _ => Err(closed(&record).into()),
        }
    }

    async fn token_after(&self, key: &GrantKey, after: Generation) -> Result<AccessToken> {
        let engine = self.engine()?;
        let id = self.record(key).await?.grant.id;
        let mut watcher = engine.watchers.subscribe(id);
        loop {
            watcher.borrow_and_update();
            let record = self.record(key).await?;
            if record.generation > after
                && let Some(token) = engine.open_access(&record).await?
            {
                return Ok(token);
            }
            tokio::select! {
                // Never an error: the engine has the sender.
                _ = watcher.changed() => {}
                () = engine.time.sleep_until(engine.time.elapsed() + POLL) => {}
                () = engine.stop.cancelled() => return Err(Refusal::Closed.into()),
            }
        }
    }

    async fn refresh(&self, key: &GrantKey) -> Result<AccessToken> {
        let engine = self.engine()?;
        let (asked, commits) = (engine.now(), engine.opened.commits());
        let record = self.record(key).await?;
        // A pair that came after this call began is what it asks for, whoever has committed it.
        let is_fresh = engine.opened.is_since(record.grant.id, record.generation, commits)
            || record.refreshed_at.is_some_and(|at| at > asked && at <= engine.now());
        if is_fresh {
            return Ok(engine.open(&record).await?);
        }
        self.ask(&record, Want::After(record.generation)).await
    }

    async fn report_invalid(&self, key: &GrantKey, generation: Generation) -> Result<AccessToken> {
        let engine = self.engine()?;
        let record = self.record(key).await?;
        if record.generation > generation || engine.was_checked(record.grant.id, record.generation)
        {
            return Ok(engine.open(&record).await?);
        }
        self.ask(&record, Want::Check(record.generation)).await
    }

    async fn grant(&self, key: &GrantKey) -> Result<GrantRecord> {
        self.record(key).await
    }

    async fn grants(&self, query: GrantQuery) -> Result<Vec<GrantRecord>> {
        self.engine()?.store.grants(query).await
    }

    async fn bind(&self, key: &GrantKey, instances: BTreeSet<InstanceName>) -> Result<()> {
        let engine = self.engine()?;
        let record = self.record(key).await?;
        engine.store.bind_grant(record.grant.id, instances, engine.now()).await
    }

    async fn revoke(&self, key: &GrantKey, reason: &str) -> Result<Revocation> {
        let engine = self.engine()?;
        let record = self.still(key, "it is being revoked").await?;
        let at_provider = keep::revoke_at_provider(engine, &record).await;
        let now = engine.now();
        let status = GrantStatus {
            state: GrantState::Revoked { since: now, reason: reason.to_owned() },
            failure: None,
            next_refresh_at: None,
            next_validate_at: None,
        };
        let under_way = engine.store.refresh(record.grant.id).await?;
        engine.store.shred_grant(record.grant.id, status, now).await?;
        keep::settle(engine, under_way).await;
        engine.opened.forget(record.grant.id);
        engine.tell(key, VaultEventKind::Revoked, reason.to_owned());
        Ok(Revocation { key: key.clone(), at_provider })
    }

    async fn remove(&self, key: &GrantKey) -> Result<()> {
        let engine = self.engine()?;
        let record = self.still(key, "it is being removed").await?;
        let under_way = engine.store.refresh(record.grant.id).await?;
        engine.store.remove_grant(record.grant.id).await?;
        keep::settle(engine, under_way).await;
        engine.opened.forget(record.grant.id);
        match &engine.witness_file {
            // What it says of the newest pair may be of this one.
            Some(witness) => witness.forget(&*engine.store).await,
            None => Ok(()),
        }
    }

    fn events(&self) -> broadcast::Receiver<VaultEvent> {
        self.inner.events.subscribe()
    }
}
