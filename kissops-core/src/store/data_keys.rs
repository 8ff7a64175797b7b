//! Data keys, which seal rows, as they are wrapped by a key-encryption key (KEK) that is no part of a store.

use std::fmt;

use async_trait::async_trait;

use super::{DataKeyId, Sealed};
use crate::{Result, Timestamp};

/// Names a key-encryption key without telling anything of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KekId(pub String);

/// A data key to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDataKey {
    /// Its number.
    pub id: DataKeyId,
    /// What wraps it.
    pub kek: KekId,
    /// The key, wrapped.
    pub wrapped: Sealed,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataKeyRecord {
    /// The key as it is wrapped now.
    pub key: NewDataKey,
    /// How many seals were reserved. A key is good for a limited number of them.
    pub seals: u64,
    /// Since when it is to seal nothing more.
    pub retired_at: Option<Timestamp>,
}

/// Data keys.
#[async_trait]
pub trait DataKeyStore: fmt::Debug + Send + Sync + 'static {
    /// Keeps a data key.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if there is one of that number.
    async fn add_data_key(&self, key: NewDataKey) -> Result<()>;

    /// All data keys, oldest first.
    async fn data_keys(&self) -> Result<Vec<DataKeyRecord>>;

    /// Puts the key wrapped by another KEK in the place of the one wrapped by `from`.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if it is not wrapped by `from` any more: another rotation did it.
    /// - [`NotFound`](crate::Error::NotFound) if there is none of that number.
    async fn rewrap_data_key(
        &self,
        id: DataKeyId,
        from: &KekId,
        to: KekId,
        wrapped: Sealed,
    ) -> Result<()>;

    /// Reserves `count` seals; answers with all that were reserved so far. So a killed program counts too many, never
    /// too few.
    ///
    /// # Errors
    /// - [`WrongState`](crate::Error::WrongState) if the key is retired.
    /// - [`NotFound`](crate::Error::NotFound) if there is none of that number.
    async fn reserve_seals(&self, id: DataKeyId, count: u32) -> Result<u64>;

    /// Retires a key: what it sealed still opens. The first time stays.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is none of that number.
    async fn retire_data_key(&self, id: DataKeyId, at: Timestamp) -> Result<()>;

    /// Removes a retired key, and by that whatever copies of its ciphertext there may be elsewhere.
    ///
    /// # Errors
    /// - [`WrongState`](crate::Error::WrongState) if it is not retired, or something here is still sealed by it.
    /// - [`NotFound`](crate::Error::NotFound) if there is none of that number.
    async fn remove_data_key(&self, id: DataKeyId) -> Result<()>;
}
