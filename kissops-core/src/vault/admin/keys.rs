//! The vault itself: open or sealed, by which keys, and new ones.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{VaultAdmin, expose};
use crate::{
    Result, Timestamp,
    store::{DataKeyRecord, KekId},
    vault::envelope::FINGERPRINTS,
};

/// How the vault is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct VaultStatus {
    /// `open` or `sealed`.
    pub state: String,
    /// Why it is sealed.
    pub why: Option<String>,
    /// The key that opens it, by its name, which tells nothing of it. `null` before it was opened for the first time.
    pub key: Option<String>,
    /// The keys that seal what is in it, oldest first.
    pub data_keys: Vec<DataKeyView>,
    /// How many grants there are in each state.
    pub grants: BTreeMap<String, u64>,
    /// How many secrets there are.
    pub secrets: u64,
    /// The rotation of keys that runs, or ran last in this program's life.
    pub rotation: Option<RotationView>,
}

/// A data key, without the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct DataKeyView {
    /// Its number, as text.
    pub id: String,
    /// The name of the key that it is wrapped by.
    pub key: String,
    /// When it was made.
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub created_at: Timestamp,
    /// Since when it seals nothing more.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub retired_at: Option<Timestamp>,
    /// How many seals were reserved of it.
    pub seals: u64,
}

/// How far a rotation of keys has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct RotationView {
    /// `running`, `done`, `failed`.
    pub state: String,
    /// Why it failed. It goes on where it was when it is begun again.
    pub error: Option<String>,
    /// The name of the key that all is under now; it has to be the configured one before the next start.
    pub key: Option<String>,
    /// So many rows were sealed anew.
    pub resealed: u64,
}

/// Keys to be rotated.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// The new key; under the present one where it is left out.
    #[serde(default, serialize_with = "expose::some")]
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub to: Option<SecretString>,
}

/// Fenced grants to be used again: all of those that all given members mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AdoptRequest {
    /// Of this provider; of every provider where it is left out.
    pub provider: Option<String>,
    /// Only this account's.
    pub account: Option<String>,
}

/// What was adopted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct Adopted {
    /// So many grants are used again.
    pub adopted: u64,
}

impl From<DataKeyRecord> for DataKeyView {
    fn from(record: DataKeyRecord) -> Self {
        Self {
            id: record.key.id.0.to_string(),
            key: record.key.kek.0,
            created_at: record.key.created_at,
            retired_at: record.retired_at,
            seals: record.seals,
        }
    }
}

impl VaultAdmin {
    /// How the vault is doing; also while it is sealed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn status(&self) -> Result<VaultStatus> {
        let mut data_keys = self.store().data_keys().await?;
        // The first of all is the store's own: it says which key opens it.
        let own = data_keys.iter().position(|record| record.key.id == FINGERPRINTS);
        let key = own.map(|at| data_keys.remove(at).key.kek).map(|KekId(name)| name);
        let mut grants = BTreeMap::new();
        for (_, state, count) in self.store().count_grants().await? {
            *grants.entry(state.as_str().to_owned()).or_default() += count;
        }
        let why = self.inner.keyring.as_ref().err().cloned();
        Ok(VaultStatus {
            state: if why.is_some() { "sealed" } else { "open" }.to_owned(),
            why,
            key,
            data_keys: data_keys.into_iter().map(DataKeyView::from).collect(),
            grants,
            secrets: self.count_secrets().await?,
            rotation: None,
        })
    }

    async fn count_secrets(&self) -> Result<u64> {
        const PAGE: u32 = 1_000;
        let (mut count, mut after) = (0, None::<String>);
        loop {
            let page = self.store().secrets(after.as_deref(), PAGE).await?;
            let read = u32::try_from(page.len()).unwrap_or(PAGE);
            count += u64::from(read);
            match page.into_iter().last() {
                Some(last) if read == PAGE => after = Some(last.secret.name),
                _ => return Ok(count),
            }
        }
    }
}
