//! The states of an instance and the only ways from one to another (SUP-4).
//!
//! Each state is a type of its own whose only constructors are the transitions of its predecessors, so an illegal
//! transition does not compile. [`State`] is their sum, and [`StateName`] what users see.

#![expect(clippy::unused_self, reason = "a transition consumes the state that it leaves")]

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::run::Run;

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
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Stopped,
        Self::Starting,
        Self::Running,
        Self::Backoff,
        Self::Stopping,
        Self::Failed,
        Self::NeedsReauth,
    ];

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
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| crate::Error::invalid("state", format!("`{text}` is not a state")))
    }
}

/// Where an instance is, with what belongs to that state alone.
#[derive(Debug)]
pub(super) enum State {
    Stopped(Stopped),
    Starting(Starting),
    Launched(Launched),
    Running(Running),
    Backoff(BackingOff),
    Stopping(Stopping),
    Failed(Failed),
    NeedsReauth(NeedsReauth),
}

impl State {
    /// The state of an instance that nobody has started yet.
    pub(super) fn new() -> Self {
        Self::Stopped(Stopped(()))
    }

    /// The state of an instance that is to come up with the fleet.
    pub(super) fn wanted() -> Self {
        Self::Starting(Starting { cause: Cause::Ordered })
    }

    /// The state of a process that a predecessor started: it goes on as it was.
    pub(super) fn adopted(run: Box<Run>, ready: Readiness) -> Self {
        match ready {
            Readiness::Reached => Self::Running(Running { run }),
            Readiness::Awaited => Self::Launched(Launched { run }),
        }
    }

    /// Given up by a predecessor, which an operator has to undo.
    pub(super) fn given_up() -> Self {
        Self::Failed(Failed(()))
    }

    pub(super) fn name(&self) -> StateName {
        match self {
            Self::Stopped(_) => StateName::Stopped,
            Self::Starting(_) | Self::Launched(_) => StateName::Starting,
            Self::Running(_) => StateName::Running,
            Self::Backoff(_) => StateName::Backoff,
            Self::Stopping(_) => StateName::Stopping,
            Self::Failed(_) => StateName::Failed,
            Self::NeedsReauth(_) => StateName::NeedsReauth,
        }
    }
}

/// Whether a process that was taken over had said that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Reached,
    Awaited,
}

/// No process, and none wanted.
#[derive(Debug)]
pub(super) struct Stopped(());

impl Stopped {
    pub(super) fn start(self) -> State {
        State::Starting(Starting { cause: Cause::Ordered })
    }
}

/// Why an instance is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// With the fleet, or by an operator: takes its turn among all that start.
    Ordered,
    /// After its process ended: at once, its delay lies behind it.
    Again,
}

/// No process yet: waits for others, for its turn, for its hooks.
#[derive(Debug)]
pub(super) struct Starting {
    pub(super) cause: Cause,
}

impl Starting {
    /// From the beginning: what it had waited for has gone.
    pub(super) fn again(self) -> State {
        State::Starting(self)
    }

    pub(super) fn launched(self, run: Box<Run>) -> State {
        State::Launched(Launched { run })
    }

    /// It could not be started, which is judged like the end of a process.
    pub(super) fn ended(self) -> Ended {
        Ended(())
    }

    pub(super) fn stop(self) -> State {
        State::Stopped(Stopped(()))
    }

    pub(super) fn reauth(self) -> State {
        State::NeedsReauth(NeedsReauth(()))
    }
}

/// A process that is not ready yet.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) run: Box<Run>,
}

impl Launched {
    pub(super) fn ready(self) -> State {
        State::Running(Running { run: self.run })
    }

    pub(super) fn stop(self, then: Then) -> State {
        State::Stopping(Stopping { run: self.run, then })
    }

    pub(super) fn ended(self) -> (Ended, Box<Run>) {
        (Ended(()), self.run)
    }
}

/// A process that may take work.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) run: Box<Run>,
}

impl Running {
    pub(super) fn stop(self, then: Then) -> State {
        State::Stopping(Stopping { run: self.run, then })
    }

    pub(super) fn ended(self) -> (Ended, Box<Run>) {
        (Ended(()), self.run)
    }
}

/// What comes after a stop.
#[derive(Debug)]
pub(super) enum Then {
    /// Nothing.
    Rest,
    /// The next start, as soon as what it requires allows.
    Start,
    /// A judgement, as after a crash: it failed its readiness, its liveness or its memory limit.
    Judge(String),
    /// A new authorization, and why.
    Reauth(String),
    /// The next start, for it has asked for one, and why.
    Asked(String),
}

/// A process, or what is left of its tree, on the way down.
#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) run: Box<Run>,
    pub(super) then: Then,
}

impl Stopping {
    pub(super) fn ended(self) -> (Ended, Box<Run>, Then) {
        (Ended(()), self.run, self.then)
    }
}

/// No process any more; what comes next is about to be decided.
#[derive(Debug)]
pub(super) struct Ended(());

impl Ended {
    pub(super) fn rest(self) -> State {
        State::Stopped(Stopped(()))
    }

    pub(super) fn back_off(self, until: Instant) -> State {
        State::Backoff(BackingOff { until })
    }

    pub(super) fn start(self) -> State {
        State::Starting(Starting { cause: Cause::Ordered })
    }

    pub(super) fn give_up(self) -> State {
        State::Failed(Failed(()))
    }

    pub(super) fn reauth(self) -> State {
        State::NeedsReauth(NeedsReauth(()))
    }
}

/// No process until then.
#[derive(Debug)]
pub(super) struct BackingOff {
    pub(super) until: Instant,
}

impl BackingOff {
    pub(super) fn start(self) -> State {
        State::Starting(Starting { cause: Cause::Again })
    }

    pub(super) fn stop(self) -> State {
        State::Stopped(Stopped(()))
    }

    pub(super) fn reauth(self) -> State {
        State::NeedsReauth(NeedsReauth(()))
    }
}

/// Given up; an operator decides.
#[derive(Debug)]
pub(super) struct Failed(());

impl Failed {
    pub(super) fn start(self) -> State {
        State::Starting(Starting { cause: Cause::Ordered })
    }

    pub(super) fn stop(self) -> State {
        State::Stopped(Stopped(()))
    }
}

/// Waits for a new token.
#[derive(Debug)]
pub(super) struct NeedsReauth(());

impl NeedsReauth {
    pub(super) fn start(self) -> State {
        State::Starting(Starting { cause: Cause::Ordered })
    }

    pub(super) fn stop(self) -> State {
        State::Stopped(Stopped(()))
    }
}
