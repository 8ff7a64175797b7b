//! A vault as a configuration says: what a daemon runs, and what a command uses where no daemon runs.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use secrecy::SecretString;

use super::{
    DetachedExchanger, DetachedOptions, Exchanger, Http, HttpExchanger, Keyring, Provider,
    ProviderTally, Providers, Secrets, Vault,
    admin::{OperatedVault, VaultAdmin, VaultParts},
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

/// Who sends token requests.
#[derive(Clone, Debug)]
pub enum Sender {
    /// This process.
    Here,
    /// A process that outlives this one, of the program of that path.
    Apart(PathBuf),
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
        sender: Sender,
    ) -> Result<Self> {
        let (http, providers) = (Http::new()?, Arc::new(Providers::default()));
        let state_dir = &config.daemon.state_dir;
        let keys = config.vault.keys(&config.environment);
        let direct = Arc::new(HttpExchanger::new(http.clone()));
        let exchanger: Arc<dyn Exchanger> = match (sender, &keys) {
            (Sender::Apart(program), Ok(keys)) => {
                let socket = state_dir.join(EXCHANGER);
                let options = DetachedOptions { socket, program, keys: keys.of_answers() };
                Arc::new(DetachedExchanger::new(options, direct))
            }
            _ => direct,
        };
        let vault = Vault::builder(Arc::clone(&store), keys, Arc::clone(&providers))
            .http(http.clone())
            .exchanger(exchanger)
            .redactor(Arc::clone(&redactor))
            .witness(state_dir.join(WITNESS))
            .build()
            .await?;
        let assembly = Self { vault, providers, http, store, redactor };
        assembly.configure(&config.vault, &config.environment).await;
        Ok(assembly)
    }

    /// Takes the providers of a configuration that was read again.
    pub async fn configure(&self, config: &VaultConfig, environment: &Environment) {
        let secrets = self.vault.keyring().and_then(|keyring| Secrets::new(keyring.clone())).ok();
        let (found, errors) = configured_providers(config, environment, secrets.as_ref()).await;
        for error in errors {
            tracing::error!(error = %error.chain(), "a provider cannot be used: its grants are not refreshed");
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

    fn tallies(&self) -> BTreeMap<Arc<str>, ProviderTally> {
        Self::tallies(self)
    }
}

/// The providers that `[vault]` names, with what their clients are known by, and what is wrong with the others. One that
/// cannot be used keeps none of them from being used. `secrets` is missing while the vault is sealed.
async fn configured_providers(
    config: &VaultConfig,
    environment: &Environment,
    secrets: Option<&Secrets>,
) -> (Vec<Provider>, Vec<Error>) {
    let (mut providers, mut errors) = (Vec::new(), Vec::new());
    for configured in &config.providers {
        let found = configured.resolve(|reference| find(reference.clone(), environment, secrets));
        match found.await {
            Ok(provider) => providers.push(provider),
            Err(err) => errors.push(Error::Unavailable {
                what: format!("provider `{}`", configured.name),
                source: err.chain().into(),
            }),
        }
    }
    (providers, errors)
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
