//! OAuth grants and other secrets: sealed at rest, refreshed before they expire, handed to whom they belong.
//!
//! [`TokenVault`] is what callers hold; [`Vault`] keeps its tokens in a [`Store`](crate::store::Store), sealed by keys
//! that are not in it. What is sent where is said by a [`Provider`]; who sends it is an [`Exchanger`].

use std::{collections::BTreeSet, fmt, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::{
    Error, Result, Timestamp,
    id::InstanceName,
    store::{Generation, GrantFlow, GrantId, GrantKey, GrantQuery, GrantRecord},
};

pub mod admin;
mod assemble;
mod authorize;
mod cipher;
pub mod deliver;
pub mod detached;
mod envelope;
mod estate;
mod exchange;
mod fernet;
#[cfg(test)]
#[cfg(feature = "sqlite")]
mod fixtures;
mod handle;
mod http;
pub mod import;
mod key;
mod provider;
mod reauth;
mod refresh;
mod rotate;
mod secret;
mod time;
pub(crate) mod witness;

pub use assemble::{Assembly, Tenant};
pub use authorize::{Authorizer, BrowserFlow, DeviceCode};
pub use detached::{DetachedExchanger, DetachedOptions};
pub use envelope::{GrantIdentity, Keyring, OpenToken, Place};
pub use exchange::{ExchangeJob, Exchanged, Exchanger, RawAnswer, Ticket, TokenRequest};
pub use fernet::{FernetFault, FernetKey, FernetKeys};
pub use handle::{Vault, VaultBuilder, VaultState};
pub(crate) use http::safe_url;
pub use http::{Http, HttpExchanger};
pub use key::{Kek, KeySource, Keys, harden_process};
pub(crate) use provider::builtin_text;
pub use provider::{
    Answer, Client, ClientAuth, ErrorRule, Meaning, Probed, Profile, Provider, ProviderLimits,
    Providers, PublicClient, RefreshWindow, RevokeToken, RotationClass, TokenAuth, Undecidable,
};
pub use reauth::Reauth;
pub use refresh::{Checkpoint, CheckpointHook};
pub use rotate::{Rotated, RotationDepth};
pub use secret::{MaxAge, Reminder, SecretForm, SecretInfo, SecretKind, Secrets};
pub use time::{SystemTime, VaultTime};

/// What a bot may have: the access token of a grant, never the refresh token.
#[derive(Clone)]
pub struct AccessToken {
    /// Of which grant.
    pub key: GrantKey,
    /// The token.
    pub token: SecretString,
    /// Which of the grant's pairs it belongs to: to be named when it is reported as invalid.
    pub generation: Generation,
    /// When it expires, as far as the provider has told.
    pub expires_at: Option<Timestamp>,
    /// What it allows.
    pub scopes: BTreeSet<String>,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("key", &self.key)
            .field("token", &"***")
            .field("generation", &self.generation)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Tokens as a provider gives them, or as they are taken over from elsewhere.
#[derive(Clone)]
pub struct TokenSet {
    /// What is sent with every call.
    pub access: SecretString,
    /// What gets the next pair; none: the old one stays good, or there never was one.
    pub refresh: Option<SecretString>,
    /// When the access token expires.
    pub access_expires_at: Option<Timestamp>,
    /// When the refresh token ends, whatever is done with it.
    pub refresh_expires_at: Option<Timestamp>,
    /// When the refresh token ends unless it is used.
    pub idle_expires_at: Option<Timestamp>,
    /// What the account has allowed, if it is said.
    pub scopes: Option<BTreeSet<String>>,
}

impl fmt::Debug for TokenSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSet")
            .field("access", &"***")
            .field("refresh", &self.refresh.as_ref().map(|_| "***"))
            .field("access_expires_at", &self.access_expires_at)
            .field("refresh_expires_at", &self.refresh_expires_at)
            .finish_non_exhaustive()
    }
}

/// A grant with its tokens, to be kept.
#[derive(Clone, Debug)]
pub struct NewTokens {
    /// What it is known by.
    pub key: GrantKey,
    /// How it was obtained.
    pub flow: GrantFlow,
    /// The tokens.
    pub tokens: TokenSet,
    /// The instances that it is handed to; `None` leaves them as they are.
    pub instances: Option<BTreeSet<InstanceName>>,
}

/// What became of a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Of which grant.
    pub key: GrantKey,
    /// The provider has confirmed it; `Err` says why not, so that it is to be done by hand. Our copy is gone either way.
    pub at_provider: Result<(), String>,
}

/// Something that happened to a grant or a provider. Free of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultEvent {
    /// When.
    pub at: Timestamp,
    /// Of which provider.
    pub provider: String,
    /// Of which account; `None`: the provider as a whole.
    pub account: Option<String>,
    /// What.
    pub kind: VaultEventKind,
    /// For people, free of secrets.
    pub message: String,
}

/// What can happen. Each is told once, when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VaultEventKind {
    /// A grant has its first tokens, or has them again.
    Authorized,
    /// A grant has a new pair.
    Refreshed,
    /// Three rounds of refreshing have failed; the access token is good until it expires.
    Degraded,
    /// Refreshing works again.
    Recovered,
    /// Only the account's owner can help.
    NeedsReauth,
    /// The end of the refresh token is near: the account's owner should authorize again.
    ReauthSoon,
    /// It is not used before it was probed or adopted.
    Fenced,
    /// It is used again.
    Adopted,
    /// It was given up and its tokens were removed.
    Revoked,
    /// The provider fails as a whole.
    ProviderDown,
    /// The provider refuses grants by the dozen, which is its fault: nobody is marked until it is over.
    ProviderRefuses,
    /// The provider does not know the client, or not its secret: nothing is sent before that is mended.
    ClientRefused,
    /// The provider works again.
    ProviderUp,
    /// The vault cannot be opened: its key is missing or wrong.
    Sealed,
    /// The vault is open.
    Unsealed,
}

impl VaultEventKind {
    /// The event as a stable word: `token.needs_reauth`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorized => "token.authorized",
            Self::Refreshed => "token.refreshed",
            Self::Degraded => "token.degraded",
            Self::Recovered => "token.recovered",
            Self::NeedsReauth => "token.needs_reauth",
            Self::ReauthSoon => "token.reauth_soon",
            Self::Fenced => "token.fenced",
            Self::Adopted => "token.adopted",
            Self::Revoked => "token.revoked",
            Self::ProviderDown => "provider.down",
            Self::ProviderRefuses => "provider.refuses",
            Self::ClientRefused => "provider.client_refused",
            Self::ProviderUp => "provider.up",
            Self::Sealed => "vault.sealed",
            Self::Unsealed => "vault.unsealed",
        }
    }
}

/// Keeps grants. Held as `Arc<dyn TokenVault>`.
///
/// However many callers, tasks, processes and hosts ask for it, one refresh of a grant is under way at a time; whoever
/// comes meanwhile gets its result.
///
/// # Errors
/// Every method: [`WrongState`](Error::WrongState) while the vault is sealed,
/// [`NotFound`](Error::NotFound) for a grant that is not there.
#[async_trait]
pub trait TokenVault: fmt::Debug + Send + Sync + 'static {
    /// Keeps tokens: of a grant that is new, or in the place of those it had. The grant is active by that.
    ///
    /// # Cancel safety
    /// A dropped call may have kept them.
    async fn put(&self, tokens: NewTokens) -> Result<GrantId>;

    /// The access token of a grant. One that has expired is refreshed first.
    ///
    /// # Errors
    /// [`WrongState`](Error::WrongState) for a grant that needs a new authorization and has no token that is still good.
    ///
    /// # Cancel safety
    /// A refresh that this call began goes on without it.
    async fn token(&self, key: &GrantKey) -> Result<AccessToken>;

    /// The first access token of a generation after `after`, as soon as there is one.
    ///
    /// # Cancel safety
    /// Nothing happens when it is dropped.
    async fn token_after(&self, key: &GrantKey, after: Generation) -> Result<AccessToken>;

    /// Refreshes now, or shares what is under way.
    ///
    /// # Errors
    /// - [`Unavailable`](Error::Unavailable) if the provider does not answer or refuses for now.
    /// - [`WrongState`](Error::WrongState) if it is not to be refreshed: fenced, revoked, needs a new authorization.
    ///
    /// # Cancel safety
    /// What was begun goes on.
    async fn refresh(&self, key: &GrantKey) -> Result<AccessToken>;

    /// An API has refused the token of `generation`. Ignored if there is a newer one; otherwise the provider is asked,
    /// once for all who say so, and if it is so the grant is refreshed. Gives the token to go on with.
    ///
    /// # Cancel safety
    /// What was begun goes on.
    async fn report_invalid(&self, key: &GrantKey, generation: Generation) -> Result<AccessToken>;

    /// A grant without its tokens.
    async fn grant(&self, key: &GrantKey) -> Result<GrantRecord>;

    /// Grants without their tokens, in the order of their numbers.
    async fn grants(&self, query: GrantQuery) -> Result<Vec<GrantRecord>>;

    /// Sets which instances a grant is handed to.
    async fn bind(&self, key: &GrantKey, instances: BTreeSet<InstanceName>) -> Result<()>;

    /// Revokes at the provider, then removes the tokens whatever it said. The record stays, as revoked.
    async fn revoke(&self, key: &GrantKey, reason: &str) -> Result<Revocation>;

    /// Removes a grant without asking the provider.
    async fn remove(&self, key: &GrantKey) -> Result<()>;

    /// What happens from now on. Whoever does not keep up misses the oldest.
    fn events(&self) -> tokio::sync::broadcast::Receiver<VaultEvent>;
}

/// The longest that a request to a token endpoint may take: giving up an answer is what loses tokens, so it is long.
pub const EXCHANGE_LIMIT: Duration = Duration::from_secs(30);

/// The longest that a profile may let an exchange take: it ends before the lease that it is sent under does.
pub const LONGEST_EXCHANGE: Duration = Duration::from_secs(45);

/// The vault has no key that opens it.
pub(crate) fn sealed(why: &str) -> Error {
    Error::WrongState { what: "the vault".into(), state: "sealed".into(), help: why.to_owned() }
}
