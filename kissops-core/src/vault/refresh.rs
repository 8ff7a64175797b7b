//! Refreshes grants before they expire, once, whatever happens meanwhile.

mod breaker;
mod decide;
mod schedule;
mod upstream;

pub use decide::Undecidable;
