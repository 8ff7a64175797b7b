//! A vault as a configuration says: what a daemon runs, and what a command uses where no daemon runs.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use secrecy::SecretString;

use super::{
    DetachedExchanger, DetachedOptions, ExchangeJob, Exchanged, Exchanger, Http, HttpExchanger,
    Keyring, Providers, Secrets, Ticket, Vault,
    admin::{OperatedVault, VaultAdmin, VaultParts},
    witness::{Judgement, Witness},
};
use crate::{
    Error, Result,
    config::{Config, Environment, VaultConfig},
    redact::Redactor,
    store::{GrantKey, Store},
    supervisor::{SecretLookup, SecretRef},
};

/// In the state directory: see [`VaultBuilder::witness`](super::VaultBuilder::witness).
const WITNESS: &str = "vault.witness";
/// Likewise: see [`DetachedOptions::socket`].
const EXCHANGER: &str = "exchanger.sock";

/// As what a vault is opened.
#[derive(Clone, Debug)]
pub enum Tenant {
    /// By the one daemon of its fleet. Token requests go out from a process that outlives it, of the program at that path.
    Daemon(PathBuf),
    /// For a moment, beside or before a daemon. It fences nothing, and sends nothing for a store that it does not know.
    Guest,
}

/// A vault and what belongs to it. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// The vault; it may be sealed.
    pub vault: Vault,
    providers: Arc<Providers>,
    http: Http,
    store: Arc<dyn Store>,
    redactor: Arc<Redactor>,
}

impl Assembly {
    /// Opens the vault of `config` in `store`. Nothing is refreshed by itself before [`Vault::start`].
    ///
    /// A key that is missing or wrong makes a vault that is sealed, and a provider whose client cannot be looked up is left
    /// out: neither keeps bots from running that need nothing of it.
    ///
    /// # Errors
    /// Those of the store, of the witness file in the state directory, and of the HTTP client.
    pub async fn open(
        config: &Config,
        store: Arc<dyn Store>,
        redactor: Arc<Redactor>,
        tenant: Tenant,
    ) -> Result<Self> {
        let (http, providers) = (Http::new()?, Arc::new(Providers::default()));
        let state_dir = &config.daemon.state_dir;
        let keys = config.vault.keys(&config.environment);
        let direct = Arc::new(HttpExchanger::new(http.clone()));
        let witness = state_dir.join(WITNESS);
        let mut builder = Vault::builder(Arc::clone(&store), keys, Arc::clone(&providers))
            .http(http.clone())
            .redactor(Arc::clone(&redactor));
        let socket = state_dir.join(EXCHANGER);
        let (program, judgement) = match tenant {
            // It judges by itself, and fences.
            Tenant::Daemon(program) => (Some(program), Judgement::Same),
            Tenant::Guest => (None, Witness::open(&witness, &*store).await?.1),
        };
        // A guest sends by itself, but finds what a dead daemon's exchanger has kept.
        let detached =
            Arc::new(DetachedExchanger::new(DetachedOptions { socket, program }, direct));
        builder = match judgement {
            Judgement::Same => builder.exchanger(Arc::clone(&detached) as _).witness(witness),
            Judgement::Restored(why) => builder.exchanger(Arc::new(Abstaining { why })),
        };
        let vault = builder.build().await?;
        if let Ok(keyring) = vault.keyring() {
            detached.unlock(keyring);
        }
        let assembly = Self { vault, providers, http, store, redactor };
        assembly.configure(&config.vault, &config.environment).await;
        Ok(assembly)
    }

    /// Takes the providers of a configuration that was read again. One that cannot be looked up now stays as it was.
    pub async fn configure(&self, config: &VaultConfig, environment: &Environment) {
        let secrets = self.vault.keyring().and_then(|keyring| Secrets::new(keyring.clone())).ok();
        let (before, mut found) = (self.providers.all(), Vec::new());
        for configured in &config.providers {
            let name = &configured.name;
            match configured
                .resolve(|reference| find(reference.clone(), environment, secrets.as_ref()))
                .await
            {
                Ok(provider) => found.push(Arc::new(provider)),
                Err(error) => {
                    let kept = before.get(name);
                    let what = if kept.is_some() {
                        "it stays as it was"
                    } else {
                        "its grants are not refreshed"
                    };
                    tracing::error!(provider = name, error = %error.chain(), "a provider cannot be used as configured: {what}");
                    found.extend(kept.cloned());
                }
            }
        }
        let client_secrets = found.iter().filter_map(|provider| provider.client_secret()).cloned();
        if let Err(error) = self.redactor.learn(client_secrets) {
            tracing::error!(error = %error.chain(), "secrets of clients are not masked in logs");
        }
        self.providers.replace(found);
    }

    /// What operators work with.
    #[must_use]
    pub fn admin(&self) -> VaultAdmin {
        VaultAdmin::new(VaultParts {
            vault: Arc::new(self.vault.clone()),
            store: Arc::clone(&self.store),
            providers: Arc::clone(&self.providers),
            http: self.http.clone(),
        })
    }
}

/// The vault's own secrets, by the names under which definitions ask for them.
#[async_trait]
impl SecretLookup for Assembly {
    async fn secret(&self, name: &str) -> Result<SecretString> {
        let secret = Secrets::new(self.vault.keyring()?.clone())?.get(name).await?;
        self.redactor.learn([secret.clone()])?;
        Ok(secret)
    }
}

#[async_trait]
impl OperatedVault for Vault {
    fn keyring(&self) -> Result<&Keyring> {
        Self::keyring(self)
    }

    async fn adopt(&self, key: &GrantKey) -> Result<()> {
        Self::adopt(self, key).await
    }
}

/// Sends nothing: the store was restored or copied, and whoever owns it has not said that it is the only one.
#[derive(Debug)]
struct Abstaining {
    why: String,
}

#[async_trait]
impl Exchanger for Abstaining {
    async fn exchange(&self, _: ExchangeJob) -> Exchanged {
        Exchanged::NotSent(Error::WrongState {
            what: "the vault".into(),
            state: format!("not known here ({})", self.why),
            help: "start kissopsd, which looks after it; `kissops vault adopt` says that no other copy is in use".into(),
        })
    }

    async fn recover(&self, _: Ticket) -> Result<Option<Exchanged>> {
        Ok(None)
    }

    async fn settled(&self, _: Ticket) {}
}

async fn find(
    reference: SecretRef,
    environment: &Environment,
    secrets: Option<&Secrets>,
) -> Result<SecretString> {
    match (reference, secrets) {
        (SecretRef::Secret(name), Some(secrets)) => secrets.get(&name).await,
        (SecretRef::Secret(name), None) => Err(Error::WrongState {
            what: format!("secret `{name}`"),
            state: "sealed".into(),
            help: "open the vault first".into(),
        }),
        (reference, _) => {
            // Files block for as long as the disk does.
            let environment = environment.clone();
            let read = tokio::task::spawn_blocking(move || environment.lookup(&reference)).await;
            read.map_err(|_| Error::Closed { what: "the runtime" })?
        }
    }
}
