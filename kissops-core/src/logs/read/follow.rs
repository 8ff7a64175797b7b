//! [`LogFollow`]: lines as they come, over rotations.

use std::{io, os::unix::fs::FileExt, time::Duration};

use super::{
    LogLine, LogQuery,
    source::{self, Current, FileSet, Lines},
};
use crate::{Error, Result, Timestamp, clock, logs::file};

/// How often files are looked at.
const PAUSE: Duration = Duration::from_millis(250);
/// Most bytes of one file in one look.
const MOST: usize = 1 << 20;
/// So much of a file's beginning tells whether it is still the same text.
const HEAD: usize = 64;

/// The lines that come after those of a [`LogReader::follow`](super::LogReader::follow).
#[derive(Debug)]
pub struct LogFollow {
    query: LogQuery,
    files: Vec<Followed>,
}

#[derive(Debug)]
struct Followed {
    set: FileSet,
    /// The newest rotated file when `current` was opened: what is newer than its successor was missed.
    newest: Option<Timestamp>,
    place: u64,
    head: Vec<u8>,
    unfinished: Vec<u8>,
}

impl LogFollow {
    pub(super) fn new(query: LogQuery, sets: Vec<FileSet>) -> Self {
        let files = sets
            .into_iter()
            .map(|set| {
                let newest = set.rotated.last().map(|(end, _)| *end);
                let place = set.current.as_ref().map_or(0, |current| current.size);
                let head = set.current.as_ref().map_or_else(Vec::new, head_of);
                Followed { set, newest, place, head, unfinished: Vec::new() }
            })
            .collect();
        Self { query: LogQuery { until: None, ..query }, files }
    }

    /// Waits for lines that fit, and gives them by time. Looks at the files four times a second.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if a file cannot be read.
    ///
    /// # Cancel safety
    /// No line is lost when the call is dropped.
    pub async fn next(&mut self) -> Result<Vec<LogLine>> {
        loop {
            let lines = self.poll()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The lines that have come since the last call, without waiting.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn poll(&mut self) -> Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        for followed in &mut self.files {
            let mut new = Vec::new();
            followed.poll(&mut new).map_err(Error::io(format!(
                "follow the log {}/{}",
                followed.set.dir.display(),
                file::CURRENT
            )))?;
            lines.extend(new.into_iter().filter(|line| self.query.fits(line)));
        }
        // Stable: lines of one instance with one stamp stay in order.
        lines.sort_by_key(|line| line.at);
        Ok(lines)
    }
}

impl Followed {
    fn poll(&mut self, lines: &mut Vec<LogLine>) -> io::Result<()> {
        let renamed = source::named_id(&self.set.dir) != self.set.current.as_ref().map(|c| c.id);
        if self.read_on(lines)? || !renamed {
            // Not yet at its end, or nothing else to read.
            return Ok(());
        }
        self.end_line(lines);
        let next = source::open_current(&self.set.dir)?;
        let rotated = source::list(&self.set.dir)?;
        if source::named_id(&self.set.dir) != next.as_ref().map(|c| c.id) {
            return Ok(());
        }
        let newer = rotated.iter().filter(|(end, _)| self.newest.is_none_or(|n| *end > n));
        // The first of them is the file that has just been read, if there was one.
        for (end, path) in newer.skip(usize::from(self.set.current.is_some())) {
            // One that is being compressed at this moment can be either.
            let opened = Lines::open(path, *end, &self.set.instance).or_else(|_| {
                Lines::open(&path.with_extension(file::COMPRESSED), *end, &self.set.instance)
            });
            if let Ok(mut missed) = opened {
                lines.extend(std::iter::from_fn(|| missed.next_line()));
            }
        }
        self.newest = rotated.last().map(|(end, _)| *end);
        self.place = 0;
        self.head.clear();
        self.set.current = next;
        self.read_on(lines).map(drop)
    }

    /// Reads what is new; `true`: there is more.
    fn read_on(&mut self, lines: &mut Vec<LogLine>) -> io::Result<bool> {
        let Some(current) = &self.set.current else { return Ok(false) };
        let size = current.file.metadata()?.len();
        if size < self.place {
            // Cut back to a line's end after a crash, or begun anew by somebody else.
            let same = head_of(current).starts_with(&self.head);
            self.place = if same { size } else { 0 };
            self.unfinished.clear();
        }
        if self.head.len() < HEAD {
            self.head = head_of(current);
        }
        let left = usize::try_from(size.saturating_sub(self.place)).unwrap_or(MOST).min(MOST);
        let mut block = vec![0; left];
        let read = current.file.read_at(&mut block, self.place)?;
        block.truncate(read);
        self.place += read as u64;
        self.unfinished.append(&mut block);
        let now = clock::now();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &self.unfinished) {
            let text = self.unfinished.get(start..end).unwrap_or_default();
            lines.push(source::parse(text, &self.set.instance, now));
            start = end + 1;
        }
        self.unfinished.drain(..start);
        if self.unfinished.len() > MOST {
            self.end_line(lines);
        }
        Ok(read == MOST)
    }

    fn end_line(&mut self, lines: &mut Vec<LogLine>) {
        if !self.unfinished.is_empty() {
            lines.push(source::parse(&self.unfinished, &self.set.instance, clock::now()));
            self.unfinished.clear();
        }
    }
}

fn head_of(current: &Current) -> Vec<u8> {
    let mut head = vec![0; HEAD];
    let read = current.file.read_at(&mut head, 0).unwrap_or(0);
    head.truncate(read);
    head
}
