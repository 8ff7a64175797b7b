//! Keys by which programs call the API.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::Role;
use crate::{Result, Timestamp, id::InstanceName};

/// A use of a key is stored when the one before is older than this: a busy key must not be a write for every request.
pub const API_KEY_USE_RESOLUTION: Duration = Duration::from_mins(1);

/// A key's number, made by an [`IdMaker`](crate::id::IdMaker).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKeyId(pub i64);

/// The hash of a key; the key itself is nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash(pub Vec<u8>);

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the bearer of a key may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// What people of that role may do.
    Role(Role),
    /// What concerns this instance alone.
    Bot(InstanceName),
}

/// A key to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApiKey {
    /// Its number.
    pub id: ApiKeyId,
    /// What people call it. Of the keys that are not revoked, only one has it.
    pub name: String,
    /// The part of the key that is no secret, by which it is found.
    pub prefix: String,
    /// The hash of the whole key.
    pub hash: KeyHash,
    /// What its bearer may do.
    pub access: Access,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// From when on it is not accepted any more.
    pub expires_at: Option<Timestamp>,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// The key as it was made.
    pub key: NewApiKey,
    /// When it was last used, to within [`API_KEY_USE_RESOLUTION`].
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl ApiKeyRecord {
    /// Whether it is to be accepted at `at`.
    #[must_use]
    pub fn is_valid(&self, at: Timestamp) -> bool {
        self.revoked_at.is_none() && self.key.expires_at.is_none_or(|end| at < end)
    }
}

/// API keys.
#[async_trait]
pub trait ApiKeyStore: fmt::Debug + Send + Sync + 'static {
    /// Keeps a key.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if one that is not revoked has the name, or any has the prefix or number.
    async fn add_api_key(&self, key: NewApiKey) -> Result<()>;

    /// All keys, revoked ones included, by name and then oldest first.
    async fn api_keys(&self) -> Result<Vec<ApiKeyRecord>>;

    /// The key with that prefix, revoked or expired as it may be. It opens nothing before the hash was compared and
    /// [`ApiKeyRecord::is_valid`] was asked.
    async fn api_key(&self, prefix: &str) -> Result<Option<ApiKeyRecord>>;

    /// Notes a use, unless one was noted within [`API_KEY_USE_RESOLUTION`]. A key that is gone is no error.
    async fn note_api_key_use(&self, id: ApiKeyId, at: Timestamp) -> Result<()>;

    /// Revokes the key of that name, for good.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is none of that name that is not revoked yet.
    async fn revoke_api_key(&self, name: &str, at: Timestamp) -> Result<()>;

    /// Removes at most `limit` keys that were revoked or ran out before `before`; says how many.
    async fn prune_api_keys(&self, before: Timestamp, limit: u32) -> Result<u64>;
}
