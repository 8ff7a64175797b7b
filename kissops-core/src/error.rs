//! The one error type, sorted by what its receiver does next.

use std::{fmt::Write as _, io};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause whose type stays private to the implementation that met it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong. `Display` never repeats its source: print [`Error::chain`] where an error is shown or logged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Someone else holds it, or it changed meanwhile. Read the current state before trying again.
    #[error("{what} is held by {holder}")]
    Conflict {
        /// What is held.
        what: String,
        /// Who holds it, as precisely as is known.
        holder: String,
    },
    /// There is nothing of that name.
    #[error("there is no {what}")]
    NotFound {
        /// What was asked for, kind and name: ``instance `web` ``.
        what: String,
    },
    /// It does not answer, or not in time. Trying again later may work.
    #[error("{what} is unavailable")]
    Unavailable {
        /// What does not answer.
        what: String,
        /// Why, from below.
        #[source]
        source: BoxError,
    },
    /// It may or may not have been done: the answer was lost. Look before trying again, unless doing it twice is harmless.
    #[error(
        "whether {what} has done it is not known: look whether it is there before trying again"
    )]
    Uncertain {
        /// What was asked to do it.
        what: String,
        /// Why nobody knows, from below.
        #[source]
        source: BoxError,
    },
    /// A value that breaks a rule. Nothing was changed.
    #[error("{key} {rule}")]
    InvalidConfig {
        /// Where the value stands, as a dotted key: `instance.web.backoff.cap`.
        key: String,
        /// The rule that it breaks, to be read after the key: "must be at least base".
        rule: String,
    },
    /// The operation is not possible in the state that the thing is in.
    #[error("{what} is {state}: {help}")]
    WrongState {
        /// The thing: ``instance `web` ``.
        what: String,
        /// The state that it is in.
        state: String,
        /// What to do instead.
        help: String,
    },
    /// The caller may not do this, or a file's rights are too wide to be trusted.
    #[error("{what}: {help}")]
    Denied {
        /// What was refused.
        what: String,
        /// What would mend it.
        help: String,
    },
    /// Stored data that cannot be what was written. Needs an operator.
    #[error("{what} is damaged: {detail}")]
    Corrupt {
        /// What is damaged.
        what: String,
        /// What was found instead.
        detail: String,
    },
    /// It took longer than it may.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What took too long.
        what: String,
        /// The limit.
        limit: std::time::Duration,
    },
    /// The operating system refused.
    #[error("cannot {what}")]
    Io {
        /// What was tried and on what: "open /var/log/bot/current".
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The part that should have answered has ended: the program is shutting down.
    #[error("{what} has ended")]
    Closed {
        /// The part that has ended.
        what: &'static str,
    },
}

impl Error {
    /// An [`Error::Io`] that says what was tried: `map_err(Error::io("open /x"))`.
    pub fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source: source.into() }
    }

    /// An [`Error::Unavailable`] that keeps its cause.
    pub fn unavailable<E: Into<BoxError>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Unavailable { what, source: source.into() }
    }

    /// An [`Error::InvalidConfig`].
    pub fn invalid(key: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::InvalidConfig { key: key.into(), rule: rule.into() }
    }

    /// The same call may work later, without anybody changing anything. Not for [`Error::Uncertain`]: it may have worked.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Timeout { .. } => true,
            Self::Io { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::Interrupted
                        | io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                )
            }
            _ => false,
        }
    }

    /// A short stable word for programs: the `code` of JSON errors.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            Self::NotFound { .. } => "not_found",
            Self::Unavailable { .. } => "unavailable",
            Self::Uncertain { .. } => "uncertain",
            Self::InvalidConfig { .. } => "invalid_config",
            Self::WrongState { .. } => "wrong_state",
            Self::Denied { .. } => "denied",
            Self::Corrupt { .. } => "corrupt",
            Self::Timeout { .. } => "timeout",
            Self::Io { .. } => "io",
            Self::Closed { .. } => "closed",
        }
    }

    /// This error and all its causes on one line, outermost first.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause}");
            next = cause.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_prints_each_cause_once() {
        let err = Error::io("open /x")(io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(err.chain(), "cannot open /x: entity not found");
    }

    #[test]
    fn what_may_have_been_done_is_not_to_be_tried_again() {
        let err = Error::Uncertain { what: "the store".into(), source: "the line broke".into() };
        assert_eq!((err.is_transient(), err.code()), (false, "uncertain"));
        let said = "whether the store has done it is not known: look whether it is there before trying again: the line broke";
        assert_eq!(err.chain(), said);
    }
}
