//! The vault itself: open or sealed, by which keys, and new ones.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Caller, Grant, GrantFilter, VaultAdmin, expose};
use crate::{
    Error, Result, Timestamp,
    store::{AuditOutcome, DataKeyRecord, GrantKey, KekId},
    vault::{Kek, Rotated, RotationDepth, envelope::FINGERPRINTS},
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
    /// So many rows were sealed anew.
    pub resealed: u64,
    /// Rows that do not open, by name: they stay as they are, with the old data key.
    pub damaged: Vec<String>,
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

/// The state of a grant that waits to be adopted.
const FENCED: &str = "fenced";

/// The rotation that runs, or ran last.
#[derive(Debug, Default)]
pub(super) struct Rotation(Mutex<Option<RotationView>>);

impl Rotation {
    fn with<T>(&self, read: impl FnOnce(&mut Option<RotationView>) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn shown(&self) -> Option<RotationView> {
        self.with(|rotation| rotation.clone())
    }

    fn begin(&self) -> Result<RotationView> {
        self.with(|rotation| {
            if rotation.as_ref().is_some_and(|rotation| rotation.state == "running") {
                let what = "the rotation of the vault's keys".into();
                return Err(Error::Conflict { what, holder: "one that runs already".into() });
            }
            let begun = RotationView { state: "running".into(), ..RotationView::default() };
            Ok(rotation.insert(begun).clone())
        })
    }

    fn progress(&self, done: &Rotated) {
        self.with(|rotation| {
            if let Some(rotation) = rotation {
                rotation.resealed = done.tokens + done.answers + done.secrets;
                rotation.damaged.clone_from(&done.damaged);
            }
        });
    }

    fn end(&self, done: Result<&Rotated, String>) {
        if let Ok(done) = done {
            self.progress(done);
        }
        self.with(|rotation| {
            if let Some(rotation) = rotation {
                rotation.state = if done.is_ok() { "done" } else { "failed" }.into();
                rotation.error = done.err();
            }
        });
    }
}

impl VaultAdmin {
    /// Begins to seal everything anew. It goes on by itself; [`status`](Self::status) says how far it is. One that was
    /// interrupted is continued by the next.
    ///
    /// # Errors
    /// - [`InvalidConfig`](Error::InvalidConfig) for a weak or malformed key.
    /// - [`WrongState`](Error::WrongState) while the vault is sealed.
    /// - [`Conflict`](Error::Conflict) while one runs.
    pub async fn rotate(&self, caller: &Caller, request: RotateRequest) -> Result<RotationView> {
        let to = request.to.as_ref().map(Kek::parse).transpose()?;
        let keyring = self.keyring()?.clone();
        let begun = self.inner.rotation.begin()?;
        let target = match &to {
            Some(key) => format!("vault, to key {}", key.id().0),
            None => "vault".to_owned(),
        };
        let (action, outcome) = ("vault.rotate", AuditOutcome::Done);
        if let Err(err) = self.ledger().record(caller, action, &target, outcome).await {
            self.inner.rotation.end(Err(err.chain()));
            return Err(err);
        }
        let (admin, caller) = (self.clone(), caller.clone());
        self.inner.tasks.spawn(async move {
            let rotation = &admin.inner.rotation;
            let depth = RotationDepth::Everything;
            match keyring.rotate_with(to, depth, &|done| rotation.progress(done)).await {
                Ok(done) => rotation.end(Ok(&done)),
                Err(err) => {
                    let outcome = AuditOutcome::Failed(err.chain());
                    admin.ledger().record_late(&caller, action, &target, outcome).await;
                    rotation.end(Err(err.chain()));
                }
            }
        });
        Ok(begun)
    }

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
        let why = match self.keyring() {
            Ok(_) => None,
            Err(Error::WrongState { help, .. }) => Some(help),
            Err(err) => Some(err.chain()),
        };
        Ok(VaultStatus {
            state: if why.is_some() { "sealed" } else { "open" }.to_owned(),
            why,
            key,
            data_keys: data_keys.into_iter().map(DataKeyView::from).collect(),
            grants,
            secrets: self.count_secrets().await?,
            rotation: self.inner.rotation.shown(),
        })
    }

    /// Uses fenced grants again. The store that they come from must be out of use for good.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) for an account that has no grant.
    pub async fn adopt(&self, caller: &Caller, request: AdoptRequest) -> Result<Adopted> {
        let target = match (&request.provider, &request.account) {
            (Some(provider), Some(account)) => format!("grant {provider}/{account}"),
            (Some(provider), None) => format!("provider {provider}"),
            (None, None) => "vault".to_owned(),
            (None, Some(_)) => {
                return Err(Error::invalid("account", "needs the provider that it is at"));
            }
        };
        let admin = self.clone();
        self.change(caller, "vault.adopt", target, async move {
            if let AdoptRequest { provider: Some(provider), account: Some(account) } = request {
                let key = GrantKey { provider, account };
                let fenced = admin.grant(&key).await?.state == FENCED;
                admin.vault().adopt(&key).await?;
                return Ok(Adopted { adopted: u64::from(fenced) });
            }
            admin.adopt_all(request.provider).await
        })
        .await
    }

    async fn adopt_all(&self, provider: Option<String>) -> Result<Adopted> {
        let state = Some(FENCED.to_owned());
        let mut filter = GrantFilter { provider, state, ..GrantFilter::default() };
        let mut done = Adopted::default();
        loop {
            let page = self.grants(filter.clone()).await?;
            for Grant { provider, account, .. } in page.grants {
                self.vault().adopt(&GrantKey { provider, account }).await?;
                done.adopted += 1;
            }
            filter.after = page.next;
            if filter.after.is_none() {
                return Ok(done);
            }
        }
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
