//! [`LogReader`]: finds lines across rotated, compressed and current files of several instances.

mod follow;
mod source;

use std::{iter::Peekable, path::PathBuf};

use regex::Regex;
use serde::Serialize;

pub use follow::LogFollow;
use source::{FileSet, Forward};

use super::{LogLevel, LogStream};
use crate::{Result, Timestamp, id::InstanceName};

/// A line of an instance's log. Serializes to `{"at","instance","stream","line"}`, with `"partial":true` for a piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// When it arrived; for [`LogFormat::Raw`](super::LogFormat::Raw), the file's time.
    pub at: Timestamp,
    /// Whose.
    pub instance: InstanceName,
    /// On which stream.
    pub stream: LogStream,
    /// The text, without a newline; what is not UTF-8 is replaced.
    pub line: String,
    /// The line was too long and goes on in the next piece.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// Which lines. The default is all lines of no instance.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Of these instances.
    pub instances: Vec<InstanceName>,
    /// Only the last so many of the lines that fit.
    pub lines: Option<usize>,
    /// Not before this.
    pub since: Option<Timestamp>,
    /// Not after this.
    pub until: Option<Timestamp>,
    /// Only lines that match.
    pub grep: Option<Regex>,
    /// Only lines that name this level or a higher one.
    pub level: Option<LogLevel>,
    /// Only this stream.
    pub stream: Option<LogStream>,
}

impl LogQuery {
    fn fits(&self, line: &LogLine) -> bool {
        self.since.is_none_or(|since| line.at >= since)
            && self.until.is_none_or(|until| line.at <= until)
            && self.stream.is_none_or(|stream| line.stream == stream)
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(&line.line))
            && self.level.is_none_or(|level| LogLevel::of(&line.line).is_some_and(|l| l >= level))
    }
}

/// Reads the logs that a [`Capture`](super::Capture) writes, while it writes them. Its calls read files and so block.
#[derive(Clone, Debug)]
pub struct LogReader {
    log_dir: PathBuf,
}

impl LogReader {
    /// A reader of the logs in `log_dir`.
    pub fn new(log_dir: impl Into<PathBuf>) -> Self {
        Self { log_dir: log_dir.into() }
    }

    /// The lines that fit `query`, by time; lines of one instance stay in the order in which they were written, even if
    /// the clock stepped back. With `lines`, files are read from their end, and only as far as needed; else they are
    /// read while the iterator goes on. Memory: the lines asked for, or one block for each instance.
    ///
    /// An instance without logs has no lines. A damaged compressed file gives what is readable and a line that says so.
    ///
    /// # Errors
    /// [`Io`](crate::Error::Io) if a log folder or file cannot be read.
    pub fn read(&self, query: &LogQuery) -> Result<LogLines> {
        let sets = self.open(query)?;
        Self::lines(query, &sets)
    }

    /// The lines that fit `query` so far, and then those to come. `until` does not end it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn follow(&self, query: &LogQuery) -> Result<(LogLines, LogFollow)> {
        let sets = self.open(query)?;
        // What is written after the sets were opened belongs to the second part.
        let lines = Self::lines(query, &sets)?;
        Ok((lines, LogFollow::new(query.clone(), sets)))
    }

    fn open(&self, query: &LogQuery) -> Result<Vec<FileSet>> {
        let dir = |name: &InstanceName| self.log_dir.join(name.as_str());
        query.instances.iter().map(|name| FileSet::open(name, dir(name))).collect()
    }

    fn lines(query: &LogQuery, sets: &[FileSet]) -> Result<LogLines> {
        let mut sources = Vec::with_capacity(sets.len());
        for set in sets {
            let lines: Box<dyn Iterator<Item = LogLine> + Send> = match query.lines {
                Some(count) => Box::new(set.last(count, query)?.into_iter()),
                None => Box::new(Forward::new(set, query.clone())?),
            };
            sources.push(lines.peekable());
        }
        let mut lines = LogLines { sources };
        if let Some(count) = query.lines.filter(|_| sets.len() > 1) {
            let all: Vec<LogLine> = lines.collect();
            let last = all.into_iter().rev().take(count).collect::<Vec<_>>();
            let source: Box<dyn Iterator<Item = LogLine> + Send> = Box::new(last.into_iter().rev());
            lines = LogLines { sources: vec![source.peekable()] };
        }
        Ok(lines)
    }
}

/// The lines of a query, by time.
pub struct LogLines {
    sources: Vec<Peekable<Box<dyn Iterator<Item = LogLine> + Send>>>,
}

impl Iterator for LogLines {
    type Item = LogLine;

    fn next(&mut self) -> Option<LogLine> {
        let heads = self.sources.iter_mut().enumerate();
        let (_, first) =
            heads.filter_map(|(index, source)| Some((source.peek()?.at, index))).min()?;
        self.sources.get_mut(first)?.next()
    }
}

impl std::fmt::Debug for LogLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogLines").field("sources", &self.sources.len()).finish()
    }
}
