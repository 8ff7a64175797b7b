//! Refreshes under way, so that a crash at any moment neither loses a token in silence nor presents a used one again.
//!
//! The intent is durable before the request, the raw answer before anybody reads it, the new pair before anybody gets it:
//! [`send`](RefreshStore::send_refresh), [`land`](RefreshStore::land), [`commit`](RefreshStore::commit_generation). Another
//! attempt takes the first in two steps, [`retry`](RefreshStore::retry_refresh) and [`mark_sent`](RefreshStore::mark_sent).

use std::{collections::BTreeSet, fmt};

use async_trait::async_trait;

use super::{
    DataKeyId, Fence, Generation, GrantExpiry, GrantId, GrantRecord, GrantState, GrantStatus,
    SealedBy, TokenKind,
};
use crate::{Result, Timestamp};

/// How far a refresh has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshPhase {
    /// Nothing was sent yet.
    Intended,
    /// It is being sent: from here on the provider may have carried it out.
    Sent,
    /// The answer did not come.
    Unanswered,
    /// The answer is stored.
    Landed,
}

/// A refresh that is meant to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRefresh {
    /// Of which grant.
    pub grant: GrantId,
    /// The generation whose tokens are presented.
    pub generation: Generation,
    /// The right to do so.
    pub fence: Fence,
    /// When.
    pub at: Timestamp,
}

/// A refresh under way. There is one at most for each generation of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshRecord {
    /// What was meant; the fence is that of the latest attempt.
    pub refresh: NewRefresh,
    /// Counts the attempts from 1.
    pub attempt: u32,
    /// How far the latest attempt has come.
    pub phase: RefreshPhase,
    /// When it came there.
    pub updated_at: Timestamp,
}

/// An answer of a provider, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landing {
    /// Of which grant.
    pub grant: GrantId,
    /// The generation whose tokens were presented.
    pub generation: Generation,
    /// By which attempt.
    pub attempt: u32,
    /// The HTTP status.
    pub status: u16,
    /// The body, sealed.
    pub body: SealedBy,
    /// When it came.
    pub at: Timestamp,
}

/// What names a landing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LandingId {
    /// Of which grant.
    pub grant: GrantId,
    /// The generation whose tokens were presented.
    pub generation: Generation,
    /// By which attempt.
    pub attempt: u32,
}

impl Landing {
    /// What names it.
    #[must_use]
    pub fn id(&self) -> LandingId {
        LandingId { grant: self.grant, generation: self.generation, attempt: self.attempt }
    }
}

/// What becomes of the pair before the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviousPair {
    /// It is kept until the next generation: the provider still takes it.
    Keep,
    /// It is removed: the provider takes it once.
    Remove,
}

/// A new pair of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGeneration {
    /// Of which grant.
    pub grant: GrantId,
    /// The generation that it follows. It is one more than this, and sealed as that.
    pub from: Generation,
    /// The right to commit it.
    pub fence: Fence,
    /// The tokens, at most one of each kind.
    pub tokens: Vec<(TokenKind, SealedBy)>,
    /// What becomes of the pair before.
    pub previous: PreviousPair,
    /// What the account has allowed, if the answer says so.
    pub scopes: Option<BTreeSet<String>>,
    /// When things end.
    pub expiry: GrantExpiry,
    /// The state in which the grant was when the refresh began.
    pub seen: GrantState,
    /// How the grant is doing now. Where its state is not `seen` any more, what was decided meanwhile stays.
    pub status: GrantStatus,
    /// When.
    pub at: Timestamp,
}

/// Refreshes under way.
///
/// # Errors
/// Every method that shows a [`Fence`]: [`Conflict`](crate::Error::Conflict) if the lease was granted again or released.
#[async_trait]
pub trait RefreshStore: fmt::Debug + Send + Sync + 'static {
    /// Records that a refresh is about to be sent.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if the grant is not at that generation any more, or one is under way: find
    /// out first what became of it.
    async fn begin_refresh(&self, refresh: NewRefresh) -> Result<RefreshRecord>;

    /// Records that one more attempt is about to be made, by the holder of `fence`.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if an attempt was made meanwhile, an answer has come, or it is over.
    async fn retry_refresh(
        &self,
        refresh: &RefreshRecord,
        fence: &Fence,
        at: Timestamp,
    ) -> Result<RefreshRecord>;

    /// Records that the request goes out now. Without this it must not.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if it is not [`RefreshPhase::Intended`] any more, by this attempt and fence.
    async fn mark_sent(&self, refresh: &RefreshRecord, at: Timestamp) -> Result<RefreshRecord>;

    /// Records at once that a refresh goes out now: [`begin_refresh`](Self::begin_refresh) and [`mark_sent`](Self::mark_sent) in one
    /// transaction. Only for a first attempt: before another one, an answer to the first may yet come in between the two.
    ///
    /// # Errors
    /// As [`begin_refresh`](Self::begin_refresh).
    async fn send_refresh(&self, refresh: NewRefresh) -> Result<RefreshRecord>;

    /// Records that no answer came.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if it is not [`RefreshPhase::Sent`] any more, by this attempt.
    async fn mark_unanswered(
        &self,
        refresh: &RefreshRecord,
        at: Timestamp,
    ) -> Result<RefreshRecord>;

    /// Keeps an answer. No lease is asked for: a late answer holds a token all the same. The first of an attempt stays.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if the refresh is over, or never had that attempt.
    /// - [`NotFound`](crate::Error::NotFound) if the data key is gone.
    async fn land(&self, landing: Landing) -> Result<()>;

    /// The refresh of a grant that is under way.
    async fn refresh(&self, grant: GrantId) -> Result<Option<RefreshRecord>>;

    /// The next `limit` refreshes under way of grants after `after`, by the grants' numbers: to be seen to after a crash.
    async fn open_refreshes(
        &self,
        after: Option<GrantId>,
        limit: u32,
    ) -> Result<Vec<RefreshRecord>>;

    /// The answers that are kept for a grant, by generation and attempt.
    async fn landings(&self, grant: GrantId) -> Result<Vec<Landing>>;

    /// The next `limit` answers after `after` whose bodies were sealed by `key`, in the order of their names.
    async fn landings_sealed_by(
        &self,
        key: DataKeyId,
        after: Option<LandingId>,
        limit: u32,
    ) -> Result<Vec<Landing>>;

    /// Puts the same body, sealed by another key, in the place of what `from` sealed.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if it is not sealed by `from` any more, or gone.
    /// - [`NotFound`](crate::Error::NotFound) if the new data key is gone.
    async fn reseal_landing(&self, id: LandingId, from: DataKeyId, to: SealedBy) -> Result<()>;

    /// Ends a refresh that gave no new pair: it was refused, or never carried out. Its answers go with it. Gives the
    /// grant as it is then: with `status`, or with what was decided meanwhile if its state is not `seen` any more.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if it is not as in `refresh` any more.
    async fn end_refresh(
        &self,
        refresh: &RefreshRecord,
        fence: &Fence,
        seen: &GrantState,
        status: GrantStatus,
        at: Timestamp,
    ) -> Result<GrantRecord>;

    /// Makes a new pair the grant's, ends the refresh that brought it and removes its answers: all of it or nothing.
    /// The tokens are kept in any case; the status is, unless the state was changed meanwhile: somebody may have fenced
    /// the grant. Gives the grant as it is then. After an answer that was lost, [`Conflict`](crate::Error::Conflict) may mean
    /// that it was done: look at the grant's generation and its tokens.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if the grant is not at generation `from` any more, or gone.
    /// - [`NotFound`](crate::Error::NotFound) if a data key is gone.
    async fn commit_generation(&self, generation: NewGeneration) -> Result<GrantRecord>;
}
