//! `[vault]`: its key, and the providers.

use super::{
    Environment, provider,
    reader::{Item, Section},
    secret,
};
use crate::{
    Result,
    supervisor::SecretRef,
    vault::{Client, KeySource, Keys, Profile, Provider},
};
use secrecy::{ExposeSecret as _, SecretString};

/// The variable that holds the key where the file names no other place.
pub const KEY_VARIABLE: &str = "KISSOPS_SECRET_KEY";

/// `[vault]`: where its key is, and whom it has grants from.
#[derive(Clone, Debug, PartialEq)]
pub struct VaultConfig {
    /// The file has such a section.
    pub configured: bool,
    /// The key that seals.
    pub key: KeySource,
    /// Keys of before, which still open what is not sealed anew yet.
    pub previous: Vec<KeySource>,
    /// The providers, by name.
    pub providers: Vec<ProviderConfig>,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            configured: false,
            key: KeySource::Env(KEY_VARIABLE.to_owned()),
            previous: Vec::new(),
            providers: Vec::new(),
        }
    }
}

/// `[vault.provider.NAME]`: what is known of a provider, and where our client's name and secret there are found.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderConfig {
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub profile: Profile,
    /// Our client's number.
    pub client_id: ClientId,
    /// Our client's secret; none for a public client.
    pub client_secret: Option<SecretRef>,
}

/// A client's number, which is no secret but often kept beside one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientId {
    /// As it stands in the file.
    Plain(String),
    /// Looked up.
    Reference(SecretRef),
}

impl VaultConfig {
    /// The keys, read afresh. Blocks for as long as the disk does.
    ///
    /// A former key that cannot be read is left out, with a warning: whether it is needed shows when the vault is opened.
    ///
    /// # Errors
    /// Those of [`KeySource::read`], for the present key.
    pub fn keys(&self, environment: &Environment) -> Result<Keys> {
        let current = self.key.read(environment)?;
        let mut previous = Vec::new();
        for source in &self.previous {
            match source.read(environment) {
                Ok(key) => previous.push(key),
                Err(err) => {
                    tracing::warn!(error = %err.chain(), "a former key of the vault is missing");
                }
            }
        }
        Ok(Keys { current, previous })
    }

    /// Where its keys are, each under its name in the file.
    pub(super) fn key_sources(&self) -> impl Iterator<Item = (&'static str, &KeySource)> {
        let previous = self.previous.iter().map(|key| ("vault.previous", key));
        std::iter::once(("vault.key", &self.key)).chain(previous)
    }

    /// The variables of the environment that hold its secrets, which are nobody else's.
    pub(crate) fn secret_variables(&self) -> impl Iterator<Item = &str> {
        let keys = self.key_sources().filter_map(|(_, key)| match key {
            KeySource::Env(name) => Some(name.as_str()),
            _ => None,
        });
        let clients = self.providers.iter().filter_map(|provider| match &provider.client_secret {
            Some(SecretRef::Env(name)) => Some(name.as_str()),
            _ => None,
        });
        keys.chain(clients)
    }
}

impl ProviderConfig {
    /// What it looks up elsewhere, each under its name in the file.
    pub(super) fn references(&self) -> impl Iterator<Item = (String, &SecretRef)> {
        let key = |key: &str| format!("vault.provider.{}.{key}", self.name);
        let id = match &self.client_id {
            ClientId::Plain(_) => None,
            ClientId::Reference(reference) => Some((key("client_id"), reference)),
        };
        let secret = self.client_secret.as_ref().map(|secret| (key("client_secret"), secret));
        id.into_iter().chain(secret)
    }

    /// The provider, with what `find` finds.
    ///
    /// # Errors
    /// - Those of `find`.
    /// - Those of [`Provider::new`].
    pub async fn resolve<F>(&self, mut find: impl FnMut(&SecretRef) -> F) -> Result<Provider>
    where
        F: Future<Output = Result<SecretString>>,
    {
        let id = match &self.client_id {
            ClientId::Plain(id) => id.clone(),
            ClientId::Reference(reference) => find(reference).await?.expose_secret().to_owned(),
        };
        let secret = match &self.client_secret {
            Some(reference) => Some(find(reference).await?),
            None => None,
        };
        Provider::new(&self.name, self.profile.clone(), Client { id, secret })
    }
}

pub(super) fn read(section: Section<'_>) -> VaultConfig {
    let key = section.get("key").and_then(|item| sealing_key(&item));
    let previous = section.get("previous").and_then(|item| {
        let items = item.array("write previous = [{ file = \"old.key\" }]")?;
        Some(items.iter().filter_map(sealing_key).collect())
    });
    let providers = section.get("provider").and_then(|item| {
        let section = item.section("write [vault.provider.NAME] with its keys below")?;
        Some(section.items().filter_map(|(name, item)| provider::read(name, &item)).collect())
    });
    section.finish();
    let usual = VaultConfig::default();
    VaultConfig {
        configured: true,
        key: key.unwrap_or(usual.key),
        previous: previous.unwrap_or_default(),
        providers: providers.unwrap_or_default(),
    }
}

/// A key's place: anywhere but in the vault.
fn sealing_key(item: &Item<'_>) -> Option<KeySource> {
    match secret::reference(item)? {
        SecretRef::Env(name) => Some(KeySource::Env(name)),
        SecretRef::File(path) => Some(KeySource::File(path)),
        SecretRef::Credential(name) => Some(KeySource::Credential(name)),
        SecretRef::Secret(_) => item.fail(
            "cannot be in the vault that it opens",
            "write { env = \"NAME\" }, { file = \"path\" } or { credential = \"name\" }",
        ),
    }
}

/// The place of a key, as that of any secret.
pub(super) fn as_reference(key: &KeySource) -> SecretRef {
    match key.clone() {
        KeySource::Env(name) => SecretRef::Env(name),
        KeySource::File(path) => SecretRef::File(path),
        KeySource::Credential(name) => SecretRef::Credential(name),
    }
}

#[cfg(test)]
mod tests;
