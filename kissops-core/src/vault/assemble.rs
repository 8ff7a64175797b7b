//! From the configuration to the parts of a vault.

use secrecy::SecretString;

use super::{Provider, Secrets};
use crate::{
    Error, Result,
    config::{Environment, VaultConfig},
    supervisor::SecretRef,
};

/// The providers that `[vault]` names, with what their clients are known by, and what is wrong with the others. One that
/// cannot be used keeps none of them from being used. `secrets` is missing while the vault is sealed.
pub async fn configured_providers(
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
