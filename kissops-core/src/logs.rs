//! What instances print: captured, stamped, redacted, rotated, read again.
//!
//! [`Capture`] reads the pipes of all instances on one thread of its own and writes `<log folder>/<instance>/current`;
//! [`LogReader`] reads that and the rotated, compressed files beside it. How no line is lost or doubled when the process
//! is killed stands at the top of `logs/spool.rs`.

mod capture;
mod engine;
mod file;
mod format;
mod keep;
mod level;
mod policy;
mod read;
mod spool;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use capture::{
    Capture, CaptureOptions, CaptureProblem, LineWatch, Output, OutputCounts, Pipes, SharedPipes,
    pipes,
};
pub use level::LogLevel;
pub use policy::{LogFormat, LogPolicy};
pub use read::{LogFollow, LogLine, LogLines, LogQuery, LogReader};

/// Where a line came from.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output; also all of [`LogFormat::Raw`], which does not tell the two apart.
    #[default]
    Stdout,
    /// Standard error, and kissops' own remarks.
    Stderr,
}

impl LogStream {
    /// `stdout` or `stderr`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
