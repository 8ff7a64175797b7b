//! What instances print: captured, stamped, redacted, rotated, read again.

mod policy;

pub use policy::{LogFormat, LogPolicy};
