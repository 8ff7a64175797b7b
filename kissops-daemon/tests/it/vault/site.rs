//! A provider, a store and a state folder; vaults on them; and what must be true of every grant in the end.

use std::{
    any::Any,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use kissops_core::{
    Timestamp, clock,
    store::{
        self, GrantFlow, GrantKey, GrantQuery, GrantRecord, GrantState, Store, StoreOptions,
        StoreUrl,
    },
    vault::{
        CheckpointHook, Client, DetachedExchanger, DetachedOptions, Exchanger, Http, HttpExchanger,
        Kek, Keys, NewTokens, Profile, Provider, Providers, RotationClass, TokenSet,
        TokenVault as _, Vault,
    },
};
use kissops_mock_provider::{
    Client as MockClient, GrantView, ImportRow, Knobs, MockProvider, NewAccounts, Rotation, Secrets,
};
use rustix::process::Signal;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::harness::{is_alive, pids, signal, until_async};

/// The classes of refresh tokens, each a provider of that name.
pub(super) const CLASSES: [&str; 3] = ["reusable", "rotating", "one-time"];
const SECRET: &str = "the client's secret";
/// A real loss is known by then: so it is asked for.
pub(super) const KNOWN_WITHIN: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(20);

/// What a vault is made of. Another process gets it as JSON.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) store: String,
    pub(super) key: String,
    /// Where the witness and the exchanger's socket are.
    pub(super) dir: PathBuf,
    /// The provider's address.
    pub(super) provider: String,
    pub(super) detached: bool,
    pub(super) settle: Duration,
    pub(super) exchange_limit: Duration,
    pub(super) session: Duration,
}

impl Setup {
    pub(super) async fn store(&self) -> Arc<dyn Store> {
        let url = StoreUrl::parse(&self.store, Path::new("/")).unwrap();
        store::open(&url, StoreOptions::default()).await.unwrap()
    }

    fn provider(&self, class: &str) -> Provider {
        let profile = Profile {
            validate_url: Some(format!("{}/validate", self.provider)),
            rotation: match class {
                "reusable" => RotationClass::Reusable,
                "rotating" => RotationClass::Rotating,
                _ => RotationClass::OneTime,
            },
            settle: self.settle,
            exchange_limit: self.exchange_limit,
            ..Profile::new(&format!("{}/token", self.provider))
        };
        let client = Client { id: class.to_owned(), secret: Some(SECRET.into()) };
        Provider::new(class, profile, client).unwrap()
    }

    /// A vault that is not started yet.
    pub(super) async fn vault(&self, store: Arc<dyn Store>, hook: Option<CheckpointHook>) -> Vault {
        let current = Kek::parse(&SecretString::from(self.key.clone())).unwrap();
        let keys = Keys { current, previous: Vec::new() };
        let http = Http::new().unwrap();
        let direct = Arc::new(HttpExchanger::new(http.clone()));
        let detached = self.detached.then(|| {
            let options = DetachedOptions {
                socket: self.dir.join("exchanger.sock"),
                program: Some(env!("CARGO_BIN_EXE_kissops-exchanger").into()),
            };
            Arc::new(DetachedExchanger::new(options, Arc::clone(&direct) as _))
        });
        let exchanger: Arc<dyn Exchanger> = match &detached {
            Some(detached) => Arc::clone(detached) as _,
            None => direct,
        };
        let providers = Arc::new(Providers::new(CLASSES.map(|class| self.provider(class))));
        let mut builder = Vault::builder(store, Ok(keys), providers)
            .http(http)
            .exchanger(exchanger)
            .witness(self.dir.join("vault.witness"))
            .session(self.session);
        if let Some(hook) = hook {
            builder = builder.checkpoints(hook);
        }
        let vault = builder.build().await.unwrap();
        if let Some(detached) = detached {
            detached.unlock(vault.keyring().unwrap());
        }
        vault
    }
}

/// A grant as the provider gave it.
pub(super) fn tokens_of(row: &ImportRow) -> NewTokens {
    let tokens = TokenSet {
        access: row.access_token.clone().into(),
        refresh: Some(row.refresh_token.clone().into()),
        // Later than any test ends, so that a probe can decide.
        access_expires_at: Some(clock::now().plus(Duration::from_hours(2))),
        refresh_expires_at: None::<Timestamp>,
        idle_expires_at: None,
        scopes: None,
    };
    let key = GrantKey { provider: row.provider.clone(), account: row.account.clone() };
    NewTokens { key, flow: GrantFlow::Imported, tokens, instances: None }
}

pub(super) async fn records(store: &dyn Store) -> Vec<GrantRecord> {
    let mut all: Vec<GrantRecord> = Vec::new();
    loop {
        let after = all.last().map(|record| record.grant.id);
        let page =
            store.grants(GrantQuery { after, limit: 500, ..GrantQuery::default() }).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

pub(super) struct Site {
    pub(super) mock: MockProvider,
    pub(super) setup: Setup,
    pub(super) store: Arc<dyn Store>,
    /// Accounts whose loss is the provider's doing.
    pub(super) victims: BTreeSet<String>,
    accounts: u32,
    pub(super) dir: tempfile::TempDir,
    /// A database that lives as long as this.
    _kept: Box<dyn Any>,
}

impl Site {
    /// On a file.
    pub(super) async fn new() -> Self {
        Self::on(None, ()).await
    }

    /// On the database of that URL.
    pub(super) async fn on(store: Option<&str>, kept: impl Any) -> Self {
        let dir = tempfile::Builder::new().prefix("kiss").tempdir().unwrap();
        let mock = MockProvider::start().await.unwrap();
        let rotations = [Rotation::Reusable, Rotation::Rotating, Rotation::OneTime];
        for (class, rotation) in CLASSES.into_iter().zip(rotations) {
            let knobs = Knobs {
                rotation: Some(rotation),
                // So that there is something under way at any moment.
                delay_before_ms: Some(3),
                delay_after_ms: Some(5),
                ..Knobs::default()
            };
            let client =
                MockClient { provider: class.into(), ..MockClient::confidential(class, SECRET) };
            mock.add_client(client.knobs(knobs)).unwrap();
        }
        let file = format!("sqlite:{}", dir.path().join("kissops.db").display());
        let setup = Setup {
            store: store.map_or(file, str::to_owned),
            key: Kek::generate().unwrap().expose_secret().to_owned(),
            dir: dir.path().to_owned(),
            provider: mock.url(""),
            detached: false,
            settle: Duration::from_millis(300),
            exchange_limit: Duration::from_secs(10),
            session: Duration::from_mins(1),
        };
        let store = setup.store().await;
        let (victims, accounts) = (BTreeSet::new(), 0);
        Self { mock, setup, store, victims, accounts, dir, _kept: Box::new(kept) }
    }

    /// New accounts of a class.
    pub(super) fn add(&mut self, class: &str, count: u32) -> Vec<ImportRow> {
        let names = (0..count).map(|_| {
            self.accounts += 1;
            format!("{class}-{}", self.accounts)
        });
        let new = NewAccounts {
            names: names.collect(),
            client: Some(class.to_owned()),
            ..NewAccounts::default()
        };
        self.mock.add_accounts(&new).unwrap()
    }

    /// Accounts in the place of those that are lost or may be, so that there are `count` of each class in use.
    pub(super) async fn replenish(&mut self, count: usize) -> Vec<ImportRow> {
        let records = records(&*self.store).await;
        let open = self.store.open_refreshes(None, 1000).await.unwrap();
        let mut rows = Vec::new();
        for class in CLASSES {
            let active = |record: &&GrantRecord| {
                record.grant.key.provider == class
                    && matches!(record.status.state, GrantState::Active { .. })
                    && open.iter().all(|intent| intent.refresh.grant != record.grant.id)
            };
            let missing = count.saturating_sub(records.iter().filter(active).count());
            rows.extend(self.add(class, u32::try_from(missing).unwrap()));
        }
        rows
    }

    pub(super) fn view(&self, account: &str) -> GrantView {
        self.mock.account(account, Secrets::Hidden).unwrap().grants.remove(0)
    }

    /// One more life, in this process: everything that was left open is decided within the time that is asked for.
    /// Says how long that took.
    pub(super) async fn settled(&self) -> (Vault, Duration) {
        self.mock.forget_scripts();
        let begun = Instant::now();
        let vault = self.setup.vault(Arc::clone(&self.store), None).await;
        vault.start();
        loop {
            let open = self.store.open_refreshes(None, 1000).await.unwrap();
            let records = records(&*self.store).await;
            let unsettled: Vec<_> =
                records.iter().filter(|record| !self.is_settled(record)).collect();
            if open.is_empty() && unsettled.is_empty() {
                return (vault, begun.elapsed());
            }
            assert!(begun.elapsed() < KNOWN_WITHIN, "not decided: {open:#?} {unsettled:#?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_settled(&self, record: &GrantRecord) -> bool {
        match record.status.state {
            GrantState::Ambiguous { .. } => false,
            // Refused in error; a second vote comes a minute later, and its access token is good until then.
            GrantState::Suspect { .. } => !self.victims.contains(&record.grant.key.account),
            // One that was refused for now is about to be refreshed again, and would change while it is looked at.
            GrantState::Active { .. } | GrantState::Degraded { .. } => {
                record.status.failure.is_none()
            }
            _ => true,
        }
    }

    /// Every grant is usable, or its loss is real and said. Gives the accounts of those that are lost.
    pub(super) async fn verify(&self, vault: &Vault) -> Vec<String> {
        self.verify_on(&*self.store, vault).await
    }

    /// The same for a vault on another store.
    pub(super) async fn verify_on(&self, store: &dyn Store, vault: &Vault) -> Vec<String> {
        let mut lost = Vec::new();
        for record in records(store).await {
            let (key, state) = (&record.grant.key, &record.status.state);
            let (view, taken) = (self.view(&key.account), record.generation.0.saturating_sub(1));
            let committed = u64::from(view.counts.committed);
            let reusable = key.provider == "reusable";
            match state {
                // Its import was cut short.
                GrantState::Pending { .. } => {}
                GrantState::NeedsReauth { .. } => {
                    let real = if reusable { !view.live } else { committed == taken + 1 };
                    assert!(real, "said to be lost: {record:#?} {view:#?}");
                    lost.push(key.account.clone());
                }
                GrantState::Active { .. }
                | GrantState::Degraded { .. }
                | GrantState::Suspect { .. } => {
                    let right = if reusable { committed >= taken } else { committed == taken };
                    assert!(right && view.live, "lost in silence: {record:#?} {view:#?}");
                    let handed = vault.token(key).await.unwrap();
                    let known = self.mock.lookup(handed.token.expose_secret()).unwrap();
                    assert!(known.live, "a dead token is handed out: {record:#?} {known:#?}");
                    if !matches!(state, GrantState::Suspect { .. }) {
                        vault.refresh(key).await.unwrap();
                    }
                }
                other => panic!("{key}: {other:?}"),
            }
            if !reusable {
                let view = self.view(&key.account);
                let once = view.counts.most_in_flight <= 1;
                assert!(once && view.counts.replays == 0, "presented again: {record:#?} {view:#?}");
            }
        }
        let all = self.mock.totals();
        let counts = all.refreshes;
        assert_eq!((counts.replays, counts.families_killed, all.secrets_in_urls), (0, 0, 0));
        lost
    }

    /// The exchanger, which is known by where it complains to.
    pub(super) fn exchanger(&self) -> Option<i32> {
        let log = self.setup.dir.join("exchanger.log");
        pids().find(|pid| {
            fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|target| target == log)
                && is_alive(*pid)
        })
    }

    /// Without a vault an exchanger ends by itself.
    pub(super) async fn until_alone(&self) {
        until_async("the exchanger ends", async || self.exchanger().is_none()).await;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(pid) = self.exchanger() {
            signal(pid, Signal::KILL);
        }
    }
}
