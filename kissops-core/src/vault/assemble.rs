//! From the configuration to a vault with all that works on it.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use secrecy::SecretString;

use super::{
    Exchanger, Http, Keyring, Provider, Providers, Secrets, Vault,
    admin::{OperatedVault, VaultAdmin, VaultParts},
};
use crate::{
    Error, Result,
    config::{Config, Environment, VaultConfig},
    redact::Redactor,
    store::{GrantKey, Store},
    supervisor::{SecretLookup, SecretRef},
};

/// The file in `state_dir` that tells a store which was restored or copied from one that went on.
const WITNESS: &str = "vault.witness";

/// The vault of a configuration.
#[derive(Clone, Debug)]
pub struct ConfiguredVault {
    /// Keeps the grants. Nothing is refreshed by itself before [`Vault::start`].
    pub vault: Vault,
    /// What operators do with it.
    pub admin: VaultAdmin,
    /// Who gives tokens.
    pub providers: Arc<Providers>,
    /// Reaches them.
    pub http: Http,
    redactor: Arc<Redactor>,
}

/// What a vault stands on.
#[derive(Clone, Debug)]
pub struct VaultBase {
    /// Where everything is stored.
    pub store: Arc<dyn Store>,
    /// Learns tokens and secrets before they are used.
    pub redactor: Arc<Redactor>,
    /// Who sends token requests; without one, this process.
    pub exchanger: Option<Arc<dyn Exchanger>>,
}

impl ConfiguredVault {
    /// Opens the vault that `config` has. Without its key it is there as well, sealed. A provider that cannot be used is
    /// left out, with a warning.
    ///
    /// # Errors
    /// Those of the store, and [`Unavailable`](Error::Unavailable) if there can be no TLS.
    pub async fn open(config: &Config, base: VaultBase) -> Result<Self> {
        let VaultBase { store, redactor, exchanger } = base;
        let (section, environment) = (config.vault.clone(), config.environment.clone());
        // Files block for as long as the disk does.
        let keys = tokio::task::spawn_blocking(move || section.keys(&environment)).await;
        let keys = keys.map_err(|_| Error::Closed { what: "the runtime" })?;
        let (http, providers) = (Http::new()?, Arc::new(Providers::default()));
        let mut builder = Vault::builder(Arc::clone(&store), keys, Arc::clone(&providers))
            .http(http.clone())
            .redactor(Arc::clone(&redactor))
            .witness(witness(&config.daemon.state_dir));
        if let Some(exchanger) = exchanger {
            builder = builder.exchanger(exchanger);
        }
        let vault = builder.build().await?;
        let admin = VaultAdmin::new(VaultParts {
            vault: Arc::new(vault.clone()),
            store,
            providers: Arc::clone(&providers),
            http: http.clone(),
        });
        let configured = Self { vault, admin, providers, http, redactor };
        configured.reload(config).await?;
        Ok(configured)
    }

    /// Takes the providers of `config` in the place of those before. Its keys take a restart.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig) if their secrets are too many to be masked in logs.
    pub async fn reload(&self, config: &Config) -> Result<()> {
        let secrets = self.keeper().ok();
        let (section, environment) = (&config.vault, &config.environment);
        let (providers, errors) =
            configured_providers(section, environment, secrets.as_ref()).await;
        for err in errors {
            tracing::warn!(error = %err.chain(), "a provider of the configuration cannot be used");
        }
        self.redactor.learn(providers.iter().filter_map(Provider::client_secret).cloned())?;
        self.providers.replace(providers);
        Ok(())
    }

    /// Where instances' `{ secret = "name" }` are looked up.
    #[must_use]
    pub fn lookup(&self) -> Arc<dyn SecretLookup> {
        Arc::new(self.clone())
    }

    /// Ends what is under way; see [`VaultAdmin::close`] and [`Vault::close`].
    pub async fn close(&self) {
        self.admin.close().await;
        self.vault.close().await;
    }

    fn keeper(&self) -> Result<Secrets> {
        Secrets::new(self.vault.keyring()?.clone())
    }
}

#[async_trait]
impl SecretLookup for ConfiguredVault {
    async fn secret(&self, name: &str) -> Result<SecretString> {
        let secret = self.keeper()?.get(name).await?;
        self.redactor.learn([secret.clone()])?;
        Ok(secret)
    }
}

#[async_trait]
impl OperatedVault for Vault {
    fn keyring(&self) -> Result<&Keyring> {
        self.keyring()
    }

    async fn adopt(&self, key: &GrantKey) -> Result<()> {
        self.adopt(key).await
    }
}

fn witness(state_dir: &Path) -> std::path::PathBuf {
    state_dir.join(WITNESS)
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
