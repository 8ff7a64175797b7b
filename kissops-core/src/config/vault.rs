//! `[vault]`: its key, and the providers.

use super::{
    provider,
    reader::{Item, Section},
    secret,
};
use crate::{
    Result,
    supervisor::SecretRef,
    vault::{Client, Profile, Provider},
};
use secrecy::{ExposeSecret as _, SecretString};

/// The variable that holds the key where the file names no other place.
pub const KEY_VARIABLE: &str = "KISSOPS_SECRET_KEY";

/// `[vault]`: where its key is, and whom it has grants from.
#[derive(Clone, Debug, PartialEq)]
pub struct VaultConfig {
    /// The file has such a section.
    pub configured: bool,
    /// The key that seals; never [`SecretRef::Secret`], which it would have to open.
    pub key: SecretRef,
    /// Keys of before, which still open what is not sealed anew yet.
    pub previous: Vec<SecretRef>,
    /// The providers, by name.
    pub providers: Vec<ProviderConfig>,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            configured: false,
            key: SecretRef::Env(KEY_VARIABLE.to_owned()),
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

/// A reference in `[vault]`.
#[derive(Clone, Debug)]
pub struct VaultReference<'a> {
    /// Where it stands: `vault.provider.twitch.client_secret`.
    pub key: String,
    /// Where it leads.
    pub what: &'a SecretRef,
    /// What it leads to is a secret; a client's number is none.
    pub secret: bool,
    /// What happens without it.
    pub without: &'static str,
}

impl VaultConfig {
    /// Everything that it looks up elsewhere.
    pub fn references(&self) -> impl Iterator<Item = VaultReference<'_>> {
        let key = |key: &str, what| VaultReference {
            key: key.to_owned(),
            what,
            secret: true,
            without: "the vault stays sealed without it",
        };
        let previous = self.previous.iter().map(move |what| key("vault.previous", what));
        let keys = std::iter::once(key("vault.key", &self.key)).chain(previous);
        keys.chain(self.providers.iter().flat_map(ProviderConfig::references))
    }

    /// The variables of the environment that hold its secrets, which are nobody else's.
    pub(crate) fn secret_variables(&self) -> impl Iterator<Item = &str> {
        self.references().filter(|reference| reference.secret).filter_map(|reference| {
            match reference.what {
                SecretRef::Env(name) => Some(name.as_str()),
                _ => None,
            }
        })
    }
}

impl ProviderConfig {
    fn references(&self) -> impl Iterator<Item = VaultReference<'_>> {
        let reference = |key: &str, what, secret| VaultReference {
            key: format!("vault.provider.{}.{key}", self.name),
            what,
            secret,
            without: "the provider cannot be used without it",
        };
        let id = match &self.client_id {
            ClientId::Plain(_) => None,
            ClientId::Reference(what) => Some(reference("client_id", what, false)),
        };
        let secret = self.client_secret.as_ref().map(|what| reference("client_secret", what, true));
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
fn sealing_key(item: &Item<'_>) -> Option<SecretRef> {
    match secret::reference(item)? {
        SecretRef::Secret(_) => item.fail(
            "cannot be in the vault that it opens",
            "write { env = \"NAME\" }, { file = \"path\" } or { credential = \"name\" }",
        ),
        found => Some(found),
    }
}

#[cfg(test)]
mod tests;
