//! What operators do with a vault, as requests and answers: the control API and the command line say it with these.
//!
//! Every change, and every secret that is shown, is audited (CTL-3). A change is recorded before it is made, and once more
//! if it then fails: an audit bears an entry too many better than a gap.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio_util::task::TaskTracker;

use self::{authorize::Authorizations, keys::Rotation, ledger::Ledger};
use super::{Http, Keyring, Providers, TokenVault};
use crate::{
    Error, Result,
    store::{Actor, AuditOutcome, GrantKey, Store},
};

mod authorize;
mod grants;
mod import;
mod incident;
mod keys;
mod ledger;
mod secrets;

pub use super::import::{Imported, Skipped};
pub use authorize::{Authorization, AuthorizationState, AuthorizeFlow, AuthorizeRequest};
pub use grants::{
    BindRequest, Grant, GrantFilter, Grants, RevealedToken, RevokeRequest, RevokeResult,
};
pub use import::{NewToken, TokenImport};
pub use incident::{IncidentReport, IncidentRequest};
pub use keys::{AdoptRequest, Adopted, DataKeyView, RotateRequest, RotationView, VaultStatus};
pub use secrets::{GenerateSecret, RevealedSecret, SecretAge, SecretList, SecretView, SetSecret};

/// A vault as operators see it. Clones are handles on the same one.
#[derive(Clone)]
pub struct VaultAdmin {
    inner: Arc<Inner>,
}

/// What a vault does for operators beside what it does for bots.
#[async_trait]
pub trait OperatedVault: TokenVault {
    /// What seals and opens.
    ///
    /// # Errors
    /// [`WrongState`](Error::WrongState) while the vault is sealed.
    fn keyring(&self) -> Result<&Keyring>;

    /// Uses a fenced grant again; nothing happens to one that is not fenced. Only for who knows that no other copy of the
    /// store is in use.
    ///
    /// # Errors
    /// [`Conflict`](Error::Conflict) if the grant is changed at the same time.
    async fn adopt(&self, key: &GrantKey) -> Result<()>;
}

/// What operators work with.
#[derive(Clone, Debug)]
pub struct VaultParts {
    /// Keeps the grants.
    pub vault: Arc<dyn OperatedVault>,
    /// Where all of it is stored.
    pub store: Arc<dyn Store>,
    /// Who gives tokens.
    pub providers: Arc<Providers>,
    /// Reaches them.
    pub http: Http,
}

struct Inner {
    vault: Arc<dyn OperatedVault>,
    store: Arc<dyn Store>,
    providers: Arc<Providers>,
    http: Http,
    rotation: Rotation,
    authorizations: Authorizations,
    /// What was begun is carried out also when whoever asked for it has gone away.
    tasks: TaskTracker,
}

impl fmt::Debug for VaultAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultAdmin").finish_non_exhaustive()
    }
}

/// On whose behalf something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub actor: Actor,
    /// From where: `control.sock`.
    pub origin: String,
}

impl Caller {
    /// The user of this process, who works on the store without a daemon.
    #[must_use]
    pub fn local() -> Self {
        let uid = rustix::process::getuid().as_raw();
        Self { actor: Actor::Uid(uid), origin: "kissops, without a daemon".into() }
    }
}

impl VaultAdmin {
    /// The desk of a vault.
    #[must_use]
    pub fn new(parts: VaultParts) -> Self {
        let VaultParts { vault, store, providers, http } = parts;
        let inner = Inner {
            vault,
            store,
            providers,
            http,
            rotation: Rotation::default(),
            authorizations: Authorizations::default(),
            tasks: TaskTracker::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Gives up the authorizations that wait, and waits for what is being carried out.
    pub async fn close(&self) {
        self.inner.authorizations.cancel_all();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    fn vault(&self) -> &dyn OperatedVault {
        &*self.inner.vault
    }

    fn store(&self) -> &dyn Store {
        &*self.inner.store
    }

    fn ledger(&self) -> Ledger<'_> {
        Ledger(&*self.inner.store)
    }

    fn keyring(&self) -> Result<&Keyring> {
        self.inner.vault.keyring()
    }

    /// Makes a change, recorded before and, where it fails, after. It goes on when the call is dropped.
    async fn change<T: Send + 'static>(
        &self,
        caller: &Caller,
        action: &'static str,
        target: String,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.ledger().record(caller, action, &target, AuditOutcome::Done).await?;
        let (admin, caller) = (self.clone(), caller.clone());
        self.carry_out(async move {
            let done = work.await;
            if let Err(err) = &done {
                let outcome = AuditOutcome::Failed(err.chain());
                admin.ledger().record_late(&caller, action, &target, outcome).await;
            }
            done
        })
        .await
    }

    /// Does all of it, also when the call is dropped.
    pub(crate) async fn carry_out<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.inner.tasks.spawn(work).await.map_err(|_| Error::Closed { what: "the vault" })?
    }
}

/// Names of grants are parts of paths, of tables and of commands.
fn check_names(key: &GrantKey) -> Result<()> {
    const LONGEST: usize = 128;
    for (what, name) in [("provider", &key.provider), ("account", &key.account)] {
        let odd = name.chars().any(char::is_control) || name.len() > LONGEST;
        if name.is_empty() || odd {
            let rule = "must be a name without control characters, of 1 to 128 bytes";
            return Err(Error::invalid(what, rule));
        }
    }
    Ok(())
}

/// What an audit entry calls a grant.
fn target(key: &GrantKey) -> String {
    format!("grant {key}")
}

/// For `serialize_with`: these fields are answers that show a secret, or requests that bring one.
mod expose {
    use secrecy::{ExposeSecret as _, SecretString};
    use serde::Serializer;

    pub(super) fn one<S: Serializer>(secret: &SecretString, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose_secret())
    }

    #[expect(clippy::ref_option, reason = "serde hands it over so")]
    pub(super) fn some<S: Serializer>(
        secret: &Option<SecretString>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => to.serialize_some(secret.expose_secret()),
            None => to.serialize_none(),
        }
    }
}
