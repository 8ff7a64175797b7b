//! A vault whose tokens are the test's; its grants are in a real store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use kissops_core::{
    Error, Result, Timestamp, clock,
    id::InstanceName,
    store::{
        Generation, GrantFlow, GrantId, GrantKey, GrantQuery, GrantRecord, GrantState, GrantStatus,
        NewGrant, Store,
    },
    vault::{AccessToken, NewTokens, Revocation, TokenVault, VaultEvent, VaultEventKind},
};
use tokio::sync::{Notify, broadcast};

#[derive(Debug)]
pub(super) struct FakeVault {
    store: Arc<dyn Store>,
    tokens: Mutex<BTreeMap<GrantKey, (Generation, String)>>,
    changed: Notify,
    events: broadcast::Sender<VaultEvent>,
}

impl FakeVault {
    pub(super) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        let (tokens, changed) = (Mutex::default(), Notify::new());
        Arc::new(Self { store, tokens, changed, events: broadcast::Sender::new(16) })
    }

    fn tokens(&self) -> MutexGuard<'_, BTreeMap<GrantKey, (Generation, String)>> {
        self.tokens.lock().unwrap()
    }

    /// The next token of a grant, which is made if it is not there.
    pub(super) async fn give(&self, key: &str, token: &str) {
        let key: GrantKey = key.parse().unwrap();
        if self.store.grant(&key).await.unwrap().is_none() {
            let count = self.store.grants(GrantQuery { limit: 100, ..GrantQuery::default() });
            let id = i64::try_from(count.await.unwrap().len()).unwrap() + 1;
            let grant = NewGrant {
                id: GrantId(id),
                key: key.clone(),
                client: "main".into(),
                flow: GrantFlow::DeviceCode,
                scopes: BTreeSet::new(),
                instances: BTreeSet::new(),
                created_at: clock::now(),
            };
            self.store.add_grant(grant).await.unwrap();
        }
        let generation = self.tokens().get(&key).map_or(Generation(1), |(old, _)| old.next());
        self.tokens().insert(key.clone(), (generation, token.to_owned()));
        self.set(&key.to_string(), GrantState::Active { since: clock::now() }).await;
        self.changed.notify_waiters();
        self.tell(&key, VaultEventKind::Authorized);
    }

    /// Sets how a grant is, and tells nobody.
    pub(super) async fn set(&self, key: &str, state: GrantState) {
        let record = self.store.grant(&key.parse().unwrap()).await.unwrap().unwrap();
        let status = GrantStatus { state, ..record.status };
        let at = clock::now();
        self.store.set_grant_status(record.grant.id, record.version, status, at).await.unwrap();
    }

    pub(super) async fn refuse(&self, key: &str) {
        let state = GrantState::NeedsReauth {
            since: clock::now(),
            reason: "invalid_grant".into(),
            keep_until: clock::now(),
        };
        self.set(key, state).await;
        self.tell(&key.parse().unwrap(), VaultEventKind::NeedsReauth);
    }

    pub(super) fn tell(&self, key: &GrantKey, kind: VaultEventKind) {
        // Nobody may listen.
        let _ = self.events.send(VaultEvent {
            at: clock::now(),
            provider: key.provider.clone(),
            account: Some(key.account.clone()),
            kind,
            message: String::new(),
        });
    }
}

#[async_trait]
impl TokenVault for FakeVault {
    async fn put(&self, _: NewTokens) -> Result<GrantId> {
        unimplemented!()
    }

    async fn token(&self, key: &GrantKey) -> Result<AccessToken> {
        let record = self.grant(key).await?;
        if !matches!(record.status.state, GrantState::Active { .. }) {
            return Err(Error::WrongState {
                what: key.to_string(),
                state: record.status.state.name().as_str().into(),
                help: "authorize it".into(),
            });
        }
        let (generation, token) = self.tokens().get(key).cloned().unwrap();
        Ok(AccessToken {
            key: key.clone(),
            token: token.into(),
            generation,
            expires_at: Some(Timestamp(1_800_000_000_000_000)),
            scopes: BTreeSet::new(),
        })
    }

    async fn token_after(&self, key: &GrantKey, after: Generation) -> Result<AccessToken> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let token = self.token(key).await?;
            if token.generation > after {
                return Ok(token);
            }
            changed.await;
        }
    }

    async fn refresh(&self, key: &GrantKey) -> Result<AccessToken> {
        self.token(key).await
    }

    async fn report_invalid(&self, key: &GrantKey, generation: Generation) -> Result<AccessToken> {
        if self.token(key).await?.generation <= generation {
            self.give(&key.to_string(), &format!("after-{}", generation.0)).await;
        }
        self.token(key).await
    }

    async fn grant(&self, key: &GrantKey) -> Result<GrantRecord> {
        let found = self.store.grant(key).await?;
        found.ok_or_else(|| Error::NotFound { what: format!("grant {key}") })
    }

    async fn grants(&self, query: GrantQuery) -> Result<Vec<GrantRecord>> {
        self.store.grants(query).await
    }

    async fn bind(&self, _: &GrantKey, _: BTreeSet<InstanceName>) -> Result<()> {
        unimplemented!()
    }

    async fn revoke(&self, _: &GrantKey, _: &str) -> Result<Revocation> {
        unimplemented!()
    }

    async fn remove(&self, _: &GrantKey) -> Result<()> {
        unimplemented!()
    }

    fn events(&self) -> broadcast::Receiver<VaultEvent> {
        self.events.subscribe()
    }
}
