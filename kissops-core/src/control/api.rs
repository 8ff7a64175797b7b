//! What the API is about: a fleet, and a vault where there is one.

use axum::extract::FromRef;
#[cfg(feature = "vault")]
use axum::{extract::FromRequestParts, http::request::Parts};

use crate::fleet::Fleet;
#[cfg(feature = "vault")]
use crate::{
    Error,
    control::{Peer, Problem, SOCKET_NAME, users::Users},
    store::Actor,
    vault::admin::{Caller, VaultAdmin},
};

/// What the API is about. A [`Fleet`] alone is one, whose routes of the vault answer that there is none.
#[derive(Clone, Debug)]
pub struct Api {
    fleet: Fleet,
    #[cfg(feature = "vault")]
    vault: Option<VaultAdmin>,
}

impl From<Fleet> for Api {
    fn from(fleet: Fleet) -> Self {
        Self {
            fleet,
            #[cfg(feature = "vault")]
            vault: None,
        }
    }
}

#[cfg(feature = "vault")]
impl Api {
    /// A fleet and its vault.
    #[must_use]
    pub fn with_vault(fleet: Fleet, vault: VaultAdmin) -> Self {
        Self { fleet, vault: Some(vault) }
    }
}

impl FromRef<Api> for Fleet {
    fn from_ref(api: &Api) -> Self {
        api.fleet.clone()
    }
}

/// What the routes of a vault need.
#[cfg(feature = "vault")]
#[derive(Clone, Debug)]
pub(super) struct VaultSide {
    pub(super) vault: Option<VaultAdmin>,
    /// Who stops instances; none where no daemon runs.
    pub(super) fleet: Option<Fleet>,
    /// Who uses which grants where no daemon runs.
    pub(super) users: Users,
}

#[cfg(feature = "vault")]
impl FromRef<Api> for VaultSide {
    fn from_ref(api: &Api) -> Self {
        let (vault, fleet) = (api.vault.clone(), Some(api.fleet.clone()));
        Self { vault, fleet, users: Users::default() }
    }
}

/// A vault together with who asks for what.
#[cfg(feature = "vault")]
pub(super) struct Desk {
    pub(super) vault: VaultAdmin,
    pub(super) fleet: Option<Fleet>,
    pub(super) caller: Caller,
    users: Users,
    known: bool,
}

#[cfg(feature = "vault")]
impl Desk {
    /// Who uses which grants.
    pub(super) fn users(&self) -> Users {
        self.fleet.as_ref().map_or_else(|| self.users.clone(), Users::of_fleet)
    }

    /// Secrets are shown to somebody who can be named.
    pub(super) fn named(self) -> Result<Self, Problem> {
        if self.known {
            return Ok(self);
        }
        let help = "give each request the extension `Peer`, as serve_unix does".to_owned();
        Err(Error::Denied { what: "nobody knows who asks for a secret".into(), help }.into())
    }
}

#[cfg(feature = "vault")]
impl<S: Send + Sync> FromRequestParts<S> for Desk
where
    VaultSide: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let VaultSide { vault, fleet, users } = VaultSide::from_ref(state);
        let vault = vault.ok_or_else(|| Error::WrongState {
            what: "the vault".into(),
            state: "not there".into(),
            help: "this program was started without one: name its key as [vault] key".into(),
        })?;
        let peer = parts.extensions.get::<Peer>();
        let caller = parts.extensions.get::<Caller>().cloned().or_else(|| {
            let actor = Actor::Uid(peer?.uid);
            Some(Caller { actor, origin: SOCKET_NAME.into() })
        });
        let known = caller.is_some();
        let caller = caller.unwrap_or_else(|| Caller {
            actor: Actor::System("control".into()),
            origin: "the API".into(),
        });
        Ok(Self { vault, fleet, caller, users, known })
    }
}
