//! Refreshes grants before they expire: once for all who ask, whatever happens meanwhile.
//!
//! The way of a refresh: an intent is stored, the request goes out, the answer is stored as it came, then read, then the
//! new pair is committed, then it is handed out. What is decided stands in pure modules ([`decide`], [`schedule`],
//! [`breaker`]); what is done to one grant in [`visit`]; who is next in [`refresher`]; the rest in [`upkeep`].

pub(crate) mod breaker;
pub(crate) mod decide;
pub(crate) mod engine;
pub(crate) mod flight;
pub(crate) mod refresher;
pub(crate) mod schedule;
pub(crate) mod session;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod upkeep;
pub(crate) mod upstream;
pub(crate) mod visit;
pub(crate) mod watch;

pub use engine::{Checkpoint, CheckpointHook};
