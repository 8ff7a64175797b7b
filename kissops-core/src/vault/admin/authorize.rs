//! Authorizations under way: begun here, finished by an account's owner in a browser, and kept when they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Caller, VaultAdmin, target};
use crate::{
    Error, Result, Timestamp, clock,
    id::InstanceName,
    store::{AuditOutcome, GrantKey},
    vault::NewTokens,
};

/// How an account is to be authorized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AuthorizeFlow {
    /// Its owner types a code at the provider's page, on any device.
    #[default]
    DeviceCode,
    /// By the client's own secret: there is no owner.
    ClientCredentials,
}

/// An authorization to be begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizeRequest {
    /// How.
    pub flow: AuthorizeFlow,
    /// What to ask for; what the grant had or the provider's profile says where it is left out.
    pub scopes: Option<BTreeSet<String>>,
    /// The instances that it is to be handed to; as they are where it is left out.
    #[cfg_attr(feature = "control", schema(value_type = Option<Vec<String>>))]
    pub instances: Option<BTreeSet<InstanceName>>,
}

/// How far an authorization has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AuthorizationState {
    /// It waits for the account's owner.
    Pending,
    /// The tokens are kept.
    Done,
    /// It came to nothing.
    Failed,
}

/// An authorization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct Authorization {
    /// What it is asked for by.
    pub id: String,
    /// The provider's profile.
    pub provider: String,
    /// Whose grant.
    pub account: String,
    /// How far it has come.
    pub state: AuthorizationState,
    /// Why it came to nothing.
    pub error: Option<String>,
    /// Where the account's owner goes.
    pub url: Option<String>,
    /// What is to be typed there, unless the URL holds it.
    pub code: Option<String>,
    /// Until when.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub expires_at: Option<Timestamp>,
    /// How long to wait at least between two looks at it.
    pub interval_seconds: u64,
}

/// Those under way, and those that ended lately.
#[derive(Debug, Default)]
pub(super) struct Authorizations(Mutex<BTreeMap<String, Entry>>);

#[derive(Debug)]
struct Entry {
    shown: Authorization,
    cancel: CancellationToken,
}

/// So many are remembered; the oldest that has ended makes room.
const REMEMBERED: usize = 1_000;

impl Authorizations {
    fn with<T>(&self, read: impl FnOnce(&mut BTreeMap<String, Entry>) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The one that still waits for the owner of `key`.
    fn waiting(&self, key: &GrantKey) -> Option<Authorization> {
        let now = clock::now();
        self.with(|all| {
            let mut shown = all.values().map(|entry| &entry.shown);
            let waits = |one: &&Authorization| {
                one.state == AuthorizationState::Pending
                    && one.provider == key.provider
                    && one.account == key.account
                    && one.expires_at.is_none_or(|until| until > now)
            };
            shown.find(waits).cloned()
        })
    }

    fn add(&self, shown: Authorization) -> Result<CancellationToken> {
        let cancel = CancellationToken::new();
        self.with(|all| {
            if all.len() >= REMEMBERED {
                let ended = |entry: &Entry| entry.shown.state != AuthorizationState::Pending;
                let Some(id) = all.iter().find(|(_, e)| ended(e)).map(|(id, _)| id.clone()) else {
                    let holder = format!("{REMEMBERED} others that wait for their owners");
                    return Err(Error::Conflict { what: "the authorization".into(), holder });
                };
                all.remove(&id);
            }
            all.insert(shown.id.clone(), Entry { shown, cancel: cancel.clone() });
            Ok(cancel)
        })
    }

    fn end(&self, id: &str, error: Option<String>) {
        self.with(|all| {
            if let Some(entry) = all.get_mut(id) {
                let done = AuthorizationState::Done;
                entry.shown.state = error.as_ref().map_or(done, |_| AuthorizationState::Failed);
                entry.shown.error = error;
            }
        });
    }

    pub(super) fn cancel_all(&self) {
        self.with(|all| all.values().for_each(|entry| entry.cancel.cancel()));
    }
}

impl VaultAdmin {
    /// An authorization as it is now.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound), also for one that ended long ago or with an earlier daemon.
    pub fn authorization(&self, id: &str) -> Result<Authorization> {
        let found = self.inner.authorizations.with(|all| Some(all.get(id)?.shown.clone()));
        found.ok_or_else(|| Error::NotFound {
            what: format!("authorization `{}`", id.escape_debug()),
        })
    }

    /// Gives an authorization up. Nothing happens to one that has ended.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub fn cancel_authorization(&self, id: &str) -> Result<()> {
        self.authorization(id)?;
        self.inner.authorizations.with(|all| all.get(id).map(|entry| entry.cancel.cancel()));
        Ok(())
    }

    /// Follows an authorization until its tokens are kept, whoever looks meanwhile.
    fn follow(
        &self,
        caller: &Caller,
        shown: Authorization,
        tokens: impl Future<Output = Result<NewTokens>> + Send + 'static,
    ) -> Result<Authorization> {
        let cancel = self.inner.authorizations.add(shown.clone())?;
        let (admin, caller, id) = (self.clone(), caller.clone(), shown.id.clone());
        let key = GrantKey { provider: shown.provider.clone(), account: shown.account.clone() };
        self.inner.tasks.spawn(async move {
            let kept = async { admin.vault().put(tokens.await?).await.map(drop) };
            let error = tokio::select! {
                kept = kept => kept.err().map(|err| err.chain()),
                () = cancel.cancelled() => Some("it was given up".to_owned()),
            };
            let outcome = error.clone().map_or(AuditOutcome::Done, AuditOutcome::Failed);
            admin.ledger().record_late(&caller, "token.authorize", &target(&key), outcome).await;
            admin.inner.authorizations.end(&id, error);
        });
        Ok(shown)
    }
}
