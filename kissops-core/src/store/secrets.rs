//! Secrets that are no OAuth grants: bot tokens, webhook URLs, passwords.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::{DataKeyId, SealedBy};
use crate::{Result, Timestamp};

/// A secret's number, made by an [`IdMaker`](crate::id::IdMaker). Sealing binds it together with the version, so that
/// one that was removed cannot be put back under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretId(pub i64);

/// A keyed hash of a secret: equal for equal secrets, and of no use without the key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub Vec<u8>);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// Somebody typed it or took it from elsewhere.
    Given,
    /// It was made here, at random.
    Generated,
}

/// One value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretValue {
    /// The value, sealed.
    pub sealed: SealedBy,
    /// Finds the same value elsewhere.
    pub fingerprint: Fingerprint,
    /// Where it comes from.
    pub source: SecretSource,
    /// Since when it is the value.
    pub at: Timestamp,
}

/// A secret to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSecret {
    /// Its number.
    pub id: SecretId,
    /// What the configuration calls it.
    pub name: String,
    /// What it is, by a stable word: `bot_token`, `webhook_url`, `api_key`, `password`.
    pub kind: String,
    /// Its first value, sealed as version 1.
    pub value: SecretValue,
    /// After how long it should be replaced.
    pub max_age: Option<Duration>,
}

/// A secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRecord {
    /// The secret with its value as it is now.
    pub secret: NewSecret,
    /// Counts its values from 1.
    pub version: u64,
    /// When it was first kept.
    pub created_at: Timestamp,
}

impl SecretRecord {
    /// When it should be replaced.
    #[must_use]
    pub fn due_at(&self) -> Option<Timestamp> {
        self.secret.max_age.map(|age| self.secret.value.at.plus(age))
    }
}

/// Secrets.
#[async_trait]
pub trait SecretStore: fmt::Debug + Send + Sync + 'static {
    /// Keeps a secret, as version 1.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if there is one of that name or number; it stays as it is.
    /// - [`NotFound`](crate::Error::NotFound) if the data key is gone.
    async fn add_secret(&self, secret: NewSecret) -> Result<()>;

    /// The secret of that name.
    async fn secret(&self, name: &str) -> Result<Option<SecretRecord>>;

    /// The next `limit` secrets after the name `after`, by name.
    async fn secrets(&self, after: Option<&str>, limit: u32) -> Result<Vec<SecretRecord>>;

    /// Replaces the value of version `from`; the new one is version `from + 1`. What was sealed before is gone.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if the version is not `from` any more, or the secret is gone.
    /// - [`NotFound`](crate::Error::NotFound) if the data key is gone.
    async fn rotate_secret(&self, id: SecretId, from: u64, value: SecretValue) -> Result<()>;

    /// Sets after how long a secret should be replaced.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is none of that name.
    async fn set_secret_age(&self, name: &str, max_age: Option<Duration>) -> Result<()>;

    /// The `limit` secrets that are to be replaced by `by`, the most urgent first.
    async fn due_secrets(&self, by: Timestamp, limit: u32) -> Result<Vec<SecretRecord>>;

    /// The names of all secrets with this value, in order: more than one is reuse.
    async fn secrets_alike(&self, fingerprint: &Fingerprint) -> Result<Vec<String>>;

    /// The next `limit` secrets after `after` that were sealed by `key`, in the order of their numbers.
    async fn secrets_sealed_by(
        &self,
        key: DataKeyId,
        after: Option<SecretId>,
        limit: u32,
    ) -> Result<Vec<SecretRecord>>;

    /// Puts the same version, sealed by another key, in the place of what `from` sealed.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if it is another version by now, sealed by another key, or gone.
    /// - [`NotFound`](crate::Error::NotFound) if the new data key is gone.
    async fn reseal_secret(
        &self,
        id: SecretId,
        version: u64,
        from: DataKeyId,
        to: SealedBy,
    ) -> Result<()>;

    /// Removes a secret.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is none of that name.
    async fn remove_secret(&self, name: &str) -> Result<()>;
}
