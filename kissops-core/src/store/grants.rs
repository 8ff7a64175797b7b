//! OAuth grants: what an account has allowed, in which state that is, and its tokens, sealed.

use std::{collections::BTreeSet, fmt, str::FromStr};

use async_trait::async_trait;

use super::{DataKeyId, SealedBy};
use crate::{Error, Result, Timestamp, id::InstanceName};

mod state;

pub use state::{FailureClass, GrantFailure, GrantState, GrantStateName};

/// A grant's number, made by an [`IdMaker`](crate::id::IdMaker) before its first token is sealed: sealing binds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId(pub i64);

/// What a grant is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantKey {
    /// The provider's profile: `twitch`.
    pub provider: String,
    /// Whose grant, as the provider names it.
    pub account: String,
}

impl fmt::Display for GrantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.account)
    }
}

impl FromStr for GrantKey {
    type Err = Error;

    /// Reads `provider/account`, as it is displayed. The account may hold further slashes.
    fn from_str(text: &str) -> Result<Self> {
        let refused = |rule: &str| Error::invalid("grant", format!("`{text}` {rule}"));
        let (provider, account) = text
            .split_once('/')
            .ok_or_else(|| refused("is not like provider/account, such as twitch/name"))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if provider.is_empty() || provider.len() > 64 || !provider.chars().all(plain) {
            return Err(refused("names no provider: 1 to 64 letters, digits, _, - and ."));
        }
        let odd = |c: char| c.is_control() || c.is_whitespace();
        if account.is_empty() || account.len() > 256 || account.contains(odd) {
            return Err(refused("names no account: 1 to 256 bytes without blanks"));
        }
        Ok(Self { provider: provider.to_owned(), account: account.to_owned() })
    }
}

/// Counts the token pairs of a grant; 0 before the first. Sealing binds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Counts the changes of a grant's record, so that nobody overwrites what they have not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantVersion(pub u64);

/// How the grant is obtained, and obtained again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantFlow {
    /// In a browser, with a callback.
    AuthorizationCode,
    /// By a code typed on another device.
    DeviceCode,
    /// By the client's own secret; there is no account's owner and no refresh token.
    ClientCredentials,
    /// Taken over from elsewhere.
    Imported,
}

/// A grant to be kept. It begins as [`GrantState::Pending`], with generation 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGrant {
    /// Its number.
    pub id: GrantId,
    /// What it is known by.
    pub key: GrantKey,
    /// Which of the configured clients it belongs to.
    pub client: String,
    /// How it is obtained.
    pub flow: GrantFlow,
    /// What the account has allowed, or is asked to.
    pub scopes: BTreeSet<String>,
    /// The instances that it is handed to.
    pub instances: BTreeSet<InstanceName>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// When things of a grant end, as far as the provider has told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantExpiry {
    /// The access token.
    pub access: Option<Timestamp>,
    /// The refresh token, whatever is done with it.
    pub refresh: Option<Timestamp>,
    /// The refresh token, unless it is used before.
    pub idle: Option<Timestamp>,
}

/// How a grant is doing, and what is to be done about it when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantStatus {
    /// Its state.
    pub state: GrantState,
    /// What went wrong since the last success.
    pub failure: Option<GrantFailure>,
    /// When to refresh next; `None`: not at all.
    pub next_refresh_at: Option<Timestamp>,
    /// When to ask the provider next whether it is still good; `None`: not at all.
    pub next_validate_at: Option<Timestamp>,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRecord {
    /// The grant; scopes and instances as they are now.
    pub grant: NewGrant,
    /// Counts changes of this record.
    pub version: GrantVersion,
    /// Counts its token pairs.
    pub generation: Generation,
    /// How it is doing.
    pub status: GrantStatus,
    /// When things end.
    pub expiry: GrantExpiry,
    /// When this record was last changed.
    pub updated_at: Timestamp,
    /// When its latest generation was committed.
    pub refreshed_at: Option<Timestamp>,
}

/// Which grants to read.
#[derive(Clone, Debug, Default)]
pub struct GrantQuery {
    /// Only of this provider.
    pub provider: Option<String>,
    /// Only in this state.
    pub state: Option<GrantStateName>,
    /// Only those that are handed to this instance.
    pub instance: Option<InstanceName>,
    /// Only after this one.
    pub after: Option<GrantId>,
    /// At most so many.
    pub limit: u32,
}

/// A grant that comes with its first pair of tokens, sealed as generation 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedGrant {
    /// The grant.
    pub grant: NewGrant,
    /// The tokens, at most one of each kind.
    pub tokens: Vec<(TokenKind, SealedBy)>,
    /// When things end.
    pub expiry: GrantExpiry,
    /// How it is doing.
    pub status: GrantStatus,
}

/// What can be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A refresh.
    Refresh,
    /// A validation.
    Validate,
}

/// Which grants are due.
#[derive(Clone, Debug)]
pub struct DueQuery {
    /// What is to be done.
    pub what: Due,
    /// Due at or before this time.
    pub by: Timestamp,
    /// Only after this one, in the order of times and then of numbers.
    pub after: Option<(Timestamp, GrantId)>,
    /// At most so many.
    pub limit: u32,
}

/// Which of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenKind {
    /// The one that bots get.
    Access,
    /// The one that nobody gets.
    Refresh,
}

/// What names a sealed token, and what its sealing binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId {
    /// Of which grant.
    pub grant: GrantId,
    /// Which of the pair.
    pub kind: TokenKind,
    /// Which pair.
    pub generation: Generation,
}

/// A token that only the vault can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedToken {
    /// Which token.
    pub id: TokenId,
    /// The token.
    pub sealed: SealedBy,
}

/// Grants and their sealed tokens. New generations come by [`RefreshStore`](super::RefreshStore).
#[async_trait]
pub trait GrantStore: fmt::Debug + Send + Sync + 'static {
    /// Keeps a grant, as pending.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if there is one of that provider and account, or of that number.
    async fn add_grant(&self, grant: NewGrant) -> Result<()>;

    /// Keeps grants together with their first tokens, as generation 1; gives the numbers of those that it added. Where there
    /// is a grant of that provider and account, or of that number, it stays as it is.
    ///
    /// # Errors
    /// - [`NotFound`](crate::Error::NotFound) if a data key is gone. Then none was added.
    /// - [`InvalidConfig`](crate::Error::InvalidConfig) for two tokens of one kind.
    async fn add_authorized_grants(
        &self,
        grants: Vec<AuthorizedGrant>,
    ) -> Result<BTreeSet<GrantId>>;

    /// The grant of that provider and account.
    async fn grant(&self, key: &GrantKey) -> Result<Option<GrantRecord>>;

    /// Those of a provider's grants that are of one of `accounts`, in the order of their numbers.
    async fn grants_of(&self, provider: &str, accounts: Vec<String>) -> Result<Vec<GrantRecord>>;

    /// The grant of that number.
    async fn grant_by_id(&self, id: GrantId) -> Result<Option<GrantRecord>>;

    /// Grants in the order of their numbers.
    async fn grants(&self, query: GrantQuery) -> Result<Vec<GrantRecord>>;

    /// Grants for which something is due, in the order of its times.
    async fn due_grants(&self, query: DueQuery) -> Result<Vec<GrantRecord>>;

    /// How many grants there are of each provider in each state, in order.
    async fn count_grants(&self) -> Result<Vec<(String, GrantStateName, u64)>>;

    /// Sets how a grant is doing; answers with the record's new version.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if the record is not at `version` any more, or gone.
    async fn set_grant_status(
        &self,
        id: GrantId,
        version: GrantVersion,
        status: GrantStatus,
        at: Timestamp,
    ) -> Result<GrantVersion>;

    /// Sets which instances a grant is handed to, in place of those before.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if the grant is gone.
    async fn bind_grant(
        &self,
        id: GrantId,
        instances: BTreeSet<InstanceName>,
        at: Timestamp,
    ) -> Result<()>;

    /// The tokens of a grant, newest generation first, access before refresh.
    async fn sealed_tokens(&self, id: GrantId) -> Result<Vec<SealedToken>>;

    /// The tokens of these grants, in the order of the grants' numbers; those of each as from
    /// [`sealed_tokens`](Self::sealed_tokens).
    async fn sealed_tokens_of(&self, ids: Vec<GrantId>) -> Result<Vec<SealedToken>>;

    /// The next `limit` tokens after `after` that were sealed by `key`.
    async fn tokens_sealed_by(
        &self,
        key: DataKeyId,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<SealedToken>>;

    /// Puts the same token, sealed by another key, in the place of what `from` sealed.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if it is not sealed by `from` any more, or gone.
    /// - [`NotFound`](crate::Error::NotFound) if the new data key is gone.
    async fn reseal_token(&self, id: TokenId, from: DataKeyId, to: SealedBy) -> Result<()>;

    /// When the latest of all generations was committed; `None` before the first.
    async fn newest_commit(&self) -> Result<Option<Timestamp>>;

    /// Fences every grant that is in use ([`GrantState::Fenced`], nothing due any more), and says how many these were.
    /// Others stay as they are.
    async fn fence_grants(&self, reason: &str, at: Timestamp) -> Result<u64>;

    /// Removes all that is sealed of a grant and what was under way for it, and sets the status, which ought to say why.
    /// Nothing is to be refreshed or handed out after that before it is authorized again.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if the grant is gone.
    async fn shred_grant(&self, id: GrantId, status: GrantStatus, at: Timestamp) -> Result<()>;

    /// Removes the tokens of at most `limit` grants that need a new authorization and are past their time, and the
    /// refreshes that were under way for them with their answers; says of how many grants.
    async fn shred_expired(&self, now: Timestamp, limit: u32) -> Result<u64>;

    /// Removes a grant with all that belongs to it.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is none of that number.
    async fn remove_grant(&self, id: GrantId) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        for text in ["twitch/el_serda", "own-idp/a/b@c", "x/\u{e4}"] {
            assert_eq!(text.parse::<GrantKey>().unwrap().to_string(), text);
        }
        for text in ["", "twitch", "/a", "twitch/", "twitch/a b", "tw itch/a", "twitch/a\nb"] {
            assert!(text.parse::<GrantKey>().is_err(), "{text:?}");
        }
    }
}
