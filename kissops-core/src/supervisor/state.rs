//! The states of an instance and the only ways from one to another.

use serde::{Deserialize, Serialize};

/// The states by name, as users, events and the API see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// Not running, and not about to.
    Stopped,
    /// Waiting for what it requires, running its `pre_start`, or not ready yet.
    Starting,
    /// Running, and ready if it has a way to say so.
    Running,
    /// Ended, and waiting for its next start.
    Backoff,
    /// On its way down.
    Stopping,
    /// Given up: the start limit was reached. Waits for an operator.
    Failed,
    /// Its token is no longer accepted. Waits for an operator.
    NeedsReauth,
}

impl StateName {
    /// The name as it is written: `needs_reauth`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Backoff => "backoff",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::NeedsReauth => "needs_reauth",
        }
    }
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for StateName {
    type Err = crate::Error;

    fn from_str(text: &str) -> crate::Result<Self> {
        [
            Self::Stopped,
            Self::Starting,
            Self::Running,
            Self::Backoff,
            Self::Stopping,
            Self::Failed,
            Self::NeedsReauth,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| crate::Error::invalid("state", format!("`{text}` is not a state")))
    }
}
