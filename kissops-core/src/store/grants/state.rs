//! The states of a grant.

use crate::Timestamp;

/// How a grant is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantState {
    /// It was never authorized.
    Pending {
        /// Since when.
        since: Timestamp,
    },
    /// All is well, or a failure is young.
    Active {
        /// Since when.
        since: Timestamp,
    },
    /// Refreshing fails again and again; the access token is good until it expires.
    Degraded {
        /// Since when.
        since: Timestamp,
    },
    /// A refresh was sent and not answered: the provider may or may not have carried it out.
    Ambiguous {
        /// Since when.
        since: Timestamp,
        /// Until when it may still be carrying it out.
        settles_at: Timestamp,
    },
    /// The provider has said no for good, which is yet to be confirmed.
    Suspect {
        /// Since when.
        since: Timestamp,
        /// What it said, for people.
        reason: String,
    },
    /// It comes from a backup, or another host may use it: nothing is sent before it was probed or adopted.
    Fenced {
        /// Since when.
        since: Timestamp,
        /// Why, for people.
        reason: String,
    },
    /// Only the account's owner can help.
    NeedsReauth {
        /// Since when.
        since: Timestamp,
        /// Why, for people.
        reason: String,
        /// Until when the tokens are kept nevertheless: the provider may have erred.
        keep_until: Timestamp,
    },
    /// It was given up, and its tokens were removed.
    Revoked {
        /// Since when.
        since: Timestamp,
        /// Why, for people.
        reason: String,
    },
}

/// A [`GrantState`] without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GrantStateName {
    /// Never authorized.
    Pending,
    /// All is well.
    Active,
    /// Refreshing fails.
    Degraded,
    /// Sent and not answered.
    Ambiguous,
    /// Refused for good, not yet confirmed.
    Suspect,
    /// Not to be used before it was probed.
    Fenced,
    /// Waits for the account's owner.
    NeedsReauth,
    /// Given up.
    Revoked,
}

impl GrantStateName {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Active,
        Self::Degraded,
        Self::Ambiguous,
        Self::Suspect,
        Self::Fenced,
        Self::NeedsReauth,
        Self::Revoked,
    ];

    /// The state as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Ambiguous => "ambiguous",
            Self::Suspect => "suspect",
            Self::Fenced => "fenced",
            Self::NeedsReauth => "needs_reauth",
            Self::Revoked => "revoked",
        }
    }

    /// The state of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == word)
    }
}

impl GrantState {
    /// The state without its data.
    #[must_use]
    pub fn name(&self) -> GrantStateName {
        match self {
            Self::Pending { .. } => GrantStateName::Pending,
            Self::Active { .. } => GrantStateName::Active,
            Self::Degraded { .. } => GrantStateName::Degraded,
            Self::Ambiguous { .. } => GrantStateName::Ambiguous,
            Self::Suspect { .. } => GrantStateName::Suspect,
            Self::Fenced { .. } => GrantStateName::Fenced,
            Self::NeedsReauth { .. } => GrantStateName::NeedsReauth,
            Self::Revoked { .. } => GrantStateName::Revoked,
        }
    }

    /// Since when it is in this state.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        match self {
            Self::Pending { since }
            | Self::Active { since }
            | Self::Degraded { since }
            | Self::Ambiguous { since, .. }
            | Self::Suspect { since, .. }
            | Self::Fenced { since, .. }
            | Self::NeedsReauth { since, .. }
            | Self::Revoked { since, .. } => *since,
        }
    }
}

/// What kind of failure it was, by what is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureClass {
    /// It was refused for now, or never sent: the same again later.
    Retryable,
    /// It was sent and not answered: find out first.
    Ambiguous,
    /// It was refused for good.
    Terminal,
    /// The client is not known or not allowed: nothing is wrong with the grant.
    Misconfigured,
}

/// Failures since the last success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantFailure {
    /// The latest one's kind.
    pub class: FailureClass,
    /// How many there were.
    pub count: u32,
    /// How many of them said that the grant is dead.
    pub votes: u32,
    /// When the latest was.
    pub at: Timestamp,
}
