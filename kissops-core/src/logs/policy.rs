//! What is kept of an instance's output.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::{HumanDuration, Result, size::ByteSize};

/// What is kept of an instance's output, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogPolicy {
    /// How lines are written to the file.
    pub format: LogFormat,
    /// A file that grows beyond this is rotated, at the end of a line.
    pub rotate_size: ByteSize,
    /// A file is rotated at the first line of a new day, UTC.
    pub rotate_daily: bool,
    /// Most rotated files.
    pub keep: u32,
    /// Oldest rotated file.
    #[serde(serialize_with = "human")]
    pub keep_for: Duration,
    /// Most bytes of rotated files, as they lie on disk.
    pub keep_size: ByteSize,
    /// Rotated files are compressed (zstd).
    pub compress: bool,
    /// A longer line is cut into pieces of this length, each but the last marked.
    pub max_line: ByteSize,
}

/// How lines are written to the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `2026-11-20T03:04:05.000006Z O the line`: arrival, `O` or `E` for the stream, a `+` behind it where the line goes on.
    #[default]
    Text,
    /// One JSON object a line: `{"at":…,"stream":"stdout","line":…}`.
    Json,
    /// The bytes as they came, both streams in one, without stamps.
    Raw,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            rotate_size: ByteSize(100_000_000),
            rotate_daily: true,
            keep: 30,
            keep_for: Duration::from_hours(720),
            keep_size: ByteSize(1_000_000_000),
            compress: true,
            max_line: ByteSize(16 << 10),
        }
    }
}

fn human<S: Serializer>(span: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&HumanDuration(*span))
}
